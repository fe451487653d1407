"""A run folder of a small training on the tiny model, for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from adapters import base_model
from adapters.specs import Example, Message, PromptSpec, TrainSpec, write_json, write_lines

LABELS = ["urgent", "billing", "general"]
PROMPT = PromptSpec(name="p@1", digest="", system="Classify the ticket. Answer: urgent, billing or general.")
WORDS = {"urgent": "everything is down", "billing": "the invoice is wrong", "general": "thank you very much"}


def example(number: int, label: str, rejected: str = "") -> Example:
    text = f"{WORDS[label]} {number}"
    return Example(id=f"t{number}", messages=PROMPT.messages(text, label), label=label, rejected=rejected)


def training_folder(
    root: Path, model: Path, *, quantisation: Any = "nf4", compute: Any = "auto", valid: int = 6, **changes: Any
) -> Path:
    """22 task examples, a general one, and a validation set; `changes` go into the spec."""
    root.mkdir(parents=True)
    examples = [example(i, LABELS[i % 3], rejected=LABELS[(i + 1) % 3]) for i in range(22)]
    examples.append(
        Example(id="g1", kind="general", messages=[Message("user", "2 + 2?"), Message("assistant", "It is 4.")])
    )
    examples.append(example(99, "billing"))
    write_lines(root / "train.jsonl", examples)
    write_lines(root / "valid.jsonl", [example(100 + i, LABELS[i % 3]) for i in range(valid)])
    spec = TrainSpec(
        run_id=root.name,
        task="tickets",
        adapter="tickets-v1",
        labels=LABELS,
        prompt=PROMPT,
        base=base_model.reference(model, quantisation, compute),
        method="qlora" if quantisation == "nf4" else "lora",
        batch_size=8,
        micro_batch_size=4,
        rank=4,
        alpha=8,
        learning_rate=5e-3,
        eval_every=5,
        checkpoint_every=5,
        samples=2,
        threads=1,
        device="cpu",
    )
    write_json(root / "spec.json", msgspec.structs.replace(spec, **changes))
    return root
