"""Events for the store's tests: one full sample of every type, and Hypothesis strategies derived from the structs."""

from __future__ import annotations

import types
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from store import events as e
from store.database import Database, raw
from store.rows import BLANKS, KEYS

NOW = datetime(2026, 11, 23, 12, 30, 15, 250_000, tzinfo=UTC)


def received(record_id: str, *, task: str = "tickets", side: e.Side = "train", **fields: Any) -> e.RecordReceived:
    values = {
        "text_digest": "d",
        "chars": 10,
        "source": "inbox",
        "audit": False,
        "audit_probability": 0.05,
        "cluster": record_id,
        "answer": "billing",
        "answered_by": "few-shot@1",
    }
    return e.RecordReceived(task=task, record_id=record_id, side=side, **{**values, **fields})


def labelled(record_id: str, label: str, *, side: e.Side = "train", **fields: Any) -> e.LabelGiven:
    values = {"task": "tickets", "audit": False, "annotator": "kim"}
    return e.LabelGiven(record_id=record_id, label=label, side=side, **{**values, **fields})


# ---------------------------------------------------------------- one sample of a type


def sample(kind: Any, name: str = "") -> Any:
    """A value of a type with every field filled and no field at its default."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return arguments[-1]
    if origin in (Union, types.UnionType):
        return sample(next(part for part in arguments if part is not type(None)), name)
    if origin is list:
        return [sample(arguments[0], name)]
    if origin is dict:
        return {"key": sample(arguments[1], name)}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = get_type_hints(kind)
        return kind(**{field: sample(hints[field], field) for field in kind.__struct_fields__})
    return {bool: True, int: 7, float: 0.25, str: f"the {name or 'value'}"}[kind]


# ---------------------------------------------------------------- strategies

finite = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**53), 2**53)


def values(kind: Any, pools: Mapping[str, st.SearchStrategy[Any]], field: str = "") -> st.SearchStrategy[Any]:
    """All values of a type; a field named in `pools` takes its values from there."""
    if field in pools:
        return pools[field]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([values(part, pools) for part in arguments])
    if origin is list:
        return st.lists(values(arguments[0], pools), max_size=3)
    if origin is dict:
        return st.dictionaries(st.text(max_size=8), values(arguments[1], pools), max_size=3)
    if kind is type(None):
        return st.none()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = get_type_hints(kind)
        return st.builds(kind, **{name: values(hints[name], pools, name) for name in kind.__struct_fields__})
    plain: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: integers,
        float: finite,
        str: st.text(max_size=30),
    }
    return plain[kind]


def events(pools: Mapping[str, st.SearchStrategy[Any]] | None = None) -> st.SearchStrategy[e.Event]:
    """Any event of any type."""
    return st.one_of([values(kind, pools or {}) for kind in e.all_event_types().values()])


# few names, so that events meet on the same rows
POOLS: dict[str, st.SearchStrategy[Any]] = {
    **{
        name: st.sampled_from(["v1", "v2", "few-shot@1"])
        for name in ("adapter", "candidate", "answerer", "previous", "rolled_back")
    },
    "task": st.sampled_from(["", "tickets", "mail"]),
    "record_id": st.sampled_from(["a", "b", "c"]),
    "run_id": st.sampled_from(["r1", "r2"]),
    "evaluation_id": st.sampled_from(["e1", "e2"]),
    "label": st.sampled_from(["billing", "urgent"]),
    "answer": st.sampled_from(["billing", "urgent", None]),
}


# ---------------------------------------------------------------- tables


def contents(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all read tables, in the order of their keys."""
    with database.reading() as connection:
        return {
            table: raw(connection)
            .execute(f"SELECT {', '.join(BLANKS[table])} FROM {table} ORDER BY {', '.join(keys)}")  # noqa: S608
            .fetchall()
            for table, keys in KEYS.items()
        }
