"""Manners of costly steps: their window, their priority and memory, and how they give the GPU back."""

from __future__ import annotations

import json
import os
import sys
import time as clock
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loop_world import World, settings

from loop import commands as cmd
from loop import manners
from loop.policy import decide, waits
from loop.settings import ResourceSettings, Settings
from loop.state import GPU_NEEDED
from loop.steps import Steps, forget_ending
from store import events as ev

MINUTES = st.integers(0, 1439).map(lambda n: time(n // 60, n % 60))


@given(start=MINUTES, end=MINUTES, at=MINUTES)
def test_a_window_and_the_one_from_its_end_to_its_start_share_the_day(start: time, end: time, at: time) -> None:
    if start == end:
        return
    now = datetime.combine(datetime(2026, 3, 1), at, UTC)
    there, back = f"{start:%H:%M}-{end:%H:%M}", f"{end:%H:%M}-{start:%H:%M}"
    assert manners.in_window(there, "UTC", now) != manners.in_window(back, "UTC", now)
    assert manners.in_window(there, "UTC", datetime.combine(now, start, UTC))
    assert not manners.in_window(there, "UTC", datetime.combine(now, end, UTC))


def test_a_window_is_meant_in_its_own_zone_and_follows_summer_time() -> None:
    winter, summer = datetime(2026, 1, 10, 21, 30, tzinfo=UTC), datetime(2026, 7, 10, 20, 30, tzinfo=UTC)
    assert manners.in_window("22:00-06:00", "Europe/Vienna", winter)
    assert manners.in_window("22:00-06:00", "Europe/Vienna", summer)
    assert not manners.in_window("22:00-06:00", "UTC", winter)


@pytest.mark.parametrize("window", ["22-6", "25:00-06:00", "22:00-22:00", "at night"])
def test_a_wrong_window_is_refused_with_the_reason(window: str) -> None:
    with pytest.raises(ValueError, match="window"):
        ResourceSettings(window=window)
    with pytest.raises(ValueError, match="time zone"):
        ResourceSettings(timezone="Mars/Olympus")


def night(world: World) -> Settings:
    return world.rules.model_copy(update={"resources": ResourceSettings(window="22:00-06:00", timezone="UTC")})


def labelled_world() -> World:
    world = World(settings())
    world.rules = night(world)
    world.now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for number in range(60):
        world.label(f"e{number}", "ab"[number % 2], side="exam")
        world.label(f"r{number}", "ab"[number % 2])
    return world


def test_training_waits_for_the_night_and_a_person_may_order_it_by_day() -> None:
    world = labelled_world()
    world.happen(ev.PromptAdopted(task="t", prompt="p", digest="", scores=[], reason=""))
    assert [type(one) for one in world.run()] == [cmd.FreezeDataset]
    assert "a free machine within 22:00-06:00" in waits(world.state, world.rules, "t")
    world.now += timedelta(hours=10)
    assert cmd.StartTraining in [type(one) for one in world.run()]
    assert world.state.task("t").champion.answerer == "t-v1"

    asked = labelled_world()
    asked.happen(ev.PromptAdopted(task="t", prompt="p", digest="", scores=[], reason=""))
    asked.happen(ev.TrainingRequested(task="t", request_id="1"))
    assert cmd.StartTraining in [type(one) for one in asked.run()]


CHILD = """
import os, resource, sys, time
sys.path[:0] = [{root!r}]
from adapters import child
from pathlib import Path
def work(folder, stopping):
    (folder / "nice").write_text(str(os.nice(0)))
    if (folder / "hungry").exists():
        held = bytearray(700 << 20)
    if (folder / "large").exists():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        (folder / "large").write_bytes(bytes(1 << 17))
    while not (folder / "enough").exists():
        time.sleep(0.02)
    (folder / "result.json").write_text("{{}}")
sys.exit(child.run(work, sys.argv[1:]))
"""


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Steps whose training child is the small script above, with a limit of 300 MiB."""
    script = tmp_path / "child_under_test.py"
    script.write_text(CHILD.format(root=str(Path(manners.__file__).parents[1])))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "run").mkdir()
    return Steps(tmp_path, manners.step_environment(nice=os.nice(0) + 5, memory_limit_mb=300), {"train": script.stem})


def ended(steps: Steps, folder: Path) -> str:
    deadline = clock.monotonic() + 30
    while (progress := steps.look(folder)).status == "running":
        assert clock.monotonic() < deadline
        clock.sleep(0.05)
    return progress.stopped or (progress.failure.message if progress.failure else progress.status)


def test_a_step_runs_at_its_priority(steps: Steps, tmp_path: Path) -> None:
    (tmp_path / "run" / "enough").touch()
    steps.start("train", tmp_path / "run")
    assert ended(steps, tmp_path / "run") == "done"
    assert (tmp_path / "run" / "nice").read_text() == str(min(19, os.nice(0) + 5))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA covers mappings on Linux only")
def test_a_step_above_its_memory_limit_fails_with_words(steps: Steps, tmp_path: Path) -> None:
    (tmp_path / "run" / "hungry").touch()
    steps.start("train", tmp_path / "run")
    assert ended(steps, tmp_path / "run") == "out of memory"
    assert "memory_limit_mb" in json.loads((tmp_path / "run" / "error.json").read_text())["hint"]


def test_a_step_that_only_lacked_room_goes_on_when_there_is_some(steps: Steps, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "large").touch()
    steps.start("train", folder)
    assert "File too large" in ended(steps, folder)
    progress = steps.look(folder)
    assert progress.status == "dead" and progress.failure is None and "File too large" in progress.stopped
    (folder / "large").unlink()
    forget_ending(folder)
    (folder / "enough").touch()
    steps.start("train", folder)
    assert ended(steps, folder) == "done"


def test_a_step_that_is_asked_to_stop_tells_why_and_is_no_failure(steps: Steps, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    steps.start("train", folder)
    while not (folder / "nice").exists():
        clock.sleep(0.02)
    steps.stop(folder, GPU_NEEDED)
    steps.stop(folder, GPU_NEEDED)
    assert ended(steps, folder) == GPU_NEEDED
    world = World(settings())
    world.happen(ev.PromptAdopted(task="t", prompt="p", digest="", scores=[], reason=""))
    for number in range(50):
        world.label(f"r{number}", "ab"[number % 2])
    while not isinstance((first := decide(world.state, world.rules, world.now)[0]), cmd.WatchStep):
        world.carry_out(first)
    world.happen(
        ev.StepInterrupted(task="t", run_id=first.run_id, kind="train", attempt=first.attempt, reason=GPU_NEEDED)
    )
    cycle = world.state.task("t").cycle
    assert cycle is not None
    assert (cycle.phase, cycle.failures) == ("interrupted", 0)


def test_the_fullest_gpu_counts_and_no_gpu_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi is a script here: no GPU is at hand."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert manners.gpu_free_mb() is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 40213\necho 1200\n")
    tool.chmod(0o755)
    assert manners.gpu_free_mb() == 1200
    tool.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert manners.gpu_free_mb() is None
