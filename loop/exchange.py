"""Examples as files: labels and frozen datasets out as OpenAI chat JSONL, and such files in."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

import msgspec

from adapters.fields import NotAsked
from adapters.specs import read_lines
from loop import actions, chats, general
from loop.answerers import training_prompt
from loop.bootstrap import App
from loop.chats import Chat
from loop.fitting import Item
from loop.formats import BadLine
from loop.intake import external_record_id
from loop.reader import Reader, Report
from loop.sources import Numbered, Unfinished, raw_lines
from loop.targets import Targets, seal, targets_of
from store import queries
from store.errors import InputError
from store.labels import parse_label
from store.log import step_id
from store.prompting import PromptSpec
from store.tables import RecordRow
from store.targets import is_seal

Sides = Literal["train", "exam", "all"]
Splits = Literal["train", "valid", "all"]
VIA = "import"
_CHUNK = 500  # records read at once


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a file: an example, or why it is none. `number` counts from 1."""

    number: int
    raw: bytes
    chat: Chat | None = None
    label: str = ""
    text: str = ""
    problem: str = ""


class Imported(msgspec.Struct, kw_only=True):
    """What came of a file. `otherwise`: lines whose form is not the deployed prompt's; `longer`: of which only the
    last question and its answer were taken."""

    report: Report
    relabelled: int = 0
    otherwise: int = 0
    longer: int = 0


# ---------------------------------------------------------------- out


def standing(app: App, task: str, *, side: Sides = "train", ids: bool = False) -> Iterator[Chat]:
    """The labels that stand, as they are before curation, in the order in which they were given.

    Args:
        side: of the split; what is exported with the exam must not be trained on.
        ids: with production's id of each record, or ours, so that an edited file finds them again.
    """
    prompt = training_prompt(app, app.settings.task(task))
    rows = queries.labelled(app.workspace.read, task, side=None if side == "all" else side)
    yield from _chats(app, prompt, [(row.record_id, row.label) for row in rows], ids)


def frozen(
    app: App, task: str, artifact: str, *, split: Splits = "all", mixed_in: bool = True, ids: bool = False
) -> Iterator[Chat]:
    """The examples of a frozen dataset in its order, each once; erased ones are left out.

    Args:
        mixed_in: with the general examples.
        split, ids: see `standing`.

    Raises:
        ArtifactError: the dataset is missing or damaged.
        StepError: the file of general examples cannot be read.
    """
    rules = app.settings.task(task)
    prompt = training_prompt(app, rules)
    items = read_lines(app.workspace.artifacts.path(artifact, verify=True) / "dataset.jsonl", Item)
    wanted = [item for item in items if split in ("all", item.split)]
    mixed = general.read(app.root, rules.training.general_file) if mixed_in else None
    for kind, group in itertools.groupby(wanted, key=lambda item: item.kind):
        if kind == "task":
            yield from _chats(app, prompt, [(item.id, item.label) for item in group], ids)
        elif mixed is not None:
            for item in group:
                if (messages := mixed.get(item.id)) is not None:
                    yield Chat(messages=messages, id=item.id if ids else "")


def write_file(path: Path, examples: Iterable[Chat]) -> int:
    """Write a file whole or not at all, for its owner's eyes only; returns how many examples it holds.

    Raises:
        InputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    count = 0
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for example in examples:
                file.write(chats.write(example))
                count += 1
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", hint="Check path and free space.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _chats(app: App, prompt: PromptSpec, rows: list[tuple[str, str]], ids: bool) -> Iterator[Chat]:
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        stored = {one.record_id: one for one in app.workspace.texts.stored([record for record, _ in chunk])}
        for record, label in chunk:
            text = stored.get(record)
            if text is not None:
                named = str(text.meta.get("id") or record) if ids else ""
                yield Chat(messages=prompt.messages(text.text, text.said.get(label, label)), id=named)


# ---------------------------------------------------------------- in


def read_file(app: App, task: str, file: IO[bytes]) -> Iterator[Line]:
    """The lines of a chat file that are not blank, with the ticket and the label that each holds."""
    rules = app.settings.task(task)
    prompt = training_prompt(app, rules)
    targets = targets_of(app, task)
    for line in raw_lines(file, app.settings.daemon.max_line_bytes):
        if not line.raw.strip():
            continue
        problem = "the file ends within this line" if isinstance(line, Unfinished) else line.problem
        try:
            if problem:
                raise BadLine(problem)
            chat = chats.read(line.raw)
            _, user, answer = chat.turns
            label = _label(answer, rules.labels, targets)
            text = chats.unwrapped(prompt, user)
            if not text.strip():
                raise BadLine("the text is empty")
            yield Line(number=line.number, raw=line.raw, chat=chat, label=label, text=text)
        except BadLine as error:
            yield Line(number=line.number, raw=line.raw, problem=str(error))


def _label(answer: str, labels: Sequence[str], targets: Targets | None) -> str:
    """The label that a line's answer stands for: itself, in words, where the task has no labels."""
    if targets is not None:
        try:
            return targets.right(answer)
        except NotAsked as error:
            raise BadLine(f"the last answer is not as the task has it: {error}") from None
    label = parse_label(answer, labels)
    if label is None:
        raise BadLine("the last answer is none of the labels")
    return label


def import_file(
    app: App, task: str, path: Path, *, draw: bool = False, relabel: bool = False, annotator: str = ""
) -> Imported:
    """Take the examples of a chat file in as labelled records; the same file again changes nothing.

    They go to the training side, for they may have been trained on elsewhere, unless they are near to the exam.

    Args:
        draw: let chance choose their side instead, as for any other record.
        relabel: a record that the file names by id takes over its label; else it keeps the one that stands, and the
            line is refused.
        annotator: whose labels these are then.

    Raises:
        InputError: the file cannot be read.
    """
    prompt = training_prompt(app, app.settings.task(task))
    try:
        with path.open("rb") as file:
            claim = step_id("file", app.workspace.texts.keyed(hashlib.file_digest(file, "sha256").hexdigest()))
            file.seek(0)
            app.workspace.projections.catch_up()
            receiving = app if draw else _to_training(app, task)
            reader = Reader(receiving, task, path.name, claim, "records", False, "cli", None)
            done = Imported(report=reader.report)
            for line in read_file(app, task, file):
                if line.chat is not None:
                    done.otherwise += not chats.as_deployed(prompt, line.chat)
                    done.longer += line.chat.longer
                _take(app, task, line, reader, done, annotator if relabel else "")
                reader.report.recorded.clear()  # a large file must not grow in memory
            reader.flush()
            return done
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="Check the path.") from error


def _take(app: App, task: str, line: Line, reader: Reader, done: Imported, annotator: str) -> None:
    numbered = Numbered(number=line.number, raw=line.raw, problem=line.problem)
    row = _known(app, task, line.chat.id) if line.chat is not None and line.chat.id else None
    if line.chat is None:
        reader.take(numbered)
    elif row is None:
        value = {"text": line.text, "target" if app.settings.task(task).free else "label": line.label}
        reader.take(msgspec.structs.replace(numbered, value={**value, "id": line.chat.id} if line.chat.id else value))
    elif app.workspace.texts.get(row.record_id) not in (None, line.text):
        reader.take(msgspec.structs.replace(numbered, problem=f"record {line.chat.id!r} is known with another text"))
    elif row.erased or row.label == _named(app, task, row, line.label):
        done.report.known += 1
    elif annotator:
        actions.label(app, row.record_id, line.label, annotator=annotator, via=VIA)
        done.relabelled += 1
    else:
        label = "another target" if is_seal(row.label) else f"the label {row.label}"
        carried = f"carries {label}" if row.label else "is known without a label"
        reader.take(msgspec.structs.replace(numbered, problem=f"record {line.chat.id!r} {carried}; see --relabel"))


def _named(app: App, task: str, row: RecordRow, label: str) -> str:
    """A line's label as events name it."""
    return seal(app, task, row.record_id, label).seal if app.settings.task(task).free else label


def _known(app: App, task: str, identity: str) -> RecordRow | None:
    """The record that production, or we, call so."""
    read = app.workspace.read
    row = queries.record(read, external_record_id(task, identity)) or queries.record(read, identity)
    return row if row is not None and row.task == task else None


def _to_training(app: App, task: str) -> App:
    """The same workspace where chance draws nothing for the exam."""
    rules = app.settings.task(task)
    splits = rules.splits.model_copy(update={"exam_share": 0.0})
    tasks = {**app.settings.tasks, task: rules.model_copy(update={"splits": splits})}
    return App(app.root, app.settings.model_copy(update={"tasks": tasks}), app.workspace, app.now)
