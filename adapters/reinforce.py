"""Reinforcement with a verifiable reward: TRL's GRPOTrainer and RLOOTrainer, which stand where guides say PPO.

Answers are drawn from the adapter itself, several to each prompt; the reward says whether an answer is exactly the
right label. Nothing has to be learned to judge it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from trl import GRPOTrainer, RLOOTrainer

from adapters.encode import encode
from adapters.specs import Example, TrainSpec
from adapters.trainer import Steered

RIGHT, VALID = 1.0, 0.1  # a well-formed wrong answer is better than words that are no label
Reward = Callable[..., list[float]]


class Drawn(Steered):
    """What GRPO and RLOO have in common: prompts that are tokens, and answers drawn with each prompt read once."""

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}

    def _answers(self, prompts: list[list[int]]) -> list[list[int]]:
        model = self.accelerator.unwrap_model(self.model)
        training = model.training
        model.eval()
        try:
            with self.precision(), torch.no_grad():
                return draw(
                    model,
                    prompts,
                    limit=self.max_completion_length,
                    ends=self.eos_token_ids,
                    temperature=self.temperature,
                )
        finally:
            model.train(training)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        with self.precision():
            return super()._generate_and_score_completions(inputs)


class GroupTrainer(Drawn, GRPOTrainer):
    """Group relative policy optimisation."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        return self._answers(prompt_ids), None


class LeaveOneOutTrainer(Drawn, RLOOTrainer):
    """REINFORCE with a leave-one-out baseline."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> list[list[int]]:
        return self._answers(prompt_ids)


def draw(
    model: Any, prompts: Sequence[Sequence[int]], *, limit: int, ends: Collection[int], temperature: float
) -> list[list[int]]:
    """An answer to each prompt, drawn token by token from the model's own distribution.

    Prompts that repeat one another in a row are read once. The random state is torch's, so a seed repeats the draw.

    Args:
        model: in evaluation mode.
        prompts: tokens; none empty.
        limit: tokens of an answer, its end among them.
        ends: tokens that end it; the end is part of the answer.
        temperature: above 0.
    """
    device = next(model.parameters()).device
    groups = [(list(prompt), len(list(same))) for prompt, same in itertools.groupby(prompts, key=list)]
    width = max(len(prompt) for prompt, _ in groups)
    ids = torch.zeros(len(groups), width, dtype=torch.long)
    seen = torch.zeros_like(ids)
    for row, (prompt, _) in enumerate(groups):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        seen[row, width - len(prompt) :] = 1
    owners = torch.tensor([row for row, (_, times) in enumerate(groups) for _ in range(times)], device=device)
    ids, seen = ids.to(device), seen.to(device)
    positions = (seen.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache()
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": seen}
    # by index: a slice of several rows is not contiguous, and the projection would copy its weights for each row
    last = torch.tensor([-1], device=device)
    logits = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=last).logits[:, -1]
    cache.batch_select_indices(owners)
    logits, seen, positions = logits[owners], seen[owners], positions[owners, -1:]
    stops = torch.tensor(sorted(ends), device=device)
    drawn: list[list[int]] = [[] for _ in prompts]
    alive = torch.arange(len(prompts), device=device)
    for step in range(limit):
        tokens = torch.multinomial((logits.float() / temperature).softmax(dim=-1), 1)
        for place, token in zip(alive.tolist(), tokens[:, 0].tolist(), strict=True):
            drawn[place].append(token)
        going = torch.nonzero(~torch.isin(tokens[:, 0], stops)).flatten()
        if step == limit - 1 or not len(going):
            break
        if len(going) < len(alive):
            cache.batch_select_indices(going)
        alive, tokens, positions = alive[going], tokens[going], positions[going] + 1
        seen = torch.cat((seen[going], seen.new_ones(len(going), 1)), dim=1)
        inputs = {"input_ids": tokens, "position_ids": positions, "attention_mask": seen}
        logits = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    return drawn


def rewards(labels: Sequence[str], ends: Collection[int]) -> list[Reward]:
    """Reward functions as TRL calls them: whether an answer is the right label, and whether it is one at all.

    An answer counts only as it would be served: the label, spelled as it is, and then the end of the turn.
    """

    def said(completion: str, tokens: Sequence[int]) -> str:
        return completion.strip() if tokens and tokens[-1] in ends else ""

    def right(completions: list[str], completion_ids: list[list[int]], label: list[str], **_: Any) -> list[float]:
        rows = zip(completions, completion_ids, label, strict=True)
        return [RIGHT * (said(words, tokens) == wanted) for words, tokens, wanted in rows]

    def valid(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        rows = zip(completions, completion_ids, strict=True)
        return [VALID * (said(words, tokens) in labels) for words, tokens in rows]

    return [right, valid]


def prompts(tokenizer: Any, spec: TrainSpec, examples: list[Example]) -> tuple[list[dict[str, Any]], int]:
    """What GRPO and RLOO train on, and how many tickets were shortened."""
    room = spec.max_length - answer_tokens(tokenizer, spec)
    rows, shortened = [], 0
    for example in examples:
        encoded = encode(tokenizer, example.messages[:-1], room, user=spec.prompt.user)
        rows.append({"prompt": encoded.tokens, "label": example.label})
        shortened += encoded.shortened
    return rows, shortened


def answer_tokens(tokenizer: Any, spec: TrainSpec) -> int:
    """Tokens that a drawn answer may have: those of the longest label, its end, and a few more to go wrong in."""
    lengths = []
    for label in spec.labels:
        row = encode(tokenizer, spec.prompt.messages("", label))
        lengths.append(len(row.tokens) - row.start)
    return max(lengths) + 3


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: the tokenizer's own and those of the model's generation settings, as TRL has them."""
    more = model.generation_config.eos_token_id
    found = {tokenizer.eos_token_id}
    found |= set(more) if isinstance(more, list | tuple) else {more}
    return {int(token) for token in found if token is not None}
