"""Queries: queue order, labels as they stood at a position, filters of the history, indexes in use."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_helpers import NOW, labelled, received

from store import events as e
from store import queries as q
from store.database import raw
from store.log import Draft
from store.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.create(tmp_path) as workspace:
        yield workspace


def append(workspace: Workspace, *happened: tuple[str, e.Event]) -> None:
    workspace.log.append([Draft(event, stream) for stream, event in happened], actor="kim", now=NOW)
    workspace.projections.catch_up()


def record(record_id: str, **fields: Any) -> tuple[str, e.Event]:
    return f"record/{record_id}", received(record_id, **fields)


def ask(record_id: str, priority: float, side: e.Side = "train") -> tuple[str, e.Event]:
    reasons = [e.ReviewReason(name="audit", detail="drawn")]
    request = e.ReviewRequested(task="tickets", record_id=record_id, side=side, reasons=reasons, priority=priority)
    return f"record/{record_id}", request


def give(record_id: str, label: str, side: e.Side = "train") -> tuple[str, e.Event]:
    return f"record/{record_id}", labelled(record_id, label, side=side)


def test_the_queue_shows_the_most_urgent_first_and_the_oldest_among_equals(workspace: Workspace) -> None:
    append(workspace, record("a"), record("b"), record("c", side="exam"), record("d", task="mail"), record("e"))
    append(workspace, ask("b", 1.0), ask("a", 1.0), ask("c", 2.0, "exam"), ask("e", 0.5))
    assert [row.record_id for row in q.queue(workspace.read, "tickets")] == ["c", "a", "b", "e"]
    assert [row.record_id for row in q.queue(workspace.read, "tickets", limit=2, side="train")] == ["a", "b"]
    (first, *_) = q.queue(workspace.read, "tickets")
    assert first.reasons == [{"name": "audit", "detail": "drawn", "score": 0.0}]
    assert first.received_at == NOW
    append(workspace, give("a", "urgent"))
    assert [row.record_id for row in q.queue(workspace.read, "tickets", side="train")] == ["b", "e"]


def test_records_by_every_condition(workspace: Workspace) -> None:
    append(workspace, record("a"), record("b", side="exam", audit=True), record("c"), give("c", "urgent"))

    def ids(**conditions: Any) -> list[str]:
        return [row.record_id for row in q.records(workspace.read, "tickets", **conditions)]

    assert ids() == ["a", "b", "c"]
    assert ids(limit=2) == ["a", "b"] and ids(after=2) == ["c"]
    assert ids(side="exam") == ids(audit=True) == ["b"]
    assert ids(labelled=True) == ["c"] and ids(labelled=False) == ["a", "b"]
    assert ids(ids=["c", "x"]) == ["c"]
    append(workspace, ("record/a", e.RecordErased(task="tickets", record_id="a")))
    assert ids() == ["b", "c"] and ids(erased=True) == ["a", "b", "c"]
    found = q.record(workspace.read, "c")
    assert found is not None and (found.label, found.audit) == ("urgent", False)


steps = st.lists(
    st.tuples(
        st.sampled_from(["give", "withdraw", "feedback", "erase"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["urgent", "billing"]),
    ),
    max_size=14,
)


@settings(max_examples=15, deadline=None)
@given(steps)
def test_labels_at_any_position_are_those_that_stood_there(changes: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder, Workspace.create(Path(folder)) as workspace:
        drafts = [record(name) for name in "abc"]
        common: dict[str, Any] = {"task": "tickets", "side": "train"}
        for kind, name, label in changes:
            event: e.Event = {
                "give": labelled(name, label),
                "withdraw": e.LabelWithdrawn(record_id=name, label=label, audit=False, annotator="kim", **common),
                "feedback": e.FeedbackReceived(record_id=name, label=label, disagrees=True, **common),
                "erase": e.RecordErased(task="tickets", record_id=name),
            }[kind]
            drafts.append((f"record/{name}", event))
        append(workspace, *drafts)
        erased = {name for kind, name, _ in changes if kind == "erase"}
        for position in [*range(len(drafts) + 1), None]:
            standing: dict[str, str] = {}
            for kind, name, label in changes[: None if position is None else max(0, position - 3)]:
                if kind == "give":
                    standing[name] = label
                elif kind == "withdraw":
                    standing.pop(name, None)
            found = {each.record_id: each.label for each in q.labelled(workspace.read, "tickets", "train", position)}
            assert found == {name: label for name, label in standing.items() if name not in erased}


def test_labels_by_side_with_what_they_need(workspace: Workspace) -> None:
    append(workspace, record("a"), record("b", side="exam", audit=True))
    append(workspace, ("record/b", labelled("b", "urgent", side="exam", audit=True)), give("a", "billing"))
    (only,) = q.labelled(workspace.read, "tickets", "exam")
    assert only == q.Labelled("b", "urgent", "exam", True, "b", "kim", 3)
    assert [each.record_id for each in q.labelled(workspace.read, "tickets")] == ["b", "a"]
    assert q.labelled(workspace.read, "mail") == []


def test_history_by_every_condition(workspace: Workspace) -> None:
    append(workspace, record("a"), record("b", task="mail"), give("a", "urgent"))
    later = NOW + timedelta(hours=1)
    workspace.log.append([Draft(e.LoopPaused(reason="lunch"), "loop")], actor="kim", now=later)

    def positions(**conditions: Any) -> list[int]:
        return [each.position for each in q.history(workspace.log, **conditions)]

    assert positions() == [1, 2, 3, 4] and positions(limit=2) == [3, 4] and positions(after=3) == [4]
    assert positions(task="tickets") == [1, 3] and positions(task="mail") == [2]
    assert positions(types=["LabelGiven", "LoopPaused"]) == [3, 4]
    assert positions(stream="record/a") == [1, 3] and positions(stream="record/") == [1, 2, 3]
    assert positions(stream="record") == []
    assert positions(since=later) == [4] and positions(since=NOW) == [1, 2, 3, 4]
    assert positions(task="tickets", types=["RecordReceived"], stream="record/", since=NOW) == [1]


def test_runs_adapters_evaluations_and_deployments(workspace: Workspace) -> None:
    frozen = e.DatasetFrozen(
        task="tickets", run_id="r1", artifact="sha256-d", up_to=5, labels_train=50, train=40, valid=10, exam=20,
        hard_exam=3, per_class={"urgent": 25, "billing": 25},
        curation=[e.CurationCount(step="near-duplicates", count=2, detail="removed")], trigger="50 labels",
    )  # fmt: skip
    started = e.TrainingStarted(
        task="tickets", run_id="r1", attempt=1, adapter="tickets-v1", method="qlora", base_model="SmolLM2",
        base_digest="b", quantisation="nf4", prompt="zero-shot@1", seed=1, hyperparameters={"rank": 16, "lr": 2e-4},
    )  # fmt: skip
    progressed = e.TrainingProgressed(task="tickets", run_id="r1", step=20, of=60, loss=0.7, eval_accuracy=0.8)
    append(workspace, ("run/r1", frozen), ("run/r1", started), ("run/r1", progressed))
    (run,) = q.runs(workspace.read, "tickets")
    assert (run.state, run.step, run.of, run.adapter, run.per_class) == (
        "training", 20, 60, "tickets-v1", {"urgent": 25, "billing": 25},
    )  # fmt: skip
    assert run.hyperparameters == {"rank": 16, "lr": 2e-4} and run.started_at == NOW
    looked = e.EvaluationStarted(
        task="tickets", run_id="r1", evaluation_id="e1", attempt=1, candidate="tickets-v1", champion="zero-shot@1",
        baseline="zero-shot@1", exam=20, hard_exam=3, look=1,
    )  # fmt: skip
    pair = e.PairedResult(
        opponent="zero-shot@1", decoding="score", n=20, gained=6, lost=1, difference=0.25, low=0.02, high=0.48,
        p_value=0.125,
    )  # fmt: skip
    done = e.EvaluationSucceeded(
        task="tickets", run_id="r1", evaluation_id="e1", artifact="sha256-p", results=[], paired=[pair], seconds=9.0
    )
    judged = e.CandidateJudged(
        task="tickets", run_id="r1", evaluation_id="e1", candidate="tickets-v1", champion="zero-shot@1",
        verdict="promote", checks=[e.GateCheck(name="better", outcome="pass", detail="+25 points")], summary="better",
    )  # fmt: skip
    append(workspace, ("run/r1", looked), ("run/r1", done), ("run/r1", judged))
    (evaluation,) = q.evaluations(workspace.read, run_id="r1", candidate="tickets-v1")
    assert evaluation.paired[0]["gained"] == 6 and evaluation.verdict == "promote"
    assert evaluation.checks[0]["outcome"] == "pass" and evaluation.forgetting is None
    found = q.run(workspace.read, "r1")
    assert found is not None and (found.state, found.verdict) == ("promote", "promote")
    promoted = e.AdapterPromoted(task="tickets", answerer="tickets-v1", kind="adapter", previous="zero-shot@1")
    append(workspace, ("deployment/tickets", promoted))
    assert [row.answerer for row in q.deployments(workspace.read)] == ["tickets-v1"]
    deployment = q.deployment(workspace.read, "tickets")
    assert deployment is not None and deployment.previous == "zero-shot@1" and deployment.position == 7
    assert q.adapters(workspace.read) == [] and q.adapter(workspace.read, "tickets", "tickets-v1") is None


def test_the_common_questions_use_an_index(workspace: Workspace) -> None:
    with workspace.database.reading() as connection:
        for query in (
            "SELECT * FROM records WHERE task = 't' AND review = 'open' ORDER BY priority DESC, position LIMIT 5",
            "SELECT * FROM records WHERE task = 't' AND position > 5 ORDER BY position",
            "SELECT * FROM records WHERE task = 't' AND side = 'exam' AND label_position > 7",
            "SELECT * FROM events WHERE stream = 'record/a' ORDER BY version",
            "SELECT * FROM events WHERE type = 'LabelGiven' AND position > 0 ORDER BY position DESC LIMIT 5",
            "SELECT * FROM runs WHERE task = 't' ORDER BY position DESC",
        ):
            plan = " ".join(row[3] for row in raw(connection).execute(f"EXPLAIN QUERY PLAN {query}").fetchall())
            assert "USING INDEX" in plan and "SCAN" not in plan, (query, plan)
