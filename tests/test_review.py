from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.review import (
    CONTROLS,
    Act,
    Item,
    Session,
    farewell,
    keys_for,
    opened,
    press,
    production_said,
    refilled,
    refused,
    settled,
    why,
    window,
)
from store.errors import UsageError
from store.events import ReviewReason

LABELS = ["urgent", "billing", "technical", "general"]


def item(name: str, text: str = "help") -> Item:
    return Item(record_id=name, text=text)


def session(*names: str) -> Session:
    return opened(LABELS, [item(name) for name in names])


def play(start: Session, keys: str) -> tuple[Session, list[Act]]:
    """Press keys; every act succeeds."""
    acts = []
    for key in keys:
        start, act = press(start, key)
        if act is not None:
            acts.append(act)
            start = settled(start, act)
    return start, acts


@given(st.integers(1, 300))
def test_every_label_has_a_key_and_no_key_hides_another(count: int) -> None:
    keys = keys_for([f"label {n}" for n in range(count)])
    assert sorted(keys.values()) == sorted(f"label {n}" for n in range(count))
    assert not set(keys) & set(CONTROLS)
    for one in keys:
        assert not any(other != one and other.startswith(one) for other in keys)
        assert one[0] not in CONTROLS


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="too many"):
        keys_for([str(n) for n in range(1001)])


def test_label_skip_undo_quit() -> None:
    end, acts = play(session("a", "b", "c"), "1su2q")
    assert acts == [
        Act(kind="label", record_id="a", label="urgent"),
        Act(kind="skip", record_id="b"),
        Act(kind="undo", record_id="b"),
        Act(kind="label", record_id="b", label="billing"),
        Act(kind="quit"),
    ]
    assert (end.labelled, end.skipped) == (2, 0)
    assert end.current == item("c")
    assert farewell(end, 1) == "2 labelled, 0 skipped; 1 still in the queue"


def test_undo_brings_the_record_back_even_from_an_empty_queue() -> None:
    end, _ = play(session("a"), "1")
    assert end.current is None
    end, acts = play(end, "1su")
    assert acts == [Act(kind="undo", record_id="a")]
    assert end.current == item("a")


def test_nothing_to_undo_and_unknown_keys_are_told_and_do_nothing() -> None:
    end, acts = play(session("a"), "u")
    assert (acts, end.message) == ([], "nothing to undo in this sitting")
    end, acts = play(session("a"), "9")
    assert acts == [] and "no key" in end.message and end.current == item("a")


def test_a_refused_act_moves_nothing_unless_the_record_is_gone() -> None:
    start = session("a", "b")
    kept = refused(start, "the disk is full")
    assert (kept.current, kept.message) == (item("a"), "the disk is full")
    assert refused(start, "erased", drop=True).current == item("b")


def test_numbers_of_two_digits_wait_for_the_second() -> None:
    start = opened([f"intent {n}" for n in range(77)], [item("a")])
    half, act = press(start, "1")
    assert act is None and half.pending == "1"
    _, act = press(half, "0")
    assert act == Act(kind="label", record_id="a", label="intent 10")
    wrong, act = press(half, "x")
    assert act is None and wrong.pending == "" and "no key" in wrong.message


def test_a_refill_brings_nothing_twice() -> None:
    start, _ = play(session("a", "b"), "1")
    more = refilled(start, [item("a"), item("b"), item("c")])
    assert [one.record_id for one in more.items] == ["b", "c"]


@given(st.text("124su? xq", max_size=40), st.integers(0, 6))
def test_no_sequence_of_keys_loses_or_doubles_a_record(keys: str, count: int) -> None:
    names = [f"r{n}" for n in range(count)]
    end, _ = play(session(*names), keys)
    seen = [one.item.record_id for one in end.done] + [one.record_id for one in end.items]
    assert seen == names
    assert end.labelled + end.skipped == len(end.done)


@given(st.lists(st.text(max_size=3), max_size=50), st.integers(1, 9), st.integers(0, 40))
def test_pages_cover_a_long_ticket(lines: list[str], height: int, page: int) -> None:
    shown, number, pages = window(lines, height, page)
    assert 1 <= number <= pages and len(shown) <= height
    assert [line for each in range(pages) for line in window(lines, height, each)[0]] == lines


def test_production_and_reasons_in_words() -> None:
    full = Item(
        record_id="a", text="", answer="billing", answered_by="zero-shot@1", confidence=0.61, margin=0.2,
        feedback="urgent",
        reasons=[ReviewReason(name="misclassified", detail="agent said urgent"), ReviewReason(name="audit", detail="")],
    )  # fmt: skip
    said = production_said(full)
    assert said == "production said billing (61% sure, margin 0.20), as zero-shot@1; later corrected to urgent"
    assert production_said(item("a")) == "production gave no label"
    assert why(full) == ["misclassified: agent said urgent", "audit"]


def test_the_module_knows_no_terminal() -> None:
    source = Path(__import__("loop.review").review.__file__).read_text(encoding="utf-8")
    assert not [name for name in ("import sys", "termios", "rich", "print(") if name in source]
