"""Shared prefixes: a micro-batch in one sequence, what its examples have in common only once.

In classification every example begins with the same long instructions. Their tokens see only what stands before
them, so their states are the same in every example: computing them once is exact. The sequences of a micro-batch
are laid out as a prefix tree; position ids count along each branch and a token sees its own branch only. The
vocabulary is projected only where there is something to learn. In fp32 loss and gradients equal those of the
padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

TREE = "tuneloop_tree"  # name of the attention of `adapters.attention`
# architectures whose SDPA attention takes a ready 4-D mask for all of its layers
PACKABLE = frozenset({"llama", "qwen2", "qwen3", "mistral", "gemma", "smollm3", "granite", "phi3", "olmo2"})


def can_pack(model: Any) -> str:
    """Why this model cannot read several sequences as one; "" when it can."""
    config = model.config
    if config.model_type not in PACKABLE:
        return f"{config.model_type} is not known to take a mask per token"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "its attention has a sliding window"
    return ""


class Branch(msgspec.Struct, frozen=True):
    """Rows `start`..`stop` of a packed sequence, and the ranges of rows on their path before them."""

    start: int
    stop: int
    path: list[tuple[int, int]]


class Packed(msgspec.Struct, frozen=True):
    """A prefix tree in one sequence of T tokens, with N places to learn.

    tokens, positions: int64 [T]. branches: cover 0..T in order.
    sources: int64 [N], the token whose state predicts. targets: int64 [N], what it predicts.
    owners: int64 [N], the sequence (by its index in the input) that each target belongs to.
    """

    tokens: Tensor
    positions: Tensor
    branches: list[Branch]
    sources: Tensor
    targets: Tensor
    owners: Tensor

    def mask(self) -> Tensor:
        """bool [T, T], True where the row's token sees the column's."""
        total = len(self.tokens)
        mask = torch.zeros(total, total, dtype=torch.bool)
        for branch in self.branches:
            rows = slice(branch.start, branch.stop)
            for first, last in branch.path:
                mask[rows, first:last] = True
            size = branch.stop - branch.start
            mask[rows, rows] = torch.ones(size, size, dtype=torch.bool).tril()
        return mask

    def inputs(self, *, tree: bool, device: Any = "cpu") -> dict[str, Any]:
        """What the model is called with; `tree`: its attention is `adapters.attention`'s, which needs no mask."""
        sight: dict[str, Any] = {"attention_mask": self.mask()[None, None].to(device)}
        if tree:  # a mask of any size keeps the model from making a causal one
            sight = {"attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device), "branches": self}
        return {
            "input_ids": self.tokens[None].to(device),
            "position_ids": self.positions[None].to(device),
            "logits_to_keep": self.sources.to(device),
            **sight,
        }


def pack(sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> Packed:
    """Lay sequences out as a prefix tree.

    Args:
        sequences: token ids, each of at least one token.
        starts: for each sequence the index of the first token to learn, at least 1.
    """
    tokens: list[int] = []
    positions: list[int] = []
    branches: list[Branch] = []
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    before: Sequence[int] = ()
    path: list[int] = []  # where the tokens of the last sequence lie
    # in lexical order the longest prefix that a sequence shares with any before it is shared with the last one
    for index in sorted(range(len(sequences)), key=lambda index: list(sequences[index])):
        sequence = sequences[index]
        shared = common(before, sequence)
        start, stop = len(tokens), len(tokens) + len(sequence) - shared
        path = [*path[:shared], *range(start, stop)]
        if stop > start:
            branches.append(Branch(start, stop, _ranges(path[:shared])))
        tokens += sequence[shared:]
        positions += range(shared, len(sequence))
        for place in range(starts[index], len(sequence)):
            sources.append(path[place - 1])
            targets.append(sequence[place])
            owners.append(index)
        before = sequence
    values = (torch.tensor(value, dtype=torch.long) for value in (tokens, positions, sources, targets, owners))
    packed_tokens, packed_positions, *learned = values
    return Packed(packed_tokens, packed_positions, branches, *learned)


def _ranges(places: Sequence[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place:
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
    return found


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences share at their beginning."""
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length


def label_log_likelihoods(
    model: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    tokens: int = 1024,
    packed: bool = True,
) -> list[list[float]]:
    """Log-probability of every answer after every prompt, in evaluation mode: [prompts][answers].

    Prompts and answers share one prefix tree per pass, so what prompts have in common is computed once a pass and
    a prompt once for all its answers. `tokens` bounds the tree of one pass (one prompt always fits). Without
    `packed` every sequence runs alone, for models that take no mask per token.
    """
    width = sum(len(answer) for answer in answers)
    found: list[float] = []
    was_training = model.training
    model.eval()
    try:
        pairs: list[tuple[Sequence[int], Sequence[int]]] = []
        size = 0
        for prompt in prompts:
            if pairs and (size + len(prompt) + width > tokens or not packed):
                found += _sums(model, pairs, packed)
                pairs, size = [], 0
            for answer in answers:
                if pairs and not packed:
                    found += _sums(model, pairs, packed)
                    pairs = []
                pairs.append((prompt, answer))
            size += len(prompt) + width
        if pairs:
            found += _sums(model, pairs, packed)
    finally:
        model.train(was_training)
    columns = len(answers)
    return [found[row * columns : (row + 1) * columns] for row in range(len(prompts))]


def _sums(model: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], packed: bool) -> list[float]:
    tree = pack([[*prompt, *answer] for prompt, answer in pairs], [len(prompt) for prompt, _ in pairs])
    device = next(model.parameters()).device
    inputs = tree.inputs(tree=getattr(model.config, "_attn_implementation", "") == TREE, device=device)
    if not packed:  # one sequence: its attention is the model's own
        inputs.pop("attention_mask")
        inputs.pop("branches", None)
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[0]
        each = -functional.cross_entropy(logits.float(), tree.targets.to(device), reduction="none")
        sums = torch.zeros(len(pairs), device=device).index_add_(0, tree.owners.to(device), each)
    return [float(value) for value in sums.tolist()]
