"""The database file: pragmas, permissions, migrations, old SQLite."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from store.database import MIGRATIONS, WAL_IS_SAFE, Database, Migration, raw
from store.errors import Corrupt, StoreError

WANTED = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "secure_delete": 1,
    "recursive_triggers": 1,
    "busy_timeout": 30_000,
}


def test_every_connection_has_the_pragmas(tmp_path: Path) -> None:
    assert WAL_IS_SAFE, "the installed SQLite may corrupt a WAL database"
    database = Database(tmp_path / "a.sqlite")
    for engine in (database.write, database.read):
        with engine.connect() as one, engine.connect() as two:
            for connection in (one, two):
                found = {name: raw(connection).execute(f"PRAGMA {name}").fetchone()[0] for name in WANTED}
                assert found == WANTED
    database.close()


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.sqlite"
    database = Database(path)
    with database.writing() as connection:
        connection.exec_driver_sql("INSERT INTO cursors VALUES ('x', 1, 1)")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert {"a.sqlite", "a.sqlite-wal", "a.sqlite-shm"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    database.close()


def test_two_writers_never_read_the_same_state(tmp_path: Path) -> None:
    one, two = Database(tmp_path / "a.sqlite"), Database(tmp_path / "a.sqlite", busy_timeout_ms=50)
    with one.writing(), pytest.raises(StoreError, match="locked"), two.writing():
        pass
    one.close()
    two.close()


def test_opening_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    one = Database(tmp_path / "a.sqlite")
    with one.writing():
        two = Database(tmp_path / "a.sqlite", busy_timeout_ms=50)
        with two.reading() as connection:
            assert raw(connection).execute("SELECT count(*) FROM events").fetchone() == (0,)
        two.close()
    one.close()


def numbers(database: Database) -> list[int]:
    with database.reading() as connection:
        return [row[0] for row in raw(connection).execute("SELECT number FROM migrations ORDER BY number").fetchall()]


@pytest.mark.skipif(not WAL_IS_SAFE, reason="without a write-ahead log readers wait for writers")
def test_a_reader_that_holds_the_log_back_keeps_no_writer_waiting(tmp_path: Path) -> None:
    """Emptying the write-ahead log locks writers out for as long as it waits for readers."""
    database = Database(tmp_path / "a.sqlite")
    with database.writing() as connection:
        connection.exec_driver_sql("INSERT INTO cursors VALUES ('x', 1, 1)")
    with database.reading() as reader:
        reader.exec_driver_sql("SELECT * FROM cursors").all()
        with database.writing() as connection:
            connection.exec_driver_sql("INSERT INTO cursors VALUES ('y', 1, 1)")
        started = time.monotonic()
        assert not database.checkpoint()
        assert time.monotonic() - started < 5.0
    assert database.checkpoint()
    with database.write.connect() as connection:
        assert raw(connection).execute("PRAGMA busy_timeout").fetchone() == (30_000,)
    database.close()


def test_a_migration_and_its_record_are_one_transaction(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    good = Migration(90, "good", ("CREATE TABLE good (x)",))
    bad = Migration(91, "bad", ("CREATE TABLE half (x)", "CREATE TABLE good (x)"))
    with pytest.raises(StoreError, match="good already exists"):
        Database(path, migrations=(*MIGRATIONS, good, bad))
    mended = Migration(91, "bad", ("CREATE TABLE half (x)",))
    for _ in range(2):  # a rerun applies each once
        database = Database(path, migrations=(mended, good, *MIGRATIONS))
        assert numbers(database) == [*(each.number for each in MIGRATIONS), 90, 91]
        database.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    Database(path, migrations=(*MIGRATIONS, Migration(99, "future", ()))).close()
    with pytest.raises(StoreError, match="schema 99") as caught:
        Database(path)
    assert "upgrade" in caught.value.hint


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"this is not a database, but long enough to look like a file of some kind" * 50)
    with pytest.raises(Corrupt, match="damaged"):
        Database(path)
    with pytest.raises(StoreError, match="cannot be used"):
        Database(tmp_path / "a.sqlite" / "below-a-file")


OLD = """
import sys
sys.modules["pysqlite3"] = None  # as where it is not installed
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from store_helpers import NOW, received
from store.log import Draft
from store.verify import sound, verify
from store.workspace import Workspace

with Workspace.create(Path(sys.argv[1])) as workspace:
    seal = workspace.texts.seal("text")
    workspace.log.append(
        [Draft(received("b", text_digest=seal.digest), "record/b")], actor="k", now=NOW,
        within=lambda connection: workspace.texts.put(connection, "b", "tickets", "text", seal=seal),
    )
    assert workspace.projections.catch_up()
    workspace.texts.erase(["b"])
    assert sound(verify(workspace)), verify(workspace)
    with workspace.read.connect() as connection:
        print(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())
"""


@pytest.mark.skipif(sqlite3.sqlite_version_info >= (3, 51, 3), reason="this Python links a fixed SQLite")
def test_with_an_old_sqlite_the_journal_is_not_a_wal(tmp_path: Path) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", OLD, str(tmp_path), str(here), str(here.parent)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "delete"
