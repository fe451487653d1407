/* Writes down, in order, what a process does to the files below TUNELOOP_TRACE_ROOT, into the file TUNELOOP_TRACE.
 *
 *     cc -shared -fPIC -O1 -o trace_io.so trace_io.c -ldl        LD_PRELOAD=trace_io.so python writer.py
 *
 * A record is one write(2) with O_APPEND, made inside the call that it tells of: records of several processes stand
 * in an order in which the calls can have happened. disk_trace.py reads them; the letters stand there.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

static int trace = -2;
static const char *root;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int tracing(void)
{
    if (trace == -2) {
        const char *path = getenv("TUNELOOP_TRACE");
        root = getenv("TUNELOOP_TRACE_ROOT");
        trace = path && root ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    }
    return trace >= 0;
}

struct header {
    uint32_t kind, one, two; /* a letter; lengths of what follows: two names, or nothing and data */
    uint32_t reserved;
    uint64_t inode;
    int64_t offset;
};

static void note(char kind, uint64_t inode, int64_t offset, const void *one, size_t n1, const void *two, size_t n2)
{
    int saved = errno;
    struct header header = {(uint32_t)kind, (uint32_t)n1, (uint32_t)n2, 0, inode, offset};
    char *line = malloc(sizeof header + n1 + n2);
    memcpy(line, &header, sizeof header);
    memcpy(line + sizeof header, one, n1);
    memcpy(line + sizeof header + n1, two, n2);
    if (syscall(SYS_write, trace, line, sizeof header + n1 + n2) != (long)(sizeof header + n1 + n2))
        abort();
    free(line);
    errno = saved;
}

static int below(const char *path)
{
    size_t length = strlen(root);
    return strncmp(path, root, length) == 0 && (path[length] == 0 || path[length] == '/');
}

/* whether the open file lies below the root; its inode */
static int ours(int fd, uint64_t *inode)
{
    char link[64], path[PATH_MAX];
    struct stat status;
    if (!tracing() || fd < 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    if (!below(path) || fstat(fd, &status))
        return 0;
    *inode = status.st_ino;
    return 1;
}

/* the whole name of `path` seen from `folder`; 0 where it is not below the root */
static int named(int folder, const char *path, char *whole)
{
    if (!tracing())
        return 0;
    if (path[0] == '/')
        snprintf(whole, PATH_MAX, "%s", path);
    else {
        char link[64], from[PATH_MAX];
        if (folder == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, from, sizeof from - 1);
        if (length <= 0)
            return 0;
        from[length] = 0;
        if (snprintf(whole, PATH_MAX, "%s/%s", from, path) >= PATH_MAX)
            return 0;
    }
    return below(whole);
}

static void note_name(char kind, uint64_t inode, const char *one, const char *two)
{
    note(kind, inode, 0, one, strlen(one), two, strlen(two));
}

static int opened(int folder, const char *path, int flags, mode_t mode)
{
    char whole[PATH_MAX];
    struct stat status;
    int mine = named(folder, path, whole);
    int fresh = mine && (flags & O_CREAT) && lstat(whole, &status) && errno == ENOENT;
    int fd = (int)syscall(SYS_openat, folder, path, flags, mode);
    if (fd >= 0 && mine && (flags & (O_CREAT | O_TRUNC)) && !fstat(fd, &status)) {
        if (fresh)
            note_name('C', status.st_ino, whole, "");
        else if (flags & O_TRUNC)
            note('T', status.st_ino, 0, "", 0, "", 0);
    }
    return fd;
}

#define MODE(last)                                  \
    mode_t mode = 0;                                \
    if (flags & (O_CREAT | O_TMPFILE)) {            \
        va_list more;                               \
        va_start(more, last);                       \
        mode = (mode_t)va_arg(more, int);           \
        va_end(more);                               \
    }

int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }

ssize_t write(int fd, const void *data, size_t size)
{
    uint64_t inode = 0;
    int mine = ours(fd, &inode);
    off_t at = 0;
    if (mine) {
        struct stat status;
        at = lseek(fd, 0, SEEK_CUR);
        if (fcntl(fd, F_GETFL) & O_APPEND && !fstat(fd, &status))
            at = status.st_size;
    }
    ssize_t done = REAL(write)(fd, data, size);
    if (mine && done > 0)
        note('W', inode, at, "", 0, data, (size_t)done);
    return done;
}

static ssize_t written(int fd, const void *data, size_t size, off_t at)
{
    uint64_t inode = 0;
    int mine = ours(fd, &inode);
    ssize_t done = (ssize_t)syscall(SYS_pwrite64, fd, data, size, at);
    if (mine && done > 0)
        note('W', inode, at, "", 0, data, (size_t)done);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return written(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { return written(fd, data, size, at); }

static int cut(int fd, off_t size)
{
    uint64_t inode = 0;
    int mine = ours(fd, &inode);
    int failed = (int)syscall(SYS_ftruncate, fd, size);
    if (mine && !failed)
        note('T', inode, size, "", 0, "", 0);
    return failed;
}

int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off64_t size) { return cut(fd, size); }

#define SYNC(name)                                  \
    int name(int fd)                                \
    {                                               \
        uint64_t inode = 0;                         \
        int mine = ours(fd, &inode);                \
        int failed = REAL(name)(fd);                \
        if (mine && !failed)                        \
            note('S', inode, 0, "", 0, "", 0);      \
        return failed;                              \
    }
SYNC(fsync)
SYNC(fdatasync)

static int moved(int from, const char *one, int to, const char *two)
{
    char first[PATH_MAX], second[PATH_MAX];
    int mine = named(from, one, first) && named(to, two, second);
    int failed = (int)syscall(SYS_renameat2, from, one, to, two, 0);
    if (mine && !failed)
        note_name('R', 0, first, second);
    return failed;
}

int rename(const char *one, const char *two) { return moved(AT_FDCWD, one, AT_FDCWD, two); }
int renameat(int from, const char *one, int to, const char *two) { return moved(from, one, to, two); }

static int removed(int folder, const char *path, int flags)
{
    char whole[PATH_MAX];
    int mine = named(folder, path, whole);
    int failed = (int)syscall(SYS_unlinkat, folder, path, flags);
    if (mine && !failed)
        note_name('U', 0, whole, "");
    return failed;
}

int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int folder, const char *path, int flags) { return removed(folder, path, flags); }

static int linked(int from, const char *one, int to, const char *two, int flags)
{
    char first[PATH_MAX], second[PATH_MAX];
    int mine = named(from, one, first) && named(to, two, second);
    int failed = (int)syscall(SYS_linkat, from, one, to, two, flags);
    if (mine && !failed)
        note_name('L', 0, first, second);
    return failed;
}

int link(const char *one, const char *two) { return linked(AT_FDCWD, one, AT_FDCWD, two, 0); }
int linkat(int from, const char *one, int to, const char *two, int flags) { return linked(from, one, to, two, flags); }

static int made(int folder, const char *path, mode_t mode)
{
    char whole[PATH_MAX];
    struct stat status;
    int mine = named(folder, path, whole);
    int failed = (int)syscall(SYS_mkdirat, folder, path, mode);
    if (mine && !failed && !lstat(whole, &status))
        note_name('D', status.st_ino, whole, "");
    return failed;
}

int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return made(folder, path, mode); }
