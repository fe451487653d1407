"""Projections: whatever the order of appends, catch-ups, rebuilds and losses, the tables are those of one plain run."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from store_helpers import NOW, POOLS, contents, events, labelled, received

from store import events as e
from store import projections as module
from store.counts import counts, total
from store.database import Database, raw
from store.log import Draft, Log
from store.projections import Projections
from store.rows import BLANKS, KEYS, contributions


class Side:
    """A log and its projections on a connection of their own, as another process would have them."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.log = Log(self.database)
        self.projections = Projections(self.database, self.log)

    def append(self, *happened: e.Event) -> None:
        self.log.append([Draft(event, f"task/{event.task}") for event in happened], actor="kim", now=NOW)

    def close(self) -> None:
        self.log.close()
        self.database.close()


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    side = Side(tmp_path / "a.sqlite")
    side.projections.catch_up()
    yield side
    side.close()


happened = events(POOLS).filter(lambda event: not isinstance(event, e.LeaseAcquired))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(happened, min_size=1, max_size=6)),
        st.tuples(st.just("catch up"), st.integers(1, 5)),
        st.tuples(st.just("rebuild"), st.integers(1, 5)),
        st.tuples(st.just("drop"), st.sampled_from(sorted(KEYS))),
    ),
    max_size=12,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],  # explaining takes minutes of real files
)
@given(operations, st.data())
def test_any_interleaving_gives_the_tables_of_one_incremental_run(steps: list[Any], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        twins = [Side(Path(folder) / "a.sqlite") for _ in range(2)]
        plain = Side(Path(folder) / "plain.sqlite")
        for name, argument in steps:
            twin = twins[data.draw(st.integers(0, 1))]
            if name == "append":
                twin.append(*argument)
                plain.append(*argument)
                plain.projections.catch_up()
            elif name == "catch up":
                twin.projections.catch_up(batch=argument)
            elif name == "rebuild":
                twin.projections.rebuild(batch=argument)
            else:
                with twin.database.writing() as connection:
                    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {argument}")
        for one in (*twins, plain):
            one.projections.catch_up()
        assert contents(twins[0].database) == contents(plain.database)
        counters_add_up(plain.database)
        for one in (*twins, plain):
            assert one.projections.cursor == one.log.head().position
            one.close()


def counters_add_up(database: Database) -> None:
    """The counters are the sum over the record rows."""
    tables = contents(database)
    wanted: Counter[tuple[str, str, str]] = Counter()
    for row in tables["records"]:
        wanted.update(contributions(dict(zip(BLANKS["records"], row, strict=True))))
    found = {row[:3]: row[3] for row in tables["counters"] if row[3] and row[1] != "quarantined"}
    assert found == {key: value for key, value in wanted.items() if value}


def schema(database: Database) -> list[tuple[Any, ...]]:
    with database.reading() as connection:
        query = "SELECT type, name, sql FROM sqlite_master WHERE tbl_name NOT LIKE 'sqlite_%' ORDER BY type, name"
        return [tuple(row) for row in raw(connection).execute(query).fetchall()]


def test_a_rebuild_leaves_the_very_same_schema_and_rows(side: Side) -> None:
    side.append(received("a"), received("b", side="exam"), labelled("a", "urgent"))
    side.projections.catch_up()
    rows, tables = contents(side.database), schema(side.database)
    for _ in range(2):
        side.projections.rebuild()
        assert contents(side.database) == rows
        assert [row[:2] for row in schema(side.database)] == [row[:2] for row in tables]
    assert not [row for row in schema(side.database) if "shadow" in row[1]]


def test_tables_of_an_older_shape_are_rebuilt(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    side.append(received("a"))
    side.projections.catch_up()
    with side.database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE records DROP COLUMN via")
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert side.projections.cursor == 0
    side.projections.catch_up()
    assert len(contents(side.database)["records"]) == 1


def test_a_rebuild_that_died_is_started_afresh(side: Side) -> None:
    side.append(*(received(str(number)) for number in range(9)))
    side.projections.catch_up()
    rows = contents(side.database)

    def die(position: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side.projections.rebuild(batch=2, progress=die)
    assert contents(side.database) == rows  # the old ones stayed in use
    assert side.projections.rebuild(batch=2) == 9
    assert contents(side.database) == rows


def test_events_that_arrive_during_a_rebuild_are_in_it(side: Side, tmp_path: Path) -> None:
    other = Side(tmp_path / "a.sqlite")
    side.append(*(received(str(number)) for number in range(6)))
    extra = iter(range(100, 103))

    def meanwhile(position: int) -> None:
        number = next(extra, None)
        if number is not None:
            other.append(received(str(number)))
            other.projections.catch_up()

    side.projections.rebuild(batch=2, progress=meanwhile)
    assert side.projections.cursor == side.log.head().position == 9
    assert len(contents(side.database)["records"]) == 9
    other.close()


def test_a_batch_that_fails_keeps_rows_and_cursor_together(side: Side) -> None:
    side.append(*(received(str(number)) for number in range(4)))
    with side.database.writing() as connection:
        raw(connection).execute("DROP TRIGGER events_are_never_updated")
        raw(connection).execute("UPDATE events SET payload = '{}' WHERE position = 4")
    with pytest.raises(Exception, match="event 4"):
        side.projections.catch_up(batch=2)
    assert side.projections.cursor == 2
    assert len(contents(side.database)["records"]) == 2


# ---------------------------------------------------------------- what the folds mean


def row(side: Side, table: str, *key: str) -> dict[str, Any]:
    side.projections.catch_up()
    where = " AND ".join(f"{name} = ?" for name in KEYS[table])
    with side.database.reading() as connection:
        found = (
            raw(connection)
            .execute(f"SELECT {', '.join(BLANKS[table])} FROM {table} WHERE {where}", key)  # noqa: S608
            .fetchone()
        )
    return dict(zip(BLANKS[table], found, strict=True))


def request(record_id: str, reason: Any, priority: float = 1.0) -> e.ReviewRequested:
    reasons = [e.ReviewReason(name=reason, detail="because", score=0.5)]
    return e.ReviewRequested(task="tickets", record_id=record_id, side="train", reasons=reasons, priority=priority)


def test_a_record_goes_through_review(side: Side) -> None:
    side.append(received("a"), request("a", "uncertain", 0.4), request("a", "audit", 0.9))
    found = row(side, "records", "a")
    assert (found["review"], found["priority"]) == ("open", 0.9)
    assert counts(side.database.read, "tickets")["open"] == {"audit": 1, "uncertain": 1}
    side.append(e.ReviewSkipped(task="tickets", record_id="a", annotator="kim"))
    assert row(side, "records", "a")["review"] == "skipped"
    side.append(labelled("a", "urgent"))
    found = row(side, "records", "a")
    assert (found["review"], found["label"], found["label_position"]) == ("done", "urgent", 5)
    tally = counts(side.database.read, "tickets")
    assert tally["disagreed"] == {"billing": 1} and tally["train_labels"] == {"urgent": 1} and "open" not in tally
    side.append(e.LabelWithdrawn(
        task="tickets", record_id="a", label="urgent", side="train", audit=False, annotator="kim",
    ))  # fmt: skip
    found = row(side, "records", "a")
    assert (found["review"], found["label"], found["label_position"]) == ("open", None, 6)
    side.append(labelled("b", "urgent"))
    assert row(side, "records", "b")["review"] == ""  # a label without a request


def test_an_erased_record_counts_no_longer_and_is_not_asked_for(side: Side) -> None:
    side.append(received("a"), labelled("a", "urgent"), request("a", "suspect"))
    side.append(e.RecordErased(task="tickets", record_id="a"), request("a", "uncertain"))
    found = row(side, "records", "a")
    assert (found["erased"], found["review"], found["label"]) == (1, "", "urgent")
    tally = counts(side.database.read, "tickets")
    assert tally == {"received": {"train": 1}, "erased": {"": 1}}
    assert total(tally, "received") == 1


def test_an_interrupted_evaluation_is_seen_in_its_row_and_goes_on(side: Side) -> None:
    def started(attempt: int) -> e.EvaluationStarted:
        return e.EvaluationStarted(
            task="tickets", run_id="r", evaluation_id="e", attempt=attempt, candidate="v1", champion="", baseline="",
            exam=9, hard_exam=0, look=1,
        )  # fmt: skip

    side.append(started(1), e.StepInterrupted(task="tickets", run_id="r", kind="evaluate", attempt=1, reason="kill"))
    found = row(side, "evaluations", "e")
    assert (found["state"], found["reason"]) == ("interrupted", "kill") and found["ended_at"]
    assert row(side, "runs", "r")["evaluation_id"] == "e"
    side.append(started(2))
    found = row(side, "evaluations", "e")
    assert (found["state"], found["reason"], found["attempt"], found["ended_at"]) == ("evaluating", "", 2, None)


def registered(name: str) -> e.AdapterRegistered:
    return e.AdapterRegistered(
        task="tickets", run_id="r", adapter=name, artifact="sha256-x", control="sha256-y", method="qlora",
        base_digest="b", quantisation="nf4", prompt="few-shot@1", temperature=1.1,
    )  # fmt: skip


def promoted(name: str, previous: str, kind: e.AnswererKind = "adapter") -> e.AdapterPromoted:
    return e.AdapterPromoted(task="tickets", answerer=name, kind=kind, previous=previous)


def test_promotion_and_rollback_move_the_adapters_states(side: Side) -> None:
    def states() -> dict[str, str]:
        side.projections.catch_up()
        columns = list(BLANKS["adapters"])
        return {each[1]: each[columns.index("status")] for each in contents(side.database)["adapters"]}

    side.append(promoted("few-shot@1", "", "prompt"), registered("v1"), registered("v2"), registered("v3"))
    side.append(promoted("v1", "few-shot@1"))
    assert states() == {"v1": "production", "v2": "candidate", "v3": "candidate"}
    side.append(promoted("v2", "v1"), e.CandidateRejected(task="tickets", run_id="r", candidate="v3", reason="worse"))
    assert states() == {"v1": "former", "v2": "production", "v3": "rejected"}
    side.append(e.AdapterRolledBack(task="tickets", answerer="v1", kind="adapter", rolled_back="v2"))
    assert states() == {"v1": "production", "v2": "retired", "v3": "rejected"}
    assert row(side, "deployments", "tickets")["answerer"] == "v1"
