"""Records and feedback into the log: from the inbox folder and from the command line.

A file of the inbox is claimed by renaming it to `claimed/<random>__<name>`, read in batches, and deleted when its
last line is in, so that every text has one place, where it can be erased; a note in `done/` says that it was read. Ids
and event ids follow from production's ids, or from the claim and the line's number, so a restart in the middle repeats
nothing; a side file remembers how far a claim was read. What cannot be taken in is kept in `quarantine/` with an event
that says why.

Files in a subfolder `inbox/<task>/` belong to that task, `*.feedback.jsonl` holds corrections.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from adapters.specs import write_json
from loop.bootstrap import App
from loop.formats import Format
from loop.reader import SEPARATOR, Reader
from loop.reader import Report as Report
from loop.reader import external_record_id as external_record_id
from loop.sources import CSV_ENDINGS, ENDINGS, Numbered, Unfinished, csv_lines, raw_lines
from store.errors import InputError
from store.kill_points import reached
from store.log import Recorded, step_id

FEEDBACK = ".feedback."
PROGRESS = ".progress"  # ends the note beside a claimed file that says how far it was read
IGNORED = (".tmp", ".part", ".partial", ".swp", "~", PROGRESS)
LINES_A_TICK = 5_000  # a larger file is read over several ticks
TORN_SECONDS = 30.0  # a last line without its end may still be being written for this long


class Progress(msgspec.Struct, frozen=True):
    """How far a claimed file was read. Losing it costs time, nothing else."""

    line: int = 0
    offset: int = 0


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """The note that stays of a file that was read. The digest is keyed: that of a short file could be guessed."""

    name: str
    bytes: int
    digest: str


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
    _claim(app, moment, epoch)
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
    longest = app.settings.daemon.max_line_bytes
    reader = Reader(app, task, source, claim or str(uuid.uuid4()), form, feedback, actor, None)
    for line in csv_lines(lines, longest) if form == "csv" else raw_lines(lines, longest):
        reader.take(line.as_line() if isinstance(line, Unfinished) else line)
        reader.report.recorded.clear()  # a large file must not grow in memory
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


def _claim(app: App, now: float, epoch: int | None) -> None:
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
                fence = partial(app.workspace.log.fenced, epoch)
                _move(path, paths.claimed / f"{uuid.uuid4()}{SEPARATOR}{prefix}{path.name}", fence)
                reached("intake.file_claimed")
            except FileNotFoundError:
                continue


def _move(path: Path, target: Path, fence: Callable[[], AbstractContextManager[None]]) -> None:
    """Rename; onto another file system copy first, so that the target is complete or absent."""
    try:
        with fence():
            path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        status = path.stat()
        # named by what is copied: copied again after a crash it is the same claim
        claim = step_id("claim", path.name, status.st_ino, status.st_mtime_ns, status.st_size)
        target = target.with_name(claim + SEPARATOR + _name_of(target))
        beside = target.with_name("." + target.name)
        shutil.copyfile(path, beside)
        with fence():
            beside.rename(target)
            reached("intake.file_copied")
            path.unlink()


def _claims(app: App) -> list[Path]:
    paths = [path for path in app.workspace.paths.claimed.iterdir() if not path.name.startswith(".")]
    for note in [path for path in paths if path.suffix == PROGRESS]:
        if note.with_suffix("") not in paths:  # the file was read, and a kill came before the note was removed
            note.unlink(missing_ok=True)
    return [path for path in paths if path.suffix != PROGRESS]


def _name_of(path: Path) -> str:
    return path.name.partition(SEPARATOR)[2]


def _take_file(app: App, path: Path, limit: int, now: float, epoch: int | None) -> tuple[Report, int]:
    prefix, _, rest = _name_of(path).rpartition("~")
    name = rest or prefix
    claim = path.name.partition(SEPARATOR)[0]
    reader = Reader(app, "", name, claim, "auto", FEEDBACK in name, "daemon", epoch)
    ending = path.suffix.lower()
    try:
        reader.task = _task_of(app, prefix, name)
        if ending not in ENDINGS:
            raise InputError(f"files ending in {ending or 'nothing'} are not read")
        if not os.access(path, os.R_OK):
            raise InputError("the file may not be read by this user")
    except InputError as error:
        reader.quarantine_file(path, error.message)
        return reader.report, 1
    progress_file = path.with_name(path.name + PROGRESS)
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
                reached("intake.batch_appended")
                _keep(app, epoch, progress_file, Progress(line.number, line.end))
                reached("intake.progress_noted")
                progress = Progress(line.number, line.end)
            last = Progress(line.number, line.end)
        reader.flush()
        if used:
            _keep(app, epoch, progress_file, last)
    if not unfinished:
        reached("intake.file_read")
        taken = _taken(app, path, name)
        with app.workspace.log.fenced(epoch):  # another daemon may be at the file by now
            write_json(app.workspace.paths.done / f"{path.name}.json", taken)
            reached("intake.file_done")
            path.unlink()
            reached("intake.file_deleted")
            progress_file.unlink(missing_ok=True)
    return reader.report, max(used, 1)


def _taken(app: App, path: Path, name: str) -> Taken:
    app.workspace.paths.done.mkdir(mode=0o700, exist_ok=True)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Taken(name=name, bytes=path.stat().st_size, digest=app.workspace.texts.keyed(digest))


def _lines(app: App, file: IO[bytes], ending: str, progress: Progress) -> Iterator[Numbered | Unfinished]:
    if ending in CSV_ENDINGS:
        rows = csv_lines(file, app.settings.daemon.max_line_bytes)
        return (row for row in rows if row.number > progress.line)
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
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return Progress()


def _keep(app: App, epoch: int | None, path: Path, progress: Progress) -> None:
    temporary = path.with_name(path.name.removesuffix(PROGRESS) + ".tmp" + PROGRESS)
    with app.workspace.log.fenced(epoch):
        temporary.write_bytes(msgspec.json.encode(progress))
        temporary.replace(path)
