"""The log: versions, idempotency, lease, order, hash chain, append-only, and what errors say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_helpers import NOW, events, labelled, received

from store import events as e
from store.database import DRIVER, Database, raw
from store.errors import Conflict, Corrupt, DuplicateContent, StaleEpoch, StoreError
from store.log import COLUMNS, GENESIS, PAGE, Draft, Head, Log, chain_hash, step_id


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "log.sqlite", busy_timeout_ms=2000)
    yield database
    database.close()


@pytest.fixture
def log(database: Database) -> Iterator[Log]:
    log = Log(database)
    yield log
    log.close()


def give(record: str = "a", label: str = "billing", event_id: str | None = None) -> Draft:
    return Draft(labelled(record, label), f"record/{record}", event_id)


def test_what_is_appended_is_read_back_equal_and_in_order(log: Log) -> None:
    first = log.append(
        [Draft(received("a"), "record/a"), Draft(received("b"), "record/b"), give("a")],
        actor="kim", now=NOW, correlation_id="c", causation_id="x",
    )  # fmt: skip
    second = log.append([give("b", "urgent")], actor="daemon", now=NOW + timedelta(seconds=1))
    assert [each.position for each in first + second] == [1, 2, 3, 4]
    assert [each.version for each in first + second] == [1, 1, 2, 2]
    assert list(log.read()) == first + second
    assert list(log.read(after=2)) == [first[2], *second]
    assert list(log.read(after=1, limit=2)) == first[1:]
    assert log.stream("record/a") == [first[0], first[2]]
    assert log.stream("record/a", after=1) == [first[2]]
    assert (log.version("record/a"), log.version("nobody")) == (2, 0)
    assert log.get(first[1].event_id) == first[1]
    assert log.get("nothing") is None
    assert first[0].recorded_at == NOW and first[0].recorded_at.utcoffset() == timedelta(0)
    assert log.head() == Head(4, second[0].hash)


def test_an_empty_log(log: Log) -> None:
    assert log.head() == Head(0, GENESIS)
    assert list(log.read()) == []
    assert log.append([], actor="kim", now=NOW) == []


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE])
def test_reading_crosses_pages(log: Log, count: int) -> None:
    log.append([give(str(number)) for number in range(count)], actor="kim", now=NOW)
    assert [each.position for each in log.read()] == list(range(1, count + 1))
    assert [each.position for each in log.read(after=3, limit=PAGE)] == list(range(4, min(count, PAGE + 3) + 1))


def test_times_are_kept_in_utc_and_need_a_zone(log: Log) -> None:
    there = NOW.astimezone(timezone(timedelta(hours=-7)))
    assert log.append([give()], actor="kim", now=there)[0].recorded_at == NOW
    with pytest.raises(StoreError, match="zone"):
        log.append([give()], actor="kim", now=datetime(2026, 1, 1))


# ---------------------------------------------------------------- expected versions


def test_another_version_than_expected_is_a_conflict_and_writes_nothing(log: Log) -> None:
    log.append([give()], actor="kim", now=NOW, expected={"record/a": 0})
    for expected in ({"record/a": 0}, {"record/a": 2}, {"record/a": 1, "record/b": 1}):
        with pytest.raises(Conflict):
            log.append([give("b"), give("a")], actor="kim", now=NOW, expected=expected)
    assert log.head().position == 1
    log.append([give("a")], actor="kim", now=NOW, expected={"record/a": 1, "record/b": 0})


# ---------------------------------------------------------------- idempotency


def test_the_same_id_and_content_returns_the_first_result(log: Log) -> None:
    key = step_id("run-1", "label", 1)
    first = log.append([give(event_id=key)], actor="kim", now=NOW, expected={"record/a": 0})
    called: list[object] = []
    again = log.append(
        [give(event_id=key)], actor="lee", now=NOW + timedelta(days=1), expected={"record/a": 0}, within=called.append
    )
    assert again == first
    assert called == []
    assert log.head().position == 1


@pytest.mark.parametrize("other", [give(label="urgent"), give("b"), Draft(labelled("a", "billing"), "record/z")])
def test_the_same_id_with_other_content_is_refused(log: Log, other: Draft) -> None:
    log.append([give(event_id="k")], actor="kim", now=NOW)
    with pytest.raises(DuplicateContent, match="position 1"):
        log.append([give("n"), Draft(other.event, other.stream, "k")], actor="kim", now=NOW)
    with pytest.raises(DuplicateContent):
        log.append([give(event_id="m"), Draft(other.event, other.stream, "m")], actor="kim", now=NOW)
    assert log.head().position == 1


def test_a_retry_of_a_part_appends_only_what_is_new_in_the_order_asked(log: Log) -> None:
    (first,) = log.append([give("a", event_id="1")], actor="kim", now=NOW)
    result = log.append(
        [give("b", event_id="2"), give("a", event_id="1"), give("b", event_id="2")], actor="kim", now=NOW
    )
    assert [each.position for each in result] == [2, 1, 2]
    assert result[1] == first
    assert log.head().position == 2


@given(st.lists(st.one_of(st.text(max_size=5), st.integers()), min_size=1, max_size=4))
def test_step_ids_are_the_same_for_the_same_parts_only(parts: list[str | int]) -> None:
    assert step_id(*parts) == step_id(*parts)
    assert step_id(*parts) != step_id(*parts, "more")


# ---------------------------------------------------------------- lease


def lease(epoch: int) -> Draft:
    return Draft(e.LeaseAcquired(holder=f"daemon {epoch}", new_epoch=epoch), "loop")


def test_a_stalled_daemon_cannot_write_once_another_has_the_lease(log: Log) -> None:
    log.append([lease(1)], actor="daemon", now=NOW)
    log.append([give(event_id="k")], actor="daemon", now=NOW, epoch=1)
    log.append([lease(2)], actor="daemon", now=NOW, epoch=2)
    assert log.epoch() == 2
    for draft in (give(), give(event_id="k")):  # a retry of what is done is refused as well
        with pytest.raises(StaleEpoch):
            log.append([draft], actor="daemon", now=NOW, epoch=1)
    with pytest.raises(Conflict):
        log.append([lease(2)], actor="daemon", now=NOW)
    log.append([give()], actor="cli", now=NOW)  # people write without a lease
    assert [each.epoch for each in log.read()] == [0, 1, 2, 0]


def test_a_lease_that_is_rolled_back_leaves_no_trace(log: Log) -> None:
    with pytest.raises(Conflict):
        log.append([lease(5), lease(5)], actor="daemon", now=NOW)
    assert (log.epoch(), log.head().position) == (0, 0)


# ---------------------------------------------------------------- one transaction


def test_what_is_written_within_commits_or_fails_with_the_events(log: Log, database: Database) -> None:
    def write(connection: object) -> None:
        raw(connection).execute("INSERT INTO cursors VALUES ('mine', 1, 1)")  # type: ignore[arg-type]

    def fail(connection: object) -> None:
        write(connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        log.append([give()], actor="kim", now=NOW, within=fail)
    assert log.head().position == 0
    log.append([give()], actor="kim", now=NOW, within=write)
    with database.reading() as connection:
        assert raw(connection).execute("SELECT count(*) FROM cursors WHERE name = 'mine'").fetchone() == (1,)


def test_an_event_that_cannot_be_encoded_stops_the_whole_append(log: Log) -> None:
    bad = Draft(e.TrainingProgressed(task="t", run_id="r", step=1, of=2, loss=float("nan")), "run/r")
    with pytest.raises(StoreError):
        log.append([give(), bad], actor="kim", now=NOW)
    assert log.head().position == 0


# ---------------------------------------------------------------- the chain


@settings(max_examples=25)
@given(st.lists(events(), min_size=1, max_size=5))
def test_hashes_chain_over_all_columns(tmp_path_factory: pytest.TempPathFactory, some: list[e.Event]) -> None:
    database = Database(tmp_path_factory.mktemp("chain") / "log.sqlite")
    log = Log(database)
    some = [event for event in some if not isinstance(event, e.LeaseAcquired)]
    log.append([Draft(event, "task/t") for event in some], actor="kim", now=NOW)
    previous = GENESIS
    for page in log.pages():
        for row in page:
            assert row[12] == previous
            assert row[13] == chain_hash(row[:13])
            for index in range(13):
                changed = list(row[:13])
                changed[index] = b"other" if isinstance(row[index], bytes) else "other"
                assert chain_hash(changed) != row[13], COLUMNS.split(", ")[index]
            previous = row[13]
    log.close()
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET actor = 'eve' WHERE position = 1",
        "DELETE FROM events",
        "REPLACE INTO events SELECT position, event_id, stream, version, type, schema_version, recorded_at, 'eve', "
        "correlation_id, causation_id, epoch, payload, prev_hash, hash FROM events WHERE position = 1",
    ],
)
def test_the_database_refuses_to_change_the_log(log: Log, database: Database, statement: str) -> None:
    log.append([give()], actor="kim", now=NOW)
    with pytest.raises(StoreError, match="append-only"), database.writing() as connection:
        connection.exec_driver_sql(statement)
    assert next(log.read()).actor == "kim"


def test_the_read_engine_cannot_write(database: Database) -> None:
    with pytest.raises(StoreError), database.reading() as connection:
        connection.exec_driver_sql("INSERT INTO cursors VALUES ('x', 1, 1)")


def test_a_row_that_cannot_be_read_is_named(log: Log, database: Database) -> None:
    log.append([give(), give("b"), give("c")], actor="kim", now=NOW)
    for column, value in (("payload", "{}"), ("recorded_at", "yesterday"), ("type", "Nothing")):
        with pytest.raises(Corrupt, match="event 2"):
            tampered(database, column, value, log)


def tampered(database: Database, column: str, value: str, log: Log) -> None:
    """Read the log with one column of row 2 changed, inside a transaction that is rolled back."""
    with database.writing() as connection:
        cursor = raw(connection).cursor()
        cursor.execute("DROP TRIGGER events_are_never_updated")
        cursor.execute(f"UPDATE events SET {column} = ? WHERE position = 2", (value,))  # noqa: S608
        log.decoded(cursor.execute(f"SELECT {COLUMNS} FROM events").fetchall())  # noqa: S608


# ---------------------------------------------------------------- errors of the database


def test_a_lock_that_lasts_is_told_with_what_to_do(database: Database, tmp_path: Path) -> None:
    impatient = Database(tmp_path / "log.sqlite", busy_timeout_ms=50)
    with database.writing(), pytest.raises(StoreError, match="locked") as caught:
        Log(impatient).append([give()], actor="kim", now=NOW)
    assert caught.value.hint
    log = Log(impatient)
    log.append([give()], actor="kim", now=NOW)  # and the same log works once the lock is gone
    log.close()
    impatient.close()


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from store_helpers import NOW, received
from store.database import Database
from store.errors import StoreError
from store.log import Draft, Log

log = Log(Database(Path(sys.argv[1])))
acknowledged = log.append([Draft(received("first"), "record/first")], actor="kim", now=NOW)[0].position
size = Path(sys.argv[1] + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30_000, resource.RLIM_INFINITY))
refused = None
for number in range(200):
    try:
        draft = Draft(received(f"r{number}"), f"record/r{number}")
        acknowledged = log.append([draft], actor="kim", now=NOW)[0].position
    except StoreError as error:
        refused = error
        break
assert refused is not None and refused.hint, refused
assert log.head().position == acknowledged, (log.head(), acknowledged)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert log.append([Draft(received("last"), "record/last")], actor="kim", now=NOW)[0].position == acknowledged + 1
print(refused.message)
"""


def test_a_full_disk_loses_nothing_acknowledged_and_passes_when_space_returns(tmp_path: Path) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "log.sqlite"), str(here), str(here.parent)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "log.sqlite" in done.stdout


def test_every_error_of_the_driver_is_told_as_ours(database: Database) -> None:
    for kind in (DRIVER.Error, *DRIVER.Error.__subclasses__(), *DRIVER.DatabaseError.__subclasses__()):
        with pytest.raises(StoreError), database.errors():
            raise kind("something")
