"""The child that fits and asks the control: what it makes, what interrupts it, and that the daemon stays small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import make

from adapters.control import Control
from loop import datasets, intake
from loop.bootstrap import App, open_app
from loop.commands import FreezeDataset
from loop.steps import Steps
from store import events as ev
from store.errors import StepError
from store.log import Draft

ROOT = Path(__file__).parents[1]
WORDS = {"billing": "refund the invoice charged twice", "technical": "screen crashes and shows an error"}


def lines(numbers: range, *, labelled: bool) -> list[bytes]:
    found = []
    for number in numbers:
        label = ("billing", "technical")[number % 2]
        text = f"{WORDS[label]} {number * 7919 % 9973} {number * 104729 % 9973}"
        found.append(json.dumps({"id": f"x{number}", "text": text, **({"label": label} if labelled else {})}).encode())
    return found


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with open_app(make(tmp_path / "w"), env={}) as opened:
        intake.ingest_lines(opened, "tickets", lines(range(40), labelled=True))
        yield opened


def freeze(app: App, steps: Steps | None = None, *, plan: str = "standard", seconds: float = 60.0) -> ev.DatasetFrozen:
    """As the daemon's ticks do."""
    steps = steps or Steps(app.workspace.paths.logs)
    command = FreezeDataset(task="tickets", run_id="tickets-run-1", plan=plan, trigger="")  # type: ignore[arg-type]
    deadline = time.monotonic() + seconds
    while True:
        made = datasets.freeze(app, steps, app.state().task("tickets"), app.settings.task("tickets"), command)
        if made is not None:
            return made
        assert time.monotonic() < deadline
        time.sleep(0.02)


def begin(app: App) -> tuple[Steps, int]:
    """A freezing whose child has been started; the child's process id."""
    steps = Steps(app.workspace.paths.logs)
    command = FreezeDataset(task="tickets", run_id="tickets-run-1", plan="standard", trigger="")
    state, rules = app.state().task("tickets"), app.settings.task("tickets")
    assert datasets.freeze(app, steps, state, rules, command) is None
    (child,) = steps._children.values()
    return steps, child.pid


def test_a_dataset_holds_the_labels_and_a_control_that_knows_them(app: App) -> None:
    frozen = freeze(app)
    standing = app.state().task("tickets").train_total
    assert frozen.labels_train == standing and frozen.train + frozen.valid == standing
    assert frozen.up_to == app.state().position
    assert frozen.curation[0].step == "labels" and frozen.curation[-1].step == "general"
    folder = app.workspace.artifacts.path(frozen.artifact, verify=True)
    members = [json.loads(line) for line in (folder / "dataset.jsonl").read_text().splitlines()]
    assert sum(one.get("kind", "task") == "task" for one in members) == standing
    assert Control.load(folder / "control").predict(["charged twice, refund", "an error crashes it"]) == [
        "billing",
        "technical",
    ]
    assert not list(app.workspace.paths.runs.iterdir())


def test_labels_that_come_in_while_it_works_belong_to_the_next_one(app: App) -> None:
    steps, _ = begin(app)
    before = app.state().task("tickets").train_total
    intake.ingest_lines(app, "tickets", lines(range(100, 120), labelled=True))
    assert app.state().task("tickets").train_total > before
    frozen = freeze(app, steps)
    assert frozen.labels_train == before == frozen.train + frozen.valid


def test_a_killed_child_is_started_again_and_makes_the_same(app: App) -> None:
    steps, pid = begin(app)
    os.killpg(pid, signal.SIGKILL)
    with pytest.raises(StepError, match="ended without a word"):
        command = FreezeDataset(task="tickets", run_id="tickets-run-1", plan="standard", trigger="")
        state, rules = app.state().task("tickets"), app.settings.task("tickets")
        for _ in range(200):
            datasets.freeze(app, steps, state, rules, command)
            time.sleep(0.02)
    assert not list(app.workspace.paths.runs.iterdir())
    first = freeze(app).artifact
    assert freeze(app).artifact == first


def test_what_was_begun_for_another_plan_begins_anew(app: App) -> None:
    steps, _ = begin(app)
    steps.stop_all(5)
    frozen = freeze(app, plan="gentle")
    assert frozen.plan == "gentle"
    assert frozen.curation[-1].count == round(frozen.train * 0.1 / 0.9)


def test_one_class_alone_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with open_app(make(tmp_path / "w"), env={}) as app:
        intake.ingest_lines(app, "tickets", [one for one in lines(range(30), labelled=True) if b"billing" in one])
        with pytest.raises(StepError, match="fewer than two classes") as refused:
            freeze(app)
        assert "tuneloop review" in refused.value.hint
        assert not list(app.workspace.paths.runs.iterdir())


HARVEST = """
import sys, time
from pathlib import Path
from loop import datasets
from loop.bootstrap import open_app
from loop.steps import Steps
with open_app(Path(sys.argv[1]), env={}) as app:
    steps, rules = Steps(app.workspace.paths.logs), app.settings.task("tickets")
    while (drafts := datasets.harvest(app, steps, app.state().task("tickets"), rules)) is None:
        time.sleep(0.05)
    for one in drafts:
        for reason in getattr(one.event, "reasons", []):
            print(one.event.record_id, reason.name, reason.detail)
print("heavy:", [name for name in ("sklearn", "scipy") if name in sys.modules])
"""


def test_a_harvest_hears_the_control_and_loads_no_scikit_learn(app: App) -> None:
    event = freeze(app)
    app.workspace.log.append([Draft(event, "run/tickets-run-1")], actor="daemon", now=app.now())
    # production says the opposite of what the labels taught
    said = [
        json.dumps({**json.loads(line), "answer": ("technical", "billing")[number % 2], "margin": 0.9}).encode()
        for number, line in enumerate(lines(range(200, 240), labelled=False))
    ]
    intake.ingest_lines(app, "tickets", said)
    done = subprocess.run(
        [sys.executable, "-c", HARVEST, str(app.root)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    *reasons, heavy = done.stdout.splitlines()
    assert heavy == "heavy: []"
    disputed = [line for line in reasons if " disputed " in line]
    assert len(disputed) > 5
    assert all(
        line.endswith(("said technical, the control says billing", "said billing, the control says technical"))
        for line in disputed
    )
    assert not list(app.workspace.paths.runs.iterdir())
