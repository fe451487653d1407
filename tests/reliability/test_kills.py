"""kill -9 at every named point of every step: what is left comes to the same end as if nothing had happened."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import forked
import kill_followers
import kill_verbs
import kill_world as world
import pytest
from conftest import Trials
from kill_texts import answer_of
from kill_trials import REAL, REPEATED, WHOLE, WORLDS, World, killed, prepare, template
from notify_world import receiver

from store.kill_points import POINTS

Measured = Callable[[str, str], None]
Prepared = dict[str, tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with forked.workers() as workers:
        yield workers
        workers.shutdown(wait=False, cancel_futures=True)  # after a failure nobody waits for the rest


@pytest.fixture(scope="module")
def prepared(pool: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """Template and unharmed outcome of every world; the endpoint that one of them asks stays up."""
    folder = tmp_path_factory.mktemp("worlds")
    with receiver(reply=_answer) as endpoint:
        url = f"http://127.0.0.1:{endpoint.port}/v1"
        made = {one.name: pool.submit(prepare, one, folder, url) for one in WORLDS}
        yield {name: one.result() for name, one in made.items()}


def _answer(body: bytes) -> bytes:
    import json

    asked = json.loads(body)
    message = {"role": "assistant", "content": answer_of(asked["messages"][-1]["content"])}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [choice]}
    ).encode()


def compared(
    trials_: list[tuple[World, tuple[str, ...], Future[tuple[dict[str, Any], int]]]], prepared: Prepared
) -> dict[tuple[str, ...], int]:
    """Deaths of each trial, after its outcome was found to be the unharmed one."""
    deaths = {}
    for one, kills, future in trials_:
        found, deaths[kills] = future.result()
        world.same(prepared[one.name][1], found, f"{one.name}, killed at {' and '.join(kills)}")
    return deaths


def test_single_points(
    pool: ProcessPoolExecutor, prepared: Prepared, tmp_path: Path, trials: Trials, measured: Measured
) -> None:
    wanted = [(one, point) for one in WORLDS for point in one.points]
    again = [(WHOLE, f"{point}:{nth}") for point in REPEATED for nth in range(2, trials(3, full=8, soak=40))]
    futures = []
    for number, (one, kill) in enumerate(wanted + again):
        source = prepared[one.name][0]
        futures.append((one, (kill,), pool.submit(killed, one, source, tmp_path / str(number), [kill])))
    deaths = compared(futures, prepared)
    missed = [point for _, point in wanted if not deaths[(point,)]]
    assert not missed, f"never reached: {missed}"
    measured(
        f"kill -9 of the process tree at each of the {len(wanted)} points of the loop",
        f"{sum(deaths.values())} kills (later passes of a point included): the same final state every time, "
        "each step done once, no process left",
    )


def test_pairs_of_points(
    pool: ProcessPoolExecutor, prepared: Prepared, tmp_path: Path, trials: Trials, measured: Measured
) -> None:
    """Dead once, and dead again on the restart; pairs are in the order in which the loop comes by."""
    everything = list(itertools.combinations_with_replacement(WHOLE.points, 2))
    count = trials(40, full=200, soak=len(everything))
    chosen = random.Random(1).sample(everything, count)  # noqa: S311
    source = prepared["whole"][0]
    futures = [
        (WHOLE, pair, pool.submit(killed, WHOLE, source, tmp_path / str(number), pair))
        for number, pair in enumerate(chosen)
    ]
    deaths = compared(futures, prepared)
    twice = sum(count == 2 for count in deaths.values())
    assert twice > len(deaths) / 2
    measured(
        f"{len(deaths)} of the {len(everything)} pairs of {len(WHOLE.points)} points, the second kill on the restart",
        f"the same final state every time; {twice} died twice, the others had passed the second point",
    )


def test_the_real_children(
    pool: ProcessPoolExecutor,
    tiny_model: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    trials: Trials,
    measured: Measured,
) -> None:
    """With torch: adapters.train and adapters.evaluate on a tiny model."""
    source = pool.submit(template, tmp_path_factory.mktemp("real"), REAL, model=tiny_model).result()
    chosen = REAL.points[:: trials(len(REAL.points) // 2, full=1)]
    unharmed = pool.submit(killed, REAL, source, tmp_path / "unharmed", [], real=True)
    futures = [
        (REAL, (point,), pool.submit(killed, REAL, source, tmp_path / point, [point], real=True)) for point in chosen
    ]
    deaths = compared(futures, {REAL.name: (source, unharmed.result()[0])})
    assert set(deaths.values()) == {1}, deaths
    measured(
        f"kill -9 at {len(chosen)} of the {len(REAL.points)} points inside the real training and evaluation",
        "the same final state every time, the adapter's weights included",
    )


def test_what_people_do(
    pool: ProcessPoolExecutor, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, measured: Measured
) -> None:
    stages = pool.submit(kill_verbs.stages, tmp_path_factory.mktemp("stages")).result()
    wanted, futures = [], []
    for number, verb in enumerate(kill_verbs.VERBS):
        before, after = stages[number : number + 2]
        unharmed = pool.submit(kill_verbs.unharmed, verb, after, tmp_path / f"{number}-unharmed")
        for kill in (*verb.points, *kill_verbs.SHARED):
            root = tmp_path / f"{number}-{kill}"
            futures.append((verb, kill, unharmed, pool.submit(kill_verbs.killed, verb, before, root, kill)))
        wanted += [(verb.name, kill) for kill in verb.points]
    reached = []
    for verb, kill, unharmed, future in futures:
        found, died = future.result()
        world.same(unharmed.result(), found, f"tuneloop {verb.name}, killed at {kill}")
        reached += [(verb.name, kill)] if died else []
    missed = set(wanted) - set(reached)
    assert not missed, f"never reached: {missed}"
    names = ", ".join(verb.name for verb in kill_verbs.VERBS)
    measured(
        f"kill -9 of `tuneloop` at every point that a command comes by ({names})",
        f"{len(reached)} kills: done once, whether it was repeated or not",
    )


def test_mirror_and_notifier(
    pool: ProcessPoolExecutor, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, measured: Measured
) -> None:
    pytest.importorskip("wandb")
    source = pool.submit(kill_followers.template, tmp_path_factory.mktemp("followers")).result()
    unharmed = pool.submit(kill_followers.killed, "mirror", source, tmp_path / "m", []).result()[0]
    assert unharmed is not None and len(unharmed) == 2
    kills = kill_followers.POINTS["mirror"]
    futures = [pool.submit(kill_followers.killed, "mirror", source, tmp_path / one, [one]) for one in kills]
    for kill, future in zip(kills, futures, strict=True):
        assert future.result() == (unharmed, 1), f"the mirror, killed at {kill}"
    told = _told(pool, source, tmp_path / "n", [])
    keys = list(told)
    assert len(keys) >= 3 and set(told.values()) == {1}
    for kill in kill_followers.POINTS["notify"]:
        again = _told(pool, source, tmp_path / f"n-{kill}", [kill])
        assert list(again) == keys, kill
        # only what was taken the moment before the death comes again, under its key
        assert sum(again.values()) == len(keys) + kill.startswith("notify.sent"), kill
    rows = sum(len(steps) for steps in unharmed.values())
    measured(
        f"kill -9 of the mirror and of the notifier, {len(kills) + len(kill_followers.POINTS['notify'])} kills",
        f"all {rows} rows sent once; all {len(keys)} messages told in order, the one at a death twice under its key",
    )


def _told(pool: ProcessPoolExecutor, source: Path, root: Path, kills: list[str]) -> dict[str, int]:
    """How often each message came, in the order of its first coming."""
    with receiver() as target:
        deaths = pool.submit(kill_followers.killed, "notify", source, root, kills, target.url).result()[1]
        assert deaths == len(kills)
        return dict(Counter(headers["webhook-id"] for headers, _ in target.got))


# killed at in tests of their own, beside what else is asked of them
ELSEWHERE = {
    "erase.": "test_erase.py",
    "artifacts.redaction_noted": "test_erase.py",
    "backup.": "test_backup.py",
    "restore.": "test_backup.py",
}


def test_no_point_is_left_out() -> None:
    killed_here = {point.partition(":")[0] for one in WORLDS for point in one.points}
    killed_here |= {point for verb in kill_verbs.VERBS for point in verb.points}
    killed_here |= {point for points in kill_followers.POINTS.values() for point in points}
    tests = Path(__file__).parents[1]
    for prefix, file in ELSEWHERE.items():
        assert f'"{prefix}"' in (tests / file).read_text(), f"{file} kills at no point of {prefix}"
    left = [point for point in POINTS if point not in killed_here and not point.startswith(tuple(ELSEWHERE))]
    assert not left, "a new step needs a scenario here, or its own test and a line in ELSEWHERE"
