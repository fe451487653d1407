"""`ingest`, `feedback`, `label` and `undo`: what goes into the log by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop.cli.context import Annotator, AsJson, TaskName, annotator_name, choose_task, open_app
from loop.cli.output import emit, note, say
from store.errors import InputError, UsageError
from store.wording import counted

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.intake import Report

FORMATS = ("auto", "chat", "records", "csv", "log")

MOST_COMPLAINTS = 5  # lines of a file that are named one by one


def ingest(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="JSONL or CSV; - reads from stdin.")],
    task: TaskName = "",
    form: Annotated[
        str, typer.Option("--format", help="auto, chat, records, csv or log; auto looks at the lines.")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Take records in: production's own lines, labelled examples, OpenAI chat JSONL, request logs; JSONL or CSV.

    JSON keys and CSV columns: text (needed), label (target, where answers are free words), id, answer, answered_by,
    confidence, margin, customer, task, timestamp. A chat has messages; a request log has request, response and, where
    known, id, client_id (the customer), workload_id (the task) and timestamp. Other keys are left alone.

    A line that cannot be read is kept in .tuneloop/quarantine, and `tuneloop history --type RecordQuarantined` says
    why; the others come in. The same file again changes nothing.
    """
    if form not in FORMATS:
        raise UsageError(f"there is no format {form!r}", hint=f"Formats: {', '.join(FORMATS)}.")
    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        report = _take_in(app, name, file, form, feedback=False)
    if as_json:
        emit(_values(report))
    else:
        say(
            f"{report.received} new, {report.known} known already, {counted(report.labelled, 'label')}, "
            f"{report.quarantined} quarantined"
        )
    if report.no_label:
        verb = "is" if report.no_label == 1 else "are"
        note(
            f"{counted(report.no_label, 'answer')} {verb} no label of {name}, for example {report.no_label_example}: "
            "they count as abstentions of production"
        )
    _tell_problems(report, file, taken=report.received + report.known, form=form)


def feedback(
    ctx: typer.Context,
    record: Annotated[
        str,
        typer.Argument(metavar="RECORD|FILE|-", help="A record's id, ours or production's; or a file of corrections."),
    ],
    label: Annotated[str, typer.Argument(metavar="[LABEL]", help="The right label; left out with a file.")] = "",
    task: TaskName = "",
    source: Annotated[str, typer.Option("--source", help="Who says so.")] = "cli",
    as_json: AsJson = False,
) -> None:
    """Tell the right answer to a record that production answered earlier, for example when an agent re-routed it.

    A file (or - for stdin) holds lines of {"id": ..., "label": ...}, as JSONL or CSV; target instead of label where
    answers are free words.
    """
    from loop import actions

    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        if label:
            done = actions.give_feedback(app, name, record, label, source=source)
            if as_json:
                emit({"record": record, "label": label, "new": bool(done)})
            else:
                say(f"{record}: {label}" if done else f"{record}: nothing new")
            return
        report = _take_in(app, name, record, "auto", feedback=True)
    if as_json:
        emit(_values(report))
    else:
        say(f"{counted(report.feedback, 'correction')}, {report.known} known already, {report.quarantined} quarantined")
    _tell_problems(report, record, taken=report.feedback + report.known)


def label(
    ctx: typer.Context,
    record: Annotated[str, typer.Argument(help="The record's id, its beginning, or production's id.")],
    label: Annotated[
        str,
        typer.Argument(help="The label, as in tuneloop.toml; where answers are free words, the right one. - reads it."),
    ],
    annotator: Annotator = "",
    note: Annotated[str, typer.Option("--note", help="A remark that is kept with the label.")] = "",
) -> None:
    """Give a record its label. A label that stands already is replaced; both stay in the log."""
    from loop import actions
    from loop.cli import reads
    from store.targets import is_seal

    label = sys.stdin.read() if label == "-" else label
    with open_app(ctx) as app:
        record_id = reads.record_id(app, record)
        done = actions.label(app, record_id, label, annotator=annotator_name(annotator), note=note)
        if not done:
            say(f"{record_id} is {label} already")
            return
        event = done[-1].event
    before = getattr(event, "previous", None)
    if is_seal(getattr(event, "label", "")):
        say(f"{record_id}: the right answer is kept" + (" instead of another" if before else ""))
        return
    say(f"{record_id}: {getattr(event, 'label', label)}" + (f" (was {before})" if before else ""))


def undo(ctx: typer.Context, annotator: Annotator = "") -> None:
    """Take back what you did last to a record: a label or a skip. Again takes back the one before it."""
    from loop import actions

    with open_app(ctx) as app:
        say(actions.undo(app, annotator=annotator_name(annotator)))


def _take_in(app: App, task: str, file: str, form: str, *, feedback: bool) -> Report:
    """Read a file, or stdin for "-".

    Raises:
        InputError: it cannot be read.
    """
    from loop import intake

    if file == "-":
        return intake.ingest_lines(app, task, sys.stdin.buffer, source="stdin", form=form, feedback=feedback)  # type: ignore[arg-type]
    path = Path(file)
    if path.is_dir():
        raise InputError(f"{file} is a folder", hint=f"Name a file in it, or move its files into {app.root / 'inbox'}.")
    if not path.is_file():
        hint = "A record's feedback needs its label: tuneloop feedback RECORD LABEL." if feedback else "Check the path."
        raise InputError(f"there is no file {file}", hint=hint)
    if path.stat().st_size == 0:
        raise InputError(f"{file} is empty", hint="Check the path, and whether its writer is done.")
    if not feedback:
        return intake.ingest_file(app, task, path, form=form)  # type: ignore[arg-type]
    shape: Any = "csv" if path.suffix.lower() == ".csv" else "auto"
    try:
        with path.open("rb") as lines:
            return intake.ingest_lines(app, task, lines, source=path.name, form=shape, feedback=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="Check the path.") from error


def _values(report: Report) -> dict[str, Any]:
    return {
        "received": report.received,
        "known": report.known,
        "labelled": report.labelled,
        "feedback": report.feedback,
        "quarantined": report.quarantined,
        "no_label": report.no_label,
        "problems": [{"line": line, "reason": reason} for line, reason in report.problems],
    }


def _tell_problems(report: Report, file: str, *, taken: int, form: str = "") -> None:
    """Name the first lines that were not taken in; an error when none was."""
    for line, reason in report.problems[:MOST_COMPLAINTS]:
        note(f"line {line}: {reason}")
    if report.quarantined > MOST_COMPLAINTS:
        note(f"and {report.quarantined - MOST_COMPLAINTS} more")
    if report.quarantined:
        note("they are kept in .tuneloop/quarantine; `tuneloop history --type RecordQuarantined` says why")
    if report.quarantined and not taken:
        hint = "`tuneloop ingest --help` lists the keys and columns."
        if form == "auto" and all("no JSON" in reason for _, reason in report.problems):
            hint = "Is it CSV? Then say `--format csv`. " + hint
        raise InputError(f"nothing in {'stdin' if file == '-' else file} could be taken in", hint=hint)
