"""What a model wrote at each evaluation of its training: samples.jsonl in the run folder.

Words may echo a ticket, so they lie in a file of their own, which an erasure knows and which goes when the step ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from adapters.specs import SampleOutput, read_lines, write_lines

FILE = "samples.jsonl"
EACH = 3  # examples of an evaluation; each costs a prompt and an answer
TOKENS = 64  # of such an answer, at most
SHOWN = 8  # evaluations that a result tells of


def resume(folder: Path, step: int) -> None:
    """Drop what an interrupted attempt wrote beyond `step`, and a torn last line."""
    path, fresh = folder / FILE, folder / f"{FILE}.tmp"
    write_lines(fresh, [one for one in read_lines(path, SampleOutput) if one.step <= step])
    fresh.replace(path)


def add(folder: Path, step: int, written: Sequence[SampleOutput]) -> None:
    """Append what was written after `step` optimiser steps."""
    with (folder / FILE).open("ab") as file:
        for one in written:
            file.write(msgspec.json.encode(msgspec.structs.replace(one, step=step)) + b"\n")


def spread(kept: Sequence[SampleOutput], last: Sequence[SampleOutput], step: int) -> list[SampleOutput]:
    """Samples of some evaluations, evenly spread from the first on, and in their place those of the weights that are
    kept.

    Args:
        kept: of all evaluations, in their order.
        last: what the kept weights write.
        step: after which they are the weights.
    """
    steps = sorted({one.step for one in kept} - {step})
    few = len(steps) <= SHOWN
    chosen = set(steps) if few else {steps[round(n * (len(steps) - 1) / (SHOWN - 1))] for n in range(SHOWN)}
    mine = [msgspec.structs.replace(one, step=step) for one in last]
    return sorted([*(one for one in kept if one.step in chosen), *mine], key=lambda one: one.step)
