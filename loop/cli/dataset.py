"""`dataset`: what is trained on, before and after it is frozen, and as a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop.cli.context import Annotator, AsJson, TaskName, annotator_name, choose_task, open_app
from loop.cli.output import brief, builtins, emit, note, percent, say, show, styled, table
from store import events as ev
from store.errors import InputError, UsageError

if TYPE_CHECKING:
    from loop.bootstrap import App

SHOWN = 10  # rows of a list of records; JSON has all
SPLITS, SIDES = ("all", "train", "valid"), ("train", "exam", "all")


def show_dataset(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="A run or an adapter; without it the newest dataset.")] = "",
    task: TaskName = "",
    as_json: AsJson = False,
) -> None:
    """Show a frozen dataset: what each step of curation took out and why, doubtful labels, tokens per example."""
    from loop import auditing

    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        frozen, trained = _frozen(app, name, run)
        doubted, gone = auditing.audit_frozen(app, frozen.artifact)
    values = {**builtins(frozen), "suspects": builtins(doubted), "left_out": builtins(gone)}
    values |= {"tokens": trained.tokens if trained else {}, "truncated": trained.truncated if trained else None}
    if as_json:
        emit(values)
        return
    say(
        styled(f"dataset of {frozen.run_id} ", "bold"),
        f"({frozen.plan}{f', {frozen.trigger}' if frozen.trigger else ''})",
    )
    say(f"{frozen.train} to train on, {frozen.valid} to validate; exam {frozen.exam}, hard exam {frozen.hard_exam}")
    _print_curation(values)
    if trained and trained.tokens:
        counts = trained.tokens
        say(
            f"tokens per example: {counts['shortest']} to {counts['longest']}, median {counts['median']}, "
            f"95% up to {counts['p95']}; {counts['learned']:,} of {counts['total']:,} are learned; "
            f"{trained.truncated} of {counts['examples']} examples were shortened"
        )
    else:
        say("tokens per example are known once it has been trained on")


def check(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="OpenAI chat JSONL; without it, the labels that stand.", show_default=False)
    ] = None,
    task: TaskName = "",
    as_json: AsJson = False,
) -> None:
    """Tell what curation would make of the labels that stand, or of a file, without changing anything: duplicates,
    leaks of the exam, balance, doubtful labels, size, and lines that are no examples."""
    from loop import auditing

    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        found = auditing.audit_file(app, name, file) if file is not None else auditing.audit_labels(app, name)
    values = builtins(found)
    if as_json:
        emit(values)
        return
    say(f"{found.train} to train on, {found.valid} to validate")
    _print_curation(values)
    for line, reason in found.problems[:SHOWN]:
        say(f"line {line}: {reason}")
    if len(found.problems) > SHOWN:
        say(f"and {len(found.problems) - SHOWN} more lines: --json names them all")


def export(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Where to; - writes to stdout.")],
    run: Annotated[
        str, typer.Option("--run", help="The frozen dataset of this run or adapter, instead of labels.")
    ] = "",
    split: Annotated[str, typer.Option("--split", help="Of a frozen dataset: all, train or valid.")] = "all",
    mixed_in: Annotated[bool, typer.Option("--general/--no-general", help="With the general examples of it.")] = True,
    side: Annotated[
        str, typer.Option("--side", help="Of the labels: train, exam or all. Never train on the exam.")
    ] = "train",
    ids: Annotated[bool, typer.Option("--ids", help="With each record's id, so that `import` finds it again.")] = False,
    task: TaskName = "",
    as_json: AsJson = False,
) -> None:
    """Write examples as OpenAI chat JSONL, each with the deployed prompt: the labels that stand, or with --run what an
    adapter was trained on.

    The file holds customer text: it is readable for you alone, and an erasure does not reach it.
    """
    from loop import chats, exchange

    _one_of("--split", split, SPLITS)
    _one_of("--side", side, SIDES)
    if run and side != "train":
        raise UsageError("--side is of labels, not of a frozen dataset", hint="Leave out --run or --side.")
    if as_json and file == "-":
        raise UsageError("--json and the examples cannot share stdout", hint="Name a file.")
    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        if run:
            artifact = _frozen(app, name, run)[0].artifact
            examples = exchange.frozen(app, name, artifact, split=split, mixed_in=mixed_in, ids=ids)  # type: ignore[arg-type]
        else:
            examples = exchange.standing(app, name, side=side, ids=ids)  # type: ignore[arg-type]
        if file != "-":
            count = exchange.write_file(Path(file), examples)
        else:
            count = 0
            for example in examples:
                sys.stdout.buffer.write(chats.write(example))
                count += 1
            sys.stdout.buffer.flush()
    if as_json:
        emit({"file": file, "examples": count})
    else:
        note(f"{count} examples written to {'stdout' if file == '-' else file}")


def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="OpenAI chat JSONL; the last answer of a line is its label.")],
    draw: Annotated[
        bool,
        typer.Option("--draw", help="Let chance put some into the exam, as `ingest` does: only if never trained on."),
    ] = False,
    relabel: Annotated[
        bool, typer.Option("--relabel", help="Where the file names a record by id, its label replaces ours.")
    ] = False,
    annotator: Annotator = "",
    task: TaskName = "",
    as_json: AsJson = False,
) -> None:
    """Take labelled examples in from OpenAI chat JSONL, as they are used for fine-tuning elsewhere.

    They join the training side, unless they are near to an exam item. The same file again changes nothing. A line that
    cannot be used goes to the quarantine folder with its reason.
    """
    from loop import exchange

    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        done = exchange.import_file(
            app, name, file, draw=draw, relabel=relabel, annotator=annotator_name(annotator) if relabel else ""
        )
    report = done.report
    if as_json:
        problems = [{"line": line, "reason": reason} for line, reason in report.problems]
        counts = {"received": report.received, "known": report.known, "labelled": report.labelled}
        emit(
            {**counts, "relabelled": done.relabelled, "quarantined": report.quarantined, "otherwise": done.otherwise,
             "longer": done.longer, "problems": problems}
        )  # fmt: skip
    else:
        again = f", {done.relabelled} relabelled" if done.relabelled else ""
        say(f"{report.received} new, {report.known} known already{again}, {report.quarantined} quarantined")
    if done.otherwise:
        note(
            f"{done.otherwise} lines had another form than the deployed prompt: they are trained in that of the prompt"
        )
    if done.longer:
        note(f"{done.longer} lines held more than one question: only the last one was taken")
    for line, reason in report.problems[:SHOWN]:
        note(f"line {line}: {reason}")
    if report.quarantined > SHOWN:
        note(f"and {report.quarantined - SHOWN} more; all of them are in .tuneloop/quarantine")
    if report.quarantined and not (report.received or report.known or done.relabelled):
        raise InputError(f"nothing in {file} could be taken in", hint="`tuneloop dataset check FILE` tells more.")


# verb, function, example
VERBS: list[tuple[str, Callable[..., None], str]] = [
    ("show", show_dataset, "tuneloop dataset show tickets-v2"),
    ("check", check, "tuneloop dataset check examples.jsonl"),
    ("export", export, "tuneloop dataset export labels.jsonl --ids"),
    ("import", import_, "tuneloop dataset import labels.jsonl --relabel --as maria"),
]


def _one_of(option: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise UsageError(f"{option} is none of {', '.join(known)}: {given!r}", hint=f"The default is {known[0]}.")


def _frozen(app: App, task: str, name: str) -> tuple[ev.DatasetFrozen, ev.TrainingSucceeded | None]:
    """The dataset of a run or an adapter, and its training where that has succeeded.

    Raises:
        InputError: there is none.
    """
    from loop.cli import reads

    adapters = {row["name"]: row["run_id"] for row in reads.listed(app.workspace, "adapters", task=task)}
    runs = [row["run_id"] for row in reads.listed(app.workspace, "runs", task=task) if row["dataset"]]
    wanted = adapters.get(name, name) or (runs[-1] if runs else "")
    past = [one.event for one in app.workspace.log.stream(f"run/{wanted}")] if wanted in runs else []
    frozen = next((event for event in past if isinstance(event, ev.DatasetFrozen)), None)
    if frozen is None:
        what = f"no dataset belongs to {name!r}" if name else f"{task} has no frozen dataset yet"
        hint = "`tuneloop runs` lists them." if runs else "`tuneloop dataset check` looks at the labels there are."
        raise InputError(what, hint=hint)
    return frozen, next((event for event in past if isinstance(event, ev.TrainingSucceeded)), None)


def _print_curation(values: dict[str, Any]) -> None:
    rows = [(one["step"], one["count"], one["detail"]) for one in values["curation"]]
    show(table(["step", "count", "what"], rows, right=["count"], free=["what"]))
    total = sum(values["per_class"].values()) or 1
    classes = [f"{label} {count} ({percent(count / total, 0)})" for label, count in values["per_class"].items()]
    say(f"per class: {', '.join(classes) or 'none'}")
    for warning in values["warnings"]:
        say(styled(f"warning: {warning}", "yellow"))
    doubted, gone = values["suspects"], values["left_out"]
    if doubted:
        doubts = [
            (brief(one["where"]), one["label"], one["likely"], f"{one['doubt']:.2f}", one["text"] or "(erased)")
            for one in doubted[:SHOWN]
        ]
        show(table(["doubtful", "label", "looks like", "by", "text"], doubts, right=["by"], free=["text"]))
    if gone:
        shown = [(brief(one["where"]), one["step"], brief(one["near"])) for one in gone[:SHOWN]]
        show(table(["left out", "by step", "near to"], shown))
    rest = max(len(doubted) - SHOWN, 0), max(len(gone) - SHOWN, 0)
    if any(rest):
        say(f"and {rest[0]} more doubtful and {rest[1]} more left out: --json names them all")
