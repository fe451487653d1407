"""Writers that are killed at random moments, on one workspace; each repeats what it was not told is done.

Every lane runs in a worker of `forked.workers` and goes on until it has killed as often as it is told.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import kill_world as world
import msgspec
import stub_daemon
from kill_texts import TASK, answer_of, text

PARTS = 3  # records of one line of work


class Acked(msgspec.Struct):
    """What a lane was told is done, and how often it killed."""

    deaths: int = 0
    records: list[str] = []  # production's ids
    labels: list[str] = []  # records that carry a label by this lane
    events: dict[str, int] = {}  # event id: position


def lines(me: str, number: int, offset: int) -> list[dict[str, Any]]:
    """The records of one line of work; `offset` sets the texts of a lane apart from those of the others."""
    return [
        {"id": f"{me}-{number}-{part}", "text": text(offset + number * PARTS + part), "answer": "fruit"}
        for part in range(PARTS)
    ]


def _die(process: int, seconds: float) -> bool:
    """Kill after `seconds`; whether it was still alive then."""
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)  # nobody else waits for it: at worst it is a zombie
    return forked.wait(process, 30) == -signal.SIGKILL


# ---------------------------------------------------------------- what people and intake do


def writer(root: Path, me: str, kills: int, offset: int) -> Acked:
    """Processes that take records in, label and correct them as the verbs do."""
    random_ = random.Random(offset)  # noqa: S311
    acks = root / f"{me}.acks"
    acks.touch()
    log = root / ".tuneloop" / "logs" / f"{me}.log"
    found = Acked()
    while found.deaths < kills:
        before = acks.stat().st_size
        process = forked.start(lambda: _write(root, me, offset, acks), log, world.environment())
        if random_.random() < 0.9:  # the others die while they open the workspace
            _wait_for_growth(acks, before, process, log)
        assert _die(process, random_.uniform(0.0, 0.06)), log.read_text()
        found.deaths += 1
    _hear(found, acks.read_text(), me)
    return found


def _wait_for_growth(acks: Path, size: int, process: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while acks.stat().st_size == size:
        assert time.monotonic() < deadline and not os.waitpid(process, os.WNOHANG)[0], log.read_text()
        time.sleep(0.002)


def _hear(found: Acked, told: str, me: str) -> None:
    for line in told.splitlines():
        word, number, *more = line.split()
        if word == "taken":
            found.records += [f"{me}-{number}-{part}" for part in range(PARTS)]
        elif word == "labelled":
            found.labels.append(f"{me}-{number}-0")
        if more:
            found.events[more[1]] = int(more[0])


def _write(root: Path, me: str, offset: int, acks: Path) -> None:
    from loop import actions, intake
    from loop.bootstrap import open_app

    done = {tuple(line.split()[:2]) for line in acks.read_text().splitlines()}
    handle = os.open(acks, os.O_WRONLY | os.O_APPEND)

    def say(word: str, number: int, recorded: list[Any]) -> None:
        place = f" {recorded[-1].position} {recorded[-1].event_id}" if recorded else ""
        os.write(handle, f"{word} {number}{place}\n".encode())

    with open_app(root) as app:
        for number in itertools.count():
            records = lines(me, number, offset)
            name, right = records[0]["id"], answer_of(records[0]["text"])
            if ("taken", str(number)) not in done:
                raw = [json.dumps(one).encode() for one in records]
                report = intake.ingest_lines(app, TASK, raw, source=me, claim=f"{me}-{number}")
                assert not report.quarantined, report.problems
                say("taken", number, [])
            record = intake.external_record_id(TASK, name)
            if ("labelled", str(number)) not in done:
                say("labelled", number, actions.label(app, record, right, annotator=me))
            if ("corrected", str(number)) not in done:
                say("corrected", number, actions.give_feedback(app, TASK, record, right, source=me))


# ---------------------------------------------------------------- the daemon and its inbox


def daemon(root: Path, me: str, kills: int, offset: int) -> Acked:
    """The daemon with the torch-free children. What was renamed into the inbox is acknowledged."""
    random_ = random.Random(offset)  # noqa: S311
    found = Acked()
    log = root / ".tuneloop" / "logs" / "daemon.log"
    for number in itertools.count():
        process = forked.start(lambda: stub_daemon.serve(root, "run"), log, world.environment())
        records = lines(me, number, offset)
        world.drop(root, f"{me}-{number}.jsonl", records)
        found.records += [one["id"] for one in records]
        found.deaths += _die(process, random_.uniform(0.05, 0.9))
        if found.deaths == kills:
            return found
        assert found.deaths == number + 1, f"the daemon ended by itself\n{world.logs(root)}"
    raise AssertionError


# ---------------------------------------------------------------- the real command line


def verbs(root: Path, me: str, kills: int, offset: int) -> Acked:
    """`tuneloop ingest` and `tuneloop label`, each repeated until it says that it is done."""
    random_ = random.Random(offset)  # noqa: S311
    found = Acked()
    usual = 0.6  # seconds that a command takes here, as far as is known
    for number, (kind, arguments) in enumerate(_commands(root, me, offset)):
        while True:
            started = time.monotonic()
            # as the command that a person types, started from anywhere
            process = subprocess.Popen(
                [sys.executable, "-m", "loop.cli.main", *arguments, "-w", str(root)],
                stdout=subprocess.DEVNULL, stderr=(root / f"{me}.log").open("ab"), env=world.environment(),
            )  # fmt: skip
            try:
                process.wait(random_.uniform(0.1, 1.1) * usual)
            except subprocess.TimeoutExpired:
                process.kill()
            code = process.wait(60)
            if code == 0:
                usual = 0.5 * (usual + time.monotonic() - started)
                break
            assert code == -signal.SIGKILL, (root / f"{me}.log").read_text()
            found.deaths += 1
            if found.deaths == kills:
                return found
        if kind == "ingest":
            found.records += [one["id"] for one in lines(me, number // 2, offset)]
        else:
            found.labels.append(arguments[1])
    raise AssertionError


def _commands(root: Path, me: str, offset: int) -> Iterator[tuple[str, list[str]]]:
    for number in itertools.count():
        records = lines(me, number, offset)
        file = root / f"{me}-{number}.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in records))
        yield "ingest", ["ingest", str(file)]
        yield "label", ["label", records[0]["id"], answer_of(records[0]["text"]), "--as", me]
