"""Shared prefixes: a micro-batch in one sequence, what its examples have in common only once.

In classification every example begins with the same long instructions. Their tokens see only what stands before
them, so their states are the same in every example: computing them once is exact. The sequences of a micro-batch
are laid out as a prefix tree; position ids count along each branch and a token sees its own branch only. The
vocabulary is projected only where there is something to learn. In fp32 loss and gradients equal those of the
padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Packed(NamedTuple):
    """A prefix tree in one sequence of T tokens, with N places to learn.

    tokens, positions: int64 [T]. mask: bool [T, T], True where the row's token sees the column's.
    sources: int64 [N], the token whose state predicts. targets: int64 [N], what it predicts.
    owners: int64 [N], the sequence (by its index in the input) that each target belongs to.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    sources: Tensor
    targets: Tensor
    owners: Tensor


def pack(sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> Packed:
    """Lay sequences out as a prefix tree.

    Args:
        sequences: token ids, each of at least one token.
        starts: for each sequence the index of the first token to learn, at least 1.
    """
    order = sorted(range(len(sequences)), key=lambda index: list(sequences[index]))
    total = 0
    tokens: list[int] = []
    positions: list[int] = []
    paths: list[tuple[list[int], int]] = []  # where the tokens of a sequence lie, and how many of them are shared
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    before: Sequence[int] = ()
    path: list[int] = []
    for index in order:
        sequence = sequences[index]
        shared = _common(before, sequence)
        path = path[:shared] + list(range(total, total + len(sequence) - shared))
        total += len(sequence) - shared
        tokens += sequence[shared:]
        positions += range(shared, len(sequence))
        paths.append((path, shared))
        for place in range(starts[index], len(sequence)):
            sources.append(path[place - 1])
            targets.append(sequence[place])
            owners.append(index)
        before = sequence
    mask = torch.zeros(total, total, dtype=torch.bool)
    for path, shared in paths:
        own = torch.tensor(path[shared:], dtype=torch.long)
        if len(own):
            seen = torch.ones(len(own), len(path), dtype=torch.bool).tril(diagonal=shared)
            mask[own[:, None], torch.tensor(path, dtype=torch.long)[None, :]] = seen
    return Packed(
        torch.tensor(tokens, dtype=torch.long),
        torch.tensor(positions, dtype=torch.long),
        mask,
        torch.tensor(sources, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        torch.tensor(owners, dtype=torch.long),
    )


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length


def label_log_likelihoods(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, tokens: int = 1536
) -> list[list[float]]:
    """Log-probability of every answer after every prompt, in evaluation mode: [prompts][answers].

    Prompts and answers share one prefix tree per pass, so what prompts have in common is computed once a pass and
    a prompt once for all its answers. `tokens` bounds the tree of one pass (one prompt always fits).
    """
    width = sum(len(answer) for answer in answers)
    found: list[list[float]] = []
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        start = 0
        while start < len(prompts):
            end, size = start, 0
            while end < len(prompts) and (end == start or size + len(prompts[end]) + width <= tokens):
                size += len(prompts[end]) + width
                end += 1
            chunk = [(prompt, answer) for prompt in prompts[start:end] for answer in answers]
            packed = pack([[*prompt, *answer] for prompt, answer in chunk], [len(prompt) for prompt, _ in chunk])
            with torch.no_grad():
                logits = model(
                    input_ids=packed.tokens[None].to(device),
                    position_ids=packed.positions[None].to(device),
                    attention_mask=packed.mask[None, None].to(device),
                    logits_to_keep=packed.sources.to(device),
                    use_cache=False,
                ).logits[0]
                each = -functional.cross_entropy(logits.float(), packed.targets.to(device), reduction="none")
                sums = torch.zeros(len(chunk), device=device).index_add_(0, packed.owners.to(device), each)
            found += sums.view(end - start, len(answers)).tolist()
            start = end
    finally:
        model.train(was_training)
    return found
