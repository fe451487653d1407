"""The command line's door: the table of verbs, and what becomes of errors.

A verb is a function; its module is imported with the table, so those modules import nothing heavy at their top.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.child import OWNER_ONLY
from loop.cli import (
    archiving,
    checking,
    copying,
    dataset,
    deciding,
    erasing,
    inspecting,
    labelling,
    looking,
    notify,
    queue,
    review,
    running,
    setup,
    status,
    sweep,
)
from loop.cli.output import complain, note
from store.errors import TuneloopError, UsageError
from store.keys import hide

# group -> verb, function, example: the order is that of `tuneloop --help`
VERBS: dict[str, list[tuple[str, Callable[..., None], str]]] = {
    "Start": [
        ("init", setup.init, "tuneloop init --labels urgent,billing,technical,general"),
        ("demo", setup.demo, "tuneloop demo --fast --keep ./demo"),
        ("doctor", checking.doctor, "tuneloop doctor"),
    ],
    "The loop": [
        ("run", running.run, "tuneloop run"),
        ("tick", running.tick, "tuneloop tick"),
        ("status", status.status, "tuneloop status --watch"),
        ("pause", running.pause, "tuneloop pause --reason 'labelling guide is being rewritten'"),
        ("resume", running.resume, "tuneloop resume"),
        ("serve", running.serve, "tuneloop serve --port 8080"),
        ("notify", notify.notify, "tuneloop notify test team"),
    ],
    "Records and labels": [
        ("ingest", labelling.ingest, "tuneloop ingest tickets.jsonl"),
        ("feedback", labelling.feedback, "tuneloop feedback 48213 billing"),
        ("queue", queue.queue, "tuneloop queue --limit 10"),
        ("review", review.review, "tuneloop review --as maria"),
        ("label", labelling.label, "tuneloop label 48213 billing"),
        ("undo", labelling.undo, "tuneloop undo"),
    ],
    "Adapters": [
        ("train", deciding.train, "tuneloop train --wait"),
        ("sweep", sweep.sweep, "tuneloop sweep --rank 8,16 --rate 2e-4,1e-3"),
        ("evaluate", deciding.evaluate, "tuneloop evaluate tickets-v2"),
        ("gate", deciding.gate, "tuneloop gate tickets-v2"),
        ("promote", deciding.promote, "tuneloop promote tickets-v2"),
        ("rollback", deciding.rollback, "tuneloop rollback --reason 'urgent tickets are missed'"),
        ("adapters", inspecting.adapters, "tuneloop adapters"),
        ("runs", inspecting.runs, "tuneloop runs --json"),
        ("compare", looking.compare, "tuneloop compare tickets-v1 tickets-v2"),
        ("lineage", looking.lineage, "tuneloop lineage tickets-v2"),
    ],
    "What has happened": [
        ("history", inspecting.history, "tuneloop history --type LabelGiven --limit 20"),
        ("show", looking.show_one, "tuneloop show tickets-v2"),
        ("state", status.state, "tuneloop state --json"),
        ("verify", checking.verify, "tuneloop verify --rebuild"),
    ],
    "Keeping and forgetting": [
        ("backup", copying.backup, "tuneloop backup /mnt/copies --keep 7"),
        ("restore", copying.restore, "tuneloop restore /mnt/copies/tuneloop-20261123T031500Z-1f9a3c"),
        ("erase", erasing.erase, "tuneloop erase --customer 'Jane Doe' --dry-run"),
        ("archive", archiving.archive, "tuneloop archive --before 180d"),
    ],
}

# verbs of their own under a name: name -> group, help, verbs
UNDER = {"dataset": ("Records and labels", "What is trained on: show, check, export, import.", dataset.VERBS)}

app = typer.Typer(
    name="tuneloop",
    help="Turns a prompted classifier's failures into labels, and labels into an adapter that has to earn its place.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            sys.stdout.write(f"tuneloop {metadata.version('tuneloop')}\n")
        except metadata.PackageNotFoundError:
            sys.stdout.write("tuneloop (not installed)\n")
        raise typer.Exit


@app.callback()
def _common(
    ctx: typer.Context,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "-w",
            "--workspace",
            envvar="TUNELOOP_WORKSPACE",
            help="Folder with tuneloop.toml; without it, the nearest one from here upwards.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if workspace is not None and not workspace.is_dir() and ctx.invoked_subcommand != "restore":
        raise UsageError(f"{workspace} is no folder", hint="`tuneloop init DIR` makes a workspace.")
    ctx.obj = workspace


def _register() -> None:
    for group, verbs in VERBS.items():
        for name, function, example in verbs:
            app.command(name, rich_help_panel=group, help=_help(function), epilog=f"Example: {example}")(function)
    for under, (group, about, verbs) in UNDER.items():
        inner = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
        for name, function, example in verbs:
            inner.command(name, help=_help(function), epilog=f"Example: {example}")(function)
        app.add_typer(inner, name=under, help=about, rich_help_panel=group)


def _help(function: Callable[..., None]) -> str:
    """A verb's docstring as text of the help: lines flow within a paragraph, and brackets are no markup."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(one.split()) for one in paragraphs).replace("[", "\\[")


_register()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the entry point of `tuneloop`."""
    words = _workspace_first(list(sys.argv[1:] if arguments is None else arguments))
    before = os.umask(OWNER_ONLY)
    try:
        outcome: Any = app(args=words, prog_name="tuneloop", standalone_mode=False)
        sys.stdout.flush()
        return outcome if isinstance(outcome, int) else 0
    except TuneloopError as error:
        complain(error.message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        note("stopped")
        return 130
    except BrokenPipeError:
        # who read us has gone; nothing may be flushed into the closed pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except typer.Abort:
        note("stopped")
        return 130
    except Exception as error:
        if (words_wrong := getattr(error, "format_message", None)) is not None:
            if words_wrong():  # else the help has been printed, which says it all
                complain(words_wrong(), _usage_hint(error))
            return int(getattr(error, "exit_code", 2))
        path = _write_crash(error, words)
        complain(
            f"{type(error).__name__}: {error}", f"This is a defect of tuneloop. The traceback was written to {path}."
        )
        return 1
    finally:
        os.umask(before)


def _workspace_first(words: list[str]) -> list[str]:
    """Let -w stand anywhere, not only before the verb."""
    ahead: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            rest += words[position:]
            break
        if word in ("-w", "--workspace") and position + 1 < len(words):
            ahead = words[position : position + 2]
            position += 1
        elif word.startswith("--workspace="):
            ahead = [word]
        else:
            rest.append(word)
        position += 1
    return ahead + rest


def _usage_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "tuneloop")
    return f"`{path} --help` shows how."


def _write_crash(error: Exception, words: Sequence[str]) -> Path:
    """Keep the traceback where a person finds it: the workspace's logs, else the temporary folder."""
    import tempfile
    import traceback

    from loop.bootstrap import find_root

    text = hide("".join(traceback.format_exception(error)))
    named = _workspace_first(list(words))[:2]
    name = f"crash-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    try:
        start = Path(named[1]) if named[:1] in (["-w"], ["--workspace"]) else None
        folder = find_root(start) / ".tuneloop" / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except (OSError, TuneloopError):
        # a name that nobody can foresee: others may write into that folder
        path = Path(tempfile.mkdtemp(prefix="tuneloop-")) / name
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


if __name__ == "__main__":
    sys.exit(main())
