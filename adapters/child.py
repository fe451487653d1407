"""Manners of a step's child process: one at a time per folder, gone with its parent, and never without a word.

`run` wraps a step's work; the contract of its folder is in `adapters.specs`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import msgspec

from adapters.specs import Metric, StepFailure, read_lines, write_json, write_lines
from store.disk import disk_trouble
from store.errors import TuneloopError
from store.keys import hide

OWNER_ONLY = 0o077  # umask of every process: what we write is the owner's alone
LOCKED = 3  # exit code: another process works on this folder
FAILED = 1
NICE, MEMORY = "TUNELOOP_STEP_NICE", "TUNELOOP_STEP_MEMORY_MB"
PARENT = "TUNELOOP_PARENT"  # id of the process that starts a child, which is to die with it
MMAP_BYTES = 1 << 20  # tensors from this size on get memory of their own, which goes back at once (glibc)
_PR_SET_PDEATHSIG = 1
_BUSY_SECONDS = 3.0


class Unrecoverable(TuneloopError):
    """A failure that trying again in the same way cannot help."""

    exit_code = 8


class Stopping:
    """Set by SIGTERM or SIGINT. `hold` postpones the end until the work looks at the flag; without it the process
    ends at once, with exit code 0: what it has saved is complete, and it will be resumed."""

    def __init__(self) -> None:
        self.asked = False
        self.hold = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if not self.hold:
            raise SystemExit(0)


def run(work: Callable[[Path, Stopping], None], arguments: list[str]) -> int:
    """Do `work` on the run folder named in `arguments` and return the exit code.

    0: done, or ended on request. 1: failed, error.json says why. 2: no such folder. 3: another process is on it.
    A folder with a result.json is done: nothing happens.
    """
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: RUN_FOLDER (an existing folder with spec.json)", file=sys.stderr)
        return 2
    folder = Path(arguments[0]).resolve()
    os.umask(OWNER_ONLY)
    die_with_parent()
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process works on {folder}", file=sys.stderr)
            return LOCKED
        if (folder / "result.json").exists():
            return 0
        # read when torch is imported. A thread that waits long for the other's core gives its own away; one that
        # waits briefly spins: training took 10 times longer with endless spinning beside a busy process
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        keep_manners()
        stopping = Stopping()
        try:
            work(folder, stopping)
        except Exception as error:
            print(hide(traceback.format_exc()), file=sys.stderr)
            write_json(folder / "error.json", failure_of(error))
            return FAILED
    return 0


def failure_of(error: Exception) -> StepFailure:
    """What error.json says of an error: never a library's own words where they may quote a ticket."""
    if isinstance(error, TuneloopError):
        retry = not isinstance(error, Unrecoverable)
        return StepFailure(message=hide(error.message), hint=hide(error.hint), retry=retry)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate" in str(error):
        return StepFailure(
            message="out of memory",
            hint="Lower training.micro_batch_size or training.max_length, free memory, or raise "
            "resources.memory_limit_mb where one is set.",
        )
    # the message goes into an event; a library's own words may quote a ticket, those of the system do not
    said = error.strerror if isinstance(error, OSError) else None
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    return StepFailure(
        message=f"{type(error).__name__}{f': {said}' if said else ''} in {place}",
        hint="The run's log holds the traceback.",
        disk=disk_trouble(error) is not None,
    )


def keep_manners() -> None:
    """Take the priority and the memory limit that the environment names (`NICE`, `MEMORY` in MiB; 0: none).

    The limit is on private writable memory (RLIMIT_DATA, Linux): an allocation beyond it fails, and the step says so
    instead of pushing production out of memory.
    """
    os.nice(max(0, int(os.environ.get(NICE, "0")) - os.nice(0)))
    limit = int(os.environ.get(MEMORY, "0")) << 20
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process a signal when its parent dies (Linux; elsewhere nothing happens).

    The parent may have died before this is reached, while Python was starting: who names itself in `PARENT` is missed
    then, and this process ends.
    """
    parent = int(os.environ.pop(PARENT, "0")) or os.getppid()  # a grandchild has another parent
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        raise SystemExit(0)


def trim_memory() -> None:
    """Hand memory that is free but still held by the C library back to the system (glibc; elsewhere nothing
    happens). Loading a model and large batches leave some 400 MB so; it takes a few milliseconds."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MiB; on CUDA the largest allocated device memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Threads:
    """Gives the cores to production while the engine on this machine answers it.

    The daemon touches serving.busy two folders above the run folder whenever it sends the engine a request.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self._busy = folder.parent.parent / "serving.busy"
        self._working = folder.parent.parent / "working.busy"  # tells the engine that we are at work
        self._all = threads or len(os.sched_getaffinity(0))
        self._now = 0

    def adjust(self) -> int:
        """One thread while production is being answered, else all; returns how many."""
        import torch

        with contextlib.suppress(OSError):
            self._working.touch()
        try:
            busy = abs(time.time() - self._busy.stat().st_mtime) < _BUSY_SECONDS  # clocks are set back
        except OSError:
            busy = False
        wanted = 1 if busy else self._all
        if wanted != self._now:
            torch.set_num_threads(wanted)
            self._now = wanted
        return wanted


class Journal:
    """Appends to metrics.jsonl. `resume_at`: what an interrupted attempt wrote beyond this step is dropped."""

    def __init__(self, folder: Path, *, resume_at: int = 0) -> None:
        self._path = folder / "metrics.jsonl"
        kept = [line for line in read_lines(self._path, Metric) if line.step <= resume_at and line.step]
        temporary = self._path.with_suffix(".tmp")
        write_lines(temporary, kept)
        temporary.replace(self._path)
        self.lines = kept
        self._spent = kept[-1].seconds if kept else 0.0
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Seconds of work up to now, earlier attempts included as far as they were saved."""
        return round(self._spent + time.monotonic() - self._started, 3)

    def write(self, metric: Metric) -> None:
        """Append one line, stamped with the seconds."""
        metric = msgspec.structs.replace(metric, seconds=self.seconds())
        self.lines.append(metric)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(metric) + b"\n")
