"""Lines to events: parsed, drafted and appended in batches; what cannot be taken in is put aside with its reason."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
from sqlalchemy.engine import Connection

from loop.bootstrap import App
from loop.formats import BadLine, Correction, Format, Line, decode, read_correction, read_record
from loop.placing import Arrival, draft_records
from loop.sources import Numbered
from loop.targets import Targets, Worded, seal, targets_of
from store import queries
from store.errors import Conflict
from store.events import FeedbackReceived, RecordQuarantined
from store.kill_points import reached
from store.log import Draft, Recorded, step_id

SEPARATOR = "__"  # between a claim and the file's own name
ATTEMPTS = 5  # at a batch that people get in the way of
_PROBLEMS = 50  # that a report names


class Report(msgspec.Struct, kw_only=True):
    """What came of the lines. `problems` holds (line, reason) of the first quarantined ones; the example is of the
    first answer that is no label, quoted where it is short."""

    received: int = 0
    known: int = 0
    labelled: int = 0
    feedback: int = 0
    quarantined: int = 0
    no_label: int = 0  # answers of production that name no label of their task
    no_label_example: str = ""
    problems: list[tuple[int, str]] = []
    recorded: list[Recorded] = []


def external_record_id(task: str, external_id: str) -> str:
    """Our id of the record that production calls `external_id`."""
    return step_id("record", task, external_id)


@contextmanager
def _alone(app: App) -> Iterator[None]:
    """One intake at a time, whatever process: two could put near-duplicates on opposite sides."""
    with (app.workspace.paths.run / "intake.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Reader:
    """Collects lines and appends them in batches."""

    def __init__(
        self,
        app: App,
        task: str,
        source: str,
        claim: str,
        form: Format,
        feedback: bool,
        actor: str,
        epoch: int | None,
    ) -> None:
        self.app, self.task, self.source, self.claim, self.form = app, task, source, claim, form
        self.feedback, self.actor, self.epoch = feedback, actor, epoch
        self.report = Report()
        self.just_flushed = False
        self._batch: list[tuple[Numbered, Line | Correction]] = []
        self._known: dict[str, Targets | None] = {}

    def take(self, line: Numbered) -> None:
        """Read one line; every `daemon.batch` lines are appended together."""
        self.just_flushed = False
        if not line.problem and not line.value and not line.raw.strip():
            return
        try:
            if line.problem:
                raise BadLine(line.problem)
            value = line.value or decode(line.raw)
            task = self._task_of(value)
            labels, targets = self.app.settings.tasks[task].labels, self._targets(task)
            if self.feedback:
                self._batch.append((line, read_correction(value, labels, targets=targets)))
            else:
                limit = self.app.settings.daemon.max_text_chars
                given = read_record(value, labels, max_chars=limit, form=self.form, targets=targets)
                self._batch.append((line, given))
        except BadLine as error:
            self._quarantine(line, str(error))
        if len(self._batch) >= self.app.settings.daemon.batch:
            self.flush()
            self.just_flushed = True

    def flush(self) -> None:
        """Append what has been collected."""
        batch, self._batch = self._batch, []
        if not batch:
            return
        with _alone(self.app):
            if self.feedback:
                self._append_feedback([(line, given) for line, given in batch if isinstance(given, Correction)])
            else:
                self._append_records([(line, given) for line, given in batch if isinstance(given, Line)])

    def quarantine_file(self, path: Path, reason: str) -> None:
        """Put a whole file aside."""
        kept = self.app.workspace.paths.quarantine / path.name
        # the event first: a file that is still claimed comes here again
        self._quarantined(0, reason, kept.name)
        reached("intake.file_refused")
        path.rename(kept)

    def _targets(self, task: str) -> Targets | None:
        if task not in self._known:
            self._known[task] = targets_of(self.app, task)
        return self._known[task]

    def _task_of(self, value: dict[str, object]) -> str:
        tasks = self.app.settings.tasks
        named = value.get("task") or value.get("workload_id")
        if isinstance(named, str) and named in tasks:
            return named
        if self.task:
            return self.task
        raise BadLine(f"no task: name one of {', '.join(tasks)} in 'task', or use inbox/<task>/")

    def _task(self, given: Line | Correction) -> str:
        return given.task if given.task in self.app.settings.tasks else self.task

    def _append_records(self, batch: Sequence[tuple[Numbered, Line]]) -> None:
        arrivals = []
        for line, given in batch:
            task = self._task(given)
            identity = (
                external_record_id(task, given.external_id)
                if given.external_id
                else step_id("line", self.claim, line.number)
            )
            arrivals.append(Arrival(record_id=identity, task=task, line=given, number=line.number))
        for attempt in range(1, ATTEMPTS + 1):
            drafted = draft_records(self.app, arrivals, source=self.source)
            try:
                self._append(drafted.drafts, drafted.put_texts, drafted.expected)
                break
            except Conflict:  # somebody labelled one of these records just now
                if attempt == ATTEMPTS:
                    raise
        self.report.received += drafted.received
        self.report.known += drafted.known
        self.report.labelled += drafted.labelled
        for _, given in batch:
            if given.no_label:
                self.report.no_label += 1
                self.report.no_label_example = self.report.no_label_example or given.no_label
        raws = {line.number: line for line, _ in batch}
        for number, reason in drafted.refused:
            self._quarantine(raws[number], reason)

    def _append_feedback(self, batch: Sequence[tuple[Numbered, Correction]]) -> None:
        self.app.workspace.projections.catch_up()
        drafts: list[Draft] = []
        said: dict[str, str | None] = {}
        kept: list[Worded] = []
        for line, given in batch:
            task = self._task(given)
            read = self.app.workspace.read
            row = queries.record(read, external_record_id(task, given.record)) or queries.record(read, given.record)
            if row is None or row.task != task:
                self._quarantine(line, f"{task} has no record {given.record!r}")
                continue
            label = given.label
            if self._targets(task) is not None:
                if row.erased:
                    self.report.known += 1
                    continue
                worded = seal(self.app, task, row.record_id, label)
                label = worded.seal
                kept.append(worded)
            if said.get(row.record_id, row.feedback) == label:
                self.report.known += 1
                continue
            said[row.record_id] = label
            event = FeedbackReceived(
                task=task,
                record_id=row.record_id,
                label=label,
                side=row.side,  # type: ignore[arg-type]
                disagrees=row.answer is not None and row.answer != label,
                answered_by=row.answered_by,
                source=self.source,
            )
            drafts.append(Draft(event, f"record/{row.record_id}", step_id("feedback", self.claim, line.number)))
        self._append(drafts, lambda connection: [one.put(connection) for one in kept])
        self.report.feedback += len(drafts)

    def _append(
        self,
        drafts: Sequence[Draft],
        within: Callable[[Connection], object] | None = None,
        expected: Mapping[str, int] | None = None,
    ) -> None:
        if drafts:
            self.report.recorded += self.app.workspace.log.append(
                drafts,
                actor=self.actor,
                now=self.app.now(),
                epoch=self.epoch,
                correlation_id=self.claim,
                expected=expected,
                within=within,
            )

    def _quarantine(self, line: Numbered, reason: str) -> None:
        if self.app.workspace.log.get(step_id("quarantined", self.claim, line.number)) is not None:
            self._refuse(line.number, reason)  # before an interruption
            return
        kept = self.app.workspace.paths.quarantine / f"{self.claim}{SEPARATOR}{Path(self.source).name}"
        raw = line.raw.rstrip(b"\r\n") + b"\n"
        with os.fdopen(os.open(kept, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as file:
            if not _ends_with(file, raw):  # else it was kept before an interruption
                file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        reached("intake.line_kept")
        self._quarantined(line.number, reason, kept.name)

    def _quarantined(self, number: int, reason: str, kept: str) -> None:
        event = RecordQuarantined(task=self.task, source=self.source, line=number, reason=reason, kept_as=kept)
        stream = f"task/{self.task}" if self.task else "loop"
        self._append([Draft(event, stream, step_id("quarantined", self.claim, number))])
        self._refuse(number, reason)

    def _refuse(self, number: int, reason: str) -> None:
        self.report.quarantined += 1
        if len(self.report.problems) < _PROBLEMS:
            self.report.problems.append((number, reason))


def _ends_with(file: IO[bytes], line: bytes) -> bool:
    """Whether the last line of `file` is `line`."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(line) - 1))
    tail = file.read()
    return tail == line if size == len(line) else tail == b"\n" + line
