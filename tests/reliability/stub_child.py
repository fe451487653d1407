"""A step's child without torch and scikit-learn: the same folder, lock, checkpoints and manners as adapters.train,
adapters.evaluate and loop.fitting.

What it trains is a chain of digests over the steps, so that a step that was lost, doubled or made on other data shows
in the adapter's weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from kill_texts import DIES_ONCE, FAILS, LOSES, answer_of

from adapters.child import Journal, Stopping, Unrecoverable, run
from adapters.registry import AdapterCard, write_card
from adapters.specs import (
    EvalResult,
    EvalSpec,
    ExamItem,
    Example,
    ForgettingResult,
    Metric,
    Prediction,
    TrainResult,
    TrainSpec,
    read_json,
    read_lines,
    write_json,
    write_lines,
)
from adapters.train import plan
from loop.steps import last_checkpoint
from store.kill_points import reached


def train(folder: Path, stopping: Stopping) -> None:
    spec = read_json(folder / "spec.json", TrainSpec)
    examples = (folder / "train.jsonl").read_bytes()
    steps = plan(spec, len(read_lines(folder / "train.jsonl", Example))).steps
    resumed = last_checkpoint(folder)
    journal = Journal(folder, resume_at=resumed)
    weights = (folder / "checkpoints" / f"checkpoint-{resumed}" / "weights").read_bytes() if resumed else b""
    reached("train.loaded")
    root = folder.parents[2]
    if (root / FAILS).exists():
        raise Unrecoverable("there is nothing to be learnt here")
    for step in range(resumed + 1, steps + 1):
        weights = hashlib.sha256(weights + examples + step.to_bytes(4, "big")).digest()
        journal.write(Metric(step=step, of=steps, loss=1 / step))
        reached("train.step_done")
        if (root / DIES_ONCE).exists() and step == steps // 2:
            (root / DIES_ONCE).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if step % spec.eval_every == 0 and step < steps:
            _best(folder, step, weights)
        if step % spec.checkpoint_every == 0 or step == steps:
            _checkpoint(folder, step, weights)
        if stopping.asked:
            return
    reached("train.trained")
    best = max((folder / "checkpoints").glob("best-*"), key=lambda path: int(path.name.removeprefix("best-")))
    _adapter(folder, spec, hashlib.sha256(weights + (best / "weights").read_bytes()).digest())
    write_json(
        folder / "result.json",
        TrainResult(
            run_id=spec.run_id, steps=steps, epochs=1.0, seconds=1.0, train_loss=0.5, stopped="steps", temperature=1.0,
            peak_memory_mb=1.0, trainable_parameters=32, truncated=0, epoch_cap_exceeded=False, resumed_from=resumed,
        ),
    )  # fmt: skip
    reached("train.result_written")


def _best(folder: Path, step: int, weights: bytes) -> None:
    part = folder / "checkpoints" / "best.part"
    for leftover in (part, part.with_name(f"best-{step}")):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    (part / "weights").write_bytes(weights)
    reached("train.best_written")
    part.rename(part.with_name(f"best-{step}"))


def _checkpoint(folder: Path, step: int, weights: bytes) -> None:
    checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
    shutil.rmtree(checkpoint, ignore_errors=True)
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(weights)
    reached("train.checkpoint_written")
    (checkpoint / "COMPLETE").touch()
    reached("train.checkpoint_completed")


def _adapter(folder: Path, spec: TrainSpec, weights: bytes) -> None:
    part = folder / "adapter.part"
    for leftover in (part, folder / "adapter"):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir()
    (part / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}))
    header = json.dumps({"a": {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}}).encode()
    (part / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weights)
    card = AdapterCard(base_digest=spec.base.digest, quantisation=spec.base.quantisation, prompt=spec.prompt.name)
    write_card(part, card)
    reached("train.adapter_written")
    part.rename(folder / "adapter")
    reached("train.adapter_renamed")


def evaluate(folder: Path, _: Stopping) -> None:
    spec = read_json(folder / "spec.json", EvalSpec)
    exam = read_lines(folder / "exam.jsonl", ExamItem)
    journal = Journal(folder)
    loses = (folder.parents[2] / LOSES).exists()
    predictions = []
    for number, one in enumerate(spec.answerers, 1):
        knows = one.kind == "control" or (one.kind == "adapter" and not loses)
        for decoding in one.decodings:
            for item in exam:
                label = answer_of(item.text) if knows else spec.labels[0]
                shares = {name: 0.9 if name == label else 0.1 / (len(spec.labels) - 1) for name in spec.labels}
                predictions.append(
                    Prediction(
                        id=item.id, answerer=one.name, decoding=decoding, label=label, probabilities=shares,
                        latency_ms=1.0,
                    )
                )  # fmt: skip
        journal.write(Metric(step=number, of=len(spec.answerers), phase=one.name))
        reached("evaluate.answered")
    write_lines(folder / "predictions.jsonl", predictions)
    reached("evaluate.predictions_written")
    kept = ForgettingResult(
        suite="none", questions=2, passages=1, base_correct=[True, False], correct=[True, False], base_bits=[1.0],
        bits=[1.0], bytes=[10], seconds=1.0,
    )  # fmt: skip
    write_json(
        folder / "result.json",
        EvalResult(
            run_id=spec.run_id, evaluation_id=spec.evaluation_id, seconds=1.0, peak_memory_mb=1.0, forgetting=kept
        ),
    )
    reached("evaluate.result_written")


class StubControl:
    """Knows the right labels from the start; only that and the texts' digest is saved."""

    def __init__(self, labels: list[str], digest: str = "") -> None:
        self.labels, self.digest = labels, digest

    @classmethod
    def fit(cls, texts: list[str], labels: list[str], *, seed: int = 0, strength: float = 0.0) -> StubControl:
        fitted = hashlib.sha256("\n".join([str(seed), *texts]).encode()).hexdigest()
        return cls(sorted(set(labels)), fitted)

    @classmethod
    def load(cls, folder: Path) -> StubControl:
        return cls(**json.loads((folder / "control.json").read_bytes()))

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "control.json").write_text(json.dumps({"labels": self.labels, "digest": self.digest}))

    def predict_proba(self, texts: list[str]) -> list[dict[str, float]]:
        return [{label: float(label == answer_of(text)) for label in self.labels} for text in texts]


def fit(folder: Path, stopping: Stopping) -> None:
    """loop.fitting itself, without what is scikit-learn's."""
    from adapters import control
    from loop import fitting

    control.Control = fitting.Control = StubControl  # type: ignore[misc,assignment]
    fitting.curation.near_duplicates_among = lambda *_, **__: []  # near copies fall on one side in this world
    fitting.fit(folder, stopping)


def work_of(folder: Path) -> Callable[[Path, Stopping], None]:
    """What the child of a run folder is to do."""
    if (folder / "train.jsonl").exists():
        return train
    return evaluate if (folder / "exam.jsonl").exists() else fit


if __name__ == "__main__":
    sys.exit(run(work_of(Path(sys.argv[-1])), sys.argv[1:]))
