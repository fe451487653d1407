"""Waiting for the loop: watch a daemon that runs, or do its ticks here where none does."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from loop.cli.output import progress_line, span

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.daemon import TickReport
    from loop.state import TaskState

BUSY = ("training", "evaluating")
POLL_SECONDS = 1.0
IDLE_TICKS = 3  # in a row without anything new: the loop rests


def daemon_holder(folder: Path) -> str:
    """Who holds the daemon's lock in `folder`, in words; empty when nobody does."""
    import fcntl

    try:
        file = (folder / "daemon.lock").open("r", encoding="utf-8", errors="replace")
    except OSError:
        return ""
    with file:
        try:
            # shared, so that two probes do not take each other for a daemon
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return file.read(200).strip() or "a process that does not name itself"
    return ""


def describe(task: TaskState, folder: Path) -> str:
    """What a task's cycle is doing, in one line; empty when nothing is open. `folder` holds the run folders."""
    cycle = task.open_cycle
    if cycle is None:
        return ""
    words = f"{cycle.adapter}: {cycle.phase}"
    step, of, phase = cycle.step, cycle.of, ""
    if cycle.phase == "evaluating":
        step, of, phase = _evaluation_progress(folder / cycle.run_id)
    if cycle.phase in BUSY and of:
        words += f" {phase + ' ' if phase else ''}{step}/{of}"
    return words


def tick_until(
    app: App, rested: Callable[[TickReport], bool], *, task: str = "", take_over: bool = False
) -> list[TickReport]:
    """Tick here, as the daemon would, until `rested` says so; progress goes to stderr.

    A step that a tick has started is a child of this process and would end with it, so a busy step is
    always seen through to its end.

    Raises:
        DaemonRunning: a daemon holds the workspace.
    """
    from loop.daemon import Daemon

    reports: list[TickReport] = []
    write = progress_line()
    daemon = Daemon(app, take_over=take_over)
    try:
        with _quiet():
            while True:
                report = daemon.tick()
                reports.append(report)
                state = app.state()
                lines = [describe(one, app.workspace.paths.runs) for one in state.tasks.values()]
                write("; ".join(line for line in lines if line))
                busy = any(one.cycle is not None and one.cycle.phase in BUSY for one in state.tasks.values())
                if not busy and rested(report):
                    return reports
                time.sleep(POLL_SECONDS)
    finally:
        write("")
        daemon.close()


def watch_until(app: App, rested: Callable[[], bool], task: str) -> None:
    """Look at what the running daemon does, on stderr, until `rested` says so."""
    write = progress_line()
    started = time.monotonic()
    try:
        while not rested():
            line = describe(app.state().task(task), app.workspace.paths.runs)
            write(line or f"waiting for the daemon ({span(time.monotonic() - started)})")
            time.sleep(POLL_SECONDS)
    finally:
        write("")


def rests(app: App, task: str) -> bool:
    """Whether a task has nothing that it could do now by itself: no request, no step, nothing half-way."""
    from loop.policy import decide

    state = app.state()
    here = state.task(task)
    if here.request is not None or here.evaluation_request is not None:
        return state.paused
    if here.cycle is not None and here.cycle.phase in BUSY:
        return False
    orders = decide(state, app.settings, app.now())
    return not any(order.task == task and type(order).__name__ != "Harvest" for order in orders)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The daemon's own log lines would tear the progress line; warnings still come through."""
    logger = logging.getLogger("tuneloop")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _evaluation_progress(folder: Path) -> tuple[int, int, str]:
    from adapters.specs import Metric, read_lines
    from store.errors import StepError

    try:
        metrics = read_lines(folder / "metrics.jsonl", Metric)
    except (OSError, StepError):
        return 0, 0, ""
    return (metrics[-1].step, metrics[-1].of, metrics[-1].phase) if metrics else (0, 0, "")
