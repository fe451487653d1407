"""One daemon a workspace: a file lock held for life, and an epoch in the log that fences a stalled twin."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import IO

from store.errors import Conflict, DaemonRunning, StaleEpoch, StoreError
from store.events import LeaseAcquired
from store.kill_points import reached
from store.log import Draft, Log

LOCK = "daemon.lock"
STREAM = "loop"


class Lease:
    """The right to run the loop; `epoch` goes with every append of its holder."""

    def __init__(self, file: IO[str] | None, epoch: int, log: Log, *, taken_over: bool) -> None:
        self._file = file
        self._log = log
        self._locked = not taken_over
        self.epoch = epoch
        self.taken_over = taken_over  # from a process that still held the lock

    def check(self) -> None:
        """Look whether this is still the newest lease, and take the lock once a fenced-off holder has ended.

        Raises:
            StaleEpoch: a newer daemon holds the lease.
        """
        if self._file is not None and not self._locked:
            self._locked = _try_lock(self._file)
        self._log.check_lease(self.epoch)

    def fence(self) -> AbstractContextManager[None]:
        """A block that only the holder of the newest lease may do; see `Log.fenced`."""
        return self._log.fenced(self.epoch)

    def release(self) -> None:
        """Give the lock back; the epoch stays in the log."""
        if self._file is not None:
            self._file.close()
            self._file = None


def holder(folder: Path) -> str:
    """Who holds the daemon's lock in `folder`, in words; empty when nobody does."""
    try:
        file = (folder / LOCK).open("r", encoding="utf-8", errors="replace")
    except OSError:
        return ""
    with file:
        try:
            # shared, so that two probes do not take each other for a daemon
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return file.read(200).strip() or "a process that does not name itself"
    return ""


def acquire(folder: Path, log: Log, *, now: datetime, take_over: bool = False) -> Lease:
    """Take the lock and raise the epoch.

    With `take_over` the epoch is raised although another process holds the lock: from then on the log, the
    inbox and the production pointer refuse that process, even if it was only stalled.

    Raises:
        DaemonRunning: another process holds the lock and `take_over` is not set, or it was stopped in the middle of
            a write, so that nobody else can write.
    """
    known = log.epoch()
    path = folder / LOCK
    # a+ and no truncation: the file names its holder, and we may not be the next one
    file = path.open("a+", encoding="utf-8")
    held = not _lock(file)
    file.seek(0)
    former = file.read().strip() or "unknown process"
    if held and not take_over:
        file.close()
        raise DaemonRunning(
            f"a daemon already runs on this workspace ({former})",
            hint="`tuneloop status` shows it; if it hangs, `tuneloop run --take-over` fences it off.",
        )
    holder = f"pid {os.getpid()} on {socket.gethostname()}"
    reached("lease.locked")
    try:
        epoch = _raise_epoch(log, holder, now, taken_over=held, known=known)
        reached("lease.raised")
        with log.fenced(epoch):  # the file names the newest holder, whoever is stalled here
            file.seek(0)
            file.truncate()
            file.write(holder)
            file.flush()
    except (DaemonRunning, StaleEpoch):
        file.close()
        raise
    except StoreError as error:
        file.close()
        if not held:
            raise
        raise DaemonRunning(
            f"the daemon that hangs ({former}) cannot be fenced off: {error.message}",
            hint="It may hold the database in the middle of a write: end it with kill -9, nothing is lost.",
        ) from error
    return Lease(file, epoch, log, taken_over=held)


def _lock(file: IO[str]) -> bool:
    """Try twice: somebody may just have been asking whether a daemon runs."""
    for pause in (0.05, 0.0):
        if _try_lock(file):
            return True
        time.sleep(pause)
    return False


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _raise_epoch(log: Log, holder: str, now: datetime, *, taken_over: bool, known: int) -> int:
    """Append LeaseAcquired with the next epoch; `known` is the newest one before the lock was asked for."""
    while True:
        version = log.version(STREAM)
        epoch = log.epoch() + 1
        if not taken_over and epoch > known + 1 and _was_taken_over(log, known):
            raise DaemonRunning(
                "another daemon was started with --take-over while this one stalled", hint="`tuneloop status` shows it."
            )
        event = LeaseAcquired(holder=holder, new_epoch=epoch, taken_over=taken_over)
        try:
            log.append([Draft(event, STREAM)], actor="daemon", now=now, expected={STREAM: version}, epoch=epoch)
        except Conflict:
            continue  # a pause or another take-over came in between
        return epoch


def _was_taken_over(log: Log, known: int) -> bool:
    leases = [one.event for one in log.select("type = 'LeaseAcquired'", [], limit=20)]
    return any(one.taken_over and one.new_epoch > known for one in leases if isinstance(one, LeaseAcquired))
