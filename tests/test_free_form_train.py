"""Training on answers in free words: their own loss is looked at, and chooses the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from train_world import PROMPT, training_folder

from adapters import base_model
from adapters.child import Stopping
from adapters.encode import encode
from adapters.specs import Example, Metric, TrainResult, read_json, read_lines, write_lines
from adapters.train import train

torch = pytest.importorskip("torch")


def example(number: int) -> Example:
    words = f"Thank you, {('Ada', 'Bo', 'Cy')[number % 3]}, we look into number {number}."
    return Example(id=f"t{number}", messages=PROMPT.messages(f"ticket {number}", words), label=f"target:{number:032}")


def test_the_loss_of_the_words_steers_and_the_best_adapter_is_kept(
    tiny_model: Path, tmp_path: Path, stopping: Stopping
) -> None:
    folder = training_folder(
        tmp_path / "run", tiny_model, quantisation="fp32", labels=[], min_valid=4, min_steps=30, max_steps=30,
        learning_rate=0.05, patience=2, method="lora",
    )  # fmt: skip
    write_lines(folder / "train.jsonl", [example(n) for n in range(24)])
    held = [example(100 + n) for n in range(6)]
    write_lines(folder / "valid.jsonl", held)
    train(folder, stopping)
    result = read_json(folder / "result.json", TrainResult)
    assert result.eval_accuracy is None and result.temperature == 1.0
    assert result.samples and {one.expected for one in result.samples} <= {one.label for one in held}
    assert any(one.answered for one in result.samples)
    looks = [one for one in read_lines(folder / "metrics.jsonl", Metric) if one.eval_loss is not None]
    assert len(looks) >= 3 and all(one.eval_accuracy is None for one in looks)
    lowest = min(one.eval_loss for one in looks if one.eval_loss is not None)
    assert _loss(tiny_model, folder / "adapter", held) == pytest.approx(lowest, rel=1e-3)


def _loss(model_folder: Path, adapter: Path, held: list[Example]) -> float:
    """Mean loss a token of the answers, one conversation at a time and by nothing of ours but the encoding."""
    from peft import PeftModel

    model, tokenizer = base_model.load(base_model.reference(model_folder, "fp32"), "cpu")
    tuned = PeftModel.from_pretrained(model, str(adapter)).eval()
    total, count = 0.0, 0
    for one in held:
        row = encode(tokenizer, one.messages, 512, user=PROMPT.user)
        with torch.no_grad():
            logits = tuned(input_ids=torch.tensor([row.tokens])).logits[0, row.start - 1 : -1].float()
        targets = torch.tensor(row.tokens[row.start :])
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        count += len(targets)
    return total / count
