"""How each kind of event changes the read tables. Pure: rows in, rows out; no database, no clock.

`HANDLERS` says which function takes which event; an event that changes no row stands in `IGNORED`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from store import events as e
from store.log import Recorded
from store.rows import BLANKS, Row, Rows, contributions


def apply(rows: Rows, recorded: Recorded) -> None:
    """Fold one event into the rows."""
    handler = HANDLERS.get(type(recorded.event))
    if handler is not None:
        handler(rows, recorded, recorded.event)


# ---------------------------------------------------------------- records


def _put_record(rows: Rows, before: Row | None, row: Row) -> None:
    """Store a record and move the counters by what changed."""
    change = contributions(row)
    if before is not None:
        change.subtract(contributions(before))
    rows.put("records", row)
    for (task, name, key), difference in change.items():
        if difference:
            _count(rows, task, name, key, difference)


def _count(rows: Rows, task: str, name: str, key: str, by: int) -> None:
    row = rows.get("counters", task, name, key) or {"task": task, "name": name, "key": key, "value": 0}
    rows.put("counters", {**row, "value": row["value"] + by})


def _change_record(rows: Rows, recorded: Recorded, record_id: str, **changes: Any) -> None:
    before = rows.get("records", record_id)
    row = before or {
        **BLANKS["records"],
        "record_id": record_id,
        "task": recorded.event.task,
        "position": recorded.position,
        "received_at": stamp(recorded.recorded_at),
    }
    _put_record(rows, before, {**row, **changes})


def _received(rows: Rows, recorded: Recorded, event: e.RecordReceived) -> None:
    _change_record(
        rows, recorded, event.record_id,
        task=event.task, side=event.side, audit=event.audit, audit_probability=event.audit_probability,
        cluster=event.cluster, source=event.source, chars=event.chars, text_digest=event.text_digest,
        answer=event.answer, answered_by=event.answered_by, confidence=event.confidence, margin=event.margin,
    )  # fmt: skip


def _quarantined(rows: Rows, recorded: Recorded, event: e.RecordQuarantined) -> None:
    _count(rows, event.task, "quarantined", event.source, 1)


def _erased(rows: Rows, recorded: Recorded, event: e.RecordErased) -> None:
    before = rows.get("records", event.record_id)
    review = "" if before is None or before["review"] == "open" else before["review"]
    _change_record(rows, recorded, event.record_id, erased=True, review=review)


def _feedback(rows: Rows, recorded: Recorded, event: e.FeedbackReceived) -> None:
    _change_record(rows, recorded, event.record_id, feedback=event.label)


def _requested(rows: Rows, recorded: Recorded, event: e.ReviewRequested) -> None:
    before = rows.get("records", event.record_id)
    if before is not None and before["erased"]:
        return
    reasons: dict[str, Any] = {}
    if before is not None and before["review"] == "open":  # a second reason joins the first
        reasons = {reason["name"]: reason for reason in msgspec.json.decode(before["reasons"])}
    reasons.update({reason.name: plain(reason) for reason in event.reasons})
    _change_record(
        rows, recorded, event.record_id,
        review="open", reasons=to_json(list(reasons.values())), priority=event.priority,
    )  # fmt: skip


def _labelled(rows: Rows, recorded: Recorded, event: e.LabelGiven) -> None:
    before = rows.get("records", event.record_id)
    waiting = before is not None and before["review"] in ("open", "skipped")
    review = "done" if waiting else before["review"] if before is not None else ""
    _change_record(
        rows, recorded, event.record_id,
        label=event.label, annotator=event.annotator, labelled_at=stamp(recorded.recorded_at),
        label_position=recorded.position, via=event.via, review=review,
    )  # fmt: skip


def _withdrawn(rows: Rows, recorded: Recorded, event: e.LabelWithdrawn) -> None:
    before = rows.get("records", event.record_id)
    review = before["review"] if before is not None else ""
    if review == "done" and before is not None and not before["erased"]:
        review = "open"  # whoever undoes a label wants to see the record again
    _change_record(
        rows, recorded, event.record_id,
        label=None, annotator="", labelled_at=None, label_position=recorded.position, via="", review=review,
    )  # fmt: skip


def _skipped(rows: Rows, recorded: Recorded, event: e.ReviewSkipped) -> None:
    _change_record(rows, recorded, event.record_id, review="skipped")


# ---------------------------------------------------------------- tasks


def _change_task(rows: Rows, task: str, **changes: Any) -> None:
    row = rows.get("tasks", task) or {**BLANKS["tasks"], "task": task}
    rows.put("tasks", {**row, **changes})


def _adopted(rows: Rows, recorded: Recorded, event: e.PromptAdopted) -> None:
    _change_task(
        rows, event.task, prompt=event.prompt, prompt_digest=event.digest,
        prompt_scores=to_json([plain(score) for score in event.scores]),
    )  # fmt: skip


def _harvested(rows: Rows, recorded: Recorded, event: e.HarvestCompleted) -> None:
    _change_task(rows, event.task, harvested_up_to=event.up_to)


def _paused(rows: Rows, recorded: Recorded, event: e.LoopPaused) -> None:
    _change_task(rows, event.task, paused=True, paused_reason=event.reason)


def _resumed(rows: Rows, recorded: Recorded, event: e.LoopResumed) -> None:
    _change_task(rows, event.task, paused=False, paused_reason="")


# ---------------------------------------------------------------- runs


def _change_run(rows: Rows, recorded: Recorded, run_id: str, **changes: Any) -> None:
    row = rows.get("runs", run_id) or {
        **BLANKS["runs"],
        "run_id": run_id,
        "task": recorded.event.task,
        "position": recorded.position,
        "started_at": stamp(recorded.recorded_at),
    }
    rows.put("runs", {**row, **changes})


def _frozen(rows: Rows, recorded: Recorded, event: e.DatasetFrozen) -> None:
    _change_run(
        rows, recorded, event.run_id,
        state="frozen", dataset=event.artifact, labels_train=event.labels_train, train=event.train,
        valid=event.valid, exam=event.exam, hard_exam=event.hard_exam, per_class=to_json(event.per_class),
        curation=to_json([plain(count) for count in event.curation]), warnings=to_json(event.warnings),
        trigger=event.trigger, plan=event.plan,
    )  # fmt: skip


def _training_started(rows: Rows, recorded: Recorded, event: e.TrainingStarted) -> None:
    _change_run(
        rows, recorded, event.run_id,
        state="training", attempt=event.attempt, adapter=event.adapter, method=event.method, prompt=event.prompt,
        base_model=event.base_model, base_digest=event.base_digest, quantisation=event.quantisation,
        seed=event.seed, hyperparameters=to_json(event.hyperparameters),
        epoch_cap_exceeded=event.epoch_cap_exceeded, resumed_from=event.resumed_from, reason="", ended_at=None,
    )  # fmt: skip


def _training_progressed(rows: Rows, recorded: Recorded, event: e.TrainingProgressed) -> None:
    changes: Row = {"step": event.step, "of": event.of, "loss": event.loss, "seconds": event.seconds}
    if event.eval_loss is not None:
        changes["eval_loss"] = event.eval_loss
    if event.eval_accuracy is not None:
        changes["eval_accuracy"] = event.eval_accuracy
    _change_run(rows, recorded, event.run_id, **changes)


def _training_succeeded(rows: Rows, recorded: Recorded, event: e.TrainingSucceeded) -> None:
    _change_run(
        rows, recorded, event.run_id,
        state="trained", artifact=event.artifact, step=event.steps, loss=event.train_loss, seconds=event.seconds,
        eval_accuracy=event.eval_accuracy, peak_memory_mb=event.peak_memory_mb, stopped=event.stopped,
        ended_at=stamp(recorded.recorded_at),
    )  # fmt: skip


def _training_failed(rows: Rows, recorded: Recorded, event: e.TrainingFailed) -> None:
    _change_run(
        rows, recorded, event.run_id,
        state="parked" if event.parked else "failed", attempt=event.attempt, reason=event.reason,
        ended_at=stamp(recorded.recorded_at),
    )  # fmt: skip


def _interrupted(rows: Rows, recorded: Recorded, event: e.StepInterrupted) -> None:
    at = stamp(recorded.recorded_at)
    _change_run(rows, recorded, event.run_id, state="interrupted", reason=event.reason, ended_at=at)
    run = rows.get("runs", event.run_id)
    look = rows.get("evaluations", run["evaluation_id"]) if run is not None else None
    if event.kind == "evaluate" and look is not None:
        rows.put("evaluations", {**look, "state": "interrupted", "reason": event.reason, "ended_at": at})


def _registered(rows: Rows, recorded: Recorded, event: e.AdapterRegistered) -> None:
    rows.put(
        "adapters",
        {
            "task": event.task, "name": event.adapter, "position": recorded.position, "run_id": event.run_id,
            "artifact": event.artifact, "control": event.control, "method": event.method,
            "base_digest": event.base_digest, "quantisation": event.quantisation, "prompt": event.prompt,
            "temperature": event.temperature, "status": "candidate",
            "registered_at": stamp(recorded.recorded_at),
        },
    )  # fmt: skip


# ---------------------------------------------------------------- evaluations


def _change_evaluation(rows: Rows, recorded: Recorded, evaluation_id: str, run_id: str, **changes: Any) -> None:
    row = rows.get("evaluations", evaluation_id) or {
        **BLANKS["evaluations"],
        "evaluation_id": evaluation_id,
        "run_id": run_id,
        "task": recorded.event.task,
        "position": recorded.position,
        "started_at": stamp(recorded.recorded_at),
    }
    rows.put("evaluations", {**row, **changes})


def _evaluation_started(rows: Rows, recorded: Recorded, event: e.EvaluationStarted) -> None:
    _change_evaluation(
        rows, recorded, event.evaluation_id, event.run_id,
        state="evaluating", attempt=event.attempt, candidate=event.candidate, champion=event.champion,
        baseline=event.baseline, exam=event.exam, hard_exam=event.hard_exam, look=event.look, reason="", ended_at=None,
    )  # fmt: skip
    _change_run(rows, recorded, event.run_id, state="evaluating", evaluation_id=event.evaluation_id)


def _evaluation_succeeded(rows: Rows, recorded: Recorded, event: e.EvaluationSucceeded) -> None:
    at = stamp(recorded.recorded_at)
    _change_evaluation(
        rows, recorded, event.evaluation_id, event.run_id,
        state="evaluated", artifact=event.artifact, results=to_json([plain(result) for result in event.results]),
        paired=to_json([plain(pair) for pair in event.paired]), seconds=event.seconds, ended_at=at,
    )  # fmt: skip
    _change_run(rows, recorded, event.run_id, state="evaluated", ended_at=at)


def _evaluation_failed(rows: Rows, recorded: Recorded, event: e.EvaluationFailed) -> None:
    state, at = "parked" if event.parked else "failed", stamp(recorded.recorded_at)
    _change_evaluation(
        rows, recorded, event.evaluation_id, event.run_id,
        state=state, attempt=event.attempt, reason=event.reason, ended_at=at,
    )  # fmt: skip
    _change_run(rows, recorded, event.run_id, state=state, reason=event.reason, ended_at=at)


def _forgetting(rows: Rows, recorded: Recorded, event: e.ForgettingMeasured) -> None:
    _change_evaluation(rows, recorded, event.evaluation_id, event.run_id, forgetting=to_json(plain(event)))


def _judged(rows: Rows, recorded: Recorded, event: e.CandidateJudged) -> None:
    _change_evaluation(
        rows, recorded, event.evaluation_id, event.run_id,
        verdict=event.verdict, checks=to_json([plain(check) for check in event.checks]), summary=event.summary,
    )  # fmt: skip
    _change_run(rows, recorded, event.run_id, state=event.verdict, verdict=event.verdict, reason=event.summary)


# ---------------------------------------------------------------- deployments


def _set_status(rows: Rows, task: str, name: str, status: str) -> None:
    row = rows.get("adapters", task, name)
    if row is not None:
        rows.put("adapters", {**row, "status": status})


def _rejected(rows: Rows, recorded: Recorded, event: e.CandidateRejected) -> None:
    _set_status(rows, event.task, event.candidate, "rejected")


def _promoted(rows: Rows, recorded: Recorded, event: e.AdapterPromoted) -> None:
    current = rows.get("deployments", event.task)
    for name in {event.previous, current["answerer"] if current is not None else ""} - {event.answerer}:
        _set_status(rows, event.task, name, "former")
    _set_status(rows, event.task, event.answerer, "production")
    rows.put(
        "deployments",
        {
            "task": event.task, "answerer": event.answerer, "kind": event.kind, "previous": event.previous,
            "artifact": event.artifact, "run_id": event.run_id, "forced": event.forced, "reason": event.reason,
            "position": recorded.position, "at": stamp(recorded.recorded_at),
        },
    )  # fmt: skip


def _rolled_back(rows: Rows, recorded: Recorded, event: e.AdapterRolledBack) -> None:
    _set_status(rows, event.task, event.rolled_back, "retired")
    _set_status(rows, event.task, event.answerer, "production")
    rows.put(
        "deployments",
        {
            "task": event.task, "answerer": event.answerer, "kind": event.kind, "previous": event.rolled_back,
            "artifact": event.artifact, "run_id": "", "forced": False, "reason": event.reason,
            "position": recorded.position, "at": stamp(recorded.recorded_at),
        },
    )  # fmt: skip


# ---------------------------------------------------------------- helpers and the table


def stamp(moment: datetime) -> str:
    """An aware UTC time as the tables store it."""
    return moment.isoformat(timespec="microseconds")


def plain(value: msgspec.Struct) -> Any:
    """A struct as JSON values, defaults included: readers of the tables need not know them."""
    return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return plain(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


HANDLERS: dict[type[e.Event], Callable[[Rows, Recorded, Any], None]] = {
    e.RecordReceived: _received,
    e.RecordQuarantined: _quarantined,
    e.RecordErased: _erased,
    e.FeedbackReceived: _feedback,
    e.ReviewRequested: _requested,
    e.HarvestCompleted: _harvested,
    e.LabelGiven: _labelled,
    e.LabelWithdrawn: _withdrawn,
    e.ReviewSkipped: _skipped,
    e.PromptAdopted: _adopted,
    e.DatasetFrozen: _frozen,
    e.TrainingStarted: _training_started,
    e.TrainingProgressed: _training_progressed,
    e.TrainingSucceeded: _training_succeeded,
    e.TrainingFailed: _training_failed,
    e.StepInterrupted: _interrupted,
    e.AdapterRegistered: _registered,
    e.EvaluationStarted: _evaluation_started,
    e.EvaluationSucceeded: _evaluation_succeeded,
    e.EvaluationFailed: _evaluation_failed,
    e.ForgettingMeasured: _forgetting,
    e.CandidateJudged: _judged,
    e.CandidateRejected: _rejected,
    e.AdapterPromoted: _promoted,
    e.AdapterRolledBack: _rolled_back,
    e.LoopPaused: _paused,
    e.LoopResumed: _resumed,
}

# they open work, change who may write or tell of copies: no row holds that
IGNORED: frozenset[type[e.Event]] = frozenset(
    {
        e.TrainingRequested, e.EvaluationRequested, e.LeaseAcquired, e.BackupCompleted, e.BackupRemoved, e.Restored,
        e.Archived, e.SweepCompleted,
    }
)  # fmt: skip
