"""What the loop is doing right now, and how long the step will take: a look at run folders and earlier steps.

It takes no lock: a probe that held one for a moment could keep a child from starting.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from adapters.specs import Metric, read_lines
from loop.steps import LOCK
from store.errors import StepError

if TYPE_CHECKING:
    from datetime import datetime

    from loop.bootstrap import App
    from loop.state import Cycle, LoopState, TaskState

EARLIER = 5  # steps of the past that an estimate looks at
RECENT = 20  # optimiser steps that the speed is taken from
# run folders of steps that the log does not follow: ending of the name -> what is done there
_ASIDE = {
    "-prompts": "comparing prompt versions",
    "-opinions": "asking the control about new records",
    ".dataset": "freezing a dataset",
    "-asking": "asking the endpoint for the baseline's answers",
}


class Doing(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is being done. `of` 0: how much it is altogether is not known."""

    task: str
    what: str
    done: int = 0
    of: int = 0
    phase: str = ""  # of an evaluation: who is being examined
    seconds_left: float | None = None  # None: nothing to estimate it from
    seconds_spent: float = 0.0


def doing(app: App, state: LoopState, now: datetime) -> list[Doing]:
    """All steps that work now."""
    found: list[Doing] = []
    for name in app.settings.tasks:
        cycle = state.task(name).cycle
        if cycle is not None and cycle.phase == "training":
            found.append(_training(app, name, cycle, now))
        elif cycle is not None and cycle.phase == "evaluating":
            found.append(_evaluation(app, state.task(name), cycle, now))
    return found + _aside(app)


def _training(app: App, task: str, cycle: Cycle, now: datetime) -> Doing:
    spent = max(0.0, (now - cycle.phase_since).total_seconds())
    metrics, fresh = _metrics(app.workspace.paths.runs / cycle.run_id)
    steps = [one for one in metrics if one.of and one.loss is not None] or [one for one in metrics if one.of]
    done, of = (steps[-1].step, steps[-1].of) if steps else (cycle.step, cycle.of)
    left = None
    if len(steps) > 1 and (pace := _pace(steps[-RECENT:])) is not None:
        left = max(0.0, pace * (of - done) - fresh)
    else:
        earlier = _past(app, "SELECT seconds, 1 FROM runs WHERE task = ? AND seconds > 0", task)
        left = max(0.0, statistics.median(earlier) - spent) if earlier else None
    return Doing(task=task, what=f"training {cycle.adapter}", done=done, of=of, seconds_left=left, seconds_spent=spent)


def _pace(steps: Sequence[Metric]) -> float | None:
    """Seconds an optimiser step takes."""
    first, last = steps[0], steps[-1]
    if last.step <= first.step or last.seconds <= first.seconds:
        return None
    return (last.seconds - first.seconds) / (last.step - first.step)


def _evaluation(app: App, task: TaskState, cycle: Cycle, now: datetime) -> Doing:
    """Its parts (answerers, general ability) differ too much for one pace: earlier looks say how long one takes."""
    spent = max(0.0, (now - cycle.phase_since).total_seconds())
    metrics, _ = _metrics(app.workspace.paths.runs / cycle.evaluation_id)
    last = metrics[-1] if metrics else Metric()
    query = "SELECT seconds, exam + hard_exam FROM evaluations WHERE task = ? AND seconds > 0"
    earlier = _past(app, query, task.task)
    items = cycle.exam + task.labels_hard
    left = max(0.0, statistics.median(earlier) * items - spent) if earlier and items else None
    return Doing(
        task=task.task,
        what=f"evaluating {cycle.adapter}",
        done=last.step,
        of=last.of,
        phase=last.phase,
        seconds_left=left,
        seconds_spent=spent,
    )


def _past(app: App, query: str, task: str) -> list[float]:
    """Seconds a unit of the newest steps of a kind; `query` selects seconds and units."""
    with app.workspace.database.reading() as connection:
        rows = connection.exec_driver_sql(f"{query} ORDER BY position DESC LIMIT {EARLIER}", (task,)).all()
    return [seconds / units for seconds, units in rows if units]


def _metrics(folder: Path) -> tuple[list[Metric], float]:
    """The step's own lines, and seconds since the last one was written."""
    path = folder / "metrics.jsonl"
    try:
        return read_lines(path, Metric), max(0.0, time.time() - path.stat().st_mtime)
    except (OSError, StepError):
        return [], 0.0


def _aside(app: App) -> list[Doing]:
    """Steps beside the cycles, known by their locked folders."""
    folders = [folder for folder in app.workspace.paths.runs.iterdir() if folder.name.endswith(tuple(_ASIDE))]
    if not folders:
        return []
    locked = lock_holders()
    found = []
    for folder in sorted(folders):
        try:
            at_work = (folder / LOCK).stat().st_ino in locked
        except OSError:
            continue
        task = next((name for name in app.settings.tasks if folder.name.startswith(f"{name}-")), "")
        if at_work and task:
            ending = next(one for one in _ASIDE if folder.name.endswith(one))
            found.append(Doing(task=task, what=_ASIDE[ending]))
    return found


def lock_holders() -> dict[int, int]:
    """Inode of every file that somebody holds a flock on -> process id, 0 where it cannot be seen (Linux only)."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        fields = line.split()  # 1: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> 0 EOF
        if len(fields) > 5 and fields[1] == "FLOCK":
            pid, inode = fields[4], fields[5].rpartition(":")[2]
            if inode.isdigit():
                found[int(inode)] = max(0, int(pid)) if pid.lstrip("-").isdigit() else 0
    return found


def step_processes(runs: Path) -> list[int]:
    """Ids of the processes that work in run folders."""
    holders = lock_holders()
    inodes = []
    for folder in runs.iterdir():
        with contextlib.suppress(OSError):
            inodes.append((folder / LOCK).stat().st_ino)
    return sorted({pid for inode in inodes if (pid := holders.get(inode, 0))})
