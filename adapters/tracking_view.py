"""What Weights & Biases is to show, worked out from events alone: pure, so that it can be worked out again.

The loop is one run with a row per event. A training is one run whose rows are its optimiser steps; what the
run should hold follows from its stream and the deployments, whatever has been sent of it so far.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from adapters.specs import Metric
from store import events as ev
from store.log import Recorded

Row = dict[str, Any]
Status = Literal["training", "failed", "candidate", "rejected", "production", "replaced"]

_COUNTED: dict[type[ev.Event], str] = {
    ev.RecordQuarantined: "quarantined",
    ev.FeedbackReceived: "feedback",
    ev.ReviewRequested: "review_requests",
    ev.DatasetFrozen: "datasets",
    ev.TrainingSucceeded: "trainings",
    ev.TrainingFailed: "failed_trainings",
    ev.EvaluationStarted: "looks",
    ev.CandidateRejected: "rejections",
    ev.AdapterPromoted: "promotions",
    ev.AdapterRolledBack: "rollbacks",
}


class TaskCounts(msgspec.Struct, kw_only=True):
    """A task's counters; `shown` is what its rows carry."""

    shown: dict[str, float | str] = {}
    candidate: str = ""  # of the look that is going on

    def add(self, name: str, by: int = 1) -> None:
        self.shown[name] = float(self.shown.get(name, 0)) + by


# ---------------------------------------------------------------- the loop


def count(counts: dict[str, TaskCounts], event: ev.Event) -> None:
    """Fold one event into the counters of its task."""
    if not event.task:
        return
    task = counts.setdefault(event.task, TaskCounts())
    if type(event) in _COUNTED:
        task.add(_COUNTED[type(event)])
    match event:
        case ev.RecordReceived():
            task.add("records")
            task.add("audit_records", int(event.audit))
        case ev.FeedbackReceived():
            task.add("corrections", int(event.disagrees))
        case ev.LabelGiven(previous=None):
            task.add("labels")
            task.add("exam_labels", int(event.side == "exam"))
        case ev.LabelWithdrawn():
            task.add("labels", -1)
            task.add("exam_labels", -int(event.side == "exam"))
        case ev.EvaluationStarted():
            task.candidate = event.candidate
        case ev.EvaluationSucceeded():
            result = _shown_result(event.results, task.candidate)
            if result is not None:
                task.shown.update(candidate=task.candidate, accuracy=result.accuracy)
        case ev.AdapterPromoted() | ev.AdapterRolledBack():
            task.shown["champion"] = event.answerer


def loop_row(counts: Mapping[str, TaskCounts], recorded: Recorded) -> Row:
    """The row of one event, counters after it. Ids and counts only; `chain` anchors the log's hash out of its reach."""
    task = recorded.event.task
    row: Row = {
        "_timestamp": recorded.recorded_at.timestamp(),
        "event": recorded.type,
        "stream": recorded.stream,
        "chain": recorded.hash.hex(),
    }
    if task:
        row["task"] = task
        row.update({f"{task}/{name}": value for name, value in counts[task].shown.items()} if task in counts else {})
    return row


def _shown_result(results: Sequence[ev.AnswererResult], answerer: str) -> ev.AnswererResult | None:
    """The result of an answerer, under scoring where there are several decodings."""
    own = [result for result in results if result.answerer == answerer]
    return next((result for result in own if result.decoding == "score"), own[0] if own else None)


# ---------------------------------------------------------------- a training


class TrainingView(msgspec.Struct, frozen=True, kw_only=True):
    """All that a training's run should hold by now."""

    run_id: str
    task: str
    adapter: str
    status: Status
    config: dict[str, Any]
    rows: list[tuple[int, Row]]  # optimiser step, ascending
    samples: list[dict[str, str]]  # {"id", "step", "expected", "answered"}
    samples_at: int  # the step of the row that carries them; -1: not yet
    summary: dict[str, Any]
    artifact: str  # address; empty: none yet
    artifact_at: int  # position of the event that gave the artifact its newest alias
    aliases: list[str]
    ended: bool  # nothing more is expected, except by a person


def touched(recorded: Recorded, deployments: Sequence[Recorded]) -> set[str]:
    """Run ids of the trainings that an event changes. `deployments`: the stream of its task's deployments."""
    event = recorded.event
    if isinstance(event, ev.AdapterPromoted | ev.AdapterRolledBack):
        other = event.previous if isinstance(event, ev.AdapterPromoted) else event.rolled_back
        promotions = [one.event for one in deployments if isinstance(one.event, ev.AdapterPromoted)]
        return {one.run_id for one in promotions if one.answerer in (event.answerer, other)} - {""}
    run_id = getattr(event, "run_id", "")
    return {run_id} if run_id else set()


def training_view(
    past: Sequence[Recorded], deployments: Sequence[Recorded], metrics: Sequence[Metric]
) -> TrainingView | None:
    """What a training's run should hold.

    Args:
        past: the run's stream.
        deployments: the stream of its task's deployments.
        metrics: lines of its metrics.jsonl; empty where the folder is gone.

    Returns:
        None while no training has started.
    """
    started = _last(past, ev.TrainingStarted)
    if started is None:
        return None
    done, registered = _last(past, ev.TrainingSucceeded), _position(past, ev.AdapterRegistered)
    served = _served(deployments, started.run_id)
    rejected = _last(past, ev.CandidateRejected) is not None
    parked = any(isinstance(one.event, ev.TrainingFailed | ev.EvaluationFailed) and one.event.parked for one in past)
    aliases, artifact_at = ["candidate"], registered
    if served:
        status: Status = "production" if served[1] else "replaced"
        if served[1]:
            aliases, artifact_at = ["candidate", "production"], max(served[0], registered)
    elif rejected:
        status = "rejected"
    elif registered:
        status = "candidate"
    else:
        status = "failed" if parked else "training"
    rows = training_rows(past, metrics)
    last = max([done.steps if done else 0, *(step for step, _ in rows)])
    return TrainingView(
        run_id=started.run_id,
        task=started.task,
        adapter=started.adapter,
        status=status,
        config=_config(past, started),
        rows=rows,
        samples=done.samples if done else [],
        samples_at=last + 1 if done else -1,
        summary={"status": status, **_summary(past)},
        artifact=done.artifact if done and registered else "",
        artifact_at=artifact_at,
        aliases=aliases,
        ended=bool(served) or rejected or parked,
    )


def training_rows(past: Sequence[Recorded], metrics: Sequence[Metric]) -> list[tuple[int, Row]]:
    """Losses and accuracies by optimiser step.

    A step that was done again after an interruption keeps its first values. While the training goes on the newest
    step is held back: its evaluation may still be on its way.
    """
    reports = [one.event for one in past if isinstance(one.event, ev.TrainingProgressed)]
    ends = (ev.TrainingSucceeded, ev.TrainingFailed, ev.StepInterrupted)
    resting = next((isinstance(one.event, ends) for one in reversed(past) if _of_training(one.event)), False)
    reached = max((report.step for report in reports), default=0)
    rows: dict[int, Row] = {}
    lines: list[Metric | ev.TrainingProgressed] = [*metrics, *reports]
    for one in lines:
        values = {
            "train/loss": one.loss,
            "train/learning_rate": getattr(one, "learning_rate", None),
            "eval/loss": one.eval_loss,
            "eval/accuracy": one.eval_accuracy,
        }
        known = {name: value for name, value in values.items() if value is not None}
        if one.step <= 0 or not known or not (resting or one.step < reached):
            continue
        row = rows.setdefault(one.step, {})
        for name, value in {**known, "train/seconds": one.seconds}.items():
            row.setdefault(name, value)
    return sorted(rows.items())


def _of_training(event: ev.Event) -> bool:
    kinds = (ev.TrainingStarted, ev.TrainingProgressed, ev.TrainingSucceeded, ev.TrainingFailed)
    return isinstance(event, kinds) or (isinstance(event, ev.StepInterrupted) and event.kind == "train")


def _config(past: Sequence[Recorded], started: ev.TrainingStarted) -> dict[str, Any]:
    config: dict[str, Any] = {
        **started.hyperparameters,
        **{
            name: getattr(started, name)
            for name in (
                "task", "run_id", "adapter", "method", "base_model", "base_digest", "quantisation", "prompt", "seed",
                "attempt", "resumed_from", "epoch_cap_exceeded",
            )
        },
    }  # fmt: skip
    dataset = _last(past, ev.DatasetFrozen)
    if dataset is not None:
        names = ("artifact", "labels_train", "train", "valid", "exam", "hard_exam", "per_class", "plan")
        config["dataset"] = {
            **{name: getattr(dataset, name) for name in names},
            "curation": {one.step: one.count for one in dataset.curation},
        }
    return config


def _summary(past: Sequence[Recorded]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for recorded in past:
        event = recorded.event
        match event:
            case ev.TrainingSucceeded():
                summary["training"] = {
                    name: getattr(event, name)
                    for name in (
                        "steps", "epochs", "seconds", "train_loss", "eval_accuracy", "temperature", "peak_memory_mb",
                        "compute", "stopped",
                    )
                }  # fmt: skip
            case ev.TrainingFailed():
                summary["failed_attempts"] = summary.get("failed_attempts", 0) + 1
            case ev.EvaluationStarted():
                summary["look"] = event.look
            case ev.EvaluationSucceeded():
                summary["exam"] = {
                    f"{result.answerer} ({result.decoding})": {
                        name: getattr(result, name)
                        for name in (
                            "accuracy", "low", "high", "n", "correct", "recall", "ece", "abstained", "invalid",
                            "latency_ms", "hard_n", "hard_correct",
                        )
                    }
                    for result in event.results
                }  # fmt: skip
                summary["paired"] = {
                    f"{pair.opponent} ({pair.decoding})": msgspec.to_builtins(pair) for pair in event.paired
                }
            case ev.ForgettingMeasured():
                names = (
                    "suite", "questions", "base_accuracy", "accuracy", "accuracy_drop", "base_bits_per_byte",
                    "bits_per_byte", "bits_rise",
                )  # fmt: skip
                summary["forgetting"] = {name: getattr(event, name) for name in names}
            case ev.CandidateJudged():
                summary["verdict"] = event.verdict
                summary["verdict_reason"] = event.summary
                summary["checks"] = {check.name: check.outcome for check in event.checks}
    return summary


def _served(deployments: Sequence[Recorded], run_id: str) -> tuple[int, bool] | None:
    """Position of the last deployment of a run's adapter and whether it serves now; None where it never did."""
    names = {
        one.event.answerer
        for one in deployments
        if isinstance(one.event, ev.AdapterPromoted) and one.event.run_id == run_id and one.event.kind == "adapter"
    }
    at = [one.position for one in deployments if getattr(one.event, "answerer", "") in names]
    return (at[-1], getattr(deployments[-1].event, "answerer", "") in names) if at else None


def _last(past: Iterable[Recorded], kind: type[Any]) -> Any:
    found = [one.event for one in past if isinstance(one.event, kind)]
    return found[-1] if found else None


def _position(past: Iterable[Recorded], kind: type[ev.Event]) -> int:
    return max((one.position for one in past if isinstance(one.event, kind)), default=0)


# ---------------------------------------------------------------- names


def loop_run_id(workspace: str, generation: int) -> str:
    """W&B id of the loop's run. `generation` counts how often the log was replaced by another one."""
    return f"loop-{workspace}" + (f"-{generation}" if generation else "")


def training_run_id(workspace: str, run_id: str) -> str:
    """W&B id of a training's run: the same for the same run, always, and apart from other workspaces'."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", run_id)[:64]
    if plain != run_id:
        plain += "-" + hashlib.sha256(run_id.encode()).hexdigest()[:8]
    return f"{plain}-{workspace}"
