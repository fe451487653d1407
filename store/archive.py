"""Old history out of the database: payloads of closed events move into sealed segments (`store.segments`).

The rows stay, with everything but their payload, so ids, versions, positions and the hash chain go on working, and
whoever reads a payload reads it from its segment. A segment is complete before its rows are emptied, in one
transaction with the event `Archived`; whatever moment the power fails at, every payload is in one place or in both.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain

import msgspec
from sqlalchemy.engine import Connection

from store.database import raw
from store.errors import Corrupt, StoreError
from store.events import Archived
from store.kill_points import reached
from store.log import GENESIS, Draft, Head, step_id
from store.pages import compact
from store.segments import KIND, known_segments, seal
from store.verify import check_chain
from store.workspace import Workspace

STREAM = "archive"
SEGMENT = 20_000  # events of one: its transaction holds the write lock for some hundred milliseconds
_OWED = "archive-shrink"  # a row of `cursors` from the first emptied row to the end of VACUUM

Progress = Callable[[int, int], object]  # events done, of


class ArchiveReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one call moved. Sizes in bytes; `segments_bytes` is of all segments there are."""

    first: int  # 0: nothing was to be moved
    last: int
    archived_to: int
    before: int  # the database
    after: int
    segments_bytes: int


def archived_to(workspace: Workspace) -> int:
    """Position of the last archived event; 0 where there is none."""
    with workspace.database.reading() as connection:
        return int(raw(connection).execute("SELECT coalesce(max(last), 0) FROM segments").fetchone()[0])


def archive(
    workspace: Workspace,
    up_to: int,
    *,
    actor: str,
    now: datetime,
    segment_events: int = SEGMENT,
    shrink: bool = True,
    progress: Progress = lambda done, of: None,
) -> ArchiveReport:
    """Move the payloads of all events up to a position that the read tables have taken in. Repeating it is harmless.

    Writers go on meanwhile, except during VACUUM, for which they wait.

    Args:
        workspace: the open workspace.
        up_to: position, included; the caller knows what is closed.
        actor: in the log.
        now: an aware time.
        segment_events: at most so many in one segment.
        shrink: whether the database file is made smaller at the end (VACUUM needs as much free space as it is large).
        progress: called after each segment.

    Raises:
        Corrupt: the chain does not hold, so nothing more is sealed.
        StoreError: locked, disk full. What was archived until then stays so; the call can be repeated.
    """
    with _one_at_a_time(workspace):
        before = _size(workspace)
        begin = first = archived_to(workspace) + 1
        last = min(up_to, workspace.projections.cursor)
        while first <= last:
            end = min(first + segment_events - 1, last)
            _move(workspace, first, end, actor, now)
            first = end + 1
            progress(first - begin, last - begin + 1)
        _remove_orphans(workspace)
        if shrink:
            _shrink(workspace)
        return ArchiveReport(
            first=begin if last >= begin else 0,
            last=last if last >= begin else 0,
            archived_to=archived_to(workspace),
            before=before,
            after=_size(workspace),
            segments_bytes=_segments_bytes(workspace),
        )


def _move(workspace: Workspace, first: int, last: int, actor: str, now: datetime) -> None:
    head = Head(0, GENESIS)
    if first > 1:
        row = next(workspace.log.pages(first - 2, 1, as_stored=True))[0]
        head = Head(row[0], row[13])
    rows = list(chain.from_iterable(workspace.log.pages(first - 1, last - first + 1, as_stored=True)))
    broken = next(check_chain([rows], head), None)
    if broken is not None:
        raise Corrupt(broken.message, hint="Nothing more was archived. `tuneloop verify` says more.")
    payloads = [row[11] for row in rows]
    scratch = workspace.paths.cache / "archive"
    address = seal(
        workspace.artifacts, scratch, first, payloads, prev_hash=head.hash, last_hash=rows[-1][13]
    )  # fmt: skip
    problems = workspace.artifacts.verify(address)
    if problems:
        raise StoreError(f"the segment did not come out right: {problems[0]}", hint="Check the disk; repeat it.")
    reached("archive.segment_written")
    size = sum(entry.bytes for entry in workspace.artifacts.manifest(address).files.values())
    event = Archived(
        first=first, last=last, artifact=address, prev_hash=head.hash.hex(), last_hash=rows[-1][13].hex(), bytes=size
    )

    def empty(connection: Connection) -> None:
        cursor = raw(connection).cursor()
        cursor.execute("INSERT INTO segments (first, last, artifact) VALUES (?, ?, ?)", (first, last, address))
        cursor.execute("UPDATE events SET payload = '' WHERE position BETWEEN ? AND ?", (first, last))
        cursor.execute("INSERT OR IGNORE INTO cursors (name, position, version) VALUES (?, ?, 0)", (_OWED, last))
        reached("archive.rows_emptied")

    draft = Draft(event, STREAM, step_id("archived", first))
    workspace.log.append([draft], actor=actor, now=now, within=empty)
    reached("archive.recorded")


def _remove_orphans(workspace: Workspace) -> None:
    """Delete segments that a killed call has written and not recorded; nobody else writes any meanwhile."""
    with workspace.database.reading() as connection:
        known = {segment.artifact for segment in known_segments(raw(connection))}
    for info in workspace.artifacts.list():
        if info.kind == KIND and info.address not in known:
            shutil.rmtree(workspace.artifacts.root / info.address)


def _shrink(workspace: Workspace) -> None:
    """Give the freed pages back to the disk, where that is owed since the last time."""
    database = workspace.database
    with database.reading() as connection:
        owed = raw(connection).execute("SELECT 1 FROM cursors WHERE name = ?", (_OWED,)).fetchone()
    if owed is None:
        return
    try:
        compact(database)
    except StoreError as error:
        raise StoreError(
            f"everything was archived, but the file could not be made smaller: {error.message}",
            hint="Free as much disk space as the database is large, then repeat `tuneloop archive`.",
        ) from error
    reached("archive.shrunk")
    database.checkpoint()
    with database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM cursors WHERE name = ?", (_OWED,))


def closed_by(workspace: Workspace, before: datetime, *, now: datetime) -> int:
    """The last position before which nothing was recorded at or after a time; the log's end where all is older.

    What claims to come from after `now` was recorded while a clock was wrong, and closes and holds back nothing.
    """
    moment, present = (one.astimezone(UTC).isoformat(timespec="microseconds") for one in (before, now))
    with workspace.database.reading() as connection:
        held, older = (
            raw(connection)
            .execute(
                "SELECT (SELECT min(position) - 1 FROM events WHERE recorded_at BETWEEN ? AND ?),"
                " (SELECT max(position) FROM events WHERE recorded_at < ?)",
                (moment, present, moment),
            )
            .fetchone()
        )
    return int(older or 0) if held is None else int(held)


def _size(workspace: Workspace) -> int:
    path = workspace.database.path
    return sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists())


def _segments_bytes(workspace: Workspace) -> int:
    with workspace.database.reading() as connection:
        segments = known_segments(raw(connection))
    manifests = [workspace.artifacts.manifest(segment.artifact) for segment in segments]
    return sum(entry.bytes for manifest in manifests for entry in manifest.files.values())


@contextmanager
def _one_at_a_time(workspace: Workspace) -> Iterator[None]:
    lock = os.open(workspace.database.path.with_suffix(".archive-lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
