"""Records and feedback into the log: from the inbox folder and from the command line.

A file of the inbox is claimed by renaming it to `claimed/<random>__<name>`, read in batches, and moved to
`done/` when its last line is in. Ids and event ids follow from production's ids, or from the claim and the line's
number, so a restart in the middle repeats nothing; a side file remembers how far a claim was read. What cannot be
taken in is kept in `quarantine/` with an event that says why.

Files in a subfolder `inbox/<task>/` belong to that task, `*.feedback.jsonl` holds corrections.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from loop.bootstrap import App
from loop.formats import BadLine, Correction, Format, Line, decode, read_correction, read_record
from loop.placing import Arrival, draft_records
from loop.sources import CSV_ENDINGS, ENDINGS, Numbered, Unfinished, csv_lines, raw_lines
from store import queries
from store.errors import InputError
from store.events import FeedbackReceived, RecordQuarantined
from store.log import Draft, Recorded, step_id

FEEDBACK = ".feedback."
IGNORED = (".tmp", ".part", ".partial", ".swp", "~")
LINES_A_TICK = 5_000  # a larger file is read over several ticks
TORN_SECONDS = 30.0  # a last line without its end may still be being written for this long
_PROBLEMS = 50  # that a report names
_SEPARATOR = "__"


class Report(msgspec.Struct, kw_only=True):
    """What came of the lines. `problems` holds (line, reason) of the first quarantined ones."""

    received: int = 0
    known: int = 0
    labelled: int = 0
    feedback: int = 0
    quarantined: int = 0
    problems: list[tuple[int, str]] = []
    recorded: list[Recorded] = []


class Progress(msgspec.Struct, frozen=True):
    """How far a claimed file was read. Losing it costs time, nothing else."""

    line: int = 0
    offset: int = 0


def external_record_id(task: str, external_id: str) -> str:
    """Our id of the record that production calls `external_id`."""
    return step_id("record", task, external_id)


def take_in(
    app: App, *, epoch: int | None = None, limit: int = LINES_A_TICK, now: float | None = None
) -> list[Recorded]:
    """Take in what waits in the inbox, at most `limit` lines; the rest waits for the next call.

    Args:
        app: the open workspace.
        epoch: the daemon's lease.
        limit: lines.
        now: seconds since 1970, for the age of files.

    Raises:
        StaleEpoch: another daemon has taken over.
        StoreError: the log cannot be written; what was read before is in.
    """
    moment = time.time() if now is None else now
    _claim(app, moment)
    recorded: list[Recorded] = []
    left = limit
    # records first: a correction may speak of a record in the file beside it
    for path in sorted(_claims(app), key=lambda path: (FEEDBACK in path.name, _name_of(path))):
        if left <= 0:
            break
        report, used = _take_file(app, path, left, moment, epoch)
        recorded += report.recorded
        left -= used
    return recorded


def ingest_lines(
    app: App,
    task: str,
    lines: Iterable[bytes],
    *,
    source: str = "cli",
    claim: str = "",
    form: Format = "auto",
    feedback: bool = False,
    actor: str = "cli",
) -> Report:
    """Take lines in at once, for the command line.

    Args:
        app: the open workspace.
        task: whose lines they are.
        lines: with or without their line ends; with form "csv" the first one is the header.
        source: a name for events and messages.
        claim: names the lines that carry no id; the same claim again changes nothing. Empty: a new one.
        form: of the lines.
        feedback: whether the lines are corrections.
        actor: in the log.
    """
    numbered = csv_lines(lines) if form == "csv" else raw_lines(lines, app.settings.daemon.max_line_bytes)
    reader = _Reader(app, task, source, claim or str(uuid.uuid4()), form, feedback, actor, None)
    for line in numbered:
        if not isinstance(line, Unfinished):
            reader.take(line)
    reader.flush()
    return reader.report


def ingest_file(app: App, task: str, path: Path, *, form: Format = "auto", actor: str = "cli") -> Report:
    """Take a file in where it lies; the file is left alone, and the same content again changes nothing.

    Raises:
        InputError: the file cannot be read.
    """
    chosen: Format = "csv" if form == "auto" and path.suffix.lower() in CSV_ENDINGS else form
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            claim = step_id("file", app.workspace.texts.keyed(digest))
            feedback = FEEDBACK in path.name
            return ingest_lines(
                app, task, file, source=path.name, claim=claim, form=chosen, feedback=feedback, actor=actor
            )
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="Check the path.") from error


# ---------------------------------------------------------------- the inbox


def _claim(app: App, now: float) -> None:
    """Rename what is complete out of the inbox; two processes cannot claim the same file."""
    paths, settle = app.workspace.paths, app.settings.daemon.settle_seconds
    for folder, prefix in [(paths.inbox, ""), *((paths.inbox / task, f"{task}~") for task in app.settings.tasks)]:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name.startswith(".") or path.name.lower().endswith(IGNORED) or path.is_symlink():
                continue
            try:
                status = path.stat()
                # a writer's clock may run ahead of ours: only the distance counts
                if not path.is_file() or abs(now - status.st_mtime) < settle:
                    continue
                path.rename(paths.claimed / f"{uuid.uuid4()}{_SEPARATOR}{prefix}{path.name}")
            except FileNotFoundError:
                continue


def _claims(app: App) -> list[Path]:
    return [path for path in app.workspace.paths.claimed.iterdir() if path.suffix != ".progress"]


def _name_of(path: Path) -> str:
    return path.name.partition(_SEPARATOR)[2]


def _take_file(app: App, path: Path, limit: int, now: float, epoch: int | None) -> tuple[Report, int]:
    prefix, _, rest = _name_of(path).rpartition("~")
    name = rest or prefix
    claim = path.name.partition(_SEPARATOR)[0]
    reader = _Reader(app, "", name, claim, "auto", FEEDBACK in name, "daemon", epoch)
    ending = path.suffix.lower()
    try:
        reader.task = _task_of(app, prefix, name)
        if ending not in ENDINGS:
            raise InputError(f"files ending in {ending or 'nothing'} are not read")
    except InputError as error:
        reader.quarantine_file(path, error.message)
        return reader.report, 1
    progress_file = path.with_name(path.name + ".progress")
    progress = _progress(progress_file)
    used = 0
    unfinished = False
    with path.open("rb") as file:
        for line in _lines(app, file, ending, progress):
            if isinstance(line, Unfinished) and abs(now - path.stat().st_mtime) < TORN_SECONDS:
                unfinished = True
                break
            if used >= limit:
                unfinished = True
                break
            reader.take(line.as_line() if isinstance(line, Unfinished) else line)
            used += 1
            if reader.just_flushed:
                _keep(progress_file, Progress(line.number, line.end))
                progress = Progress(line.number, line.end)
            last = Progress(line.number, line.end)
        reader.flush()
        if used:
            _keep(progress_file, last)
    if not unfinished:
        done = app.workspace.paths.home / "done"
        done.mkdir(mode=0o700, exist_ok=True)
        path.rename(done / path.name)
        progress_file.unlink(missing_ok=True)
    return reader.report, max(used, 1)


def _lines(app: App, file: IO[bytes], ending: str, progress: Progress) -> Iterator[Numbered | Unfinished]:
    if ending in CSV_ENDINGS:
        return (line for line in csv_lines(file) if line.number > progress.line)
    file.seek(progress.offset)
    return raw_lines(file, app.settings.daemon.max_line_bytes, number=progress.line, offset=progress.offset)


def _task_of(app: App, prefix: str, name: str) -> str:
    """The task of a file: by its folder, by its name's beginning ("tickets.2026-11.jsonl"), or the only one.

    An empty string where only the lines themselves can tell.
    """
    known = app.settings.tasks
    if prefix:
        return prefix
    start = name.partition(".")[0]
    if start in known:
        return start
    return next(iter(known)) if len(known) == 1 else ""


def _progress(path: Path) -> Progress:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Progress)
    except (OSError, msgspec.MsgspecError):
        return Progress()


def _keep(path: Path, progress: Progress) -> None:
    temporary = path.with_name(path.name.removesuffix(".progress") + ".tmp.progress")
    temporary.write_bytes(msgspec.json.encode(progress))
    temporary.replace(path)


@contextmanager
def _alone(app: App) -> Iterator[None]:
    """One intake at a time, whatever process: two could put near-duplicates on opposite sides."""
    with (app.workspace.paths.run / "intake.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---------------------------------------------------------------- lines to events


class _Reader:
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

    def take(self, line: Numbered) -> None:
        """Read one line; every `daemon.batch` lines are appended together."""
        self.just_flushed = False
        if not line.problem and not line.value and not line.raw.strip():
            return
        try:
            if line.problem:
                raise BadLine(line.problem)
            value = line.value or decode(line.raw)
            labels = self._labels(value)
            if self.feedback:
                self._batch.append((line, read_correction(value, labels)))
            else:
                limit = self.app.settings.daemon.max_text_chars
                self._batch.append((line, read_record(value, labels, max_chars=limit, form=self.form)))
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
            self.app.workspace.projections.catch_up()
            if self.feedback:
                self._append_feedback([(line, given) for line, given in batch if isinstance(given, Correction)])
            else:
                self._append_records([(line, given) for line, given in batch if isinstance(given, Line)])

    def quarantine_file(self, path: Path, reason: str) -> None:
        """Put a whole file aside."""
        kept = self.app.workspace.paths.quarantine / path.name
        path.rename(kept)
        self._quarantined(0, reason, kept.name)

    def _labels(self, value: dict[str, object]) -> Sequence[str]:
        tasks = self.app.settings.tasks
        named = value.get("task") or value.get("workload_id")
        if isinstance(named, str) and named in tasks:
            return tasks[named].labels
        if self.task:
            return tasks[self.task].labels
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
        drafted = draft_records(self.app, arrivals, source=self.source)
        self._append(drafted.drafts, drafted.put_texts)
        self.report.received += drafted.received
        self.report.known += drafted.known
        self.report.labelled += drafted.labelled
        raws = {line.number: line for line, _ in batch}
        for number, reason in drafted.refused:
            self._quarantine(raws[number], reason)

    def _append_feedback(self, batch: Sequence[tuple[Numbered, Correction]]) -> None:
        drafts: list[Draft] = []
        said: dict[str, str | None] = {}
        for line, given in batch:
            task = self._task(given)
            read = self.app.workspace.read
            row = queries.record(read, external_record_id(task, given.record)) or queries.record(read, given.record)
            if row is None or row.task != task:
                self._quarantine(line, f"{task} has no record {given.record!r}")
                continue
            if said.get(row.record_id, row.feedback) == given.label:
                self.report.known += 1
                continue
            said[row.record_id] = given.label
            event = FeedbackReceived(
                task=task,
                record_id=row.record_id,
                label=given.label,
                side=row.side,  # type: ignore[arg-type]
                disagrees=row.answer is not None and row.answer != given.label,
                answered_by=row.answered_by,
                source=self.source,
            )
            drafts.append(Draft(event, f"record/{row.record_id}", step_id("feedback", self.claim, line.number)))
        self._append(drafts, None)
        self.report.feedback += len(drafts)

    def _append(self, drafts: Sequence[Draft], within: object) -> None:
        if drafts:
            self.report.recorded += self.app.workspace.log.append(
                drafts,
                actor=self.actor,
                now=self.app.now(),
                epoch=self.epoch,
                correlation_id=self.claim,
                within=within,  # type: ignore[arg-type]
            )

    def _quarantine(self, line: Numbered, reason: str) -> None:
        kept = self.app.workspace.paths.quarantine / f"{self.claim}{_SEPARATOR}{Path(self.source).name}"
        with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as file:
            file.write(line.raw.rstrip(b"\r\n") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._quarantined(line.number, reason, kept.name)

    def _quarantined(self, number: int, reason: str, kept: str) -> None:
        event = RecordQuarantined(task=self.task, source=self.source, line=number, reason=reason, kept_as=kept)
        stream = f"task/{self.task}" if self.task else "loop"
        self._append([Draft(event, stream, step_id("quarantined", self.claim, number))], None)
        self.report.quarantined += 1
        if len(self.report.problems) < _PROBLEMS:
            self.report.problems.append((number, reason))
