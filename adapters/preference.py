"""Preferences: TRL's DPOTrainer over the loop's corrections. The label is chosen, production's answer rejected."""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer

from adapters.encode import encode
from adapters.specs import Example, TrainSpec
from adapters.trainer import Steered


class PreferenceTrainer(Steered, DPOTrainer):
    """DPOTrainer on pairs that are tokens already, so that their prompt is token for token that of serving."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def pairs(tokenizer: Any, spec: TrainSpec, examples: list[Example]) -> tuple[list[dict[str, list[int]]], int]:
    """What DPOTrainer trains on, and how many tickets were shortened.

    Args:
        tokenizer: with a chat template.
        spec: of the training.
        examples: corrections, see `adapters.objectives`.
    """
    rows, shortened = [], 0
    for example in examples:
        chosen = encode(tokenizer, example.messages, spec.max_length, user=spec.prompt.user)
        rejected = encode(tokenizer, spec.prompt.messages("", example.rejected))
        rows.append(
            {
                "prompt_ids": chosen.tokens[: chosen.start],
                "chosen_ids": chosen.tokens[chosen.start :],
                "rejected_ids": rejected.tokens[rejected.start :],
            }
        )
        shortened += chosen.shortened
    return rows, shortened
