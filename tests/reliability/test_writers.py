"""Many processes write at once, and every command comes more than once: all of it is there, each thing once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import forked
import msgspec
import pytest
from conftest import Trials
from store_helpers import NOW, labelled, received

from store.errors import DuplicateContent
from store.log import Draft, Log, step_id
from store.verify import sound, verify
from store.workspace import Workspace

WRITERS = 8


class Timed(msgspec.Struct):
    """What a writer was told, and how long each append took."""

    positions: list[int] = []
    milliseconds: list[float] = []


def append(root: Path, me: int, count: int, start: float) -> Timed:
    """In a process of its own: append one event after the other to its own stream."""
    told = Timed()
    with Workspace.open(root) as workspace:
        time.sleep(max(0.0, start - time.time()))
        for number in range(count):
            draft = Draft(received(f"{me}-{number}"), f"record/{me}")
            before = time.perf_counter()
            (each,) = workspace.log.append([draft], actor=f"writer {me}", now=NOW)
            told.milliseconds.append((time.perf_counter() - before) * 1000)
            told.positions.append(each.position)
    return told


def test_writers(tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]) -> None:
    count = trials(1000, full=5000)
    Workspace.create(tmp_path).close()
    with forked.workers(WRITERS) as pool:
        list(pool.map(time.sleep, [0.2] * WRITERS))  # all have started
        began = time.time() + 1
        futures = [pool.submit(append, tmp_path, me, count, began) for me in range(WRITERS)]
        told = [future.result() for future in futures]
        seconds = time.time() - began
    total = WRITERS * count
    assert sorted(position for one in told for position in one.positions) == list(range(1, total + 1))
    with Workspace.open(tmp_path) as workspace:
        for me, one in enumerate(told):
            mine = workspace.log.stream(f"record/{me}")
            assert [each.position for each in mine] == one.positions == sorted(one.positions)
            assert [each.version for each in mine] == list(range(1, count + 1))
        workspace.projections.catch_up()
        findings = verify(workspace)
        assert sound(findings), findings
    times = sorted(value for one in told for value in one.milliseconds)
    measured(
        f"{WRITERS} processes append {count:,} events each at the same time",
        f"no error, {total:,} positions without a gap, {total / seconds:,.0f} events a second; an append took "
        f"{times[len(times) // 2]:.1f} ms (median), {times[len(times) * 99 // 100]:.1f} ms (p99), "
        f"{times[-1]:.0f} ms (longest)",
    )


# ---------------------------------------------------------------- retried commands


def command(number: int, label: str = "urgent") -> list[Draft]:
    """Two events under ids of their own, as a step of the loop has them."""
    record = f"r{number}"
    return [
        Draft(received(record), f"record/{record}", step_id("received", number)),
        Draft(labelled(record, label), f"record/{record}", step_id("labelled", number)),
    ]


def retry(root: Path, seed: int, count: int) -> dict[int, list[int]]:
    """In a process of its own: send every command twice, in an order of its own; the positions it was told."""
    numbers = [*range(count), *range(count)]
    random.Random(seed).shuffle(numbers)  # noqa: S311
    told: dict[int, list[int]] = {}
    with Workspace.open(root) as workspace:
        for number in numbers:
            positions = [one.position for one in workspace.log.append(command(number), actor="kim", now=NOW)]
            assert told.setdefault(number, positions) == positions, number
    return told


def refused(log: Log, number: int) -> bool:
    try:
        log.append(command(number, "billing"), actor="kim", now=NOW)
    except DuplicateContent:
        return True
    return False


def test_retried_commands(tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]) -> None:
    count, senders = trials(2000, full=10_000), 4
    Workspace.create(tmp_path).close()
    with forked.workers(senders) as pool:
        told = [pool.submit(retry, tmp_path, seed, count) for seed in range(senders)]
        first, *others = [one.result() for one in told]
    assert all(one == first for one in others)
    with Workspace.open(tmp_path) as workspace:
        head = workspace.log.head()
        assert head.position == 2 * count
        assert sorted(position for one in first.values() for position in one) == list(range(1, 2 * count + 1))
        assert all(refused(workspace.log, number) for number in range(count))
        with pytest.raises(DuplicateContent):  # nor may another stream carry the id
            workspace.log.append([Draft(received("r0"), "record/other", step_id("received", 0))], actor="kim", now=NOW)
        assert workspace.log.head() == head
        assert sound(verify(workspace))
    measured(
        f"{count:,} commands, each sent {2 * senders} times by {senders} processes",
        f"each done once; all {count:,} were refused under the same id with other content",
    )
