"""The daemon's sign of life: one small file a tick, which `tuneloop status` and the gateway's metrics read.

It is only about now. Losing it changes nothing, so it is written without waiting for the disk.
"""

from __future__ import annotations

import contextlib
import os
import time
from datetime import datetime
from pathlib import Path

import msgspec

FILE = "pulse.json"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A command that failed and is left alone for a while."""

    what: str  # task and command
    error: str
    failures: int  # in a row
    seconds: float  # until the next try, from the pulse on


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    epoch: int
    at: datetime
    clock: float  # seconds, of a clock that neither jumps nor stops when the machine sleeps
    ticks: int  # since the daemon started
    failed: int  # ticks, and commands within them, that failed since then
    tick_seconds: float  # how long the last tick took
    longest_wait: float  # seconds between two ticks, at most
    held: list[Held] = []


def clock() -> float:
    """Seconds since the machine was started, its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def write(folder: Path, pulse: Pulse) -> None:
    """Replace the file in `folder`. A disk that is full leaves the old one."""
    temporary = folder / f"{FILE}.{os.getpid()}"
    with contextlib.suppress(OSError):
        temporary.write_bytes(msgspec.json.encode(pulse))
        temporary.replace(folder / FILE)
        return
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def read(folder: Path) -> Pulse | None:
    """The last pulse; None where there is none that can be read."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Pulse)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return None


def age(pulse: Pulse) -> float:
    """Seconds since the pulse, whatever the wall clock has done; infinite for one from before the machine started."""
    passed = clock() - pulse.clock
    return passed if passed >= 0 else float("inf")
