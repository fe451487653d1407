"""Keeps the read tables in step with the log: rows and cursor commit in one transaction.

`catch_up` folds what is new, batch by batch, each in a BEGIN IMMEDIATE transaction that reads the cursor first, so
any number of processes may call it. `rebuild` fills shadow tables while the old ones stay in use, and swaps
them in one transaction. The tables of an older shape (`VERSION`) and missing tables are rebuilt by themselves.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection

from store.database import Database, raw
from store.folds import apply
from store.kill_points import reached
from store.log import SELECTED, Log, Recorded
from store.rows import BLANKS, KEYS, Row

VERSION = 3  # raise it with any change of a table or a fold: old tables are then rebuilt
CURSOR = "read-tables"
BATCH = 2000  # events of one transaction: it holds the write lock for some tens of milliseconds
SHADOW = "shadow_"

PAGE_QUERY = f"SELECT {SELECTED} FROM events WHERE position > ? ORDER BY position LIMIT ?"  # noqa: S608


class RowBatch:
    """The rows that a batch of events touches: read once, changed in memory, written together."""

    def __init__(self, cursor: Any, prefix: str = "") -> None:
        self._cursor = cursor
        self._prefix = prefix
        self._rows: dict[str, dict[tuple[str, ...], Row | None]] = {table: {} for table in KEYS}
        self._changed: dict[str, set[tuple[str, ...]]] = {table: set() for table in KEYS}

    def get(self, table: str, *key: str) -> Row | None:
        rows = self._rows[table]
        if key not in rows:
            columns = tuple(BLANKS[table])
            where = " AND ".join(f"{name} = ?" for name in KEYS[table])
            found = self._cursor.execute(
                f"SELECT {', '.join(columns)} FROM {self._prefix}{table} WHERE {where}",  # noqa: S608
                key,
            ).fetchone()
            rows[key] = None if found is None else dict(zip(columns, found, strict=True))
        return rows[key]

    def put(self, table: str, row: Row) -> None:
        key = tuple(row[name] for name in KEYS[table])
        self._rows[table][key] = row
        self._changed[table].add(key)

    def flush(self) -> None:
        """Write what changed."""
        for table, keys in self._changed.items():
            if not keys:
                continue
            rows = self._rows[table]
            self._cursor.executemany(_upsert(self._prefix, table), [tuple(rows[key].values()) for key in keys])  # type: ignore[union-attr]
            keys.clear()


def _upsert(prefix: str, table: str) -> str:
    columns = tuple(BLANKS[table])
    updates = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in KEYS[table])
    return (
        f"INSERT INTO {prefix}{table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(KEYS[table])}) DO UPDATE SET {updates}"
    )


class Projections:
    """The read tables of one database."""

    def __init__(self, database: Database, log: Log) -> None:
        self._database = database
        self._log = log

    @property
    def cursor(self) -> int:
        """Position of the last event folded in; 0 where the tables are missing or of an older shape."""
        with self._database.reading() as connection:
            return read_cursor(raw(connection)) or 0

    def catch_up(self, *, batch: int = BATCH) -> int:
        """Fold all new events in; returns how many this call folded. Rebuilds tables that are missing or outdated.

        Raises:
            StoreError: locked, disk full. Corrupt: an event that cannot be read; rows before it are kept.
        """
        folded = 0
        while True:
            with self._database.reading() as connection:
                cursor = read_cursor(raw(connection))
                head = raw(connection).execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0]
            if cursor is None:
                return folded + self.rebuild()
            if cursor >= head:
                return folded
            with self._database.writing() as connection:
                if read_cursor(raw(connection)) is None:
                    continue
                done, _ = self._step(connection, "", CURSOR, batch)
                reached("projections.folded")
            folded += done

    def rebuild(self, *, batch: int = BATCH, progress: Callable[[int], object] | None = None) -> int:
        """Fold the whole log into shadow tables, then swap them in; returns how many events were folded.

        Readers and writers go on meanwhile. Several rebuilds at once run one after the other.

        Args:
            progress: called with the position reached after each batch.
        """
        folded, position, caught_up = 0, 0, False
        with self._one_at_a_time():
            with self._database.writing() as connection:
                drop(connection, SHADOW)
                create(connection, SHADOW)
                _set_cursor(raw(connection), SHADOW, 0)
            while not caught_up:
                with self._database.writing() as connection:
                    done, position = self._step(connection, SHADOW, SHADOW, batch)
                    folded += done
                    if done < batch:  # nothing can be appended before this transaction ends
                        self._swap(connection, position)
                        reached("projections.swapped")
                        caught_up = True
                reached("projections.shadow_filled")
                if progress is not None:
                    progress(position)
        return folded

    def _step(self, connection: Connection, prefix: str, cursor_name: str, batch: int) -> tuple[int, int]:
        """Fold one batch; returns how many events, and the position reached. The transaction is the caller's."""
        cursor = raw(connection).cursor()
        after = cursor.execute("SELECT position FROM cursors WHERE name = ?", (cursor_name,)).fetchone()[0]
        page = cursor.execute(PAGE_QUERY, (after, batch)).fetchall()
        if not page:
            return 0, after
        fold(cursor, self._log.decoded(page), prefix)
        _set_cursor(cursor, cursor_name, page[-1][0])
        return len(page), page[-1][0]

    def _swap(self, connection: Connection, position: int) -> None:
        cursor = raw(connection).cursor()
        drop(connection, "")
        for table in KEYS:
            cursor.execute(f"ALTER TABLE {SHADOW}{table} RENAME TO {table}")
        create_indexes(connection)
        _set_cursor(cursor, CURSOR, position)
        cursor.execute("DELETE FROM cursors WHERE name = ?", (SHADOW,))

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        lock = os.open(self._database.path.with_suffix(".rebuild-lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def fold(cursor: Any, recorded: Iterable[Recorded], prefix: str = "") -> None:
    """Fold events into the tables behind a driver's cursor, in its transaction."""
    rows = RowBatch(cursor, prefix)
    for each in recorded:
        apply(rows, each)
    rows.flush()


def create(connection: Connection, prefix: str) -> None:
    """Create empty read tables under a prefix, without their indexes."""
    from sqlalchemy import MetaData
    from sqlalchemy.schema import CreateTable

    from store.tables import read_tables  # SQLModel takes long to import, and most commands never create tables

    for table in read_tables():
        copy = table.to_metadata(MetaData(), name=f"{prefix}{table.name}")
        connection.execute(CreateTable(copy))


def create_indexes(connection: Connection) -> None:
    from sqlalchemy.schema import CreateIndex

    from store.tables import read_tables

    for table in read_tables():
        for index in sorted(table.indexes, key=lambda each: str(each.name)):
            connection.execute(CreateIndex(index))


def drop(connection: Connection, prefix: str) -> None:
    for table in KEYS:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {prefix}{table}")


def read_cursor(connection: Any) -> int | None:
    """The cursor; None where the tables have to be built: never built, dropped, or of another version."""
    row = connection.execute(
        "SELECT position FROM cursors WHERE name = ? AND version = ? AND "  # noqa: S608
        f"(SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ({', '.join('?' * len(KEYS))})) = ?",
        (CURSOR, VERSION, *KEYS, len(KEYS)),
    ).fetchone()
    return None if row is None else int(row[0])


def _set_cursor(cursor: Any, name: str, position: int) -> None:
    cursor.execute(
        "INSERT INTO cursors (name, position, version) VALUES (?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET position = excluded.position, version = excluded.version",
        (name, position, VERSION),
    )
