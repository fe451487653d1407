"""The order of training examples: random, and every stretch of an epoch holds the classes in their shares."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from adapters.order import Stratified


def rows(counts: dict[int, int]) -> list[dict[str, object]]:
    """Rows whose answer is one token."""
    return [{"input_ids": [7, 8, answer], "start": 2} for answer, count in counts.items() for _ in range(count)]


@given(st.dictionaries(st.integers(10, 30), st.integers(1, 40), min_size=1), st.integers(0, 9), st.integers(0, 3))
def test_every_row_comes_once_an_epoch_and_classes_in_their_shares(
    counts: dict[int, int], seed: int, epoch: int
) -> None:
    made = rows(counts)
    order = Stratified(made, seed)
    order.set_epoch(epoch)
    told = list(order)
    assert sorted(told) == list(range(len(made))) and len(order) == len(made)
    # after any stretch a class lies at most one row for each of its neighbours off its share
    seen: Counter[object] = Counter()
    for place, number in enumerate(told, 1):
        seen[made[number]["input_ids"][2]] += 1  # type: ignore[index]
        for answer, count in counts.items():
            assert abs(seen[answer] - count * place / len(made)) <= 1 + len(counts)


def test_balanced_classes_come_in_turn() -> None:
    made = rows(dict.fromkeys(range(12), 12))
    told = [made[number]["input_ids"][2] for number in Stratified(made, 1)]  # type: ignore[index]
    assert [len(set(told[first : first + 12])) for first in range(0, 144, 12)] == [12] * 12


def test_epochs_differ_and_a_resumed_one_is_repeated() -> None:
    made = rows(dict.fromkeys(range(4), 10))
    order, again, other = Stratified(made, 1), Stratified(made, 1), Stratified(made, 2)
    first = list(order)
    order.set_epoch(1)
    again.set_epoch(1)
    assert first != list(order) and list(order) == list(again) and first != list(other)
