"""The log that a restore replaces: what it knew that the backup cannot know. Read without changing anything.

Two logs that agree on the hash of an event agree on everything before it; where they part is where the old life goes
its own way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from store.artifacts import Artifacts
from store.codec import CODEC
from store.database import DRIVER
from store.errors import StoreError, TuneloopError
from store.events import BackupCompleted, BackupRemoved
from store.log import Head
from store.segments import Segments
from store.workspace import DATABASE, SECRET

_BUSY_SECONDS = 5.0


class OldLife(msgspec.Struct, frozen=True, kw_only=True):
    """What a workspace says that is about to be replaced."""

    readable: bool  # otherwise nothing of it is known
    same: bool = True  # whether it is the backup's own workspace
    head: int = 0  # position of its last event
    epoch: int = 0
    left_behind: int = 0  # events after the last one that both have
    erased: dict[str, tuple[str, str]] = {}  # record -> task and digest of a text that is gone
    backups: list[BackupCompleted] = []  # made after the logs part, and not removed


class Against(msgspec.Struct, frozen=True):
    """The backup that a life is compared with."""

    database: Path  # opened as what never changes
    secret: Path  # the same in both only where both are one workspace
    head: Head


def look_at_life(home: Path, backup: Against) -> OldLife | None:
    """The life of the log in `home` (a .tuneloop) against that of a backup; None where there is no log."""
    path = home / DATABASE
    if not path.is_file():
        return OldLife(readable=False) if home.is_dir() and any(home.iterdir()) else None
    try:
        with _open(path, "mode=rw") as old:
            old.execute("PRAGMA query_only = ON")
            old.execute("BEGIN")
            return _compare(old, home, backup)
    except (DRIVER.Error, TuneloopError, OSError):
        return OldLife(readable=False)


@contextlib.contextmanager
def alone_with_life(home: Path, backup: Against) -> Iterator[OldLife | None]:
    """The same, held for oneself alone: nothing is written any more into what is about to be moved aside.

    A database that cannot be opened is nobody's: there is nothing to hold.

    Raises:
        StoreError: another process has it open.
    """
    path = home / DATABASE
    with contextlib.ExitStack() as held:
        if path.is_file():
            try:
                old = held.enter_context(_open(path, "mode=rw"))
                # refused while anybody else has it open, readers included; our next opening turns it back
                old.execute("PRAGMA journal_mode = DELETE")
                old.execute("BEGIN EXCLUSIVE")
                life: OldLife | None = _compare(old, home, backup)
            except DRIVER.Error as error:
                if is_busy(error):
                    raise StoreError(
                        f"another process has {path} open",
                        hint="End the other tuneloop commands on this workspace (`fuser` names them), then repeat it.",
                    ) from error
                life = OldLife(readable=False)
            except (TuneloopError, OSError):
                life = OldLife(readable=False)
        else:
            life = look_at_life(home, backup)
        yield life


def holds_texts(home: Path, record_ids: Collection[str]) -> bool:
    """Whether the log in `home` (a .tuneloop) still has a text of one of the records; yes, where it cannot be read."""
    ids = sorted(record_ids)
    try:
        with _open(home / DATABASE, "mode=ro") as old:
            return any(
                old.execute("SELECT 1 FROM texts WHERE record_id = ? AND text IS NOT NULL", (one,)).fetchone()
                for one in ids
            )
    except DRIVER.Error:
        return home.is_dir()


def is_busy(error: Exception) -> bool:
    """Whether a driver's error says that somebody else holds the database."""
    return (getattr(error, "sqlite_errorname", None) or "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _compare(old: Any, home: Path, backup: Against) -> OldLife:
    last, epoch = old.execute("SELECT coalesce(max(position), 0), (SELECT epoch FROM lease) FROM events").fetchone()
    with _open(backup.database, "mode=ro&immutable=1") as kept:
        shared = _shared(old, kept, min(last, backup.head.position))
    same = shared > 0 or _content(home / SECRET) == _content(backup.secret)
    erased = old.execute("SELECT record_id, task, digest FROM texts WHERE text IS NULL").fetchall() if same else []
    return OldLife(
        readable=True,
        same=same,
        head=last,
        epoch=epoch,
        left_behind=last - shared,
        erased={record_id: (task, digest) for record_id, task, digest in erased},
        backups=_backups(old, home, shared) if same else [],
    )


def _shared(old: Any, kept: Any, most: int) -> int:
    """The last position at which both logs have the same hash; 0: they have nothing in common."""
    query = "SELECT hash FROM events WHERE position = ?"
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if old.execute(query, (middle,)).fetchone() == kept.execute(query, (middle,)).fetchone():
            low = middle
        else:
            high = middle - 1
    return low


def _backups(old: Any, home: Path, after: int) -> list[BackupCompleted]:
    segments = Segments(Artifacts(home / "artifacts"))
    found: dict[str, BackupCompleted] = {}
    rows = old.execute(
        "SELECT position, type, schema_version, payload FROM events WHERE type IN (?, ?) AND position > ? "
        "ORDER BY position",
        (BackupCompleted.__name__, BackupRemoved.__name__, after),
    )
    for position, kind, schema, payload in rows.fetchall():
        event = CODEC.decode(kind, schema, payload or segments.payload(old, position), position)
        if isinstance(event, BackupCompleted):
            found[event.backup] = event
        elif isinstance(event, BackupRemoved):
            found.pop(event.backup, None)
    return list(found.values())


@contextlib.contextmanager
def _open(path: Path, how: str) -> Iterator[Any]:
    connection = DRIVER.connect(
        f"file:{quote(str(path))}?{how}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        yield connection
    finally:
        connection.close()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
