"""A daemon is stopped (SIGSTOP), another takes over (`--take-over`), the first goes on (SIGCONT): nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import forked
import kill_world as world
import pytest
from conftest import Trials
from kill_stalls import INSIDE, refused, stalled
from kill_trials import WHOLE, prepare

# reached by children, or by a daemon that is ending
_NOT_THE_DAEMON = (
    "train.loaded", "train.step_done", "train.best_written", "train.checkpoint_written", "train.checkpoint_completed",
    "train.trained", "train.adapter_written", "train.adapter_renamed", "train.result_written", "evaluate.answered",
    "evaluate.predictions_written", "evaluate.result_written", "freeze.dataset_written", "snapshot.",
)  # fmt: skip
FREE = [point for point in WHOLE.points if point not in INSIDE and not point.startswith(_NOT_THE_DAEMON)]


def test_takeover(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, trials: Trials, measured: Callable[[str, str], None]
) -> None:
    points = FREE[:: trials(4, full=1)]
    held = INSIDE[: trials(2, full=len(INSIDE))]
    with forked.workers() as pool:
        source, unharmed = pool.submit(prepare, WHOLE, tmp_path_factory.mktemp("stalls"), "").result()
        free = [(point, pool.submit(stalled, source, tmp_path / point, point)) for point in points]
        inside = [(point, pool.submit(refused, source, tmp_path / point, point)) for point in held]
        calls = 0
        for point, future in free:
            outcome, answered = future.result()
            world.same(unharmed, outcome, f"taken over at {point}")
            calls += answered
        for point, refusal in inside:
            world.same(unharmed, refusal.result(), f"not taken over at {point}")
    assert calls
    measured(
        f"a daemon stalled at {len(points)} points while another took over, and at {len(held)} while it held the log",
        f"awake again it wrote nothing, moved no pointer and made none of {calls} engine calls; where it held the log "
        "the other was told so, and it went on unharmed",
    )
