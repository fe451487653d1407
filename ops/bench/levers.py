"""Levers of quality.py that the product does not have: what they do to a training, so that they can be compared.

    python -P ops/bench/levers.py RUN_FOLDER [--average STEPS]

trains as `python -m adapters.train RUN_FOLDER` does; `--average N` also leaves `averaged/`, the adapter with the mean
of its weights over the last N steps (Izmailov et al. 2018), beside `adapter/` with those of the last step.

`class_tokens` gives each label a token of its own: an ordinary word of the vocabulary that no text has, with the mean
embedding of the label's words to begin with.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from adapters import base_model, methods, trainer
from adapters.child import run
from adapters.train import train

WEIGHTS = "adapter_model.safetensors"


def averaged(run_folder: Path) -> Path:
    """The adapter with averaged weights, whole, of a training with `--average`."""
    folder = run_folder / "adapter-averaged"
    shutil.copytree(run_folder / "adapter", folder)
    shutil.copy(run_folder / "averaged" / WEIGHTS, folder / WEIGHTS)
    return folder


class Averaging(trainer.Watch):
    """Sums the trained weights over the last steps and writes their mean at the end."""

    last, folder = 0, Path()
    total: dict[str, torch.Tensor] = {}  # noqa: RUF012 - one training a process

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        super().on_step_end(args, state, control, **more)
        if state.global_step <= self._steps - self.last:
            return
        trained = {name: weight for name, weight in more["model"].named_parameters() if weight.requires_grad}
        for name, weight in trained.items():
            self.total[name] = self.total.get(name, 0.0) + weight.detach() / self.last
        if state.global_step == self._steps:
            kept = {name: weight.detach().clone() for name, weight in trained.items()}
            for name, weight in trained.items():
                weight.data.copy_(self.total[name])
            methods.save(more["model"], self.folder / "averaged")
            for name, weight in trained.items():
                weight.data.copy_(kept[name])


def class_tokens(base: Path, labels: list[str], texts: list[str], folder: Path) -> dict[str, str]:
    """Write a copy of the base model to `folder` in which each label has a token of its own; label to that word."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.copytree(base, folder, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    used = {token for row in tokenizer([*texts, *labels], add_special_tokens=False).input_ids for token in row}
    free: list[str] = []
    for token in range(len(tokenizer) - 1, 0, -1):
        word = tokenizer.decode([token])
        alone = word.isascii() and word.isalpha() and word.islower() and len(word) > 4
        if alone and token not in used and tokenizer(word, add_special_tokens=False).input_ids == [token]:
            free.append(word)
        if len(free) == len(labels):
            break
    weights = model.get_input_embeddings().weight.data
    for label, word in zip(labels, free, strict=True):
        parts = weights[tokenizer(label, add_special_tokens=False).input_ids]
        mean = parts.mean(dim=0)
        mean *= parts.norm(dim=1).mean() / mean.norm()  # a mean is shorter than its parts
        weights[tokenizer(word, add_special_tokens=False).input_ids] = mean
    model.save_pretrained(folder)
    return dict(zip(labels, free, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--average", type=int, default=0)
    options = parser.parse_args()
    base_model.quiet()
    if options.average:
        Averaging.last, Averaging.folder = options.average, options.folder
        trainer.Watch = Averaging  # type: ignore[misc]
    return run(train, [str(options.folder)])


if __name__ == "__main__":
    sys.exit(main())
