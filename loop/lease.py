"""One daemon a workspace: a file lock held for life, and an epoch in the log that fences a stalled twin."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import IO

from store.errors import Conflict, DaemonRunning
from store.events import LeaseAcquired
from store.log import Draft, Log

LOCK = "daemon.lock"
STREAM = "loop"


class Lease:
    """The right to run the loop; `epoch` goes with every append of its holder."""

    def __init__(self, file: IO[str] | None, epoch: int) -> None:
        self._file = file
        self.epoch = epoch

    def release(self) -> None:
        """Give the lock back; the epoch stays in the log."""
        if self._file is not None:
            self._file.close()
            self._file = None


def acquire(folder: Path, log: Log, *, now: datetime, take_over: bool = False) -> Lease:
    """Take the lock and raise the epoch.

    With `take_over` the epoch is raised although another process holds the lock: from then on the log and
    the production pointer refuse that process, even if it was only stalled.

    Raises:
        DaemonRunning: another process holds the lock and `take_over` is not set.
    """
    path = folder / LOCK
    # a+ and no truncation: the file names its holder, and we may not be the next one
    file = path.open("a+", encoding="utf-8")
    held = not _lock(file)
    if held and not take_over:
        file.seek(0)
        holder = file.read().strip() or "unknown process"
        file.close()
        raise DaemonRunning(
            f"a daemon already runs on this workspace ({holder})",
            hint="`tuneloop status` shows it; if it hangs, `tuneloop run --take-over` fences it off.",
        )
    holder = f"pid {os.getpid()} on {socket.gethostname()}"
    file.seek(0)
    file.truncate()
    file.write(holder)
    file.flush()
    epoch = _raise_epoch(log, holder, now, taken_over=held)
    return Lease(file, epoch)


def _lock(file: IO[str]) -> bool:
    """Try twice: somebody may just have been asking whether a daemon runs."""
    for pause in (0.05, 0.0):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(pause)
    return False


def _raise_epoch(log: Log, holder: str, now: datetime, *, taken_over: bool) -> int:
    while True:
        version = log.version(STREAM)
        epoch = log.epoch() + 1
        event = LeaseAcquired(holder=holder, new_epoch=epoch, taken_over=taken_over)
        try:
            log.append([Draft(event, STREAM)], actor="daemon", now=now, expected={STREAM: version}, epoch=epoch)
        except Conflict:
            continue  # a pause or another take-over came in between
        return epoch
