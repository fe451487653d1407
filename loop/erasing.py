"""Forgetting records: their texts and salts out of everything that tuneloop keeps, whatever interrupts it.

    note ▸ database ▸ files ▸ note without texts ▸ write-ahead log and free pages ▸ event ▸ no note

What is to be erased is noted (`erasing.json`) before the first text goes. What a killed process has left, the next
`tuneloop erase` or the daemon's next tick finishes from there. Nobody can read the texts any more once the database
has lost them, and whoever had read them has written by then what they write (`Workspace.rendering`); so the files are
swept until a pass finds nothing. Steps that hold the texts in memory are ended and go on without them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from adapters.specs import write_json
from loop import sweeping
from loop.bootstrap import App
from loop.steps import LOCK as STEP_LOCK
from loop.steps import is_locked
from loop.surveying import Report as Report
from loop.surveying import Survey, renewed, take_over, victims_of
from loop.sweeping import Sweep
from loop.traces import Victim
from store import queries
from store.disk import sync
from store.errors import Conflict, Corrupt, StoreError
from store.events import RecordErased
from store.kill_points import reached
from store.log import Draft, Recorded, step_id
from store.pages import compact, free_pages_are_empty
from store.workspace import ERASING

LOCK = "erase.lock"
ROUNDS = 6  # of sweeping: the last one has to find nothing
RENDER_SECONDS = 60.0  # that writers of run folders get to finish
LOCK_SECONDS = 30.0
_CHUNK = 200  # records of one transaction
_ATTEMPTS = 5
Say = Callable[[str], object]


class Note(msgspec.Struct, kw_only=True):
    """What is being erased; without `victims` once the files are clean."""

    victims: list[Victim]
    report: Report
    actor: str
    reason: str = ""
    customer: str = ""
    at_work: list[str] = []  # steps that had read the texts
    swept: bool = False


# ---------------------------------------------------------------- erasing


def erase(
    app: App, surveyed: Survey, *, actor: str, reason: str = "", epoch: int | None = None, say: Say = lambda _: None
) -> Report:
    """Erase what was surveyed. Once it is noted it is done, by this call or by whoever finishes it.

    Args:
        app: the workspace.
        surveyed: from `surveying.survey`.
        actor: in the log.
        reason: kept in the log, so without a name of the customer.
        epoch: the daemon's lease.
        say: told in a few words what is being done.

    Raises:
        StoreError: another erasure is at work; a step that has read the texts cannot be ended; a reader holds the
            write-ahead log back; somebody keeps writing the texts; disk full. What is noted is finished later.
    """
    with _alone(app, LOCK_SECONDS):
        _resume(app, epoch, say)  # a note of another erasure must not be lost
        note = Note(
            victims=renewed(app, surveyed.victims),
            report=surveyed.report,
            actor=actor,
            reason=reason,
            customer=surveyed.customer,
        )
        _keep(app, note)
        reached("erase.noted")
        _finish(app, note, epoch, say)
        return note.report


def resume(app: App, *, epoch: int | None = None, wait: bool = True, say: Say = lambda _: None) -> Report | None:
    """Finish what is noted; None where nothing is. Without `wait` also where somebody else is at it.

    Raises:
        StoreError: as `erase`.
        Corrupt: the note cannot be read.
    """
    if not _note(app).exists():
        return None
    try:
        with _alone(app, LOCK_SECONDS if wait else 0.0):
            return _resume(app, epoch, say)
    except BlockingIOError:
        return None


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """An erasure that was noted and is not done."""

    records: int  # 0 where the note cannot be read
    at_work: bool  # somebody is at it
    since: datetime  # of the note's last change
    problem: str = ""  # why it cannot be read


def pending(app: App) -> Pending | None:
    """What is noted, without touching it; None where nothing is."""
    try:
        since = datetime.fromtimestamp(_note(app).stat().st_mtime, UTC)
        content = _note(app).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return Pending(records=0, at_work=False, since=app.now(), problem=str(error))
    at_work = is_locked(app.workspace.paths.run / LOCK)
    try:
        note = msgspec.json.decode(content, type=Note)
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        return Pending(records=0, at_work=at_work, since=since, problem=str(error))
    return Pending(records=len(note.report.records), at_work=at_work, since=since)


def _resume(app: App, epoch: int | None, say: Say) -> Report | None:
    path = _note(app)
    path.with_name(f"{ERASING}.tmp").unlink(missing_ok=True)  # it was killed before anything was erased
    try:
        note = msgspec.json.decode(path.read_bytes(), type=Note)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise Corrupt(
            f"{path} cannot be read: {error}",
            hint="It holds what is being erased. Delete it, then erase the same records or customer again.",
        ) from error
    say("finishing an erasure that was interrupted")
    _finish(app, note, epoch, say)
    return note.report


def _finish(app: App, note: Note, epoch: int | None, say: Say) -> None:
    workspace = app.workspace
    if not note.swept:
        _delete_texts(app, note)
        reached("erase.texts_deleted")
        if not workspace.wait_for_renderers(RENDER_SECONDS):
            raise StoreError(
                "somebody has been writing texts into a run folder for a minute",
                hint="`tuneloop status` says what runs; what is noted is erased by the next `tuneloop erase`.",
            )
        _sweep_files(app, note, say)
        note.victims, note.customer, note.swept = [], "", True
        _keep(app, note)
        reached("erase.note_cleaned")
    say("emptying the write-ahead log")
    workspace.texts.scrub()
    if not free_pages_are_empty(workspace.database.path):  # another program has deleted without wiping
        say("writing the database anew")
        compact(workspace.database)
        workspace.texts.scrub()
    reached("erase.scrubbed")
    _record(app, note, epoch)
    reached("erase.recorded")
    _note(app).unlink(missing_ok=True)
    sync(workspace.paths.home)


def _delete_texts(app: App, note: Note) -> None:
    with app.workspace.database.writing() as connection:
        app.workspace.texts.erase_within(connection, [victim.record_id for victim in note.victims])


def _sweep_files(app: App, note: Note, say: Say) -> None:
    """Sweep until a pass finds nothing; between the first two, end the steps that hold the texts in memory."""
    reading = Sweep(act=False)
    sweeping.sweep_runs(app, note.victims, reading)
    note.at_work = sorted({*note.at_work, *reading.running, *_unseen(app)})
    _keep(app, note)  # after a kill their folders may be clean, and they still at work
    for number in range(1, ROUNDS + 1):
        say(f"sweeping the files (pass {number})")
        done = sweeping.sweep(app, note.victims, act=True, customer=note.customer)
        take_over(note.report, done)
        steps, note.at_work = {*note.at_work, *done.running}, []
        ended, left = _end(app, sorted(steps), app.settings.daemon.stop_seconds)
        note.report.stopped = sorted({*note.report.stopped, *ended})
        if left:
            note.at_work = left
            _keep(app, note)
            raise StoreError(
                f"{', '.join(left)} has read the texts, works on, and cannot be ended from here",
                hint="Stop it, or erase as the user and on the machine that runs the daemon; its next tick goes on.",
            )
        if not (done.places or ended or _came_in(app, note)):
            return
    raise StoreError(
        f"the texts keep coming back: {', '.join(sorted(done.places)) or 'records of the customer come in'}",
        hint="Stop whatever writes them; what is noted is erased by the next `tuneloop erase`.",
    )


def _came_in(app: App, note: Note) -> bool:
    """Take in records of the customer that were on their way while the files were swept."""
    fresh = app.workspace.texts.of_customer(note.customer)
    if not fresh:
        return False
    app.workspace.projections.catch_up()
    for stored in app.workspace.texts.stored(fresh):
        note.report.records.append(stored.record_id)
        note.victims += victims_of(stored)
    _keep(app, note)
    _delete_texts(app, note)
    return True


def _record(app: App, note: Note, epoch: int | None) -> list[Recorded]:
    """The events, with the labels that stand now: a person may have changed one meanwhile."""
    workspace, report = app.workspace, note.report
    recorded: list[Recorded] = []
    for start in range(0, len(report.records), _CHUNK):
        chunk = report.records[start : start + _CHUNK]
        for attempt in range(1, _ATTEMPTS + 1):
            versions = {f"record/{one}": workspace.log.version(f"record/{one}") for one in chunk}
            workspace.projections.catch_up()  # rows that are at least as new as the versions
            drafts = _drafts(app, note, chunk)
            try:
                recorded += workspace.log.append(
                    drafts,
                    actor=note.actor,
                    now=app.now(),
                    expected={draft.stream: versions[draft.stream] for draft in drafts},
                    epoch=epoch,
                )
                break
            except Conflict:
                if attempt == _ATTEMPTS:
                    raise
    workspace.projections.catch_up()
    return recorded


def _drafts(app: App, note: Note, record_ids: Sequence[str]) -> list[Draft]:
    drafts = []
    for record_id in record_ids:
        row = queries.record(app.workspace.read, record_id)
        if row is None or row.erased:  # recorded before an interruption
            continue
        event = RecordErased(
            task=row.task,
            record_id=record_id,
            reason=note.reason,
            side=row.side,  # type: ignore[arg-type]
            audit=row.audit,
            label=row.label,
            places=note.report.places,
            redacted=[address for address, seen in note.report.redacted.items() if record_id in seen],
        )
        drafts.append(Draft(event, f"record/{record_id}", step_id("erased", record_id)))
    return drafts


# ---------------------------------------------------------------- steps that hold the texts in memory


def _unseen(app: App) -> list[str]:
    """Steps at work that take texts from the database themselves and keep none of them: endpoints are asked, a control
    is fitted. Their folders do not tell which they have read."""
    folders = sorted(folder for folder in app.workspace.paths.runs.iterdir() if folder.is_dir())
    return [
        folder.name
        for folder in folders
        if is_locked(folder / STEP_LOCK) and not any((folder / name).exists() for name in sweeping.SPOOLED)
    ]


def _end(app: App, names: Sequence[str], seconds: float) -> tuple[list[str], list[str]]:
    """End the children that work in these run folders: (ended, could not be ended). Their daemon starts them again,
    on folders that are clean; what they had saved stays."""
    ended, left = [], []
    for name in names:
        folder = app.workspace.paths.runs / name
        children = _children(folder)
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                for pid in children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                deadline = time.monotonic() + seconds
                while (alive := [pid for pid in children if pid in _children(folder)]) and time.monotonic() < deadline:
                    time.sleep(0.05)
                children_left = alive
                if not children_left:
                    break
        except PermissionError:
            children_left = children
        if children_left or (not children and _is_held(folder)):
            left.append(name)
        elif children:
            ended.append(name)
    return ended, left


def _is_held(folder: Path) -> bool:
    """Whether somebody keeps the folder's lock; whoever only asks for it has it for a moment."""
    for _ in range(5):
        if not is_locked(folder / STEP_LOCK):
            return False
        time.sleep(0.1)
    return True


def _children(folder: Path) -> list[int]:
    """Processes that were started as `python -m MODULE FOLDER` (Linux; elsewhere none is found)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")[:-1]
        except OSError:  # it has just ended
            continue
        if len(words) >= 4 and words[-3] == b"-m" and words[-1] == os.fsencode(folder):
            found.append(int(entry.parent.name))
    return found


# ---------------------------------------------------------------- the note


def _note(app: App) -> Path:
    return app.workspace.paths.home / ERASING


def _keep(app: App, note: Note) -> None:
    write_json(_note(app), note)
    sync(app.workspace.paths.home)


@contextlib.contextmanager
def _alone(app: App, seconds: float) -> Iterator[None]:
    """One erasure at a time, whatever process.

    Raises:
        StoreError: another one has been at work for `seconds`.
        BlockingIOError: the same, where `seconds` is 0.
    """
    with (app.workspace.paths.run / LOCK).open("w") as file:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not seconds:
                    raise
                if time.monotonic() > deadline:
                    raise StoreError(
                        "another erasure is at work", hint="Wait for it; `tuneloop history --type RecordErased` tells."
                    ) from None
                time.sleep(0.1)
        yield
