"""Clocks are set by an hour or ten years, and machines sleep for a day: the loop goes on as if nothing had happened."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kill_world as world
import pytest
from clock_world import DAY, HOUR, YEAR, Clock, Timed, timed
from conftest import Trials
from notify_world import receiver
from stub_daemon import rests

from loop.bootstrap import App, open_app
from loop.services import read_endpoints

INTERVAL = 0.5  # seconds between two ticks
SLACK = 0.25  # of the processes' own, on a busy machine
JUMPS = {"an hour on": HOUR, "an hour back": -HOUR, "ten years on": 10 * YEAR, "ten years back": -10 * YEAR}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rules = {"daemon": {"tick_seconds": INTERVAL, "settle_seconds": 0.0, "rescan_seconds": 1.0, "batch": 20}}
    return world.make(tmp_path_factory.mktemp("clocks") / "template", overrides=rules)


@pytest.fixture(scope="module")
def unharmed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = world.copy(template, tmp_path_factory.mktemp("unharmed") / "w")
    world.fill(root)
    assert world.run(root) == 0
    return world.outcome(root)


def at_rest(app: App) -> bool:
    return bool(read_endpoints(app.workspace.paths.run).engine) and rests(app)


def next_tick(running: Timed, change: Callable[[], None]) -> float:
    """Make a change between two ticks; seconds from then to the begin of the next one."""
    count = len(running.ticks())
    running.wait_for(lambda: len(running.ticks()) > count, "a tick")
    time.sleep(0.05)
    change()
    since = time.clock_gettime(time.CLOCK_MONOTONIC_RAW)
    running.wait_for(lambda: any(begin > since for begin, _, _ in running.ticks()), "the next tick", 60)
    return min(begin for begin, _, _ in running.ticks() if begin > since) - since


def test_the_next_tick_comes_within_two_intervals(
    template: Path, tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]
) -> None:
    rounds = trials(1, full=5, soak=100)
    clock = Clock(tmp_path)
    root = world.copy(template, tmp_path / "w")
    found: dict[str, list[float]] = {}
    with open_app(root) as app, timed(root, tmp_path / "ticks", **clock.environment()) as running:
        running.wait_for(lambda: read_endpoints(app.workspace.paths.run).engine, "the engine")
        for _ in range(rounds):
            for name, seconds in JUMPS.items():
                found.setdefault(name, []).append(next_tick(running, lambda seconds=seconds: clock.jump(seconds)))
            found.setdefault("a day asleep", []).append(next_tick(running, lambda: _sleep(running, clock)))
    worst = {name: max(waits) for name, waits in found.items()}
    assert max(worst.values()) < 2 * INTERVAL + SLACK, worst
    measured(
        f"clock set by {', '.join(JUMPS)}, and a day asleep, {rounds} times each",
        "next tick within " + ", ".join(f"{seconds / INTERVAL:.1f}" for seconds in worst.values()) + " intervals",
    )


def _sleep(running: Timed, clock: Clock) -> None:
    running.stop()
    time.sleep(0.3)
    clock.sleep(DAY)
    running.go_on()


@pytest.mark.parametrize("seed", range(3))
def test_no_step_is_doubled_or_lost(
    seed: int, template: Path, unharmed: dict[str, Any], tmp_path: Path, trials: Trials,
    measured: Callable[[str, str], None],
) -> None:  # fmt: skip
    if seed >= trials(1, full=3):
        pytest.skip("one way through time is enough in CI")
    clock = Clock(tmp_path)
    root = world.copy(template, tmp_path / "w")
    random_ = random.Random(seed)  # noqa: S311
    jumps = 0
    world.fill(root)
    with open_app(root) as app, timed(root, tmp_path / "ticks", **clock.environment()) as running:
        steps = _steps(app)
        while not at_rest(app):  # after each step that is recorded, and while others run, the clock is another one
            running.wait_for(lambda: next(steps) or at_rest(app), "a step")
            name = random_.choice([*JUMPS, "asleep"])
            if name == "asleep":
                _sleep(running, clock)
            else:
                there = clock.wall + JUMPS[name]
                clock.jump(JUMPS[name] if abs(there) <= 10 * YEAR else -clock.wall)
            jumps += 1
    world.same(unharmed, world.outcome(root), f"seed {seed}")
    assert jumps >= 5
    measured(f"the clock set {jumps} times in the middle of steps (seed {seed})", "the same end as unharmed")


def _steps(app: App) -> Iterator[bool]:
    """Whether a step was recorded since the last question."""
    position = app.workspace.log.head().position
    while True:
        fresh = list(app.workspace.log.read(position))
        position += len(fresh)
        yield any(not one.stream.startswith("record/") for one in fresh)


def test_messages_are_neither_kept_for_ten_years_nor_given_up(
    template: Path, tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    clock = Clock(tmp_path)
    root = world.copy(template, tmp_path / "w")
    with receiver("failing") as target:
        with (root / "tuneloop.toml").open("a") as file:
            file.write(f'[notify.ops]\nkind = "webhook"\nurl = "{target.url}"\nevents = ["promotion", "rollback"]\n')
        with open_app(root) as app, timed(root, tmp_path / "ticks", **clock.environment()) as running:
            box = app.workspace.paths.notify / "ops.json"
            running.wait_for(box.exists, "the notifier")
            clock.jump(10 * YEAR)
            world.fill(root)
            running.wait_for(lambda: at_rest(app), "rest")
            running.wait_for(lambda: json.loads(box.read_bytes()).get("failures"), "a try that failed")
            clock.jump(-10 * YEAR)  # the next try is now ten years away
            asked = target.asked
            running.wait_for(lambda: target.asked > asked, "a try after the clock was set back", 30)
            clock.jump(20 * YEAR)  # it has failed for ten years, by the clock
            asked = target.asked
            running.wait_for(lambda: target.asked > asked, "a try ten years on", 60)
            time.sleep(1.5)
            target.manner = "good"
            clock.pass_(HOUR)
            running.wait_for(lambda: len(target.got) == 2, "both messages", 30)
    assert [json.loads(body)["event"] for _, body in target.got] == ["promotion", "rollback"]
    measured(
        "a webhook that fails while the clock is set by ten years, twice", "both messages delivered once, in order"
    )
