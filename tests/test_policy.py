"""The policy over months of simulated time: what starts a training, what does not, and what happens after."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from loop_world import START, World, settings

from loop import commands as cmd
from loop.policy import decide, waits
from loop.settings import Settings, TaskSettings
from loop.state import Deployed, LoopState, Served, TaskState, fold
from store import events as ev

NO_PLATEAU = {"plateau_rounds": 1000}


def ready(world: World, exam: int = 60) -> World:
    for number in range(exam):
        world.label(f"exam-{number}", "ab"[number % 2], side="exam")
    return world


def frozen(world: World) -> list[int]:
    return [one.event.labels_train for one in world.log if isinstance(one.event, ev.DatasetFrozen)]


def test_first_training_at_fifty_then_every_twenty() -> None:
    world = ready(World(settings(trigger=NO_PLATEAU)))
    for number in range(120):
        world.label(f"r{number}", "ab"[number % 2])
        world.run()
    assert frozen(world) == [50, 70, 90, 110]


@given(bursts=st.lists(st.integers(1, 60), min_size=1, max_size=8))
@hypothesis_settings(deadline=None, max_examples=40)
def test_no_burst_skips_or_doubles_a_training(bursts: list[int]) -> None:
    world = ready(World(settings(trigger=NO_PLATEAU)))
    total = 0
    expected: list[int] = []
    for burst in bursts:
        for _ in range(burst):
            world.label(f"r{total}", "ab"[total % 2])
            total += 1
        world.run()
        if (not expected and total >= 50) or (expected and total >= expected[-1] + 20):
            expected.append(total)
    assert frozen(world) == expected


def test_edits_and_withdrawals_count_records_not_clicks() -> None:
    world = ready(World(settings()))
    for number in range(49):
        world.label(f"r{number}", "ab"[number % 2])
    for _ in range(30):
        world.label("r0", "b", previous="a")
        world.label("r0", "a", previous="b")
    world.happen(ev.LabelWithdrawn(task="t", record_id="r1", label="b", side="train", audit=False, annotator="x"))
    world.run()
    assert frozen(world) == []
    assert waits(world.state, world.rules, "t")[-1] == "2 more labels until training"
    world.label("r1", "b")
    world.label("r49", "b")
    world.run()
    assert frozen(world) == [50]


def test_nothing_new_starts_while_paused_and_a_running_step_is_watched() -> None:
    world = ready(World(settings()))
    for number in range(50):
        world.label(f"r{number}", "ab"[number % 2])
    world.happen(ev.LoopPaused(reason="maintenance"))
    assert world.run() == []
    assert "maintenance" in waits(world.state, world.rules, "t")[0]
    world.happen(ev.LoopResumed())
    while not isinstance((commands := decide(world.state, world.rules, world.now))[-1], cmd.WatchStep):
        world.carry_out(commands[0])
    world.happen(ev.LoopPaused())
    assert [type(one) for one in decide(world.state, world.rules, world.now)] == [cmd.WatchStep]


def test_two_tasks_never_hold_the_machine_at_once() -> None:
    rules = Settings(tasks={name: TaskSettings(labels=["a", "b"]) for name in ("t", "u")})
    world = World(rules)
    for task in ("t", "u"):
        world.happen(ev.PromptAdopted(task=task, prompt="p", digest="", scores=[], reason=""))
        world.happen(
            ev.DatasetFrozen(
                task=task, run_id=f"{task}-run-1", artifact="", up_to=0, labels_train=50, train=50, valid=0, exam=0,
                hard_exam=0, per_class={}, curation=[],
            )
        )  # fmt: skip
    first = decide(world.state, rules, world.now)
    # either may start: the daemon lets the first one that can
    assert [(type(one), one.task) for one in first] == [(cmd.StartTraining, "t"), (cmd.StartTraining, "u")]
    world.carry_out(first[0])
    assert [(type(one), one.task) for one in decide(world.state, rules, world.now)] == [(cmd.WatchStep, "t")]


def test_a_run_that_keeps_dying_without_progress_is_parked_and_one_that_progresses_is_not() -> None:
    world = ready(World(settings()))
    world.train_outcome = lambda attempt: f"dies at {20 * min(attempt, 15)}" if attempt < 17 else "ok"
    for number in range(50):
        world.label(f"r{number}", "ab"[number % 2])
    world.run()
    assert world.state.task("t").champion.answerer == "t-v1"

    stuck = ready(World(settings()))
    stuck.train_outcome = lambda attempt: "out of memory"
    for number in range(50):
        stuck.label(f"r{number}", "ab"[number % 2])
    stuck.run()
    starts = [one for one in stuck.log if isinstance(one.event, ev.TrainingStarted)]
    assert len(starts) == 3
    assert "parked" in " ".join(waits(stuck.state, stuck.rules, "t"))
    for number in range(50, 70):
        stuck.label(f"r{number}", "ab"[number % 2])
    stuck.train_outcome = lambda attempt: "ok"
    stuck.run()
    assert frozen(stuck) == [50, 70]


def test_a_shutdown_is_no_failure() -> None:
    world = ready(World(settings()))
    for number in range(50):
        world.label(f"r{number}", "ab"[number % 2])
    for _ in range(10):
        while not isinstance((commands := decide(world.state, world.rules, world.now))[0], cmd.WatchStep):
            world.carry_out(commands[0])
        watch = commands[0]
        assert isinstance(watch, cmd.WatchStep)
        world.happen(
            ev.StepInterrupted(task="t", run_id=watch.run_id, kind="train", attempt=watch.attempt, reason="shutdown")
        )
    world.run()
    assert world.state.task("t").champion.answerer == "t-v1"


def test_an_undecided_candidate_waits_for_exam_labels_and_then_gets_another_look() -> None:
    world = ready(World(settings(), verdict=lambda _, look: "inconclusive" if look < 3 else "promote"))
    for number in range(50):
        world.label(f"r{number}", "ab"[number % 2])
    world.run()
    assert world.state.task("t").looks == {"t-v1": 1}
    assert "20 more audit labels until t-v1 is judged again" in waits(world.state, world.rules, "t")
    for extra in range(40):
        world.label(f"more-{extra}", side="exam")
        world.run()
    assert world.state.task("t").looks == {"t-v1": 3}
    assert world.state.task("t").champion.answerer == "t-v1"


def test_newer_labels_supersede_an_undecided_candidate() -> None:
    world = ready(World(settings(), verdict=lambda name, _: "inconclusive" if name == "t-v1" else "promote"))
    for number in range(70):
        world.label(f"r{number}", "ab"[number % 2])
        world.run()
    rejected = [one.event for one in world.log if isinstance(one.event, ev.CandidateRejected)]
    assert len(rejected) == 1
    assert world.state.task("t").champion.answerer == "t-v2"


def test_a_forgetting_rejection_is_retried_gently_once() -> None:
    world = ready(World(settings(), verdict=lambda *_: "reject"))
    world.forgetting = True
    for number in range(50):
        world.label(f"r{number}", "ab"[number % 2])
    world.run()
    plans = [one.event.plan for one in world.log if isinstance(one.event, ev.DatasetFrozen)]
    assert plans == ["standard", "gentle"]


def test_a_plateau_leads_to_the_overnight_run() -> None:
    world = ready(World(settings(trigger={"overnight_examples": 150})))
    for number in range(200):
        world.label(f"r{number}", "ab"[number % 2])
        world.run()
    plans = [(one.event.plan, one.event.labels_train) for one in world.log if isinstance(one.event, ev.DatasetFrozen)]
    assert plans[:4] == [("standard", 50), ("standard", 70), ("standard", 90), ("overnight", 150)]


def answers_until_rolled_back(
    chance: random.Random, wrong: float, before: float, answers: int = 84, most: int = 300
) -> int | None:
    """Of a new champion, wrong with probability `wrong`, after `answers` of one wrong with `before`; looked at after
    each answer. None: it stayed."""
    deployed = (Deployed(answerer="old", kind="prompt"), Deployed(answerer="new", kind="adapter"))
    old = Served(records=answers, disagreements=sum(chance.random() < before for _ in range(answers)))
    new = Served()
    for number in range(1, most + 1):
        new = Served(records=number, disagreements=new.disagreements + (chance.random() < wrong))
        task = TaskState(task="t", baseline="old", deployed=deployed, served={"old": old, "new": new})
        state = LoopState(tasks={"t": task})
        if any(isinstance(one, cmd.RollBack) for one in decide(state, settings(), START)):
            return number
    return None


@pytest.mark.parametrize(("share", "answers"), [(0.05, 84), (0.3, 84), (0.3, 3000)])
def test_an_adapter_as_good_as_the_one_before_stays_though_it_is_looked_at_after_every_answer(
    share: float, answers: int
) -> None:
    chance = random.Random(3)  # noqa: S311
    gone = sum(answers_until_rolled_back(chance, share, share, answers) is not None for _ in range(100))
    assert gone <= 8  # about one in twenty


def test_an_adapter_that_is_clearly_worse_goes_soon() -> None:
    chance = random.Random(3)  # noqa: S311
    after = [answers_until_rolled_back(chance, 0.4, 0.1) for _ in range(100)]
    assert None not in after and sorted(number or 0 for number in after)[90] <= 50


def test_production_turning_bad_rolls_back_once() -> None:
    world = ready(World(settings()))
    for number in range(50):
        world.label(f"r{number}", "ab"[number % 2])
    world.run()

    def served(name: str, number: int, wrong: bool) -> None:
        world.happen(
            ev.RecordReceived(
                task="t", record_id=f"{name}-{number}", text_digest="", chars=1, source="inbox", side="train",
                audit=False, audit_probability=0.3, cluster="", answer="a", answered_by=name,
            )
        )  # fmt: skip
        if wrong:
            world.happen(
                ev.FeedbackReceived(
                    task="t", record_id=f"{name}-{number}", label="b", side="train", disagrees=True, answered_by=name
                )
            )

    for number in range(40):
        served("zero-shot@1", number, wrong=number % 10 == 0)
    for number in range(29):
        served("t-v1", number, wrong=True)
        world.run()
    assert world.state.task("t").champion.answerer == "t-v1"
    served("t-v1", 29, wrong=True)
    assert any(isinstance(one, cmd.RollBack) for one in world.run())
    assert world.state.task("t").champion.answerer == "zero-shot@1"
    assert not any(isinstance(one, cmd.RollBack) for one in world.run())


def test_folding_is_the_same_at_once_and_event_by_event() -> None:
    world = ready(World(settings()))
    for number in range(120):
        world.label(f"r{number}", "ab"[number % 2])
        world.run()
    assert fold(LoopState(), world.log) == world.state
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(world.state), type=LoopState)
    assert copy == world.state


@pytest.mark.parametrize("labels", [0, 11])
def test_no_prompt_is_compared_on_too_few_labels(labels: int) -> None:
    world = World(settings())
    for number in range(labels):
        world.label(f"r{number}", "ab"[number % 2])
    assert world.run() == []
    assert f"{12 - labels} more label" in waits(world.state, world.rules, "t")[0]


def test_an_erased_example_of_the_prompt_has_the_prompts_compared_again_and_its_label_counts_no_more() -> None:
    world = World(settings())
    for number in range(20):
        world.label(f"r{number}", "ab"[number % 2])
    world.happen(
        ev.PromptAdopted(task="t", prompt="few-shot@1", digest="", scores=[], reason="", shots=["r1", "r2"]),
    )
    assert not any(isinstance(one, cmd.AdoptPrompt) for one in decide(world.state, world.rules, world.now))
    world.happen(ev.RecordErased(task="t", record_id="r9", side="train", label="b"))
    assert world.state.task("t").labels_train == {"a": 10, "b": 9}
    assert not any(isinstance(one, cmd.AdoptPrompt) for one in decide(world.state, world.rules, world.now))
    world.happen(ev.RecordErased(task="t", record_id="r2", side="train", label="a"))
    assert cmd.AdoptPrompt(task="t") in decide(world.state, world.rules, world.now)
    assert cmd.AdoptPrompt(task="t") in world.run()
    assert not world.state.task("t").shots_erased
