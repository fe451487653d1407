"""Events in words: one line each, for `history` and `show`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loop.cli.output import percent
from store import events as ev
from store.wording import counted

Say = Callable[[Any], str]


def line(event: ev.Event) -> str:
    """What happened, without the record's, run's or task's own name, which stands in the stream."""
    return WORDS[type(event)](event)


def _reason(text: str) -> str:
    return f": {text}" if text else ""


def _received(event: ev.RecordReceived) -> str:
    answer = f"answered {event.answer}" if event.answer is not None else "unanswered"
    by = f" by {event.answered_by}" if event.answered_by else ""
    drawn = ", audit draw" if event.audit else ""
    return f"{event.chars} characters, {event.side} side{drawn}, {answer}{by}"


def _labelled(event: ev.LabelGiven) -> str:
    before = f" (was {event.previous})" if event.previous else ""
    return f"{event.label}{before} by {event.annotator} via {event.via}"


def _frozen(event: ev.DatasetFrozen) -> str:
    return (
        f"{event.train} to train on, {event.valid} to validate, exam {event.exam} (+{event.hard_exam} hard), "
        f"{event.plan}{_reason(event.trigger)}"
    )


def _training_done(event: ev.TrainingSucceeded) -> str:
    accuracy = f", validation {percent(event.eval_accuracy)}" if event.eval_accuracy is not None else ""
    compute = f" ({event.compute})" if event.compute else ""
    return (
        f"{counted(event.steps, 'step')} in {event.seconds:.0f} s{compute}, loss {event.train_loss:.3f}{accuracy}, "
        f"ended by {event.stopped}" + "".join(f"; {note}" for note in event.notes)
    )


def _evaluated(event: ev.EvaluationSucceeded) -> str:
    shown = [f"{one.answerer} ({one.metric or one.decoding}) {percent(one.accuracy)}" for one in event.results]
    return ", ".join(shown) + f" in {event.seconds:.0f} s"


def _forgot(event: ev.ForgettingMeasured) -> str:
    return (
        f"general questions {percent(event.base_accuracy)} to {percent(event.accuracy)}, "
        f"bits per byte {event.base_bits_per_byte:.3f} to {event.bits_per_byte:.3f}"
    )


def _promoted(event: ev.AdapterPromoted) -> str:
    forced = ", by hand" if event.forced else ""
    return f"{event.answerer} instead of {event.previous or 'nothing'}{forced}{_reason(event.reason)}"


def _swept(event: ev.SweepCompleted) -> str:
    best = next((one for one in event.trials if one.name == event.best), None)
    accuracy = f" ({percent(best.accuracy)} of {event.valid})" if best else ""
    if event.best == event.present:
        lead = "the present settings"
    elif event.lead is None:
        lead = "the present settings could not be trained"
    else:
        over = f"{100 * event.lead.difference:+.1f} points over the present settings"
        lead = over if event.beyond_noise else f"{over}, no more than noise"
    return f"{len(event.trials)} settings, best {event.best}{accuracy}: {lead}"


WORDS: dict[type[ev.Event], Say] = {
    ev.RecordReceived: _received,
    ev.RecordQuarantined: lambda e: f"{e.source} line {e.line}: {e.reason}",
    ev.RecordErased: lambda e: f"text erased{_reason(e.reason)}",
    ev.FeedbackReceived: lambda e: (
        f"{e.label}, {'disagrees' if e.disagrees else 'agrees'} with {e.answered_by or 'production'}"
    ),
    ev.ReviewRequested: lambda e: ", ".join(reason.name for reason in e.reasons),
    ev.HarvestCompleted: lambda e: (
        f"{e.considered} looked at, "
        + (", ".join(f"{n} {name}" for name, n in e.requested.items()) or "none asked for")
        + (f", {e.dropped} left out: the queue is full" if e.dropped else "")
    ),
    ev.LabelGiven: _labelled,
    ev.LabelWithdrawn: lambda e: f"no longer {e.label}, by {e.annotator}{_reason(e.reason)}",
    ev.ReviewSkipped: lambda e: f"by {e.annotator}{_reason(e.reason)}",
    ev.PromptAdopted: lambda e: f"{e.prompt}{_reason(e.reason)}",
    ev.DatasetFrozen: _frozen,
    ev.TrainingRequested: lambda e: f"{e.plan}{_reason(e.reason)}",
    ev.TrainingStarted: lambda e: (
        f"{e.adapter}: {e.method} on {e.base_model} ({e.quantisation}), attempt {e.attempt}"
        + (f", from step {e.resumed_from}" if e.resumed_from else "")
    ),
    ev.TrainingProgressed: lambda e: (
        f"step {e.step} of {e.of}, loss {e.loss:.3f}"
        + (f", accuracy {percent(e.eval_accuracy)}" if e.eval_accuracy is not None else "")
    ),
    ev.TrainingSucceeded: _training_done,
    ev.TrainingFailed: lambda e: f"attempt {e.attempt}: {e.reason}" + ("; parked" if e.parked else ""),
    ev.StepInterrupted: lambda e: (
        f"{e.kind}, attempt {e.attempt}{_reason(e.reason)}" + (f" (checkpoint {e.checkpoint})" if e.checkpoint else "")
    ),
    ev.AdapterRegistered: lambda e: f"{e.adapter}: {e.method}, prompt {e.prompt}",
    ev.EvaluationRequested: lambda e: f"{e.adapter}{_reason(e.reason)}",
    ev.EvaluationStarted: lambda e: f"{e.candidate} against {e.champion}, {e.exam} exam items, look {e.look}",
    ev.EvaluationSucceeded: _evaluated,
    ev.EvaluationFailed: lambda e: f"attempt {e.attempt}: {e.reason}" + ("; parked" if e.parked else ""),
    ev.ForgettingMeasured: _forgot,
    ev.CandidateJudged: lambda e: f"{e.candidate}: {e.verdict}. {e.summary}",
    ev.CandidateRejected: lambda e: f"{e.candidate}{_reason(e.reason)}",
    ev.AdapterPromoted: _promoted,
    ev.AdapterRolledBack: lambda e: f"{e.answerer} instead of {e.rolled_back}{_reason(e.reason)}",
    ev.SweepCompleted: _swept,
    ev.LeaseAcquired: lambda e: f"{e.holder}, lease {e.new_epoch}" + (", taken over" if e.taken_over else ""),
    ev.LoopPaused: lambda e: e.reason or "paused",
    ev.LoopResumed: lambda e: e.reason or "going on",
    ev.BackupCompleted: lambda e: (
        f"{e.backup} ({e.label}), up to event {e.position}"
        + (f", with {counted(e.problems, 'problem')}" if e.problems else "")
    ),
    ev.BackupRemoved: lambda e: f"{e.backup} ({e.label}) was deleted",
    ev.Restored: lambda e: (
        f"from {e.backup}, which ends at event {e.position}"
        + (f"; {e.left_behind} later events are left behind" if e.left_behind else "")
        + (f"; {counted(e.erased_again, 'record')} erased again" if e.erased_again else "")
    ),
    ev.Archived: lambda e: f"events {e.first} to {e.last} into {e.artifact[:19]}",
}
