"""Once on the real model: a short QLoRA training of SmolLM2-135M on tickets, evaluated as the daemon does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from adapters import base_model, metrics, planning
from adapters.probe import layout
from adapters.specs import (
    AnswererSpec,
    EvalResult,
    EvalSpec,
    ExamItem,
    Example,
    ForgettingSpec,
    Prediction,
    TrainResult,
    TrainSpec,
    read_json,
    read_lines,
    write_json,
    write_lines,
)
from loop.steps import MODEL_ENVIRONMENT
from prompts import templates

TICKETS = Path(__file__).parents[1] / "examples" / "tickets" / "tickets.jsonl"
LABELS = ["urgent", "billing", "technical", "general"]
pytestmark = pytest.mark.real


def test_a_short_training_of_the_real_model_learns_and_is_served_as_it_was_trained(tmp_path: Path) -> None:
    tickets = [json.loads(line) for line in TICKETS.read_text().splitlines()]
    chosen = [ticket for label in LABELS for ticket in [one for one in tickets if one["label"] == label][:12]]
    ids = {ticket["id"] for ticket in chosen}
    exam = [ticket for ticket in tickets if ticket["id"] not in ids][:60]
    prompt = templates.render(templates.read("zero-shot@1"), LABELS, about="the support ticket")
    base = base_model.reference(base_model.ensure())

    training = tmp_path / "runs" / "train"
    training.mkdir(parents=True)
    spec = TrainSpec(
        run_id="r", task="tickets", adapter="tickets-v1", labels=LABELS, prompt=prompt, base=base, learning_rate=1e-3,
        epochs=1, min_steps=18, batch_size=16, checkpoint_every=100, eval_every=100, samples=2,
    )  # fmt: skip
    write_json(training / "spec.json", spec)
    write_lines(
        training / "train.jsonl",
        [
            Example(id=one["id"], messages=prompt.messages(one["text"], one["label"]), label=one["label"])
            for one in chosen
        ],
    )
    (training / "valid.jsonl").touch()
    run("adapters.train", training)
    trained = read_json(training / "result.json", TrainResult)
    assert trained.steps == 18
    assert trained.epoch_cap_exceeded
    laid = layout(spec, read_lines(training / "train.jsonl", Example))
    planned = planning.memory(
        planning.read_shape(Path(base.path)), spec, laid.tokens, learned=laid.learned, compute=laid.compute
    )
    # planned is a micro-batch repeated; steps of changing size leave gaps in the heap that add to the peak
    assert trained.peak_memory_mb * 2**20 == pytest.approx(planned.total, rel=0.4)

    evaluation = tmp_path / "runs" / "evaluate"
    evaluation.mkdir()
    answerers = [
        AnswererSpec(name="zero-shot@1", kind="prompt", prompt=prompt, decodings=["score"]),
        AnswererSpec(name="tickets-v1", kind="adapter", prompt=prompt, adapter=str(training / "adapter"),
                     decodings=["score"]),
    ]  # fmt: skip
    write_lines(
        evaluation / "exam.jsonl", [ExamItem(id=one["id"], text=one["text"], label=one["label"]) for one in exam]
    )
    write_json(
        evaluation / "spec.json",
        EvalSpec(
            run_id="r", evaluation_id="e", task="tickets", labels=LABELS, base=base, candidate="tickets-v1",
            answerers=answerers, forgetting=ForgettingSpec(questions=20, passages=8),
        ),
    )  # fmt: skip
    run("adapters.evaluate", evaluation)
    items = read_lines(evaluation / "exam.jsonl", ExamItem)
    predictions = read_lines(evaluation / "predictions.jsonl", Prediction)
    kinds = {"zero-shot@1": "prompt", "tickets-v1": "adapter"}
    before, after = metrics.answerer_results(items, predictions, kinds)  # type: ignore[arg-type]
    assert after.accuracy > before.accuracy + 0.1
    assert after.invalid == 0
    ability = read_json(evaluation / "result.json", EvalResult).forgetting
    assert ability is not None
    assert sum(ability.base_bits) / len(ability.base_bits) < 2.0  # bits per byte: a random model is above 5


def run(module: str, folder: Path) -> None:
    environment = {**os.environ, **MODEL_ENVIRONMENT}
    command = [sys.executable, "-m", module, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
