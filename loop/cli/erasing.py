"""`erase`: forget records, or everything of a customer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop.cli.context import Annotator, AsJson, annotator_name, open_app
from loop.cli.output import brief, builtins, emit, note, progress_line, say, show, styled, table, when
from store.errors import InputError, UnknownRecord, UsageError

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.surveying import Report

LEAST_PREFIX = 8  # characters of an id: what is erased must not be named by accident
SHOWN = 8  # names in a list; JSON has them all
PARTS = {"train": "trained on", "valid": "validated on", "exam": "examined on"}


def erase(
    ctx: typer.Context,
    more: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Records, by our id or production's.")] = None,
    record: Annotated[list[str] | None, typer.Option("--record", "-r", metavar="ID", help="The same.")] = None,
    customer: Annotated[
        str, typer.Option("--customer", help="Everything of a customer, as production names them.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    reason: Annotated[
        str, typer.Option("--reason", "-m", help="Why. It stays in the log, so it must not name the customer.")
    ] = "",
    annotator: Annotator = "",
    as_json: AsJson = False,
) -> None:
    """Forget records for good: their texts and salts leave the database and every file that tuneloop keeps.

    Labels they carried count no more, and the next training leaves them out. What was uploaded or backed up is listed:
    that is out of reach. An interrupted erasure is finished by the next one, or by the daemon.
    """
    from loop import erasing, surveying

    named = [*(more or []), *(record or [])]
    if bool(named) == bool(customer.strip()):
        raise UsageError("name either records or a customer", hint="For example: tuneloop erase --record 48213.")
    if customer and len(customer) > 2 and customer.casefold() in reason.casefold():
        raise UsageError("the reason names the customer", hint="It stays in the log: say it without the name.")
    with open_app(ctx) as app:
        line = progress_line()
        finished = None if dry_run else erasing.resume(app, say=line)
        ids = [record_id(app, one) for one in named]
        line("looking for the texts")
        try:
            surveyed = surveying.survey(app, ids, customer=customer)
        except UnknownRecord:
            raise
        except InputError:
            if finished is None or not finished.customer:
                raise
            surveyed = surveying.Survey(victims=[], report=finished)
        finally:
            line("")
        report = surveyed.report
        if finished is not None and set(report.already) >= set(ids) and set(ids) <= set(finished.records):
            report = finished  # what was asked for has just been done
        due = bool(surveyed.victims or surveyed.customer)
        asked = False
        if due and not dry_run:
            if not yes:
                _ask(report)
                asked = True
            try:
                report = erasing.erase(app, surveyed, actor=annotator_name(annotator), reason=reason, say=line)
            finally:
                line("")
    if as_json:
        emit({"dry_run": dry_run, "erased": [] if dry_run else report.records, **builtins(report)})
        return
    if asked:  # the rest has just been shown
        say(styled(f"{_records(report)} erased", "bold"))
        if report.stopped:
            note(_stopped(report))
        return
    _print(report, dry_run=dry_run, done=due or report is finished)


def record_id(app: App, given: str) -> str:
    """Our id of the one record that is named by it, by production's id, or by the beginning of ours.

    Raises:
        UnknownRecord: none is.
        InputError: several are.
    """
    from loop.cli import reads
    from loop.intake import external_record_id

    tasks = {row["task"] for row in reads.rows(app.workspace, "SELECT DISTINCT task FROM records")}
    meant = [given, *(external_record_id(task, given) for task in sorted(tasks))]
    marks = ", ".join("?" * len(meant))
    sql = f"SELECT record_id FROM records WHERE record_id IN ({marks})"  # noqa: S608
    found = [row["record_id"] for row in reads.rows(app.workspace, sql, meant)]
    if not found and len(given) >= LEAST_PREFIX:
        found = [row["record_id"] for name, row in reads.matches(app.workspace, given) if name == "records"]
    if len(found) > 1:
        raise InputError(f"{given!r} names several records", hint=f"Name one in full: {', '.join(sorted(found)[:6])}.")
    if not found:
        raise UnknownRecord(
            f"there is no record {given!r}",
            hint=f"By production's id, ours, or its first {LEAST_PREFIX} characters or more. Nothing was erased.",
        )
    return str(found[0])


def _ask(report: Report) -> None:
    """Raises UsageError where nobody can answer, and Abort where the answer is no."""
    if not sys.stdin.isatty():
        raise UsageError("erasing cannot be undone", hint="Add --yes to do it, or --dry-run to see what would go.")
    _print(report, dry_run=True, done=True)
    typer.confirm(f"Erase {_records(report)} for good?", abort=True, err=True)


def _records(report: Report) -> str:
    count = len(report.records)
    return f"{count} record{'' if count == 1 else 's'}"


def _print(report: Report, *, dry_run: bool, done: bool) -> None:
    for one in report.already:
        say(f"{brief(one)} was erased before")
    if not done:
        return
    say(styled(f"{_records(report)} {'would be ' if dry_run else ''}erased", "bold"))
    facts: list[tuple[object, object]] = []
    if report.labels:
        facts.append(("labels", f"{report.labels}, which count no more"))
    facts.append(("texts in files", ", ".join(f"{area} {n}" for area, n in sorted(report.places.items())) or "none"))
    if report.redacted:
        facts.append(("old controls", f"{len(report.redacted)}, which held words of the texts"))
    if report.stopped:
        facts.append(("steps", _stopped(report)))
    for seen in report.adapters:
        parts = ", ".join(f"{PARTS[part]} {len(ids)}" for part, ids in sorted(seen.records.items()))
        facts.append((seen.adapter, f"{seen.status or 'not registered'}: {parts}"))
    show(table(["", " "], facts, free=[" "], header=False))
    todo = list(_left_to_people(report))
    if todo:
        say(styled("to see to yourself:", "yellow"))
        show(table(["", " "], todo, free=[" "], header=False))
    if report.same_words:
        note(f"{report.same_words} other records say exactly the same; they stay")
    if report.waiting:
        note(f"the same words under another id, not taken in yet, stay: {_some(report.waiting)}")


def _stopped(report: Report) -> str:
    return f"had read them, were ended, and go on without them: {_some(report.stopped)}"


def _left_to_people(report: Report) -> list[tuple[object, Any]]:
    """What erasing cannot reach, each with what to do."""
    todo: list[tuple[object, Any]] = []
    for copied in report.backups:
        todo.append(
            ("backup", f"{copied.backup} ({copied.label}, {when(copied.at)}) holds them: delete it, or let it go")
        )
    if report.uploaded:
        todo.append(("W&B", f"{_some(report.uploaded)}: delete their samples, which were sent with texts"))
    if queued := [name for name in report.sessions if name.startswith("offline-")]:
        todo.append(("W&B queue", f"changed, so `wandb sync` may refuse what is still queued: {_some(queued)}"))
    if report.yours:
        todo.append(("your files", f"{_some(report.yours)} hold one of the texts and are not tuneloop's"))
    if report.unread:
        todo.append(("not searched", f"{_some(report.unread)}: too large, or not readable"))
    serving = [seen.adapter for seen in report.adapters if seen.status == "production" and "train" in seen.records]
    if serving:
        words = "answers production and was trained on them; `tuneloop train` makes one that was not"
        todo.append(("adapter", f"{_some(serving)} {words}"))
    return todo


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
