"""`init` and `demo`: how a workspace begins."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from loop.cli import collect_as_usual
from loop.cli.output import say
from store.errors import InputError, SettingsError, UsageError

if TYPE_CHECKING:
    from loop.balance import Kind

MOST_INFERRED = 200  # different labels in a file; more are no classes


def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="The workspace's folder.")] = Path(),
    labels: Annotated[
        str, typer.Option("--labels", "-l", help="The classes, separated by commas; else those of --from.")
    ] = "",
    task: Annotated[str, typer.Option("--task", "-t", help="Name of the task; production asks for it.")] = "tickets",
    examples: Annotated[
        Path | None, typer.Option("--from", help="A file of labelled examples whose labels are the classes.")
    ] = None,
    description: Annotated[
        str, typer.Option("--description", help="What is classified, or asked for, in a few words.")
    ] = "",
    kind: Annotated[
        str, typer.Option("--kind", help="classification, or extraction, instruction, style: answers in free words.")
    ] = "classification",
    schema: Annotated[
        Path | None, typer.Option("--schema", help="Extraction: the JSON Schema of its answers; it is copied.")
    ] = None,
) -> None:
    """Make a workspace: a commented tuneloop.toml, an inbox and an empty log.

    Nothing that is there is overwritten.
    """
    import tempfile

    from loop import settings
    from loop.first_settings import default_toml
    from store.workspace import Workspace

    path = directory / settings.FILE_NAME
    if path.exists():
        raise UsageError(f"{path} is there already", hint="Edit it, or name another folder: tuneloop init DIR.")
    if not re.fullmatch(settings.TASK_NAME, task):
        raise UsageError(
            f"{task!r} is no task name", hint="Small letters, digits, '-' and '_', a letter first: --task tickets."
        )
    names = _names(labels, examples, kind, schema)
    kept = schema.name if schema is not None else ""
    text = default_toml(names, task=task, description=description, kind=cast("Kind", kind), json_schema=kept)
    with tempfile.TemporaryDirectory() as trial:
        # what is written must load; better found out before anything is in place
        Path(trial, settings.FILE_NAME).write_text(text, encoding="utf-8")
        if schema is not None:
            _copy(schema, Path(trial))
        try:
            settings.load(Path(trial), env={})
        except SettingsError as error:
            told = error.message.replace(f"{settings.FILE_NAME}: ", "")
            raise SettingsError(
                told, hint="Change what was said with --labels, --from, --task, --kind or --schema."
            ) from None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if schema is not None:
            _copy(schema, directory)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", hint="Name another folder.") from None
    with Workspace.create(directory.resolve()):
        pass
    (directory / ".tuneloop" / ".gitignore").write_text("*\n", encoding="utf-8")
    here = "" if directory == Path() else f" -w {directory}"
    say(f"made a workspace for {task} ({', '.join(names) or kind}) in {directory.resolve()}")
    steps = [
        (f"tuneloop{here} doctor", "is everything there?"),
        (f"tuneloop{here} ingest {examples or 'FILE'}", "take examples or records in; --help lists the columns"),
        (f"tuneloop{here} run", f"the daemon; drop files into {directory / 'inbox'}"),
        (f"tuneloop{here} review", "label what it asks for"),
    ]
    say("next:")
    width = max(len(command) for command, _ in steps)
    for command, what in steps:
        say(f"  {command:<{width}}  {what}")


def demo(
    fast: Annotated[bool, typer.Option("--fast", help="Fewer tickets and shorter trainings.")] = False,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep the workspace in this folder.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the order of the tickets and all draws.")] = 1,
) -> None:
    """Watch the whole loop: tickets come in, failures are labelled, an adapter is trained, judged and promoted.

    It works in a workspace of its own, with a real model, and tells what it does while it does it.
    """
    from loop import demo as the_demo

    collect_as_usual()
    the_demo.run(fast=fast, keep=keep, seed=seed)


def _names(labels: str, examples: Path | None, kind: str, schema: Path | None) -> list[str]:
    """The labels of a new workspace; none where answers are free words.

    Raises:
        UsageError: the options do not go together, or the labels are not known.
        SettingsError: there are too few labels.
    """
    from loop.settings import FREE_KINDS

    known = ("classification", *FREE_KINDS)
    if kind not in known:
        raise UsageError(f"{kind!r} is no kind of task", hint=f"One of {', '.join(known)}.")
    if (kind == "extraction") != (schema is not None):
        hint = "Extraction needs its answers' schema: --kind extraction --schema FILE; other kinds have none."
        raise UsageError("--kind and --schema do not go together", hint=hint)
    if kind != "classification":
        if labels.strip():
            raise UsageError(f"a task of kind {kind!r} has no labels", hint="Leave --labels out.")
        return []
    names = _labels(labels, examples)
    if len(set(names)) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise SettingsError(f"at least two labels are needed, here is {found}", hint="Name at least two: --labels a,b.")
    return names


def _copy(schema: Path, folder: Path) -> None:
    """A file beside tuneloop.toml, unless it lies there already.

    Raises:
        InputError: it cannot be read, or another file of that name is there.
    """
    target = folder / schema.name
    try:
        content = schema.read_bytes()
    except OSError as error:
        raise InputError(f"{schema} cannot be read: {error.strerror}", hint="Check the path.") from None
    if not target.exists():
        target.write_bytes(content)
    elif target.read_bytes() != content:
        raise InputError(f"{target} is there already and differs", hint="Name another schema file, or that one.")


def _labels(given: str, examples: Path | None) -> list[str]:
    if given.strip():
        return [label.strip() for label in given.split(",") if label.strip()]
    if examples is not None:
        return _labels_of(examples)
    if sys.stdin.isatty() and sys.stdout.isatty():
        return [label.strip() for label in typer.prompt("Labels, separated by commas").split(",") if label.strip()]
    raise UsageError(
        "the classes are not known", hint="Say --labels urgent,billing,... or --from FILE with labelled examples."
    )


def _labels_of(path: Path) -> list[str]:
    """The labels in a file, the most frequent first.

    Raises:
        InputError: it cannot be read, holds no labels, or too many to be classes.
    """
    from collections import Counter

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="Check the path.") from None
    counts = Counter(label for label in _labels_in(raw, csv=path.suffix.lower() == ".csv") if label)
    if not counts:
        raise InputError(f"{path} holds no labels", hint="Say them: --labels urgent,billing,...")
    if len(counts) > MOST_INFERRED:
        raise InputError(
            f"{path} holds {len(counts)} different labels", hint="Is that column the label? Else say --labels."
        )
    return [label for label, _ in counts.most_common()]


def _labels_in(raw: bytes, *, csv: bool) -> Iterator[str]:
    """The label of each line that has one: "label", or the last assistant turn of a chat."""
    from loop import formats

    if csv:
        import csv as reader

        for row in reader.DictReader(raw.decode("utf-8-sig", "replace").splitlines()):
            yield (row.get("label") or "").strip()
        return
    for line in raw.splitlines():
        try:
            value = formats.decode(line)
        except formats.BadLine:
            continue
        turns = value.get("messages")
        said = value.get("label")
        if isinstance(turns, list) and turns and isinstance(turns[-1], dict) and turns[-1].get("role") == "assistant":
            said = turns[-1].get("content")
        if isinstance(said, str):
            yield said.strip()
