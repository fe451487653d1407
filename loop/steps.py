"""Child processes of costly steps: start one on its run folder, see how it does, end it.

What a step has reached is read from its folder alone, so that any daemon can pick it up after any death.
The contract of the folder is `adapters.specs`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec

from adapters.specs import Metric, StepFailure, read_json, read_lines
from store.events import StepKind

MODULES: dict[StepKind, str] = {"train": "adapters.train", "evaluate": "adapters.evaluate"}
TEXT_FILES = ("train.jsonl", "valid.jsonl", "exam.jsonl")
LOCK = "lock"
MODEL_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    # glibc keeps what tensors of many sizes leave behind: 3.3 GB instead of 2.5 GB at the same speed
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "1048576",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
}


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a run folder says of its step."""

    status: Literal["running", "done", "failed", "dead"]
    metric: Metric | None = None  # the last one that counts steps
    checkpoint: int = 0  # the last complete one
    failure: StepFailure | None = None


class Steps:
    """The children that this process has started, by run folder."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[Path, subprocess.Popen[bytes]] = {}

    def start(self, kind: StepKind, folder: Path) -> None:
        """Start the step's child; what it prints goes to a log file of its own.

        The child dies with this process (it asks the kernel for that itself) and locks its folder.
        """
        for leftover in ("error.json", "result.json"):
            (folder / leftover).unlink(missing_ok=True)
        log = self._logs / f"{folder.name}.log"
        with log.open("ab") as output:
            self._children[folder] = subprocess.Popen(
                [sys.executable, "-m", MODULES[kind], str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **MODEL_ENVIRONMENT},
                start_new_session=True,
            )

    def look(self, folder: Path) -> Progress:
        """How the step in `folder` is doing."""
        child = self._children.get(folder)
        alive = child.poll() is None if child is not None else is_locked(folder / LOCK)
        metric = _last_metric(folder)
        if alive:
            return Progress(status="running", metric=metric)
        self._children.pop(folder, None)
        checkpoint = last_checkpoint(folder)
        if (folder / "result.json").exists():
            return Progress(status="done", metric=metric, checkpoint=checkpoint)
        if (folder / "error.json").exists():
            failure = read_json(folder / "error.json", StepFailure)
            return Progress(status="failed", metric=metric, checkpoint=checkpoint, failure=failure)
        return Progress(status="dead", metric=metric, checkpoint=checkpoint)

    def running(self) -> list[Path]:
        """Folders of children that still work."""
        return [folder for folder, child in self._children.items() if child.poll() is None]

    def stop_all(self, seconds: float) -> None:
        """Ask every child to save and end (SIGTERM); kill those that take longer than `seconds`."""
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        for child in self._children.values():
            try:
                child.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def is_locked(path: Path) -> bool:
    """Whether another process holds the flock on `path`."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def last_checkpoint(folder: Path) -> int:
    """Optimiser step of the last complete checkpoint; 0 where there is none."""
    steps = [
        int(checkpoint.name.removeprefix("checkpoint-"))
        for checkpoint in (folder / "checkpoints").glob("checkpoint-*")
        if (checkpoint / "COMPLETE").exists() and checkpoint.name.removeprefix("checkpoint-").isdigit()
    ]
    return max(steps, default=0)


def forget_texts(folder: Path) -> None:
    """Remove the rendered customer texts of a step that has ended; checkpoints go with them."""
    for name in TEXT_FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _last_metric(folder: Path) -> Metric | None:
    metrics = read_lines(folder / "metrics.jsonl", Metric)
    return next((metric for metric in reversed(metrics) if metric.of), None)
