"""The daemon: one tick after the other, until a signal ends it.

    tick:  keep services up ▸ finish an erasure ▸ take in the inbox ▸ fold ▸ decide ▸ handle ▸ (again while anything
           came of it) ▸ point production at the champion ▸ bring the read tables up to date

A failing command is told once, left alone for a growing pause and tried again; the loop itself goes on.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from types import FrameType

import msgspec

from loop import commands as cmd
from loop import erasing, handlers, handling, intake, logs, manners, pulse, serving, watching
from loop.bootstrap import App
from loop.lease import acquire
from loop.policy import decide, is_busy, waits
from loop.services import Services
from loop.steps import MODULES, Steps
from loop.wakeups import Wakeups
from store.disk import disk_trouble
from store.errors import StaleEpoch, TuneloopError
from store.keys import hide
from store.log import Recorded
from store.logs import about

log = logging.getLogger("tuneloop.daemon")

ROUNDS = 50  # of decide and handle in one tick
STEP_POLL_SECONDS = 1.0
LONGEST_PAUSE = 300.0
SNAPSHOT_EVENTS = 500
TIDY_TICKS = 500  # between two looks at the size of the logs


class TickReport(msgspec.Struct, frozen=True, kw_only=True):
    commands: list[str]
    events: list[Recorded]
    waiting: dict[str, list[str]]
    busy: bool  # a child process works


class _Pause(msgspec.Struct, frozen=True):
    """A command that failed."""

    failures: int  # in a row
    until: float  # of the monotonic clock
    error: str


class Daemon:
    """Holds the lease of a workspace and runs its loop."""

    def __init__(self, app: App, *, take_over: bool = False, modules: Mapping[str, str] = MODULES) -> None:
        """Raises DaemonRunning when another process holds the workspace and `take_over` is not set."""
        self.app = app
        self.stop_flag = threading.Event()
        self.wake = threading.Event()
        paths = app.workspace.paths
        self._lease = acquire(paths.run, app.workspace.log, now=app.now(), take_over=take_over)
        self._steps = Steps(
            paths.logs,
            manners.step_environment(app.settings.resources.nice, app.settings.resources.memory_limit_mb),
            modules,
            self._lease.fence,
        )
        self._services = Services(paths.run, self._lease.fence)
        if self._lease.taken_over:
            self._services.end_former()
        self._context = handling.Context(
            app=app,
            lease=self._lease,
            steps=self._steps,
            services=self._services,
            stopping=self.stop_flag.is_set,
        )
        serving.add_services(app, self._services, modules)
        self._pauses: dict[tuple[str, str], _Pause] = {}
        self._ticks = 0
        self._failed = 0
        self._snapshot_at = 0
        self._running_step = False
        self._stale = False

    # ------------------------------------------------------------ life

    def run(self) -> None:
        """Tick until SIGTERM or SIGINT; then save what is running and say what will be resumed."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        rules = self.app.settings.daemon
        wakeups = Wakeups(self.wake, self.app.workspace.paths.inbox, seconds=rules.tick_seconds, polling=rules.polling)
        wakeups.start()
        log.info("running on %s (lease %d)", self.app.root, self._lease.epoch)
        try:
            while not self.stop_flag.is_set():
                self.wake.clear()
                if not self._safe_tick():
                    break
                # the timeout stands in for the scheduler, whose clock may jump
                self.wake.wait(STEP_POLL_SECONDS if self._running_step else 2 * rules.tick_seconds)
        finally:
            wakeups.stop()
            self.close()

    def close(self) -> None:
        """End children and services, record what was interrupted, give the lease back."""
        seconds = self.app.settings.daemon.stop_seconds
        if self._steps.running():
            log.info("asking the running step to save a checkpoint (up to %.0f s)", seconds)
        self._steps.stop_all(seconds)
        if not self._stale:
            self._note_shutdown()
        self._services.stop()
        self._lease.release()

    def _note_shutdown(self) -> None:
        try:
            for recorded in watching.record_shutdown(self._context):
                log.info("%s will be resumed by the next `tuneloop run`", getattr(recorded.event, "run_id", "a step"))
            self.app.state()
            self.app.save_snapshot()
        except TuneloopError as error:
            log.error("%s", error.message)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        log.info("%s: stopping", signal.Signals(number).name)
        self.stop_flag.set()
        self.wake.set()

    def _safe_tick(self) -> bool:
        """One tick whose failure does not end the daemon. False when another daemon has taken over."""
        started = time.monotonic()
        try:
            self.tick()
            self._pauses.pop(("", "tick"), None)
        except StaleEpoch as error:
            log.error("%s", error.line)
            self._stale = True
            return False
        except TuneloopError as error:
            self._pause(("", "tick"), error)
        except Exception as error:
            told = disk_trouble(error)
            if told is None:
                log.exception("a tick failed; the next one tries again")
            self._pause(("", "tick"), told or error)
        self._beat(time.monotonic() - started)
        return True

    def _beat(self, seconds: float) -> None:
        """Tell `status` and the metrics how it goes; the daemon that has taken over tells of itself."""
        self._ticks += 1
        try:
            self._lease.check()
        except StaleEpoch:
            return
        except TuneloopError:
            pass  # the log cannot be read, and just that is to be told
        now = time.monotonic()
        held = [
            pulse.Held(
                what=_named(key),
                error=hide(one.error),
                failures=one.failures,
                seconds=round(max(0.0, one.until - now), 1),
            )
            for key, one in self._pauses.items()
        ]
        told = pulse.Pulse(
            pid=os.getpid(),
            epoch=self._lease.epoch,
            at=self.app.now(),
            clock=pulse.clock(),
            ticks=self._ticks,
            failed=self._failed,
            tick_seconds=round(seconds, 3),
            longest_wait=2 * self.app.settings.daemon.tick_seconds,
            held=held,
        )
        pulse.write(self.app.workspace.paths.run, told)
        if self._ticks % TIDY_TICKS == 1:
            self._guard(("", "logs"), self._tidy_logs)

    def _tidy_logs(self) -> list[Recorded]:
        for name in logs.tidy(self.app.workspace.paths.logs):
            log.info("%s in .tuneloop/logs was cut or removed", name)
        return []

    # ------------------------------------------------------------ one tick

    def tick(self) -> TickReport:
        """Do all that is due now.

        Raises:
            StaleEpoch: a newer daemon holds the lease.
        """
        done: list[str] = []
        events: list[Recorded] = []
        self._lease.check()
        self._services.tend()
        self._guard(("", "erasing"), self._finish_erasing)
        events += self._guard(("", "intake"), lambda: intake.take_in(self._context.app, epoch=self._lease.epoch))
        for _ in range(ROUNDS):
            fresh = self._round(done)
            events += fresh
            if not fresh or self.stop_flag.is_set():
                break
        self._guard(("", "production"), self._point_production)
        self.app.workspace.projections.catch_up()
        state = self.app.state()
        self._running_step = bool(self._steps.running()) or any(
            task.cycle and task.cycle.phase in ("training", "evaluating") for task in state.tasks.values()
        )
        if state.position - self._snapshot_at >= SNAPSHOT_EVENTS:
            self.app.save_snapshot()
            self._snapshot_at = state.position
        waiting = {name: waits(state, self.app.settings, name) for name in self.app.settings.tasks}
        return TickReport(commands=done, events=events, waiting=waiting, busy=self._running_step)

    def _finish_erasing(self) -> list[Recorded]:
        """What a killed `tuneloop erase` has noted; one that is at work is left alone."""
        erasing.resume(self.app, epoch=self._lease.epoch, wait=False, say=log.info)
        return []

    def _point_production(self) -> list[Recorded]:
        serving.point_production(self.app, self._services.tend().engine, self._lease)
        return []

    def _round(self, done: list[str]) -> list[Recorded]:
        events: list[Recorded] = []
        started = False
        for command in decide(self.app.state(), self.app.settings, self.app.now()):
            if self.stop_flag.is_set():
                break
            if started and is_busy(command):
                continue
            key = (command.task, type(command).__name__)
            with about(getattr(command, "run_id", "")):
                fresh = self._guard(key, lambda command=command: self._handle(command))  # type: ignore[misc]
            started = started or (bool(fresh) and is_busy(command))
            if fresh:
                done.append(key[1])
            events += fresh
        return events

    def _handle(self, command: cmd.Command) -> list[Recorded]:
        self._lease.check()
        handle = handlers.HANDLERS[type(command)]
        recorded = handle(self._context, command)
        for one in recorded:
            log.info("%d %s %s", one.position, one.type, one.stream, extra=_fields(one))
        return recorded

    def _guard(self, key: tuple[str, str], work: handlers.Work) -> list[Recorded]:
        """Run `work` unless it is in its pause; a failure starts the next, longer pause."""
        if key in self._pauses and time.monotonic() < self._pauses[key].until:
            return []
        try:
            recorded = work()
        except StaleEpoch:
            raise
        except TuneloopError as error:
            self._pause(key, error)
            return []
        except Exception as error:
            told = disk_trouble(error)
            if told is None:
                log.exception("%s failed", _named(key))
            self._pause(key, told or error)
            return []
        self._pauses.pop(key, None)
        return recorded

    def _pause(self, key: tuple[str, str], error: Exception) -> None:
        failures = self._pauses[key].failures + 1 if key in self._pauses else 1
        seconds = min(LONGEST_PAUSE, 2.0**failures)
        self._failed += 1
        told = error.message if isinstance(error, TuneloopError) else type(error).__name__
        self._pauses[key] = _Pause(failures, time.monotonic() + seconds, told)
        if isinstance(error, TuneloopError):
            log.error("%s: %s (next try in %.0f s)", _named(key), error.line, seconds)


def _named(key: tuple[str, str]) -> str:
    return " ".join(part for part in key if part)


def _fields(recorded: Recorded) -> dict[str, object]:
    """What a line about an event carries, for a collector."""
    return {
        "event": recorded.type,
        "position": recorded.position,
        "stream": recorded.stream,
        "correlation_id": recorded.correlation_id or getattr(recorded.event, "run_id", ""),
    }
