"""A few real steps before a training: `python -m adapters.probe RUN_FOLDER`, a child process like any other.

The folder is a training's (`adapters.specs`); the first steps run in its subfolder `probe`, where they leave nothing
that a training would use. Writes probe.json, whose presence means done.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec

from adapters import objectives
from adapters.child import Stopping, run
from adapters.combinations import SAMPLED
from adapters.specs import Example, Metric, TrainResult, TrainSpec, read_json, read_lines, write_json
from adapters.train import plan, train

STEPS = 4  # the first warms up and is not counted
FILE = "probe.json"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on this machine. Sizes in bytes, times in seconds."""

    device: str
    compute: Literal["bf16", "fp32"]
    free: float  # memory that a training may take here: of the GPU, else of the machine
    examples: int
    steps: int  # of the whole training
    epochs: float
    tokens: int  # of the largest micro-batch, as it is laid out
    learned: int  # of these, how many predict something
    longest: int  # tokens of the longest example, after shortening
    shortened: int  # tickets that lose their middle
    notes: list[str] = []  # warnings
    step_seconds: float = 0.0
    loading_seconds: float = 0.0
    peak: float = 0.0  # of the steps that were made


def probe(folder: Path, stopping: Stopping) -> None:
    """Measure what the training in `folder` would take.

    Raises:
        ModelError: it cannot be trained at all, see `adapters.train.train`.
        Unrecoverable: there is nothing to train on.
    """
    spec = read_json(folder / "spec.json", TrainSpec)
    examples = read_lines(folder / "train.jsonl", Example)
    found = layout(spec, examples)
    aside = folder / "probe"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    shutil.copy(folder / "train.jsonl", aside)
    (aside / "valid.jsonl").touch()
    few = msgspec.structs.replace(
        spec, min_steps=STEPS, max_steps=STEPS, eval_every=STEPS + 1, checkpoint_every=STEPS + 1, samples=0
    )
    write_json(aside / "spec.json", few)
    train(aside, stopping)
    result = read_json(aside / "result.json", TrainResult)
    steps = [line for line in read_lines(aside / "metrics.jsonl", Metric) if line.loss is not None]
    times = [after.seconds - before.seconds for before, after in pairwise(steps)]
    found = msgspec.structs.replace(
        found,
        step_seconds=statistics.median(times),
        loading_seconds=max(0.0, steps[0].seconds - times[0]),
        peak=result.peak_memory_mb * 2**20,
    )
    shutil.rmtree(aside)
    write_json(folder / FILE, found)


def layout(spec: TrainSpec, examples: Sequence[Example]) -> Probe:
    """How the examples lie in micro-batches: from the tokenizer alone."""
    from transformers import AutoTokenizer

    from adapters import base_model
    from adapters.encode import encode
    from adapters.packed import pack

    tokenizer = AutoTokenizer.from_pretrained(spec.base.path)
    rows = [
        encode(tokenizer, one.messages, spec.max_length, user=spec.prompt.user if one.kind == "task" else "{text}")
        for one in objectives.examples_for(spec, examples)
    ]
    rows.sort(key=lambda row: len(row.tokens), reverse=True)  # the worst micro-batch is that of the longest
    # rewards take several answers to a prompt, preferences two; what they have in common lies there once
    answers = spec.generations if spec.objective in SAMPLED else 2 if spec.objective == "dpo" else 1
    prompts = spec.micro_batch_size // (answers if spec.objective in SAMPLED else 1)
    worst = [row for row in rows[: max(1, prompts)] for _ in range(answers)]
    packed = pack([row.tokens for row in worst], [row.start for row in worst])
    planned = plan(spec, len(rows))
    device = base_model.resolve_device(spec.device)
    return Probe(
        device=device,
        compute=base_model.precision(spec.base, device),
        free=_free(device),
        examples=len(rows),
        steps=planned.steps,
        epochs=round(planned.epochs, 2),
        tokens=len(packed.tokens),
        learned=len(packed.targets),
        longest=len(rows[0].tokens),
        shortened=sum(row.shortened for row in rows),
        notes=[*spec.notes, *planned.notes],
    )


def _free(device: str) -> float:
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return 0.0


def main(arguments: Any = None) -> int:
    return run(probe, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
