"""Structured answers: JSON as its schema has it, scored field by field against the right one. Pure.

An answer that is no JSON, or not as the schema has it, is worth nothing, for whoever reads it would stop there. Of any
other the score is F1 over its leaves: a path and a value, both right. Numbers are equal by value (1, 1.0, 1e0), strings
but for Unicode's compatible spellings and the amount of white space, items of a list by their place.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from store.errors import SettingsError

LONGEST = 100_000  # characters of an answer that is looked at
_HINT = "It is a JSON Schema file beside tuneloop.toml; `$ref` may point into the file alone."


class NotAsked(Exception):
    """Why words are no answer of the asked form, without quoting them."""


class Schema:
    """A JSON Schema, of the draft that it names (2020-12 where it names none).

    Raises:
        SettingsError: it is no schema, points outside of itself, or the validator is not installed.
    """

    def __init__(self, source: Any) -> None:
        try:
            import jsonschema_rs
        except ImportError:
            raise SettingsError(
                "extraction needs a JSON Schema validator, and none is installed",
                hint="pip install 'tuneloop[extraction]'",
            ) from None
        if not isinstance(source, dict):
            raise SettingsError("a JSON Schema is an object", hint=_HINT)
        try:
            self._validator = jsonschema_rs.validator_for(source, retriever=_refuse)
        except ValueError as error:  # also of the library's own kind
            raise SettingsError(f"it is no JSON Schema: {str(error).splitlines()[0]}", hint=_HINT) from None
        self.text = json.dumps(source, ensure_ascii=False, separators=(",", ":"))

    def problem(self, value: Any) -> str:
        """Where a value is not as it should be, as "/a/b breaks `required`"; "" where it is. Quotes no value."""
        for error in self._validator.iter_errors(value):
            place = "".join(f"/{part}" for part in error.schema_path if isinstance(part, str | int))
            return f"the schema's {place or '/'} does not hold"
        return ""


def read_schema(path: Path) -> Schema:
    """The schema in a file.

    Raises:
        SettingsError: it cannot be read or is no schema; the file is named.
    """
    try:
        source = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no JSON"
        raise SettingsError(f"{path} cannot be read: {reason}", hint=_HINT) from None
    try:
        return Schema(source)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error.message}", hint=error.hint) from None


def parse(words: str, schema: Schema | None = None) -> Any:
    """The value that words are the JSON of.

    Raises:
        NotAsked: they are no JSON (NaN, a name twice, anything around it), too long, or not as the schema has it.
    """
    if len(words) > LONGEST:
        raise NotAsked(f"it has more than {LONGEST:,} characters")
    try:
        value = json.loads(words, parse_constant=_no_constant, object_pairs_hook=_object)
        if _unbounded(value):
            raise NotAsked("it holds a number that is too large")
        problem = schema.problem(value) if schema is not None else ""
    except (ValueError, RecursionError):  # of the validator: what no JSON can hold
        raise NotAsked("it is no JSON") from None
    if problem:
        raise NotAsked(problem)
    return value


def written(value: Any) -> str:
    """A value's JSON as it is trained on: one line, names in the order in which they stand.

    Raises:
        NotAsked: it is nested too deeply, or holds what JSON cannot.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise NotAsked("it is no JSON") from None


def normal(value: Any) -> str:
    """The same for values that score 1 against each other."""
    return json.dumps(sorted(leaves(value).elements()))


def score(answered: Any, right: Any) -> float:
    """F1 over the leaves of two values, 0..1."""
    mine, theirs = leaves(answered), leaves(right)
    return 2 * (mine & theirs).total() / (mine.total() + theirs.total())


def leaves(value: Any) -> Counter[tuple[str, str]]:
    """(path, normal form) of every value that holds no others; at least one."""
    found: Counter[tuple[str, str]] = Counter()
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, one = waiting.pop()
        if isinstance(one, dict) and one:
            waiting += [(f"{path}/{_escaped(name)}", inner) for name, inner in one.items()]
        elif isinstance(one, list) and one:
            waiting += [(f"{path}/{place}", inner) for place, inner in enumerate(one)]
        else:
            found[path, _normal(one)] += 1
    return found


def _normal(leaf: Any) -> str:
    if isinstance(leaf, str):
        return "s" + " ".join(unicodedata.normalize("NFKC", leaf).split())
    if isinstance(leaf, bool) or leaf is None or isinstance(leaf, dict | list):
        return json.dumps(leaf)
    whole = isinstance(leaf, int) or leaf.is_integer()
    return f"n{int(leaf)}" if whole else f"n{leaf:.12g}"


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _unbounded(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_unbounded, value.values()))
    if isinstance(value, list):
        return any(map(_unbounded, value))
    return isinstance(value, float) and not math.isfinite(value)


def _refuse(address: str) -> NoReturn:
    raise ValueError(f"{address} lies outside of it")
