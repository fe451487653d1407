"""Child processes of costly steps: start one on its run folder, see how it does, end it.

What a step has reached is read from its folder alone, so that any daemon can pick it up after any death.
The contract of the folder is `adapters.specs`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import msgspec

from adapters import checkpoints
from adapters.child import MMAP_BYTES, PARENT
from adapters.samples import FILE as SAMPLES
from adapters.specs import Metric, StepFailure, TrainResult, read_json, read_lines, write_json
from store.disk import has_room
from store.errors import StepError
from store.events import StepKind
from store.keys import environment_for

# what the daemon starts; others that keep the same contracts can stand in for them
MODULES: Mapping[str, str] = {
    "train": "adapters.train",
    "evaluate": "adapters.evaluate",
    "engine": "adapters.serve",
    "gateway": "loop.gateway",
    "tracking": "adapters.tracking",
    "notifier": "loop.notifier",
    "ask": "loop.asking",
    "fit": "loop.fitting",
    "judge": "loop.judging",
}
# what holds or may echo customer text: examples, tickets, generated words, and the prompt's own examples
TEXT_FILES = ("train.jsonl", "valid.jsonl", "exam.jsonl", "given.jsonl", "predictions.jsonl", "spec.json", SAMPLES)
LOCK = "lock"
_HUB = ("HF_", "HUGGING")
# which keys of the environment a step gets, by the beginning of their names
KEYS: Mapping[str, Sequence[str]] = {"train": _HUB, "evaluate": _HUB, "ask": ("OPENAI_",), "judge": ("OPENAI_",)}
MODEL_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    # glibc keeps what tensors of many sizes leave behind: 3.3 GB instead of 2.5 GB at the same speed
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(MMAP_BYTES),
    "MALLOC_TRIM_THRESHOLD_": "268435456",
}


Fence = Callable[[], AbstractContextManager[None]]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a run folder says of its step."""

    status: Literal["running", "done", "failed", "dead"]
    metric: Metric | None = None  # the last one that counts steps
    checkpoint: int = 0  # the last complete one
    failure: StepFailure | None = None
    stopped: str = ""  # why we asked it to end
    ours: bool = False  # this process has started it, and is told of its end now


class Steps:
    """The children that this process has started, by run folder."""

    def __init__(
        self,
        logs: Path,
        environment: Mapping[str, str] | None = None,
        modules: Mapping[str, str] = MODULES,
        fence: Fence = contextlib.nullcontext,
    ) -> None:
        """Args:
        logs: folder for what the children print.
        environment: added to that of every child.
        modules: what is started for each kind of step.
        fence: entered while a child is started, and by whoever changes a run folder; it refuses a daemon that was
            taken over.
        """
        self.fence = fence
        self._logs = logs
        self._modules = modules
        self._environment = {**MODEL_ENVIRONMENT, **(environment or {})}
        self._stopped: dict[Path, str] = {}
        self._children: dict[Path, subprocess.Popen[bytes]] = {}

    def start(self, kind: StepKind | Literal["ask", "fit", "judge"], folder: Path) -> None:
        """Start the step's child; what it prints goes to a log file of its own.

        The child dies with this process (it asks the kernel for that itself) and locks its folder.

        Raises:
            StaleEpoch: another daemon has taken over.
        """
        self._stopped.pop(folder, None)
        log = self._logs / f"{folder.name}.log"
        with self.fence(), log.open("ab") as output:
            self._children[folder] = subprocess.Popen(
                [sys.executable, "-m", self._modules[kind], str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment_for(KEYS.get(kind, ())), **self._environment, PARENT: str(os.getpid())},
                start_new_session=True,
            )

    def stop(self, folder: Path, reason: str) -> None:
        """Ask the step in `folder` to save and end; `look` tells the reason once it has."""
        child = self._children.get(folder)
        if child is not None and child.poll() is None and folder not in self._stopped:
            self._stopped[folder] = reason
            child.terminate()

    def look(self, folder: Path) -> Progress:
        """How the step in `folder` is doing.

        Raises:
            StepError: it does not run, is not done, and the disk has no room for it to go on.
        """
        child = self._children.get(folder)
        alive = child.poll() is None if child is not None else is_locked(folder / LOCK)
        metric = _last_metric(folder)
        if alive:
            return Progress(status="running", metric=metric)
        ours = self._children.pop(folder, None) is not None
        checkpoint = last_checkpoint(folder)
        if (folder / "result.json").exists():
            return Progress(status="done", metric=metric, checkpoint=checkpoint)
        if not has_room(folder):  # what ends for want of space has not failed, and could say nothing of it
            raise StepError(
                f"there is no room for {folder.name} on the disk: no space left, or a file-size limit",
                hint="Free disk space; the step then goes on by itself.",
            )
        if (folder / "error.json").exists():
            failure = read_json(folder / "error.json", StepFailure)
            if not failure.disk:
                return Progress(status="failed", metric=metric, checkpoint=checkpoint, failure=failure)
            self._stopped[folder] = failure.message  # there is room again: it goes on
        stopped = self._stopped.get(folder, "")
        return Progress(status="dead", metric=metric, checkpoint=checkpoint, stopped=stopped, ours=ours)

    def carried_out(self, kind: Literal["ask", "fit", "judge"], folder: Path) -> bool:
        """Whether a step that the log does not follow has ended well; one that does not run is started.

        Raises:
            StepError: it has failed. The next call starts it again.
        """
        progress = self.look(folder)
        if progress.status == "done":
            return True
        if progress.status == "running":
            return False
        forget_ending(folder)
        if progress.failure is not None:
            raise StepError(progress.failure.message, hint=progress.failure.hint)
        if progress.ours and not progress.stopped:
            raise StepError(f"the step of {folder.name} ended without a word", hint="Its log is in .tuneloop/logs.")
        self.start(kind, folder)
        return False

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
    """Optimiser step of the last checkpoint that can be gone on from; 0 where there is none."""
    return max(checkpoints.whole(folder / "checkpoints"), default=0)


def forget_ending(folder: Path) -> None:
    """Remove how the last attempt ended, before the next one is recorded: it would be taken for the next one's."""
    for leftover in ("error.json", "result.json", "verdicts.jsonl"):
        (folder / leftover).unlink(missing_ok=True)


def forget_texts(folder: Path) -> None:
    """Remove the rendered customer texts of a step that has ended, its sample words, and its checkpoints."""
    for name in TEXT_FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    with contextlib.suppress(StepError):  # a step that has ended without one, or of another kind
        result = read_json(folder / "result.json", TrainResult)
        if any(sample.answered for sample in result.samples):  # by now in the event: as a label, or as a seal
            write_json(folder / "result.json", msgspec.structs.replace(result, samples=[]))


def _last_metric(folder: Path) -> Metric | None:
    metrics = read_lines(folder / "metrics.jsonl", Metric)
    return next((metric for metric in reversed(metrics) if metric.of), None)
