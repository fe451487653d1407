"""The real training child on a tiny model, killed again and again: it ends with the very weights of an unharmed run."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Trials
from train_world import training_folder

from adapters.specs import Metric, TrainResult, read_json, read_lines

torch = pytest.importorskip("torch")

CHECKPOINT_EVERY = 3
FURTHEST = 7  # steps beyond the last checkpoint at which it is killed, at most
SECONDS = 120.0  # for one attempt to get that far


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The child, on a run folder."""
    command = [sys.executable, "-m", "adapters.train", str(folder)]
    with (folder / "stderr").open("ab") as said:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, cwd=Path(__file__).parents[2])


def weights(folder: Path) -> dict[str, Any]:
    """Tensors of the adapter by name."""
    from safetensors.torch import load_file

    return load_file(str(folder / "adapter" / "adapter_model.safetensors"))


def complete(folder: Path) -> int:
    """Step of the last complete checkpoint, by the marker alone."""
    marked = folder.glob("checkpoints/checkpoint-*/COMPLETE")
    return max((int(path.parent.name.partition("-")[2]) for path in marked), default=0)


def lines(folder: Path, up_to: int) -> list[bytes]:
    """The journal's lines of the steps 1 to `up_to`, as they stand in the file."""
    kept = []
    for line in (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True):
        (metric,) = _read(line)
        if 0 < metric.step <= up_to:
            kept.append(line)
    return kept


def _read(line: bytes) -> list[Metric]:
    try:
        return [msgspec.json.decode(line, type=Metric)]
    except msgspec.MsgspecError:  # the line in which it was killed
        return [Metric(step=10**9, of=0)]


def kill_at(folder: Path, child: subprocess.Popen[bytes], step: int, pause: float) -> None:
    """SIGKILL as soon as the journal has come to `step`, and `pause` seconds later."""
    deadline = time.monotonic() + SECONDS
    while max((one.step for one in read_lines(folder / "metrics.jsonl", Metric)), default=0) < step:
        assert child.poll() is None, f"it ended before step {step}: {(folder / 'stderr').read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.002)
    time.sleep(pause)
    child.send_signal(signal.SIGKILL)
    child.wait()


def test_killed_in_the_middle_of_training(
    tiny_model: Path, tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]
) -> None:
    kills = trials(3, full=20, soak=200)
    steps = 10 + (FURTHEST + 1) * kills
    # dropout: the random state counts too; a validation that steers: the best weights so far count as well
    rules = {
        "max_steps": steps, "dropout": 0.1, "checkpoint_every": CHECKPOINT_EVERY, "eval_every": 4, "min_valid": 6,
        "patience": 10**6,
    }  # fmt: skip
    unharmed = training_folder(tmp_path / "unharmed", tiny_model, **rules)
    assert start(unharmed).wait(SECONDS + steps) == 0
    harmed = training_folder(tmp_path / "harmed", tiny_model, **rules)
    random_ = random.Random(11)  # noqa: S311
    before: list[bytes] = []
    resumed_from, resumed = 0, 0
    for number in range(kills):
        child = start(harmed)
        pause = random_.choice((0.0, 0.0, random_.uniform(0, 0.1)))
        kill_at(harmed, child, resumed_from + random_.randint(1, FURTHEST), pause)
        assert not (harmed / "result.json").exists()
        assert not (harmed / "error.json").exists()
        # what it had been through before its checkpoint is kept to the byte: it did not begin anew
        assert lines(harmed, resumed_from) == before, f"attempt {number + 1} did not go on from step {resumed_from}"
        resumed += resumed_from > 0
        resumed_from = complete(harmed)
        before = lines(harmed, resumed_from)
        if random_.random() < 0.5:  # a checkpoint in which it was killed: newer, and without its mark
            torn = harmed / "checkpoints" / f"checkpoint-{resumed_from + CHECKPOINT_EVERY}"
            shutil.rmtree(torn, ignore_errors=True)
            torn.mkdir(parents=True)
            (torn / "adapter_model.safetensors").write_bytes(random_.randbytes(1000))
            (torn / "trainer_state.json").write_text('{"global_step": ')
    assert resumed >= kills // 2
    assert start(harmed).wait(SECONDS + steps) == 0
    expected, found = (read_json(folder / "result.json", TrainResult) for folder in (unharmed, harmed))
    assert found.resumed_from == resumed_from
    assert (found.steps, found.train_loss, found.temperature, found.samples, found.eval_accuracy) == (
        expected.steps, expected.train_loss, expected.temperature, expected.samples, expected.eval_accuracy,
    )  # fmt: skip
    curves = [
        [
            (one.step, one.loss, one.eval_loss, one.eval_accuracy)
            for one in read_lines(folder / "metrics.jsonl", Metric)
            if one.step
        ]
        for folder in (unharmed, harmed)
    ]
    assert curves[0] == curves[1]
    ours, theirs = weights(harmed), weights(unharmed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    measured(
        f"kill -9 in the middle of training, {kills} times in a run of {steps} steps",
        f"resumed {resumed} times from the last complete checkpoint; {len(theirs)} tensors equal to the last bit",
    )
