"""The log: append with expected versions, idempotency keys and a lease; read in order; a hash chain over all columns.

`position` is the only order. Positions and the versions of a stream have no gaps. Every append is one
BEGIN IMMEDIATE transaction, in which head, versions and lease are read again: nothing is cached between
transactions, so any number of processes may write.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from store.acknowledged import Acknowledged, Loss, missing
from store.acknowledged import Head as Head
from store.codec import CODEC, Codec
from store.database import Database, raw
from store.errors import Conflict, Corrupt, DuplicateContent, StaleEpoch, StoreError
from store.events import Event, LeaseAcquired
from store.kill_points import reached

COLUMNS = (
    "position, event_id, stream, version, type, schema_version, recorded_at, actor, "
    "correlation_id, causation_id, epoch, payload, prev_hash, hash"
)


def payload_of(table: str = "events") -> str:
    """SQL for an event's payload, wherever it lies (see `store.segments`); never read the column itself."""
    return f"CASE {table}.payload WHEN '' THEN archived({table}.position) ELSE {table}.payload END"


# for reading; `payload` is the last but three
SELECTED = COLUMNS.replace(" payload,", f" {payload_of()} AS payload,")
GENESIS = bytes(32)  # prev_hash of the first event
# rows of one read: small enough to stay in the processor's cache (8192 reads at two thirds of the speed), and no
# snapshot is held from one page to the next
PAGE = 512

_INSERT = f"INSERT INTO events ({COLUMNS}) VALUES ({', '.join('?' * 14)})"  # noqa: S608
_HEAD = "SELECT position, hash, (SELECT epoch FROM lease) FROM events ORDER BY position DESC LIMIT 1"
_VERSION = "SELECT max(version) FROM events WHERE stream = ?"
_PAGE = f"SELECT {SELECTED} FROM events WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608
_STORED_PAGE = _PAGE.replace(SELECTED, COLUMNS)
_STREAM = f"SELECT {SELECTED} FROM events WHERE stream = ? AND version > ? ORDER BY version"  # noqa: S608
_BY_ID = f"SELECT {SELECTED} FROM events WHERE event_id = ?"  # noqa: S608
_STORED_BY_ID = f"SELECT {COLUMNS} FROM events WHERE event_id = ?"  # noqa: S608

_NAMESPACE = uuid.UUID("6f1e9c1a-5b0e-5f5e-9a5e-7d3c1b0a8e42")
_encode_columns = msgspec.msgpack.Encoder().encode
_logger = logging.getLogger("tuneloop.store")


class Draft(msgspec.Struct, frozen=True):
    """An event that wants to be appended. With an `event_id` (see `step_id`) the append may be retried."""

    event: Event
    stream: str
    event_id: str | None = None


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An event as it stands in the log. `epoch` is 0 where no daemon wrote it."""

    position: int
    event_id: str
    stream: str
    version: int
    type: str
    schema_version: int
    recorded_at: datetime
    actor: str
    correlation_id: str
    causation_id: str
    epoch: int
    hash: bytes
    event: Event


def step_id(*parts: str | int) -> str:
    """The same id for the same parts, always (uuid5): the key of a step that may be retried."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(str(part) for part in parts)))


def chain_hash(columns: Sequence[Any]) -> bytes:
    """sha256 over the first 13 columns of an event's row, `prev_hash` included, as one msgpack array."""
    return hashlib.sha256(_encode_columns(columns)).digest()


class Log:
    """The log of one database. Safe to use from several threads; processes share it through the file."""

    def __init__(self, database: Database, codec: Codec = CODEC) -> None:
        self._database = database
        self._codec = codec
        self._lock = threading.RLock()  # an append inside `within` then fails instead of waiting for itself
        self._connection: Connection | None = None
        self._acknowledged = Acknowledged(database.path)
        self._compared = False

    # ------------------------------------------------------------ append

    def append(
        self,
        drafts: Sequence[Draft],
        *,
        actor: str,
        now: datetime,
        expected: Mapping[str, int] | None = None,
        correlation_id: str = "",
        causation_id: str = "",
        epoch: int | None = None,
        within: Callable[[Connection], object] | None = None,
    ) -> list[Recorded]:
        """Append all drafts in one transaction, or none, and return them as recorded, in their order.

        A draft whose event_id is in the log already is not appended again: its first record is returned. When that
        holds for every draft, nothing is written and `within` is not called.

        Args:
            now: an aware time.
            expected: stream -> the version it must have (0: no events yet); checked when something is new.
            epoch: the daemon's lease; None for writers without one.
            within: called with the transaction's connection after the events are in; its writes commit with them.

        Raises:
            Conflict: a stream has another version, or a LeaseAcquired does not raise the epoch.
            StaleEpoch: a newer daemon holds the lease.
            DuplicateContent: an event_id is in the log with another stream or event.
            StoreError: locked, disk full, not writable, or an event that cannot be encoded.
        """
        if now.tzinfo is None:
            raise StoreError("an event's time must name its zone", hint="Pass datetime.now(UTC).")
        if not drafts:
            return []
        encoded = [self._codec.encode(draft.event) for draft in drafts]
        moment = now.astimezone(UTC)
        shared = (moment.isoformat(timespec="microseconds"), actor, correlation_id, causation_id)
        with self._lock, self._database.errors():
            connection = self._writer()
            with connection.begin():
                cursor = raw(connection).cursor()
                head = cursor.execute(_HEAD).fetchone()
                position, last_hash, lease = head or (0, GENESIS, 0)
                if not self._compared:
                    self._compare(cursor, Head(position, last_hash))
                _check_lease(epoch, lease)
                done = self._known(cursor, drafts, encoded)
                if all(found is not None for found in done):
                    return [found for found in done if found is not None]
                versions = _versions(cursor, drafts, done, expected or {})
                rows: list[tuple[Any, ...]] = []
                result: list[Recorded] = []
                fresh: dict[str, tuple[Recorded, str]] = {}
                make_id = _time_ordered_ids()
                for draft, (name, schema, payload), found in zip(drafts, encoded, done, strict=True):
                    if found is None and draft.event_id is not None and draft.event_id in fresh:
                        found, earlier = fresh[draft.event_id]
                        if (found.stream, found.type, earlier) != (draft.stream, name, payload):
                            raise _other_content(draft.event_id, found.position)
                    if found is not None:
                        result.append(found)
                        continue
                    position += 1
                    stream = draft.stream
                    version = versions[stream] = versions[stream] + 1
                    event_id = draft.event_id or make_id()
                    columns = (
                        position, event_id, stream, version, name, schema, *shared, epoch or 0, payload, last_hash,
                    )  # fmt: skip
                    last_hash = chain_hash(columns)
                    rows.append((*columns, last_hash))
                    recorded = Recorded(
                        position, event_id, stream, version, name, schema, moment,
                        actor, correlation_id, causation_id, epoch or 0, last_hash, draft.event,
                    )  # fmt: skip
                    result.append(recorded)
                    if draft.event_id is not None:
                        fresh[event_id] = (recorded, payload)
                    if isinstance(draft.event, LeaseAcquired):
                        lease = _take_lease(cursor, draft.event, lease)
                cursor.executemany(_INSERT, rows)
                cursor.close()
                if within is not None:
                    within(connection)
                reached("log.written")
            self._acknowledged.note(Head(position, last_hash))
            reached("log.committed")
        return result

    def _compare(self, cursor: Any, head: Head) -> None:
        """Before this process writes for the first time, and so over the note: is all there that was acknowledged?"""
        loss = missing(cursor, self._acknowledged.read(), head)
        if loss is not None:
            self._acknowledged.keep(loss)
            _logger.error("%s. `tuneloop verify` says what to do.", loss)
        self._compared = True

    def acknowledged(self) -> Head | None:
        """What was noted beside the database as the last event; None where nothing was."""
        return self._acknowledged.read()

    def lost(self) -> Loss | None:
        """Events that were acknowledged and are gone, found now or before; None where there are none."""
        noted = self._acknowledged.read()  # before the head, which only grows
        with self._database.reading() as connection:
            cursor = raw(connection).cursor()
            row = cursor.execute(_HEAD).fetchone() or (0, GENESIS)
            return self._acknowledged.kept() or missing(cursor, noted, Head(row[0], row[1]))

    def check_lease(self, epoch: int) -> None:
        """Raises StaleEpoch when a newer daemon than that of `epoch` holds the lease."""
        _check_lease(epoch, self.epoch())

    @contextlib.contextmanager
    def fenced(self, epoch: int | None) -> Iterator[None]:
        """Hold the right to write while something outside the database is done that only the newest daemon may do.

        No daemon can take over before the block ends; so keep it to a rename. None: a writer without a lease.

        Raises:
            StaleEpoch: a newer daemon holds the lease.
            StoreError: somebody else writes for longer than the busy timeout.
        """
        with self._database.writing() as connection:
            _check_lease(epoch, raw(connection).execute("SELECT epoch FROM lease").fetchone()[0])
            yield

    def _writer(self) -> Connection:
        if self._connection is None or self._connection.closed or self._connection.invalidated:
            self._connection = self._database.write.connect()
        return self._connection

    def _known(
        self, cursor: Any, drafts: Sequence[Draft], encoded: Sequence[tuple[str, int, str]]
    ) -> list[Recorded | None]:
        """For each draft its first record, where its event_id is in the log."""
        done: list[Recorded | None] = []
        for draft, (name, schema, payload) in zip(drafts, encoded, strict=True):
            row = None
            if draft.event_id is not None:
                row = _row_by_id(cursor, draft.event_id, payload)
            if row is None:
                done.append(None)
                continue
            found = self._recorded(row)
            same = (row[4], row[5], row[11]) == (name, schema, payload) or found.event == draft.event
            if found.stream != draft.stream or not same:
                raise _other_content(found.event_id, found.position)
            done.append(found)
        return done

    # ------------------------------------------------------------ read

    def read(self, after: int = 0, limit: int | None = None) -> Iterator[Recorded]:
        """Events with a position above `after`, in order, at most `limit`; read in pages.

        Raises:
            Corrupt: a row that cannot be decoded; names its position.
        """
        for page in self.pages(after, limit):
            yield from self.decoded(page)

    def pages(
        self, after: int = 0, limit: int | None = None, *, as_stored: bool = False
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Raw rows (`COLUMNS`) in lists of at most `PAGE`; with `as_stored`, archived payloads are left empty."""
        query = _STORED_PAGE if as_stored else _PAGE
        while limit is None or limit > 0:
            with self._database.reading() as connection:
                size = PAGE if limit is None else min(PAGE, limit)
                page = raw(connection).execute(query, (after, size)).fetchall()
            if page:
                yield page
            if len(page) < size:
                return
            after = page[-1][0]
            limit = None if limit is None else limit - len(page)

    def decoded(self, rows: Sequence[tuple[Any, ...]]) -> list[Recorded]:
        """Rows (`COLUMNS`) as events.

        Raises:
            Corrupt: a row that cannot be decoded; names its position.
        """
        decode, moment = self._codec.decode, datetime.fromisoformat
        try:
            return [
                Recorded(
                    position, event_id, stream, version, name, schema, moment(at), actor, correlation, causation,
                    epoch, digest, decode(name, schema, payload, position),
                )
                for (
                    position, event_id, stream, version, name, schema, at, actor, correlation, causation,
                    epoch, payload, _, digest,
                ) in rows
            ]  # fmt: skip
        except (TypeError, ValueError) as error:
            position, at = next(((row[0], row[6]) for row in rows if not _is_time(row[6])), (0, ""))
            raise Corrupt(
                f"event {position} has no readable time: {at!r}",
                hint="Put the last backup in its place: `tuneloop restore BACKUP`.",
            ) from error

    def _recorded(self, row: tuple[Any, ...]) -> Recorded:
        return self.decoded([row])[0]

    def stream(self, name: str, after: int = 0) -> list[Recorded]:
        """All events of one stream with a version above `after`, in order."""
        with self._database.reading() as connection:
            rows = raw(connection).execute(_STREAM, (name, after)).fetchall()
        return self.decoded(rows)

    def version(self, name: str) -> int:
        """The version of a stream's last event; 0 when it has none."""
        with self._database.reading() as connection:
            return int(raw(connection).execute(_VERSION, (name,)).fetchone()[0] or 0)

    def select(self, where: str, values: Sequence[Any], *, limit: int | None = None) -> list[Recorded]:
        """The newest `limit` events that meet an SQL condition over the events' columns, oldest first.

        A condition on the payload asks for `payload_of()`, not for the column.
        """
        query = f"SELECT {SELECTED} FROM events WHERE {where} ORDER BY position DESC LIMIT ?"  # noqa: S608
        with self._database.reading() as connection:
            rows = raw(connection).execute(query, (*values, -1 if limit is None else limit)).fetchall()
        return self.decoded(rows[::-1])

    def get(self, event_id: str) -> Recorded | None:
        with self._database.reading() as connection:
            row = raw(connection).execute(_BY_ID, (event_id,)).fetchone()
        return None if row is None else self._recorded(row)

    def head(self) -> Head:
        """Position and hash of the last event; (0, GENESIS) of an empty log."""
        with self._database.reading() as connection:
            row = raw(connection).execute(_HEAD).fetchone()
        return Head(0, GENESIS) if row is None else Head(row[0], row[1])

    def epoch(self) -> int:
        """The newest lease's epoch; 0 when no daemon has run yet."""
        with self._database.reading() as connection:
            return int(raw(connection).execute("SELECT epoch FROM lease").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            self._acknowledged.close()
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _row_by_id(cursor: Any, event_id: str, payload: str) -> tuple[Any, ...] | None:
    """The row of an id. An archived one is compared by its hash first: an append must not need old segments."""
    row: tuple[Any, ...] | None = cursor.execute(_STORED_BY_ID, (event_id,)).fetchone()
    if row is None or row[11]:
        return row
    filled = (*row[:11], payload, *row[12:])
    if chain_hash(filled[:13]) == row[13]:
        return filled
    found: tuple[Any, ...] = cursor.execute(_BY_ID, (event_id,)).fetchone()
    return found


def _versions(
    cursor: Any, drafts: Sequence[Draft], done: Sequence[Recorded | None], expected: Mapping[str, int]
) -> dict[str, int]:
    """Current version of every stream that is written to or expected, checked against `expected`."""
    streams = {draft.stream for draft, found in zip(drafts, done, strict=True) if found is None} | expected.keys()
    versions = {stream: cursor.execute(_VERSION, (stream,)).fetchone()[0] or 0 for stream in streams}
    for stream, version in expected.items():
        if versions[stream] != version:
            raise Conflict(
                f"{stream} is at version {versions[stream]}, not {version}: somebody else wrote first",
                hint="Look at it again (`tuneloop history`) and repeat the command if it still applies.",
            )
    return versions


def _is_time(value: object) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _check_lease(epoch: int | None, lease: int) -> None:
    if epoch is not None and epoch < lease:
        raise StaleEpoch(
            f"this daemon's lease ({epoch}) was taken over ({lease})",
            hint="Another daemon runs this workspace now; this one ends.",
        )


def _take_lease(cursor: Any, event: LeaseAcquired, lease: int) -> int:
    if event.new_epoch <= lease:
        raise Conflict(
            f"lease {event.new_epoch} is not newer than {lease}",
            hint="Another daemon started first; `tuneloop status` names it.",
        )
    cursor.execute("UPDATE lease SET epoch = ?, holder = ?", (event.new_epoch, event.holder))
    return event.new_epoch


def _other_content(event_id: str, position: int) -> DuplicateContent:
    return DuplicateContent(
        f"{event_id} is in the log already, at position {position}, with other content",
        hint="Use a new id for new content; nothing was written.",
    )


def _time_ordered_ids() -> Callable[[], str]:
    """Random ids that sort by time (RFC 9562, version 7): new rows land at one end of their index."""
    counter = int.from_bytes(os.urandom(9), "big")
    milliseconds = time.time_ns() // 1_000_000

    def make() -> str:
        nonlocal counter
        counter = (counter + 1) & ((1 << 74) - 1)
        value = (
            (milliseconds & ((1 << 48) - 1)) << 80
            | 7 << 76
            | (counter >> 62) << 64
            | 2 << 62
            | counter & ((1 << 62) - 1)
        )
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    return make
