/* Lets the clocks of a process and its children jump while they run.
 *
 *     cc -shared -fPIC -O1 -o clock.so clock.c -ldl        LD_PRELOAD=clock.so TUNELOOP_CLOCK=FILE python daemon.py
 *
 * FILE holds three 64-bit numbers, nanoseconds that are added to CLOCK_REALTIME, CLOCK_MONOTONIC and CLOCK_BOOTTIME;
 * who writes it moves the clocks of all at once. Waits until a moment end when the clock that they name has come there,
 * as in a kernel whose clock is set; CLOCK_MONOTONIC_RAW stays as it is, and so do the times of files.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define SLICE (20 * 1000000LL) /* how late a wait may notice a jump */

static const volatile int64_t *offsets;

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("TUNELOOP_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *map = mmap(NULL, 3 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED)
        offsets = map;
}

static int64_t offset_of(clockid_t clock)
{
    if (!offsets)
        return 0;
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        return offsets[0];
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
        return offsets[1];
    case CLOCK_BOOTTIME:
        return offsets[2];
    default:
        return 0;
    }
}

static int64_t nanoseconds(const struct timespec *time) { return time->tv_sec * SECOND + time->tv_nsec; }

static struct timespec timespec_of(int64_t time)
{
    struct timespec result = {time / SECOND, time % SECOND};
    return result;
}

static int64_t now(clockid_t clock)
{
    struct timespec time;
    syscall(SYS_clock_gettime, clock, &time);
    return nanoseconds(&time) + offset_of(clock);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, time);
    if (!failed)
        *time = timespec_of(nanoseconds(time) + offset_of(clock));
    return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    (void)zone;
    int64_t moment = now(CLOCK_REALTIME);
    time->tv_sec = moment / SECOND;
    time->tv_usec = moment % SECOND / 1000;
    return 0;
}

time_t time(time_t *result)
{
    time_t moment = (time_t)(now(CLOCK_REALTIME) / SECOND);
    if (result)
        *result = moment;
    return moment;
}

/* the end of the next slice of a wait, by the kernel's own clock; 0 when the moment has come */
static int64_t slice(clockid_t clock, const struct timespec *until)
{
    int64_t left = nanoseconds(until) - now(clock);
    if (left <= 0)
        return 0;
    return now(clock) - offset_of(clock) + (left < SLICE ? left : SLICE);
}

#define WAITING(name, clock, until, call)                                  \
    static __typeof__(&name) real;                                         \
    if (!real)                                                             \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);                 \
    for (;;) {                                                             \
        int64_t end = slice(clock, until);                                 \
        struct timespec part = timespec_of(end ? end : 1);                 \
        int result = call;                                                 \
        if (!end || !timed_out(result))                                    \
            return result;                                                 \
    }

static int timed_out(int result) { return result == ETIMEDOUT || (result == -1 && errno == ETIMEDOUT); }

int sem_clockwait(sem_t *restrict sem, clockid_t clock, const struct timespec *restrict until)
{
    WAITING(sem_clockwait, clock, until, real(sem, clock, &part))
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until)
{
    WAITING(sem_timedwait, CLOCK_REALTIME, until, real(sem, &part))
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until)
{
    WAITING(pthread_cond_timedwait, CLOCK_MONOTONIC, until, real(cond, mutex, &part)) /* as CPython sets it up */
}

int pthread_cond_clockwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, clockid_t clock, const struct timespec *restrict until)
{
    WAITING(pthread_cond_clockwait, clock, until, real(cond, mutex, clock, &part))
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left)
{
    if (!(flags & TIMER_ABSTIME))
        return (int)syscall(SYS_clock_nanosleep, clock, flags, wanted, left) ? errno : 0;
    for (;;) {
        int64_t end = slice(clock, wanted);
        if (!end)
            return 0;
        struct timespec part = timespec_of(end);
        if (syscall(SYS_clock_nanosleep, clock, TIMER_ABSTIME, &part, NULL))
            return errno;
    }
}
