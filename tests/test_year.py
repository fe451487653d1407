"""A simulated year of one task: the iteration cycle that the loop is built on, by the policy and the harvest alone.

Fifty examples, a training, an exam; then twenty more at a time, aimed at what production got wrong, until candidates
stop gaining; then five hundred examples and a higher rank, overnight; then small steps again on the new champion.
What is simulated is the world, not the loop: tickets come in, production answers them as well as its labels allow,
corrections come back for some of its mistakes, and a labeller does four reviews a working day.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
from cli_world import make
from year_world import REVIEWS, Year, accuracy

from adapters.specs import BaseModelRef
from loop.bootstrap import open_app
from loop.datasets import training_spec
from loop.policy import is_plateau, waits
from store import events as ev


@pytest.fixture(scope="module")
def year() -> Year:
    world = Year()
    for number in range(60):
        world.label(f"exam-{number}", "ab"[number % 2], side="exam")
    began = time.process_time()
    for number in range(365):
        world.day(number)
    assert time.process_time() - began < 20, "a year takes about a second"
    return world


def test_it_begins_with_fifty_examples_and_goes_on_with_twenty_at_a_time(year: Year) -> None:
    small = [one.labels_train for one in year.trainings if one.plan == "standard"]
    first = small[: small.index(max(size for size in small if size < 500)) + 1]
    assert 50 <= first[0] < 50 + REVIEWS  # a day's reviews come in at once
    assert len(first) >= 4 and all(20 <= b - a < 20 + REVIEWS for a, b in pairwise(first))
    assert year.promotions[0].previous == "zero-shot@1" and year.promotions[0].gain > 0.1


def test_what_is_added_aims_at_what_production_got_wrong(year: Year) -> None:
    sizes = [one.labels_train for one in year.trainings]
    mistakes = 1 - accuracy("standard", sizes[1])
    for before, after in pairwise(sizes[:5]):
        asked = year.labelled_for[before:after]
        failures = sum(one == "misclassified" for one in asked) / len(asked)
        assert failures > 2 * mistakes, (before, after, failures)  # drawn at random they would be as frequent


def test_small_steps_end_where_candidates_stop_gaining_and_the_overnight_run_follows(year: Year) -> None:
    plans = [(one.plan, one.labels_train) for one in year.trainings]
    large = next(number for number, (plan, _) in enumerate(plans) if plan == "overnight")
    assert {plan for plan, _ in plans[:large]} == {"standard"} and large >= 4
    assert 500 <= plans[large][1] < 500 + REVIEWS
    rules = year.rules.tasks["t"].trigger
    gains = {one.run_id: one.gain for one in year.promotions}
    before = [gains.get(one.run_id, 0.0) for one in year.trainings[:large]]
    rounds = rules.plateau_rounds
    assert all(gain < rules.plateau_delta for gain in before[-rounds:])
    # not a round too early: up to then one of any three in a row had gained
    assert all(max(before[at : at + rounds]) >= rules.plateau_delta for at in range(len(before) - rounds)), before
    assert plans[large][1] - plans[large - 1][1] > rules.every  # it waited for the larger set
    assert gains[year.trainings[large].run_id] > rules.plateau_delta  # which the higher rank was worth


def test_after_the_overnight_run_small_steps_do_not_take_its_place_and_the_next_is_overnight_again(
    year: Year,
) -> None:
    plans = [one.plan for one in year.trainings]
    large = plans.index("overnight")
    after = year.trainings[large + 1 :]
    assert len(after) >= 4
    rounds = year.rules.tasks["t"].trigger.plateau_rounds
    # its gain ends the plateau; small steps of the lower rank are then judged against it, and fail
    assert [one.plan for one in after[:rounds]] == ["standard"] * rounds
    assert after[rounds].plan == "overnight"
    rejected = {one.event.run_id for one in year.log if isinstance(one.event, ev.CandidateRejected)}
    assert {one.run_id for one in after[:rounds]} <= rejected
    assert {year.trainings[at].plan for at, one in enumerate(year.trainings) if one.run_id == champion_run(year)} == {
        "overnight"
    }
    sizes = [one.labels_train for one in year.trainings[large:]]
    assert all(20 <= b - a < 20 + REVIEWS for a, b in pairwise(sizes))


def champion_run(year: Year) -> str:
    return year.promotions[-1].run_id


def test_production_is_far_better_at_the_end_and_the_loop_says_what_it_waits_for(year: Year) -> None:
    assert year.champions_skill() > 0.9
    served = year.state.task("t").served
    large = next(one.run_id for one in year.trainings if one.plan == "overnight")
    overnight = next(one.answerer for one in year.promotions if one.run_id == large)
    first, last = served["zero-shot@1"], served[overnight]
    assert last.records > 300
    assert last.disagreements / last.records < 0.4 * first.disagreements / first.records
    assert not any(isinstance(one.event, ev.AdapterRolledBack) for one in year.log)
    assert waits(year.state, year.rules, "t")[-1].endswith("more labels until training")


def test_while_the_plateau_lasts_the_larger_set_is_what_is_waited_for() -> None:
    world = Year()
    for number in range(60):
        world.label(f"exam-{number}", "ab"[number % 2], side="exam")
    number = 0
    while not is_plateau(world.state.task("t"), world.rules.tasks["t"]):
        world.day(number)
        number += 1
    missing = 500 - world.state.task("t").train_total
    assert f"{missing} more labels until training" in waits(world.state, world.rules, "t")


def test_an_overnight_run_is_asked_to_train_a_higher_rank(tmp_path: Path) -> None:
    with open_app(make(tmp_path / "w"), env={}) as app:
        rules, base = app.settings.task("tickets"), BaseModelRef(path="", digest="")
        named = {"run_id": "tickets-run-1", "adapter": "tickets-v1"}
        specs = [training_spec(app, rules, base, **named, plan=plan) for plan in ("standard", "overnight")]
        high = rules.model_copy(update={"training": rules.training.model_copy(update={"rank": 64, "alpha": 128})})
        kept = training_spec(app, high, base, **named, plan="overnight")
    assert [one.rank for one in specs] == [rules.training.rank, rules.trigger.overnight_rank]
    assert specs[1].rank > specs[0].rank and specs[1].alpha / specs[1].rank == specs[0].alpha / specs[0].rank
    assert (kept.rank, kept.alpha) == (64, 128), "a rank that is higher already stays"
