"""unsloth: our script in its environment, and what its lines say. Pure, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapters.specs import Metric, Targets, TrainSpec

PACKAGE = "unsloth"
SCRIPT = Path(__file__).with_name("unsloth_run.py")
MARK = "tuneloop: "
TARGETS: dict[Targets, list[str]] = {
    "attention-min": ["q_proj", "v_proj"],
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "all-linear": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def plan(spec: TrainSpec, steps: int, warmup: int, output: Path) -> dict[str, Any]:
    """What the script is told beside the spec."""
    return {"steps": steps, "warmup": warmup, "targets": TARGETS[spec.targets], "output": str(output)}


def command(spec: TrainSpec, folder: Path) -> list[str]:
    """The words that start it. `-P`: nothing beside the script may be taken for one of its libraries."""
    return [spec.backend_python, "-P", str(SCRIPT), str(folder)]


def metric(line: str, of: int) -> Metric | None:
    """The step that a line tells of."""
    if not line.startswith(MARK):
        return None
    try:
        told = json.loads(line.removeprefix(MARK))
        return Metric(of=of, phase="train", step=int(told.pop("step")), **{key: float(told[key]) for key in told})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
