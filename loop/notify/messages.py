"""Which messages follow from which events: a fold of the log, and nothing else.

A message names runs, adapters and counts. It holds no customer text and nothing that people wrote freely, since it may
leave the machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec

from loop.settings import AlertSettings, NotifyEvent
from store import events as ev
from store.log import Recorded
from store.wording import counted


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a target is told. `key` is the same whenever the same thing is told again."""

    key: str
    event: NotifyEvent | str  # "test" beside the kinds that can be chosen
    at: datetime
    title: str
    text: str = ""
    task: str = ""
    position: int = 0  # of the event it follows from; 0: it follows from none
    data: dict[str, Any] = {}


class Teller:
    """Folds events in the order of the log and says what is to be told of each.

    Beside the messages it keeps what `health` needs to know of the log: parked runs and the latest quarantined lines.
    """

    def __init__(self, rules: AlertSettings) -> None:
        self._rules = rules
        self._open: dict[str, set[str]] = {}  # task -> records that wait for a review
        self._told: dict[str, int] = {}  # task -> open reviews when people were last told
        self.parked: dict[str, str] = {}  # task -> run
        self._quarantined: deque[datetime] = deque(maxlen=rules.quarantine_an_hour)

    def tell(self, recorded: Recorded) -> Message | None:
        """The message that follows from the next event; None where there is none."""
        event = recorded.event
        match event:
            case ev.ReviewRequested():
                self._open.setdefault(event.task, set()).add(event.record_id)
            case ev.LabelGiven() | ev.ReviewSkipped() | ev.RecordErased():
                self._open.get(event.task, set()).discard(event.record_id)
            case ev.RecordQuarantined():
                self._quarantined.append(recorded.recorded_at)
            case ev.HarvestCompleted():
                return self._labels_needed(recorded, event)
            case ev.DatasetFrozen() | ev.TrainingStarted() | ev.EvaluationStarted():
                self.parked.pop(event.task, None)
            case ev.TrainingFailed() | ev.EvaluationFailed():
                if event.parked:
                    self.parked[event.task] = event.run_id
                return _failed(recorded, event)
            case ev.CandidateJudged():
                title = f"{event.candidate}: {event.verdict}"
                data = {"candidate": event.candidate, "champion": event.champion, "verdict": event.verdict}
                return _message(recorded, "verdict", title, event.summary, data)
            case ev.AdapterPromoted():
                return _promoted(recorded, event)
            case ev.AdapterRolledBack():
                by = "by the loop itself" if recorded.actor == "daemon" else "by a person"
                text = f"{event.answerer} answers {event.task} again, instead of {event.rolled_back}; rolled back {by}."
                data = {"answerer": event.answerer, "rolled_back": event.rolled_back}
                return _message(recorded, "rollback", f"{event.task} is rolled back to {event.answerer}", text, data)
        return None

    def quarantine_grows(self, now: datetime) -> bool:
        """Whether as many lines as the settings name were put aside within the last hour."""
        latest = self._quarantined
        return len(latest) == latest.maxlen and now - latest[0] < timedelta(hours=1)

    def _labels_needed(self, recorded: Recorded, event: ev.HarvestCompleted) -> Message | None:
        """Once when the queue has grown long enough, and again only after it was worked off or has doubled."""
        waiting = len(self._open.get(event.task, ()))
        if waiting < self._rules.labels_open:
            self._told.pop(event.task, None)
            return None
        if waiting < 2 * self._told.get(event.task, 0):
            return None
        self._told[event.task] = waiting
        title = f"{counted(waiting, 'record')} of {event.task} {'waits' if waiting == 1 else 'wait'} for a label"
        return _message(recorded, "labels_needed", title, "`tuneloop review` shows them.", {"open": waiting})


def messages(events: Iterable[Recorded], rules: AlertSettings) -> Iterator[Message]:
    """The messages of a log from its first event on."""
    teller = Teller(rules)
    for recorded in events:
        message = teller.tell(recorded)
        if message is not None:
            yield message


def _failed(recorded: Recorded, event: ev.TrainingFailed | ev.EvaluationFailed) -> Message:
    what = "training" if isinstance(event, ev.TrainingFailed) else "evaluation"
    then = "It is parked: `tuneloop train` tries again." if event.parked else "It is tried again."
    text = f"Attempt {event.attempt} failed. {then} `tuneloop show {event.run_id}` says why."
    data = {"run": event.run_id, "step": what, "attempt": event.attempt, "parked": event.parked}
    return _message(recorded, "training_failed", f"{event.run_id}: {what} failed", text, data)


def _promoted(recorded: Recorded, event: ev.AdapterPromoted) -> Message:
    text = f"Before: {event.previous or 'nothing'}."
    if event.forced:
        text += " A person promoted it against the gate."
    elif event.gain:
        text += f" {event.gain:+.1%} on the exam."
    data = {"answerer": event.answerer, "previous": event.previous, "gain": event.gain, "forced": event.forced}
    return _message(recorded, "promotion", f"{event.answerer} answers {event.task} now", text, data)


def _message(recorded: Recorded, event: NotifyEvent, title: str, text: str, data: dict[str, Any]) -> Message:
    return Message(
        key=f"{recorded.position}-{event}",
        event=event,
        at=recorded.recorded_at,
        title=title,
        text=text,
        task=recorded.event.task,
        position=recorded.position,
        data=data,
    )
