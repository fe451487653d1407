"""Production that is skewed 96 to 1: the loop goes on as ever, and the rare classes come to be learned."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from year_world import Year

from loop import balance
from store import events as ev

SHARES = {"general": 0.96, "billing": 0.02, "technical": 0.01, "urgent": 0.01}
RARE = [label for label, share in SHARES.items() if share < 0.1]


class Labelled(NamedTuple):
    id: str
    label: str
    failure: bool = False


@pytest.fixture(scope="module")
def half_year() -> Year:
    world = Year(SHARES)
    for number in range(60):
        world.label(f"exam-{number}", world.labels[number % 4], side="exam")
    for number in range(182):
        world.day(number)
    return world


def labels_at(world: Year, training: ev.DatasetFrozen) -> list[Labelled]:
    given = [one.event for one in world.log if isinstance(one.event, ev.LabelGiven) and one.event.side == "train"]
    return [Labelled(one.record_id, one.label) for one in given[: training.labels_train]]


def test_the_first_training_and_those_after_it_wait_for_nothing_but_their_labels(half_year: Year) -> None:
    sizes = [one.labels_train for one in half_year.trainings]
    assert 50 <= sizes[0] < 60 and len(sizes) >= 5
    assert half_year.promotions and half_year.champions_skill() > 0.7


def test_records_of_rare_classes_are_found_among_many_that_nobody_needs(half_year: Year) -> None:
    assert half_year.labelled_for.count("rare") > 10
    came = Counter(half_year.truth.values())
    labelled = Counter(one.label for one in labels_at(half_year, half_year.trainings[-1]))
    share = {label: labelled[label] / came[label] for label in SHARES}
    assert share["general"] < 0.3 and all(share[label] > 2 * share["general"] for label in RARE), share


def test_no_training_set_is_beyond_ten_to_one(half_year: Year) -> None:
    for training in half_year.trainings:
        kept, _ = balance.capped(labels_at(half_year, training), seed=1)
        sizes = Counter(one.label for one in kept)
        shown = {label: size * balance.copies(sizes).get(label, 1) for label, size in sizes.items()}
        assert max(shown.values()) <= balance.CAP_RATIO * min(shown.values()), shown
    assert set(sizes) == set(SHARES)
