"""Stands in for adapters.train and adapters.evaluate where torch has no place: the same folders and manners.

What it learns depends on the learning rate alone: half of the examples at 2e-4, all of them at 1e-3, nearly half at
others, nothing at 0.9. Every start is noted, with the ids that it was given, in started.jsonl of the workspace.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from adapters.child import Journal, Stopping, Unrecoverable, run
from adapters.control import Control
from adapters.specs import (
    EvalResult,
    EvalSpec,
    ExamItem,
    Example,
    Metric,
    Prediction,
    TrainResult,
    TrainSpec,
    read_json,
    read_lines,
    write_json,
    write_lines,
)

STARTED, SLOW = "started.jsonl", "slow"
SHARES = {2e-4: 0.5, 1e-3: 1.0}


def train(folder: Path, _: Stopping) -> None:
    spec = read_json(folder / "spec.json", TrainSpec)
    examples = read_lines(folder / "train.jsonl", Example)
    valid = [one.id for one in read_lines(folder / "valid.jsonl", Example)]
    note(
        folder, train=[one.id for one in examples if one.kind == "task"], valid=valid, rank=spec.rank, alpha=spec.alpha
    )
    if spec.learning_rate == 0.9:
        raise Unrecoverable("training diverged")
    journal = Journal(folder)
    for step in range(1, spec.max_steps + 1):
        journal.write(Metric(step=step, of=spec.max_steps, loss=1 / step))
        time.sleep(0.1 if (folder.parents[2] / SLOW).exists() else 0)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "rate").write_text(str(spec.learning_rate))
    write_json(
        folder / "result.json",
        TrainResult(
            run_id=spec.run_id, steps=spec.max_steps, epochs=1, seconds=1.5, train_loss=0.5, stopped="steps",
            temperature=1, peak_memory_mb=1, trainable_parameters=1, truncated=0, epoch_cap_exceeded=False,
        ),
    )  # fmt: skip


def evaluate(folder: Path, _: Stopping) -> None:
    spec = read_json(folder / "spec.json", EvalSpec)
    exam = read_lines(folder / "exam.jsonl", ExamItem)
    note(folder, exam=[one.id for one in exam])
    found = []
    for one in spec.answerers:
        if one.kind == "control":
            answers = Control.load(Path(one.control)).predict([item.text for item in exam])
        else:
            right = round(len(exam) * SHARES.get(float(Path(one.adapter, "rate").read_text()), 0.45))
            wrong = dict(zip(spec.labels, reversed(spec.labels), strict=True))
            answers = [item.label if at < right else wrong[item.label] for at, item in enumerate(exam)]
        found += [
            Prediction(
                id=item.id, answerer=one.name, decoding=one.decodings[0], label=label, probabilities={label: 1.0}
            )
            for item, label in zip(exam, answers, strict=True)
        ]
    write_lines(folder / "predictions.jsonl", found)
    write_json(folder / "result.json", EvalResult(run_id="", evaluation_id=folder.name, seconds=1, peak_memory_mb=1))


def note(folder: Path, **given: object) -> None:
    with (folder.parents[2] / STARTED).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"folder": folder.name, "pid": os.getpid(), **given}) + "\n")


def work(folder: Path, stopping: Stopping) -> None:
    of_evaluation = "answerers" in json.loads((folder / "spec.json").read_bytes())
    (evaluate if of_evaluation else train)(folder, stopping)


if __name__ == "__main__":
    sys.exit(run(work, sys.argv[1:]))
