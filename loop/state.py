"""The folded state of the loop: small, frozen, and nothing but a function of the events.

Per-record data lives in the read tables; here are only counters, open work and who serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from store import events as ev
from store.log import Recorded
from store.targets import as_class

Phase = Literal[
    "frozen", "training", "interrupted", "trained", "registered", "evaluating", "evaluated", "judged", "parked"
]
Plan = Literal["standard", "gentle", "overnight"]
SHUTDOWN, GPU_NEEDED = "shutdown", "the GPU's memory is needed elsewhere"
PLANNED_STOPS = (SHUTDOWN, GPU_NEEDED)  # no failure of the step that was stopped
KEPT_DEPLOYMENTS = 20
KEPT_GAINS = 20


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the state."""


class Deployed(Frozen, frozen=True, kw_only=True):
    answerer: str
    kind: ev.AnswererKind
    artifact: str = ""
    position: int = 0  # of the event that put it there


class Cycle(Frozen, frozen=True, kw_only=True):
    """One way from a frozen dataset to a verdict."""

    run_id: str
    adapter: str
    phase: Phase
    dataset: str
    labels_train: int
    plan: Plan
    opened_at: datetime
    phase_since: datetime
    attempt: int = 0
    failures: int = 0  # in a row, without progress
    checkpoint: int = 0
    step: int = 0
    of: int = 0
    artifact: str = ""
    evaluation_id: str = ""
    exam: int = 0  # items of the last look
    verdict: str = ""
    reason: str = ""
    asked: bool = False  # a person ordered it

    @property
    def undecided(self) -> bool:
        """Judged, and waiting for a larger exam."""
        return self.phase == "judged" and self.verdict == "inconclusive"


class Served(Frozen, frozen=True, kw_only=True):
    """How often production disagreed with an answerer later on."""

    records: int = 0
    disagreements: int = 0


class TaskState(Frozen, frozen=True, kw_only=True):
    task: str
    records: int = 0
    fresh_records: int = 0  # since the last harvest
    fresh_feedback: int = 0
    harvested_to: int = 0
    harvested_at: datetime | None = None
    labels_train: Mapping[str, int] = {}
    labels_exam: Mapping[str, int] = {}  # audit draws: the exam
    labels_hard: int = 0
    baseline: str = ""  # the adopted prompt
    baseline_shots: tuple[str, ...] = ()
    shots_erased: bool = False  # the adopted prompt has lost an example since
    deployed: tuple[Deployed, ...] = ()  # last one serves
    datasets: int = 0  # frozen so far: names runs and adapters
    cycle: Cycle | None = None
    trained_at: int = 0  # training-side labels at the last successful training
    parked_at: int = -1  # training-side labels when a run was parked; -1: none is
    request: ev.TrainingRequested | None = None
    evaluation_request: ev.EvaluationRequested | None = None
    looks: Mapping[str, int] = {}  # at the exam, per adapter: spent for good
    retry_gently: bool = False
    gains: tuple[float, ...] = ()  # of each judged candidate over its champion
    served: Mapping[str, Served] = {}
    rolled_back: tuple[str, ...] = ()

    @property
    def train_total(self) -> int:
        """Distinct training-side records that carry a label."""
        return sum(self.labels_train.values())

    @property
    def exam_total(self) -> int:
        """Distinct audit draws that carry a label."""
        return sum(self.labels_exam.values())

    @property
    def champion(self) -> Deployed:
        """Who serves: the last promoted answerer, else the adopted prompt (an empty name before that)."""
        return self.deployed[-1] if self.deployed else Deployed(answerer=self.baseline, kind="prompt")

    @property
    def open_cycle(self) -> Cycle | None:
        """The cycle that holds the machine or waits for it (a parked one waits for people)."""
        return self.cycle if self.cycle is not None and self.cycle.phase != "parked" else None


class LoopState(Frozen, frozen=True, kw_only=True):
    """Everything `decide` looks at."""

    position: int = 0
    epoch: int = 0
    paused: bool = False
    pause_reason: str = ""
    paused_at: datetime | None = None
    tasks: Mapping[str, TaskState] = {}

    def task(self, name: str) -> TaskState:
        """The named task's state; a fresh one where no event has named it yet."""
        return self.tasks.get(name) or TaskState(task=name)


def evolve(state: LoopState, recorded: Recorded) -> LoopState:
    """Fold one event into the state. Pure; unknown kinds of event only move the position."""
    event = recorded.event
    match event:
        case ev.LeaseAcquired():
            return replace(state, position=recorded.position, epoch=event.new_epoch)
        case ev.LoopPaused():
            return replace(
                state,
                position=recorded.position,
                paused=True,
                pause_reason=event.reason,
                paused_at=recorded.recorded_at,
            )
        case ev.LoopResumed():
            return replace(state, position=recorded.position, paused=False, pause_reason="", paused_at=None)
    fold = _FOLDS.get(type(event))
    if fold is None:
        return replace(state, position=recorded.position)
    task = fold(state.task(event.task), event, recorded)
    return replace(state, position=recorded.position, tasks={**state.tasks, task.task: task})


def fold(state: LoopState, events: Any) -> LoopState:
    """Fold many events, in order."""
    for recorded in events:
        state = evolve(state, recorded)
    return state


def _add(counts: Mapping[str, int], label: str | None, by: int) -> Mapping[str, int]:
    if label is None:
        return counts
    label = as_class(label)
    left = counts.get(label, 0) + by
    return {**{name: n for name, n in counts.items() if name != label}, **({label: left} if left > 0 else {})}


def _record_received(task: TaskState, event: ev.RecordReceived, _: Recorded) -> TaskState:
    served = task.served
    if event.answered_by:
        before = served.get(event.answered_by, Served())
        served = {**served, event.answered_by: replace(before, records=before.records + 1)}
    return replace(task, records=task.records + 1, fresh_records=task.fresh_records + 1, served=served)


def _feedback_received(task: TaskState, event: ev.FeedbackReceived, _: Recorded) -> TaskState:
    served = task.served
    if event.answered_by and event.disagrees:
        before = served.get(event.answered_by, Served())
        served = {**served, event.answered_by: replace(before, disagreements=before.disagreements + 1)}
    return replace(task, fresh_feedback=task.fresh_feedback + 1, served=served)


def _harvest_completed(task: TaskState, event: ev.HarvestCompleted, at: Recorded) -> TaskState:
    return replace(task, fresh_records=0, fresh_feedback=0, harvested_to=event.up_to, harvested_at=at.recorded_at)


def _count_label(task: TaskState, side: ev.Side, audit: bool, added: str | None, removed: str | None) -> TaskState:
    if side == "train":
        return replace(task, labels_train=_add(_add(task.labels_train, removed, -1), added, 1))
    if side == "exam" and audit:
        return replace(task, labels_exam=_add(_add(task.labels_exam, removed, -1), added, 1))
    if side == "exam":
        return replace(task, labels_hard=task.labels_hard + (added is not None) - (removed is not None))
    return task


def _label_given(task: TaskState, event: ev.LabelGiven, _: Recorded) -> TaskState:
    return _count_label(task, event.side, event.audit, event.label, event.previous)


def _label_withdrawn(task: TaskState, event: ev.LabelWithdrawn, _: Recorded) -> TaskState:
    return _count_label(task, event.side, event.audit, None, event.label)


def _prompt_adopted(task: TaskState, event: ev.PromptAdopted, _: Recorded) -> TaskState:
    return replace(task, baseline=event.prompt, baseline_shots=tuple(event.shots), shots_erased=False)


def _record_erased(task: TaskState, event: ev.RecordErased, _: Recorded) -> TaskState:
    if event.record_id in task.baseline_shots:
        task = replace(task, shots_erased=True)
    return _count_label(task, event.side, event.audit, None, event.label) if event.label is not None else task


def _training_requested(task: TaskState, event: ev.TrainingRequested, _: Recorded) -> TaskState:
    return replace(task, request=event)


def _evaluation_requested(task: TaskState, event: ev.EvaluationRequested, at: Recorded) -> TaskState:
    return replace(task, evaluation_request=event)


def _dataset_frozen(task: TaskState, event: ev.DatasetFrozen, at: Recorded) -> TaskState:
    number = task.datasets + 1
    cycle = Cycle(
        run_id=event.run_id,
        adapter=f"{task.task}-v{number}",
        phase="frozen",
        dataset=event.artifact,
        labels_train=event.labels_train,
        plan=event.plan,
        opened_at=at.recorded_at,
        phase_since=at.recorded_at,
        asked=task.request is not None,
    )
    return replace(task, datasets=number, cycle=cycle, request=None, retry_gently=False, parked_at=-1)


def _in_cycle(task: TaskState, run_id: str, at: Recorded, **changes: Any) -> TaskState:
    if task.cycle is None or task.cycle.run_id != run_id:
        return task
    if "phase" in changes and changes["phase"] != task.cycle.phase:
        changes["phase_since"] = at.recorded_at
    return replace(task, cycle=replace(task.cycle, **changes))


def _training_started(task: TaskState, event: ev.TrainingStarted, at: Recorded) -> TaskState:
    return _in_cycle(task, event.run_id, at, phase="training", attempt=event.attempt, step=event.resumed_from)


def _training_progressed(task: TaskState, event: ev.TrainingProgressed, at: Recorded) -> TaskState:
    return _in_cycle(task, event.run_id, at, step=event.step, of=event.of)


def _training_succeeded(task: TaskState, event: ev.TrainingSucceeded, at: Recorded) -> TaskState:
    task = _in_cycle(
        task, event.run_id, at, phase="trained", artifact=event.artifact, attempt=0, failures=0, checkpoint=0
    )
    labels = task.cycle.labels_train if task.cycle else task.trained_at
    return replace(task, trained_at=labels)


def _failed(task: TaskState, run_id: str, at: Recorded, *, parked: bool, reason: str) -> TaskState:
    cycle = task.cycle
    if cycle is None or cycle.run_id != run_id:
        return task
    if parked:
        return replace(_in_cycle(task, run_id, at, phase="parked", reason=reason), parked_at=task.train_total)
    phase: Phase = "registered" if cycle.phase == "evaluating" else "interrupted"
    return _in_cycle(task, run_id, at, phase=phase, failures=cycle.failures + 1, reason=reason)


def _training_failed(task: TaskState, event: ev.TrainingFailed, at: Recorded) -> TaskState:
    return _failed(task, event.run_id, at, parked=event.parked, reason=event.reason)


def _step_interrupted(task: TaskState, event: ev.StepInterrupted, at: Recorded) -> TaskState:
    cycle = task.cycle
    if cycle is None or cycle.run_id != event.run_id:
        return task
    progressed = event.checkpoint > cycle.checkpoint
    failures = cycle.failures if event.reason in PLANNED_STOPS else 1 if progressed else cycle.failures + 1
    phase: Phase = "interrupted" if event.kind == "train" else "registered"
    return _in_cycle(
        task, event.run_id, at, phase=phase, failures=failures, checkpoint=event.checkpoint, reason=event.reason
    )


def _adapter_registered(task: TaskState, event: ev.AdapterRegistered, at: Recorded) -> TaskState:
    return _in_cycle(task, event.run_id, at, phase="registered", attempt=0, failures=0)


def _evaluation_started(task: TaskState, event: ev.EvaluationStarted, at: Recorded) -> TaskState:
    if task.cycle is None and task.evaluation_request is not None:
        task = replace(task, cycle=_reopened(task, task.evaluation_request, at))
    task = replace(task, evaluation_request=None, looks={**task.looks, event.candidate: event.look})
    return _in_cycle(
        task,
        event.run_id,
        at,
        phase="evaluating",
        attempt=event.attempt,
        evaluation_id=event.evaluation_id,
        exam=event.exam,
    )


def _reopened(task: TaskState, request: ev.EvaluationRequested, at: Recorded) -> Cycle:
    return Cycle(
        run_id=request.run_id,
        adapter=request.adapter,
        phase="registered",
        dataset="",
        labels_train=task.trained_at,
        plan="standard",
        opened_at=at.recorded_at,
        phase_since=at.recorded_at,
        artifact=request.artifact,
        asked=True,
    )


def _evaluation_succeeded(task: TaskState, event: ev.EvaluationSucceeded, at: Recorded) -> TaskState:
    return _in_cycle(task, event.run_id, at, phase="evaluated", attempt=0, failures=0)


def _evaluation_failed(task: TaskState, event: ev.EvaluationFailed, at: Recorded) -> TaskState:
    return _failed(task, event.run_id, at, parked=event.parked, reason=event.reason)


def _candidate_judged(task: TaskState, event: ev.CandidateJudged, at: Recorded) -> TaskState:
    return _in_cycle(task, event.run_id, at, phase="judged", verdict=event.verdict, reason=event.summary)


def _close(task: TaskState, run_id: str) -> TaskState:
    return replace(task, cycle=None) if task.cycle is not None and task.cycle.run_id == run_id else task


def _candidate_rejected(task: TaskState, event: ev.CandidateRejected, _: Recorded) -> TaskState:
    gentle_already = task.cycle is not None and task.cycle.plan == "gentle"
    task = _close(task, event.run_id)
    return replace(
        task,
        gains=(*task.gains, 0.0)[-KEPT_GAINS:],
        retry_gently=event.forgetting and not gentle_already,
    )


def _promoted(task: TaskState, event: ev.AdapterPromoted, at: Recorded) -> TaskState:
    now = Deployed(answerer=event.answerer, kind=event.kind, artifact=event.artifact, position=at.position)
    before = task.deployed or (Deployed(answerer=event.previous, kind="prompt"),)
    task = _close(task, event.run_id)
    return replace(
        task,
        deployed=(*before, now)[-KEPT_DEPLOYMENTS:],
        gains=(*task.gains, event.gain)[-KEPT_GAINS:],
        rolled_back=tuple(name for name in task.rolled_back if name != event.answerer),
    )


def _rolled_back(task: TaskState, event: ev.AdapterRolledBack, at: Recorded) -> TaskState:
    now = Deployed(answerer=event.answerer, kind=event.kind, artifact=event.artifact, position=at.position)
    earlier = [index for index, one in enumerate(task.deployed[:-1]) if one.answerer == event.answerer]
    return replace(
        task,
        deployed=(*task.deployed[: earlier[-1] if earlier else -1], now),
        rolled_back=(*task.rolled_back, event.rolled_back)[-KEPT_DEPLOYMENTS:],
    )


_FOLDS: dict[type[ev.Event], Callable[[TaskState, Any, Recorded], TaskState]] = {
    ev.RecordReceived: _record_received,
    ev.FeedbackReceived: _feedback_received,
    ev.RecordErased: _record_erased,
    ev.HarvestCompleted: _harvest_completed,
    ev.LabelGiven: _label_given,
    ev.LabelWithdrawn: _label_withdrawn,
    ev.PromptAdopted: _prompt_adopted,
    ev.TrainingRequested: _training_requested,
    ev.EvaluationRequested: _evaluation_requested,
    ev.DatasetFrozen: _dataset_frozen,
    ev.TrainingStarted: _training_started,
    ev.TrainingProgressed: _training_progressed,
    ev.TrainingSucceeded: _training_succeeded,
    ev.TrainingFailed: _training_failed,
    ev.StepInterrupted: _step_interrupted,
    ev.AdapterRegistered: _adapter_registered,
    ev.EvaluationStarted: _evaluation_started,
    ev.EvaluationSucceeded: _evaluation_succeeded,
    ev.EvaluationFailed: _evaluation_failed,
    ev.CandidateJudged: _candidate_judged,
    ev.CandidateRejected: _candidate_rejected,
    ev.AdapterPromoted: _promoted,
    ev.AdapterRolledBack: _rolled_back,
}
