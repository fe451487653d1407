"""Answers in free words at the loop's borders: what a right one must look like, its seal, and the words behind seals.

    words ──▶ read (form) ──▶ seal, into the event ╮
                 ╰──────────▶ words, into `texts` ─┴─▶ worded: whoever trains, examines or shows

See `store.targets` for what a seal is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from adapters import fields
from adapters.fields import NotAsked, Schema
from loop.bootstrap import App
from loop.settings import TaskSettings, schema_of
from store.errors import InputError, UnknownRecord
from store.targets import is_seal

BEGINNING = 4  # words
Put = Callable[[Connection], object]


class Targets:
    """How the words of a free-form task are read.

    Args:
        schema: of structured answers; None: any words.
        longest: characters of an answer, at most.
    """

    def __init__(self, schema: Schema | None, longest: int) -> None:
        self._schema = schema
        self._longest = longest

    @classmethod
    def of(cls, root: Path, task: TaskSettings, longest: int) -> Targets:
        """Those of a task.

        Raises:
            SettingsError: the schema cannot be read.
        """
        return cls(schema_of(root, task), longest)

    def right(self, given: Any) -> str:
        """A right answer as it is kept and trained on; JSON may be given as its text or as the value itself.

        Raises:
            NotAsked: it is empty, too long, no text, or not as the schema has it.
        """
        if self._schema is not None:
            words = given if isinstance(given, str) else fields.written(given)
            return self._bounded(fields.written(fields.parse(words, self._schema)))
        if not isinstance(given, str):
            raise NotAsked("it is no text")
        if not given.strip():
            raise NotAsked("it is empty")
        return self._bounded(given.strip())

    def said(self, words: str) -> str:
        """An answer of production as it is kept: whatever it said, which may be no answer at all.

        Raises:
            NotAsked: it is too long to keep.
        """
        return self._bounded(words.strip())

    def normal(self, words: str) -> str:
        """What is sealed: equal for answers that are equally right."""
        if self._schema is None:
            return " ".join(words.split())
        try:
            return fields.normal(fields.parse(words))
        except NotAsked:
            return words

    def beginning(self, words: str) -> str:
        """The first words of what a model writes, by which served answers are compared with judged ones."""
        return " ".join(words.split()[:BEGINNING])

    def _bounded(self, words: str) -> str:
        if len(words) > self._longest:
            raise NotAsked(f"it has {len(words)} characters, more than {self._longest}")
        if "\0" in words or not _encodable(words):
            raise NotAsked("it holds a NUL or half a character")
        return words


def targets_of(app: App, task: str) -> Targets | None:
    """How a task's words are read; None where its answers are labels.

    Raises:
        SettingsError: there is no such task, or its schema cannot be read.
    """
    rules = app.settings.task(task)
    return Targets.of(app.root, rules, app.settings.daemon.max_text_chars) if rules.free else None


class Worded(msgspec.Struct, frozen=True):
    """Words under their seal, and how to keep them in the event's transaction."""

    seal: str
    put: Put


def seal(app: App, task: str, record_id: str, words: str, *, right: bool = True) -> Worded:
    """Seal words about a record of a free-form task. A seal that is known stands for itself.

    Args:
        right: they are a right answer, whose form is checked; else production's.

    Raises:
        InputError: the words are not as the task has its answers.
        UnknownRecord: the text was erased.
    """
    if is_seal(words) and words in said_of(app, [record_id]).get(record_id, {}):
        return Worded(words, lambda _: None)
    targets = targets_of(app, task)
    assert targets is not None  # noqa: S101  the caller asks for free-form tasks only
    try:
        kept = targets.right(words) if right else targets.said(words)
    except NotAsked as error:
        raise InputError(f"that is no answer of {task}: {error}", hint="docs/tasks.md says what one is.") from None
    texts = app.workspace.texts
    name = texts.seal_words(record_id, targets.normal(kept))
    return Worded(name, lambda connection: texts.say(connection, record_id, {name: kept}))


def keep(app: App, task: str, record_id: str, words: str) -> str:
    """Seal what a model wrote about a record, and keep it beside the text; "" where it cannot be kept, or the text was
    erased."""
    try:
        worded = seal(app, task, record_id, words, right=False)
        with app.workspace.database.writing() as connection:
            worded.put(connection)
    except (InputError, UnknownRecord):
        return ""
    return worded.seal


def said_of(app: App, record_ids: Iterable[str]) -> dict[str, Mapping[str, str]]:
    """By record, the words about it by their seal; records without any, erased ones among them, are left out."""
    return {one.record_id: one.said for one in app.workspace.texts.stored(list(record_ids)) if one.said}


def words(app: App, record_id: str, label: str | None) -> str | None:
    """The words behind a seal, "(erased)" where they are gone; any other label as it is."""
    if label is None or not is_seal(label):
        return label
    return said_of(app, [record_id]).get(record_id, {}).get(label, "(erased)")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
