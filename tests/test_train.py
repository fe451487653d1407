"""The training step, as the child process it is, on a tiny random model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tiny_model
from train_world import PROMPT, example, training_folder

from adapters import base_model
from adapters.child import FAILED, LOCKED, Stopping, Unrecoverable
from adapters.registry import read_card
from adapters.specs import (
    BaseModelRef,
    Example,
    Metric,
    StepFailure,
    TrainResult,
    TrainSpec,
    read_json,
    read_lines,
    write_lines,
)
from adapters.train import train

torch = pytest.importorskip("torch")


def _start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "adapters.train", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr").open("ab"),
        cwd=Path(__file__).parents[1],
    )


def _wait_for(path: Path, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while not path.exists():
        assert child.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(str(folder / "adapter" / "adapter_model.safetensors"))


def test_a_run_gives_a_plain_peft_adapter_and_says_how_it_went(
    tiny_model: Path, tmp_path: Path, stopping: Stopping
) -> None:
    folder = training_folder(tmp_path / "r1", tiny_model, max_steps=20)
    train(folder, stopping)
    result = read_json(folder / "result.json", TrainResult)
    assert (result.steps, result.stopped, result.epochs) == (20, "steps", round(20 / 3, 3))
    assert result.epoch_cap_exceeded
    assert result.trainable_parameters > 0
    assert result.peak_memory_mb > 100
    # of each evaluation, so that people see how answers change
    assert [(sample.step, sample.id) for sample in result.samples] == [
        (step, name) for step in (5, 10, 15, 20) for name in ("t100", "t101")
    ]

    lines = read_lines(folder / "metrics.jsonl", Metric)
    losses = [line.loss for line in lines if line.loss is not None]
    assert len(losses) == 20
    assert losses[-1] < losses[0]
    evaluations = [line.step for line in lines if line.eval_loss is not None]
    assert evaluations == [5, 10, 15, 20]

    card = read_card(folder / "adapter")
    assert (card.quantisation, card.prompt, card.temperature) == ("nf4", "p@1", result.temperature)
    from peft import PeftModel

    base, _ = base_model.load(base_model.reference(tiny_model), "cpu")
    model = PeftModel.from_pretrained(base, str(folder / "adapter"))
    weights = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert all(p.dtype == torch.float32 for p in weights)
    assert any(p.abs().sum() > 0 for p in weights)


def test_killed_and_stopped_it_goes_on_as_if_nothing_had_happened(tiny_model: Path, tmp_path: Path) -> None:
    steps = {"max_steps": 40, "dropout": 0.1}  # dropout: the random state counts too
    unharmed = training_folder(tmp_path / "unharmed", tiny_model, **steps)
    assert _start(unharmed).wait(120) == 0

    harmed = training_folder(tmp_path / "harmed", tiny_model, **steps)
    first = _start(harmed)
    _wait_for(harmed / "checkpoints" / "checkpoint-10" / "COMPLETE", first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (harmed / "result.json").exists()
    half = harmed / "checkpoints" / "checkpoint-38"  # half written: no marker
    half.mkdir()

    second = _start(harmed)
    _wait_for(harmed / "checkpoints" / "checkpoint-20" / "COMPLETE", second)
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 0
    assert not (harmed / "result.json").exists()
    assert not (harmed / "error.json").exists()

    assert _start(harmed).wait(120) == 0
    expected, found = (read_json(f / "result.json", TrainResult) for f in (unharmed, harmed))
    assert found.resumed_from >= 20
    assert (found.train_loss, found.temperature, found.samples) == (
        expected.train_loss,
        expected.temperature,
        expected.samples,
    )
    curves = [
        [(line.step, line.loss, line.eval_loss) for line in read_lines(f / "metrics.jsonl", Metric) if line.step]
        for f in (unharmed, harmed)
    ]
    assert curves[0] == curves[1]
    ours, theirs = _weights(harmed), _weights(unharmed)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_it_dies_with_its_parent(tiny_model: Path, tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "r1", tiny_model, max_steps=2000, min_steps=2000)
    program = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-m', 'adapters.train', {str(folder)!r}])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1], text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    _wait_for(folder / "lock", parent)
    time.sleep(0.5)
    second = _start(folder)
    assert second.wait(60) == LOCKED  # and one process a folder
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            break
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child outlived its parent")


def test_a_missing_model_is_told_in_error_json(tmp_path: Path, tiny_model: Path) -> None:
    gone = BaseModelRef(path=str(tmp_path / "gone"), digest="sha256-0")
    folder = training_folder(tmp_path / "r1", tiny_model, base=gone)
    assert _start(folder).wait(60) == FAILED
    failure = read_json(folder / "error.json", StepFailure)
    assert "base model" in failure.message
    assert failure.hint


def test_divergence_is_stopped_with_its_reason(tiny_model: Path, tmp_path: Path, stopping: Stopping) -> None:
    folder = training_folder(tmp_path / "r1", tiny_model, learning_rate=1e38, max_steps=60)
    with pytest.raises(Unrecoverable, match="diverged") as caught:
        train(folder, stopping)
    assert "learning_rate" in caught.value.hint


def test_a_plateau_ends_it_and_the_best_weights_are_kept(tiny_model: Path, tmp_path: Path, stopping: Stopping) -> None:
    folder = training_folder(
        tmp_path / "r1", tiny_model, valid=6, min_valid=6, patience=2, eval_every=2, min_steps=8, max_steps=60
    )
    train(folder, stopping)
    result = read_json(folder / "result.json", TrainResult)
    accuracies = [
        line.eval_accuracy for line in read_lines(folder / "metrics.jsonl", Metric) if line.eval_loss is not None
    ]
    assert result.stopped == "plateau"
    assert result.steps < 60
    assert result.eval_accuracy == max(a for a in accuracies if a is not None)


def test_long_tickets_are_shortened_and_counted(tiny_model: Path, tmp_path: Path, stopping: Stopping) -> None:
    folder = training_folder(tmp_path / "r1", tiny_model, max_length=120, max_steps=2, min_steps=1, samples=0)
    long = Example(id="long", messages=PROMPT.messages("word " * 400, "urgent"), label="urgent")
    write_lines(folder / "train.jsonl", [example(1, "billing"), long])
    train(folder, stopping)
    assert read_json(folder / "result.json", TrainResult).truncated == 1


def _losses(folder: Path) -> list[float]:
    return [line.loss for line in read_lines(folder / "metrics.jsonl", Metric) if line.loss is not None]


def test_a_model_that_cannot_be_packed_is_trained_on_padded_batches_and_it_is_said(
    tmp_path: Path, stopping: Stopping, capfd: pytest.CaptureFixture[str]
) -> None:
    found = []
    for name, window in (("packed", None), ("padded", 1000)):  # wider than any example: it changes no number
        make_tiny_model(tmp_path / name, family="mistral", sliding_window=window)
        folder = training_folder(tmp_path / f"{name}-run", tmp_path / name, quantisation="fp32", max_steps=4)
        train(folder, stopping)
        found.append((_losses(folder), read_json(folder / "result.json", TrainResult).notes))
    (ours, silent), (theirs, told) = found
    assert silent == [] and "padded batches" in told[0] and "sliding window" in told[0]
    assert "training on padded batches: its attention has a sliding window" in capfd.readouterr().err
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("quantisation", ["fp32", "nf4"])
def test_recomputing_activations_changes_no_loss(
    quantisation: str, tiny_model: Path, tmp_path: Path, stopping: Stopping
) -> None:
    curves = []
    for again in (False, True):
        folder = training_folder(
            tmp_path / f"r{again}", tiny_model, quantisation=quantisation, max_steps=4, gradient_checkpointing=again
        )
        train(folder, stopping)
        curves.append(_losses(folder))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4 if quantisation == "fp32" else 0.02)


def test_it_starts_from_another_adapter(tiny_model: Path, tmp_path: Path, stopping: Stopping) -> None:
    first = training_folder(tmp_path / "r1", tiny_model, max_steps=4, samples=0)
    train(first, stopping)
    second = training_folder(
        tmp_path / "r2", tiny_model, max_steps=1, learning_rate=1e-9, samples=0, init_adapter=str(first / "adapter")
    )
    train(second, stopping)
    before, after = _weights(first), _weights(second)
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_its_losses_are_those_of_trl_on_padded_batches(tiny_model: Path, tmp_path: Path, stopping: Stopping) -> None:
    """The same data, order and settings through TRL's own collator and loss."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from adapters.encode import encode
    from adapters.methods import adapt

    options = {"quantisation": "fp32", "max_steps": 6, "valid": 0, "samples": 0, "stratified": False}
    folder = training_folder(tmp_path / "r1", tiny_model, **options)
    train(folder, stopping)
    ours = _losses(folder)

    spec = read_json(folder / "spec.json", TrainSpec)
    model, tokenizer = base_model.load(spec.base, "cpu", training=True)
    rows = [encode(tokenizer, example.messages) for example in read_lines(folder / "train.jsonl", Example)]
    data = Dataset.from_list(
        [{"input_ids": row.tokens, "labels": [-100] * row.start + row.tokens[row.start :]} for row in rows]
    )
    config = SFTConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=6,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        seed=spec.seed,
        data_seed=spec.seed,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=adapt(model, tokenizer, spec), args=config, processing_class=tokenizer, train_dataset=data
    )
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert ours == pytest.approx(theirs, rel=1e-4)
