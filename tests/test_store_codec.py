"""Codec: round-trips of every type, golden payloads, upcasters, damage."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from store_helpers import events, sample

from store import events as e
from store.codec import CODEC, Codec
from store.errors import Corrupt, StoreError
from store.folds import HANDLERS, IGNORED, plain
from store.rows import BLANKS, KEYS
from store.tables import read_tables

GOLDEN = Path(__file__).parent / "golden" / "events.json"
TYPES = e.all_event_types()


def golden() -> dict[str, Any]:
    """`Type@version` -> the payload as it was once stored, and the event it decoded to, defaults included.

    UPDATE_GOLDEN=1 adds entries that are missing; an entry that is there is never changed.
    """
    known: dict[str, Any] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("UPDATE_GOLDEN"):
        for kind in TYPES.values():
            event = sample(kind)
            name, schema, payload = CODEC.encode(event)
            known.setdefault(f"{name}@{schema}", {"payload": json.loads(payload), "decoded": plain(event)})
        GOLDEN.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return known


@given(events())
def test_every_event_comes_back_as_it_was(event: e.Event) -> None:
    name, schema, payload = CODEC.encode(event)
    assert CODEC.decode(name, schema, payload) == event


def test_every_type_and_version_has_a_golden_payload() -> None:
    wanted = {f"{name}@{version}" for name, kind in TYPES.items() for version in range(1, kind.SCHEMA + 1)}
    missing = wanted - golden().keys()
    assert not missing, f"{sorted(missing)}: run UPDATE_GOLDEN=1 pytest {Path(__file__).name} and commit the file"
    assert not golden().keys() - wanted, "a type that was once stored must stay readable"


@pytest.mark.parametrize("key", sorted(golden()))
def test_golden_payloads_still_decode_to_the_same_event(key: str) -> None:
    entry = golden()[key]
    name, version = key.split("@")
    event = CODEC.decode(name, int(version), json.dumps(entry["payload"]))
    assert type(event) is TYPES[name]
    if int(version) == TYPES[name].SCHEMA:  # older shapes are lifted: that they still decode is what counts
        assert not _differs(entry["decoded"], plain(event)), f"{key} reads differently: raise SCHEMA, add an upcaster"
        assert json.loads(CODEC.encode(event)[2]) == entry["payload"], f"{key} is stored differently: raise SCHEMA"


def _differs(stored: Any, now: Any) -> bool:
    """Whether anything that was stored reads differently; fields that came later, with a default, may be there."""
    if isinstance(stored, dict):
        return not isinstance(now, dict) or any(k not in now or _differs(v, now[k]) for k, v in stored.items())
    if isinstance(stored, list):
        return len(stored) != len(now) or any(_differs(one, two) for one, two in zip(stored, now, strict=True))
    return bool(stored != now)


class Moved(e.Value, frozen=True, kw_only=True):
    """Stands in for an event whose shape changed twice."""

    SCHEMA = 3
    task: str = ""
    place: str


MOVED = Codec(
    {"Moved": Moved},  # type: ignore[dict-item]
    {
        ("Moved", 1): lambda old: {**old, "location": old["where"]},
        ("Moved", 2): lambda old: {"task": old["task"], "place": old["location"].strip()},
    },
)


def test_upcasters_lift_an_old_payload_step_by_step() -> None:
    wanted = Moved(task="t", place="here")
    assert MOVED.decode("Moved", 1, '{"task": "t", "where": " here "}') == wanted
    assert MOVED.decode("Moved", 2, '{"task": "t", "location": "here "}') == wanted
    assert MOVED.decode("Moved", 3, '{"task": "t", "place": "here"}') == wanted


@pytest.mark.parametrize(
    ("name", "schema", "payload", "says"),
    [
        ("Moved", 4, "{}", "does not know"),
        ("Teleported", 1, "{}", "does not know"),
        ("Moved", 1, '{"task": "t"}', "cannot be read"),
        ("Moved", 3, '{"task": "t"}', "cannot be read"),
        ("Moved", 3, '{"task": ', "cannot be read"),
        ("Moved", 0, "{}", "no upcaster"),
        ("Moved", 3, b"\xff\xfe", "cannot be read"),
    ],
)
def test_what_cannot_be_read_names_its_position(name: str, schema: int, payload: Any, says: str) -> None:
    with pytest.raises(Corrupt, match=says) as caught:
        MOVED.decode(name, schema, payload, position=4711)
    assert "4711" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_cannot_carry_are_refused_before_they_are_stored(value: float) -> None:
    for loss, eval_loss in ((value, 0.1), (0.1, value)):
        with pytest.raises(StoreError):
            CODEC.encode(e.TrainingProgressed(task="t", run_id="r", step=1, of=2, loss=loss, eval_loss=eval_loss))


def test_only_registered_types_are_stored() -> None:
    with pytest.raises(StoreError, match="no registered event type"):
        CODEC.encode(e.ReviewReason(name="audit", detail="drawn"))  # type: ignore[arg-type]


def test_every_event_type_is_folded_or_ignored_on_purpose() -> None:
    assert set(TYPES.values()) == HANDLERS.keys() | IGNORED
    assert not HANDLERS.keys() & IGNORED


def test_blank_rows_have_the_columns_and_keys_of_the_tables() -> None:
    tables = {table.name: table for table in read_tables()}
    assert tables.keys() == BLANKS.keys() == KEYS.keys()
    for name, table in tables.items():
        assert {column.name for column in table.columns} == BLANKS[name].keys()
        assert tuple(column.name for column in table.primary_key) == KEYS[name]
