"""What people do to the loop. Each function appends events under expected versions and returns them.

The command line, the review screen and the demo's scripted labeller all act through here.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from loop import targets
from loop.bootstrap import App
from loop.intake import external_record_id
from loop.state import Deployed, Plan
from loop.targets import Put
from store import queries
from store.errors import Conflict, GateRefused, InputError, UnknownLabel, UnknownRecord
from store.events import (
    AdapterPromoted,
    AdapterRolledBack,
    EvaluationRequested,
    Event,
    FeedbackReceived,
    LabelGiven,
    LabelWithdrawn,
    LoopPaused,
    LoopResumed,
    ReviewReason,
    ReviewRequested,
    ReviewSkipped,
    TrainingRequested,
)
from store.kill_points import reached
from store.log import Draft, Recorded
from store.tables import RecordRow
from store.targets import is_seal

UNDO_DEPTH = 200  # of a person's own actions
ATTEMPTS = 5  # at an append that others keep getting in the way of


def label(
    app: App, record_id: str, label: str, *, annotator: str, note: str = "", via: str = "label", cause: str = ""
) -> list[Recorded]:
    """Give a record its label; the same label by the same person again changes nothing. In a free-form task the label
    is the right answer in words.

    Raises:
        UnknownRecord: there is no such record, or its text was erased.
        UnknownLabel: the task has no such label.
        InputError: the words are not as the task has its answers.
    """
    for _ in range(ATTEMPTS):
        version, row = _record(app, record_id)
        name, put = _named(app, row, label)
        if row.label == name and row.annotator == annotator:
            return []
        event = LabelGiven(
            task=row.task,
            record_id=row.record_id,
            label=name,
            side=row.side,  # type: ignore[arg-type]
            audit=row.audit,
            annotator=annotator,
            previous=row.label or None,
            via=via,
            note=note,
        )
        recorded = _append_on_record(app, version, event, annotator, cause, put)
        if recorded:
            return recorded
    raise _busy(record_id)


def skip(app: App, record_id: str, *, annotator: str, reason: str = "") -> list[Recorded]:
    """Leave a record unlabelled and take it out of the queue.

    Raises:
        UnknownRecord: there is no such record.
        InputError: the record is not waiting for a review.
    """
    for _ in range(ATTEMPTS):
        version, row = _record(app, record_id)
        if row.review != "open":
            raise InputError(f"{record_id} is not in the queue", hint="`tuneloop queue` lists what is.")
        event = ReviewSkipped(task=row.task, record_id=row.record_id, annotator=annotator, reason=reason)
        recorded = _append_on_record(app, version, event, annotator)
        if recorded:
            return recorded
    raise _busy(record_id)


def withdraw(app: App, record_id: str, *, annotator: str, reason: str = "", cause: str = "") -> list[Recorded]:
    """Take a record's label back; the record returns to the queue.

    Raises:
        UnknownRecord: there is no such record.
        InputError: it carries no label.
    """
    for _ in range(ATTEMPTS):
        version, row = _record(app, record_id)
        if not row.label:
            raise InputError(f"{record_id} carries no label", hint="`tuneloop show` tells what happened to it.")
        event = LabelWithdrawn(
            task=row.task,
            record_id=row.record_id,
            label=row.label,
            side=row.side,  # type: ignore[arg-type]
            audit=row.audit,
            annotator=annotator,
            reason=reason,
        )
        recorded = _append_on_record(app, version, event, annotator, cause)
        if recorded:
            return recorded
    raise _busy(record_id)


def undo(app: App, *, annotator: str) -> str:
    """Take back what this person did last to a record: a label (the one before it stands again) or a skip.

    Returns:
        What was undone, in words.

    Raises:
        InputError: there is nothing of this person's left to undo.
    """
    last = _last_standing(app, annotator)
    event = last.event
    if isinstance(event, ReviewSkipped):
        _, row = _record(app, event.record_id)
        app.workspace.log.append(
            [Draft(_requeue(row), _stream(row.record_id))], actor=annotator, now=app.now(), causation_id=last.event_id
        )
        return f"{event.record_id} is in the queue again"
    assert isinstance(event, LabelGiven)  # noqa: S101  the query gives nothing else
    if event.previous:
        note = f"undo of {event.label}"
        label(app, event.record_id, event.previous, annotator=annotator, via="undo", note=note, cause=last.event_id)
        return f"{event.record_id} is {_shown(event.previous)} again (was {_shown(event.label)})"
    withdraw(app, event.record_id, annotator=annotator, reason="undo", cause=last.event_id)
    return f"{event.record_id} carries no label any more (was {_shown(event.label)})"


def _shown(label: str) -> str:
    return "answered in words" if is_seal(label) else label


def give_feedback(app: App, task: str, record: str, label: str, *, source: str = "cli") -> list[Recorded]:
    """Production's late word on a record, named by our id or by the one production gave it.

    Raises:
        UnknownRecord: there is no such record.
        UnknownLabel: the task has no such label.
        InputError: the words are not as the task has its answers.
    """
    app.workspace.projections.catch_up()
    row = queries.record(app.workspace.read, record)
    if row is None:
        row = queries.record(app.workspace.read, external_record_id(task, record))
    if row is None or row.task != task:
        raise UnknownRecord(f"{task} has no record {record!r}", hint="`tuneloop ingest` brings records in.")
    name, put = _named(app, row, label)
    if row.feedback == name:
        return []
    event = FeedbackReceived(
        task=task,
        record_id=row.record_id,
        label=name,
        side=row.side,  # type: ignore[arg-type]
        disagrees=row.answer is not None and row.answer != name,
        answered_by=row.answered_by,
        source=source,
    )
    return app.workspace.log.append([Draft(event, _stream(row.record_id))], actor=source, now=app.now(), within=put)


def pause(app: App, reason: str = "", *, actor: str = "cli") -> list[Recorded]:
    """Start nothing new until `resume`; a running step goes on. Pausing twice changes nothing."""
    if app.state().paused:
        return []
    return app.workspace.log.append([Draft(LoopPaused(reason=reason), "loop")], actor=actor, now=app.now())


def resume(app: App, reason: str = "", *, actor: str = "cli") -> list[Recorded]:
    """Let the loop go on."""
    if not app.state().paused:
        return []
    return app.workspace.log.append([Draft(LoopResumed(reason=reason), "loop")], actor=actor, now=app.now())


def request_training(
    app: App, task: str, *, plan: Plan = "standard", reason: str = "", actor: str = "cli"
) -> list[Recorded]:
    """Ask for a training with the labels there are.

    Raises:
        SettingsError: there is no such task.
        InputError: fewer than two classes carry a label on the training side.
    """
    free = app.settings.task(task).free
    state = app.state().task(task)
    if (classes := len(state.labels_train)) < (1 if free else 2):
        first = "`tuneloop ingest FILE` takes examples or records in" if not state.records else ""
        told = "one class only" if classes else "no class"
        raise InputError(
            f"{task} has {'no right answer' if free else f'labels of {told}'} on the training side"
            + ("" if free else "; two are needed"),
            hint=f"{first}; then `tuneloop review`." if first else "`tuneloop review` labels what is in the queue.",
        )
    event = TrainingRequested(task=task, request_id=str(uuid.uuid4()), reason=reason or "requested", plan=plan)
    return app.workspace.log.append([Draft(event, f"task/{task}")], actor=actor, now=app.now())


def request_evaluation(app: App, task: str, adapter: str, *, reason: str = "", actor: str = "cli") -> list[Recorded]:
    """Ask for another look at the exam for a registered adapter. Looks are spent: see the gate's `max_looks`.

    Raises:
        InputError: there is no such adapter.
        GateRefused: its looks are spent, or another candidate is being worked on.
    """
    rules = app.settings.task(task)
    row = queries.adapter(app.workspace.read, task, adapter)
    if row is None or row.task != task:
        raise InputError(f"{task} has no adapter {adapter!r}", hint="`tuneloop adapters` lists them.")
    state = app.state().task(task)
    if state.looks.get(adapter, 0) >= rules.gate.max_looks:
        raise GateRefused(
            f"{adapter} has had its {rules.gate.max_looks} looks at the exam",
            hint="More looks would make a lucky one likely: train a new candidate.",
        )
    if state.open_cycle is not None:
        raise GateRefused(f"{state.open_cycle.adapter} is being worked on", hint="Wait until it is decided.")
    event = EvaluationRequested(
        task=task,
        request_id=str(uuid.uuid4()),
        run_id=row.run_id,
        adapter=adapter,
        artifact=row.artifact,
        reason=reason,
    )
    return app.workspace.log.append([Draft(event, f"task/{task}")], actor=actor, now=app.now())


def promote(
    app: App, task: str, answerer: str, *, force: bool = False, reason: str = "", actor: str = "cli"
) -> list[Recorded]:
    """Let a registered adapter, or the adopted prompt, answer production.

    Raises:
        InputError: there is no such answerer.
        GateRefused: its last verdict was not "promote" and `force` is not set.
        Conflict: a promotion or rollback came in between.
    """
    app.settings.task(task)
    state = app.state().task(task)
    champion = state.champion
    if champion.answerer == answerer:
        return []
    version = app.workspace.log.version(f"deployment/{task}")
    if answerer == state.baseline:
        event = AdapterPromoted(
            task=task, answerer=answerer, kind="prompt", previous=champion.answerer, forced=True, reason=reason
        )
    else:
        row = queries.adapter(app.workspace.read, task, answerer)
        if row is None or row.task != task:
            raise InputError(f"{task} has no answerer {answerer!r}", hint="`tuneloop adapters` lists them.")
        looks = queries.evaluations(app.workspace.read, task, candidate=answerer)
        verdict = looks[0].verdict if looks else ""
        if verdict != "promote" and not force:
            raise GateRefused(
                f"the gate's last word on {answerer} was {verdict or 'not given yet'}",
                hint="`tuneloop gate` shows why; --force promotes it all the same, and the log says so.",
            )
        app.workspace.artifacts.path(row.artifact, verify=True)
        event = AdapterPromoted(
            task=task,
            answerer=answerer,
            kind="adapter",
            previous=champion.answerer,
            artifact=row.artifact,
            forced=verdict != "promote",
            reason=reason,
        )
    return _append_deployment(app, event, version, actor)


def rollback(app: App, task: str, *, to: str = "", reason: str = "", actor: str = "cli") -> list[Recorded]:
    """Put the answerer before the champion back, or the named earlier one.

    Raises:
        InputError: there is no earlier answerer (of that name).
        Conflict: a promotion or rollback came in between.
    """
    app.settings.task(task)
    deployed = app.state().task(task).deployed
    earlier = [one for one in deployed[:-1] if not to or one.answerer == to]
    if not earlier:
        known = ", ".join(dict.fromkeys(one.answerer for one in deployed[:-1]))
        other = f"`tuneloop promote {to or 'NAME'}` takes any other answerer."
        if not known:
            raise InputError(f"nothing that served before the answerer of {task} is left to go back to", hint=other)
        raise InputError(
            f"{to!r} is none of those that {task} can go back to: {known}",
            hint=f"They served before {deployed[-1].answerer} and were not rolled back since. {other}",
        )
    version = app.workspace.log.version(f"deployment/{task}")
    return _append_deployment(app, rolled_back(task, deployed, earlier[-1], reason), version, actor)


def rolled_back(task: str, deployed: Sequence[Deployed], target: Deployed, reason: str) -> AdapterRolledBack:
    """The event that puts `target` in the place of the one that serves."""
    return AdapterRolledBack(
        task=task,
        answerer=target.answerer,
        kind=target.kind,
        artifact=target.artifact,
        rolled_back=deployed[-1].answerer,
        reason=reason or "asked for",
    )


def _append_deployment(app: App, event: Event, version: int, actor: str) -> list[Recorded]:
    stream = f"deployment/{event.task}"
    reached("action.deployment_checked")
    return app.workspace.log.append([Draft(event, stream)], actor=actor, now=app.now(), expected={stream: version})


def _stream(record_id: str) -> str:
    return f"record/{record_id}"


def _record(app: App, record_id: str) -> tuple[int, RecordRow]:
    """The version of the record's stream and its row, which is at least as new as that version."""
    version = app.workspace.log.version(_stream(record_id))
    app.workspace.projections.catch_up()
    row = queries.record(app.workspace.read, record_id)
    if row is None:
        raise UnknownRecord(f"there is no record {record_id!r}", hint="`tuneloop queue` lists what waits for a label.")
    if row.erased:
        raise UnknownRecord(f"the text of {record_id} was erased")
    return version, row


def _named(app: App, row: RecordRow, label: str) -> tuple[str, Put | None]:
    """The label as events name it, and how to keep its words where it is words."""
    if not app.settings.task(row.task).free:
        return _known_label(app, row.task, label), None
    worded = targets.seal(app, row.task, row.record_id, label)
    return worded.seal, worded.put


def _known_label(app: App, task: str, label: str) -> str:
    labels = app.settings.task(task).labels
    for known in labels:
        if known.casefold() == label.strip().casefold():
            return known
    raise UnknownLabel(f"{task} has no label {label!r}", hint=f"Labels: {', '.join(labels)}.")


def _append_on_record(
    app: App,
    version: int,
    event: LabelGiven | LabelWithdrawn | ReviewSkipped,
    annotator: str,
    cause: str = "",
    put: Put | None = None,
) -> list[Recorded]:
    """Append unless the record's stream has moved on from `version`; empty then."""
    stream = _stream(event.record_id)
    reached("action.record_checked")
    try:
        return app.workspace.log.append(
            [Draft(event, stream)],
            actor=annotator,
            now=app.now(),
            expected={stream: version},
            causation_id=cause,
            within=put,
        )
    except Conflict:
        return []


def _busy(record_id: str) -> Conflict:
    return Conflict(f"{record_id} keeps changing under our hands", hint="Try again in a moment.")


def _last_standing(app: App, annotator: str) -> Recorded:
    """The newest label or skip of this person that neither they have undone nor others have changed."""
    app.workspace.projections.catch_up()
    recent = app.workspace.log.select(
        "type IN ('LabelGiven', 'LabelWithdrawn', 'ReviewSkipped', 'ReviewRequested') AND actor = ?",
        [annotator],
        limit=UNDO_DEPTH,
    )
    undone = {recorded.causation_id for recorded in recent}
    for recorded in reversed(recent):
        event = recorded.event
        if recorded.event_id in undone or not isinstance(event, LabelGiven | ReviewSkipped):
            continue
        row = queries.record(app.workspace.read, event.record_id)
        if row is None:
            continue
        if isinstance(event, ReviewSkipped) and row.review == "skipped" and not row.label:
            return recorded
        if isinstance(event, LabelGiven) and event.via != "undo" and row.label == event.label:
            return recorded
    raise InputError(f"nothing by {annotator} is left to undo", hint="`tuneloop history` shows what was done.")


def _requeue(row: RecordRow) -> Event:
    reasons = [ReviewReason(**reason) for reason in row.reasons]
    return ReviewRequested(
        task=row.task,
        record_id=row.record_id,
        side=row.side,  # type: ignore[arg-type]
        reasons=reasons,
        priority=row.priority,
    )
