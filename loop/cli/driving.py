"""Waiting for the loop: watch a daemon that runs, or do its ticks here where none does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from loop.cli import collect_as_usual
from loop.cli.output import progress_line, span
from store.errors import StepError

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.daemon import TickReport
    from loop.state import TaskState

BUSY = ("training", "evaluating")
POLL_SECONDS = 1.0
IDLE_TICKS = 15  # in a row that changed nothing although something is due


def describe(task: TaskState, folder: Path) -> str:
    """What a task's cycle is doing, in one line; empty when nothing is open. `folder` holds the run folders."""
    cycle = task.open_cycle
    if cycle is None:
        return ""
    words = f"{cycle.adapter}: {cycle.phase}"
    step, of, phase = cycle.step, cycle.of, ""
    if cycle.phase == "evaluating":
        step, of, phase = _evaluation_progress(folder / cycle.evaluation_id)
    if cycle.phase in BUSY and of:
        words += f" {phase + ' ' if phase else ''}{step}/{of}"
    return words


def tick_until(app: App, rested: Callable[[TickReport], bool]) -> list[TickReport]:
    """Tick here, as the daemon would, until `rested` says so; progress goes to stderr.

    A step that a tick has started is a child of this process and would end with it, so a busy step is
    always seen through to its end.

    Raises:
        DaemonRunning: a daemon holds the workspace.
        StepError: what is due fails again and again.
    """
    from loop.daemon import Daemon

    collect_as_usual()
    reports: list[TickReport] = []
    idle = 0
    write = progress_line()
    daemon = Daemon(app)
    try:
        while True:
            report = daemon.tick()
            reports.append(report)
            state = app.state()
            lines = [describe(one, app.workspace.paths.runs) for one in state.tasks.values()]
            write("; ".join(line for line in lines if line))
            busy = report.busy or any(is_busy(one) for one in state.tasks.values())
            if not busy and rested(report):
                return reports
            idle = 0 if busy or report.events else idle + 1
            if idle >= IDLE_TICKS:
                raise StepError(
                    "the loop does not get any further",
                    hint="The lines above say why; `tuneloop doctor` looks at everything it needs.",
                )
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
    """Whether a task has nothing that it could do by itself now; people or new records have to come first."""
    from loop.commands import Harvest
    from loop.policy import decide

    state = app.state()
    if is_busy(state.task(task)):
        return False
    here = state.task(task)
    if (here.request or here.evaluation_request) and any(is_busy(other) for other in state.tasks.values()):
        return False  # its turn comes when the other task's step has ended
    orders = decide(state, app.settings, app.now())
    return not any(order.task == task and not isinstance(order, Harvest) for order in orders)


def is_busy(task: TaskState) -> bool:
    """Whether a child process is training or evaluating for the task."""
    return task.cycle is not None and task.cycle.phase in BUSY


def _evaluation_progress(folder: Path) -> tuple[int, int, str]:
    from adapters.specs import Metric, read_lines

    try:
        metrics = read_lines(folder / "metrics.jsonl", Metric)
    except (OSError, StepError):
        return 0, 0, ""
    return (metrics[-1].step, metrics[-1].of, metrics[-1].phase) if metrics else (0, 0, "")
