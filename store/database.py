"""The SQLite file: engines, pragmas, schema migrations, and what the driver's errors mean.

Two engines on one file. The write engine opens every transaction with BEGIN IMMEDIATE, so that what is read
inside it cannot change before it commits; the read engine is deferred and cannot write.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError

from store.disk import make_folder, sync
from store.errors import Corrupt, StoreError, TuneloopError

try:
    import pysqlite3.dbapi2 as driver
except ImportError:  # the standard library's SQLite: see JOURNAL_MODE
    import sqlite3 as driver

DRIVER: Any = driver
# Before 3.51.3 a checkpoint that races a writer can corrupt a WAL database.
WAL_IS_SAFE: bool = tuple(driver.sqlite_version_info) >= (3, 51, 3)
JOURNAL_MODE = "wal" if WAL_IS_SAFE else "delete"
# less loses acknowledged events with the power: a rollback journal is gone for sure only once its folder was synced
SYNCHRONOUS = {"wal": "FULL", "delete": "EXTRA"}
BUSY_TIMEOUT_MS = 30_000
CHECKPOINT_TIMEOUT_MS = 100
Payloads = Callable[[Any, int], str]  # the driver's connection, a position: the payload that was archived

_raised = threading.local()  # the driver tells only that a function failed, not with what


class Migration(msgspec.Struct, frozen=True):
    """A numbered step of the schema; its statements and its record are one transaction."""

    number: int
    name: str
    statements: tuple[str, ...]


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "log, lease, texts and cursors",
        (
            """CREATE TABLE events (
                position INTEGER PRIMARY KEY AUTOINCREMENT,
                event_id TEXT NOT NULL UNIQUE,
                stream TEXT NOT NULL,
                version INTEGER NOT NULL,
                type TEXT NOT NULL,
                schema_version INTEGER NOT NULL,
                recorded_at TEXT NOT NULL,
                actor TEXT NOT NULL,
                correlation_id TEXT NOT NULL,
                causation_id TEXT NOT NULL,
                epoch INTEGER NOT NULL,
                payload TEXT NOT NULL,
                prev_hash BLOB NOT NULL,
                hash BLOB NOT NULL,
                UNIQUE (stream, version)
            )""",
            """CREATE TRIGGER events_are_never_updated BEFORE UPDATE ON events
               BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END""",
            """CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
               BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END""",
            # the newest LeaseAcquired, where an append can compare it cheaply
            """CREATE TABLE lease (
                id INTEGER PRIMARY KEY CHECK (id = 1),
                epoch INTEGER NOT NULL,
                holder TEXT NOT NULL
            )""",
            "INSERT INTO lease VALUES (1, 0, '')",
            # an erased record keeps its row, empty, so that its text cannot come back by a late retry
            """CREATE TABLE texts (
                record_id TEXT PRIMARY KEY,
                task TEXT NOT NULL,
                text TEXT,
                salt BLOB,
                digest TEXT NOT NULL,
                customer TEXT NOT NULL,
                meta TEXT NOT NULL
            )""",
            "CREATE INDEX texts_by_customer ON texts (customer) WHERE customer != ''",
            """CREATE TABLE near_duplicates (
                task TEXT NOT NULL,
                band BLOB NOT NULL,
                record_id TEXT NOT NULL,
                PRIMARY KEY (task, band, record_id)
            ) WITHOUT ROWID""",
            "CREATE INDEX near_duplicates_by_record ON near_duplicates (record_id)",
            """CREATE TABLE cursors (
                name TEXT PRIMARY KEY,
                position INTEGER NOT NULL,
                version INTEGER NOT NULL
            )""",
        ),
    ),
    Migration(
        2,
        "history by type",
        ("CREATE INDEX events_by_type ON events (type, position)",),
    ),
    Migration(
        3,
        "sealed segments of old history",
        (
            # where payloads lie that were archived; the rows come with the event Archived
            """CREATE TABLE segments (
                first INTEGER PRIMARY KEY,
                last INTEGER NOT NULL,
                artifact TEXT NOT NULL
            )""",
            """CREATE TRIGGER segments_are_never_updated BEFORE UPDATE ON segments
               BEGIN SELECT RAISE(ABORT, 'segments are append-only'); END""",
            """CREATE TRIGGER segments_are_never_deleted BEFORE DELETE ON segments
               BEGIN SELECT RAISE(ABORT, 'segments are append-only'); END""",
            "DROP TRIGGER events_are_never_updated",
            # the one change that is allowed: a payload that a segment holds leaves its row
            """CREATE TRIGGER events_are_never_updated BEFORE UPDATE ON events
               WHEN new.payload != '' OR old.payload = ''
                 OR (new.position, new.event_id, new.stream, new.version, new.type, new.schema_version,
                     new.recorded_at, new.actor, new.correlation_id, new.causation_id, new.epoch,
                     new.prev_hash, new.hash)
                 IS NOT (old.position, old.event_id, old.stream, old.version, old.type, old.schema_version,
                     old.recorded_at, old.actor, old.correlation_id, old.causation_id, old.epoch,
                     old.prev_hash, old.hash)
                 OR NOT EXISTS (SELECT 1 FROM segments WHERE old.position BETWEEN first AND last)
               BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END""",
        ),
    ),
    Migration(
        4,
        "checksums of the texts' rows",
        # the digest in the event speaks of the text alone; empty in rows that were erased or are older
        ("ALTER TABLE texts ADD COLUMN checksum BLOB",),
    ),
)


def translated(error: BaseException, path: Path) -> StoreError | None:
    """What a driver's error means to a person; None where it is none of the driver's."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    if not isinstance(error, driver.Error):
        return None
    name = getattr(error, "sqlite_errorname", None) or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(
            f"{path.name} is locked by another process",
            hint="Wait for the other command to end; `fuser` on the file names who holds it.",
        )
    if name.startswith("SQLITE_FULL"):
        return StoreError(
            f"no space left for {path.name}: {error}",
            hint="Free disk space; nothing acknowledged was lost, and the command can be repeated.",
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Corrupt(
            f"{path.name} is damaged: {error}", hint="Put the last backup in its place: `tuneloop restore BACKUP`."
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return StoreError(
            f"{path.name} cannot be opened or written: {error}", hint=f"Check owner and permissions of {path.parent}."
        )
    if name.startswith("SQLITE_IOERR"):
        return StoreError(
            f"{path.name} could not be read or written: {error}",
            hint="Check the disk, its free space and file-size limits; the command can be repeated.",
        )
    return StoreError(f"{path.name}: {error}", hint="Run `tuneloop doctor`.")


class Database:
    """One SQLite file with its two engines. Creates the file and brings its schema up to date."""

    def __init__(
        self,
        path: Path,
        *,
        migrations: tuple[Migration, ...] = MIGRATIONS,
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
        payloads: Payloads | None = None,
    ) -> None:
        """Open `path`, made for its owner only.

        Args:
            path: of the file.
            migrations: the schema's steps.
            busy_timeout_ms: how long to wait for another writer.
            payloads: reads what was archived; the SQL function `archived(position)`.

        Raises:
            StoreError: it cannot be opened, is locked, or was written by a newer tuneloop.
            Corrupt: it is no database.
        """
        self.path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._payloads = payloads or _no_payloads
        _own(path)
        with self.errors():
            self.write = self._engine("BEGIN IMMEDIATE", writes=True)
            self.read = self._engine("BEGIN", writes=False)
            try:
                self._migrate(migrations)
            except BaseException:
                self.close()
                raise

    def _engine(self, begin: str, *, writes: bool) -> Engine:
        engine = create_engine(
            f"sqlite:///{self.path}",
            module=driver,
            connect_args={"check_same_thread": False, "timeout": self._busy_timeout_ms / 1000},
        )

        def connect(connection: Any, _record: object) -> None:
            connection.isolation_level = None  # the driver must not open transactions of its own
            connection.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms}")
            mode = connection.execute(f"PRAGMA journal_mode = {JOURNAL_MODE}").fetchone()[0]
            if mode != JOURNAL_MODE:
                raise StoreError(
                    f"{self.path.name} is in journal mode {mode}, which SQLite {driver.sqlite_version} may corrupt",
                    hint="Stop the other processes that use it, or `pip install 'pysqlite3>=0.6.1'`.",
                )
            connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[JOURNAL_MODE]}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")  # erased text must leave the pages
            connection.execute("PRAGMA recursive_triggers = ON")  # else REPLACE deletes behind the triggers
            if not writes:
                connection.execute("PRAGMA query_only = ON")
            connection.create_function("archived", 1, lambda position: self._archived(connection, position))

        def on_begin(connection: Connection) -> None:
            raw(connection).execute(begin)

        event.listen(engine, "connect", connect)
        event.listen(engine, "begin", on_begin)
        return engine

    def _archived(self, connection: Any, position: int) -> str:
        try:
            return self._payloads(connection, position)
        except TuneloopError as error:
            _raised.error = error
            raise

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the driver's errors inside the block into StoreErrors."""
        try:
            yield
        except (DBAPIError, driver.Error) as error:
            raise_told(error)
            told = translated(error, self.path)
            if told is None:
                raise
            raise told from error
        except UnicodeDecodeError as error:  # the driver's words for damage quote a name that is damaged itself
            raise Corrupt(
                f"{self.path.name} is damaged: {error}",
                hint="Put the last backup in its place: `tuneloop restore BACKUP`.",
            ) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction (BEGIN IMMEDIATE): committed at the end, rolled back on any error.

        Raises:
            StoreError: locked for longer than the busy timeout, disk full, not writable.
        """
        with self.errors(), self.write.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction: everything in it is read from one snapshot."""
        with self.errors(), self.read.begin() as connection:
            yield connection

    def checkpoint(self) -> bool:
        """Move the whole WAL into the database and empty it; False when a reader held it back."""
        if JOURNAL_MODE != "wal":
            return True
        with self.errors():
            pooled = self.write.raw_connection()
            cursor = pooled.cursor()
            try:
                # it keeps all writers waiting for as long as it waits for a reader
                cursor.execute(f"PRAGMA busy_timeout = {CHECKPOINT_TIMEOUT_MS}")
                busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms}")
                pooled.close()
            if not busy:
                self._sync_emptied()
        return not busy

    def _sync_emptied(self) -> None:
        """SQLite empties the WAL without a sync: after a power loss, what was erased would be in it again."""
        try:
            sync(self.path.with_name(f"{self.path.name}-wal"))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"{self.path.name} could not be synced: {error.strerror or error}") from error

    def _migrate(self, migrations: tuple[Migration, ...]) -> None:
        known = max(migration.number for migration in migrations)
        with self.read.connect() as connection:  # most openings need no lock: a reader must not wait for a writer
            cursor = raw(connection).cursor()
            here = cursor.execute("SELECT count(*) FROM sqlite_master WHERE name = 'migrations'").fetchone()[0]
            done = cursor.execute("SELECT max(number) FROM migrations").fetchone()[0] if here else 0
        if done == known:
            return
        with self.writing() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)"
            )
        for migration in sorted(migrations, key=lambda each: each.number):
            with self.writing() as connection:
                done = connection.exec_driver_sql("SELECT coalesce(max(number), 0) FROM migrations").scalar_one()
                if done > known:
                    raise StoreError(
                        f"{self.path.name} has schema {done}, this tuneloop knows {known}",
                        hint="It was written by a newer tuneloop: upgrade.",
                    )
                if migration.number <= done:
                    continue
                for statement in migration.statements:
                    connection.exec_driver_sql(statement)
                connection.exec_driver_sql(
                    "INSERT INTO migrations (number, name) VALUES (?, ?)", (migration.number, migration.name)
                )

    def close(self) -> None:
        self.write.dispose()
        self.read.dispose()


def raise_told(error: Exception) -> None:
    """Raise what really went wrong where `error` only says that reading an archived payload did."""
    told = _raised.__dict__.pop("error", None)
    if told is not None and "user-defined function" in str(error):
        raise told from error


def _no_payloads(_: Any, position: int) -> str:
    raise StoreError(
        f"event {position} is archived, and only the database was opened", hint="Open the whole workspace."
    )


def raw(connection: Connection) -> Any:
    """The driver's own connection under a SQLAlchemy connection, for hot paths; same transaction."""
    return connection.connection.dbapi_connection


def _own(path: Path) -> None:
    """Create the file for its owner only; SQLite gives -wal and -shm the same permissions."""
    try:
        make_folder(path.parent)
        # never opened when it is there: closing it would drop the locks that other connections of this process hold
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be used: {error.strerror or error}", hint="Check the path and its permissions."
        ) from error
