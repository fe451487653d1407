"""A step's child that a command runs beside the daemon: to try something out, not to advance the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from adapters.specs import Metric, StepFailure, read_json
from loop import lease, manners
from loop.bootstrap import App
from loop.policy import BUSY_PHASES
from loop.steps import LOCK, MODULES, Steps, is_locked
from store.errors import StepError
from store.events import StepKind

POLL_SECONDS = 0.2
STOP_SECONDS = 5.0  # that a child gets to save what it has
GAVE_WAY = "a step of the loop runs"

Waiting = Callable[[Metric | None], object]


def run_aside(
    app: App,
    kind: StepKind | Literal["fit"],
    folder: Path,
    *,
    waiting: Waiting,
    done: str = "result.json",
    modules: Mapping[str, str] = MODULES,
    gives_way: bool = False,
) -> StepFailure | None:
    """Run a step's child on its prepared folder to its end; it ends with us, also when we are interrupted.

    Args:
        app: the workspace.
        kind: of the step.
        folder: its run folder.
        waiting: called again and again meanwhile, with how far the step is.
        done: the file whose presence means that it has ended well.
        modules: what is started for which kind.
        gives_way: two trainings at once slow each other several times over: while the loop has a step at work, the
            child saves and ends; then it goes on from its checkpoint.

    Returns:
        Why it failed, in the child's own words; None when it is done.

    Raises:
        StepError: it ended without a word, or the disk is full.
    """
    rules = app.settings.resources
    steps = Steps(app.workspace.paths.logs, manners.step_environment(rules.nice, rules.memory_limit_mb), modules)
    try:
        while True:
            while gives_way and at_work(app):
                waiting(Metric(phase="waits for a step of the loop"))
                time.sleep(POLL_SECONDS)
            steps.start(kind, folder)
            while (progress := steps.look(folder)).status == "running":
                waiting(progress.metric)
                if gives_way and at_work(app):
                    steps.stop(folder, GAVE_WAY)
                time.sleep(POLL_SECONDS)
            if (folder / done).exists():
                return None
            if (folder / "error.json").exists():
                return read_json(folder / "error.json", StepFailure)
            if progress.stopped != GAVE_WAY:
                log = app.workspace.paths.logs / f"{folder.name}.log"
                raise StepError(f"the step of {folder.name} ended without a word", hint=f"Look at {log}.")
    finally:
        steps.stop_all(STOP_SECONDS)


def at_work(app: App) -> str:
    """The task whose training or evaluation the loop has at work now; empty for none.

    A step that a killed daemon left open is at work only while somebody runs the loop, or its child lives on.
    """
    for task in app.state().tasks.values():
        cycle = task.cycle
        if cycle is None or cycle.phase not in BUSY_PHASES:
            continue
        folder = app.workspace.paths.runs / (cycle.run_id if cycle.phase == "training" else cycle.evaluation_id)
        if lease.holder(app.workspace.paths.run) or is_locked(folder / LOCK):
            return task.task
    return ""


def refuse_at_work(app: App, hint: str) -> None:
    """Refuse to start anything costly while the loop has a step at work.

    Raises:
        StepError: it has.
    """
    if task := at_work(app):
        raise StepError(f"a step of {task} is running", hint=hint)
