"""Attention over a prefix tree, or over several texts in one sequence: each token looks at its own path only.

One attention with a mask computes all pairs of tokens and throws most of them away. Here each branch of a tree that is
trained on (`Packed`), and each text whose labels are scored (`Group`), is one small attention over its own keys. The
result is the same. Importing the module makes both implementations known to transformers, as `packed.TREE` and `ROWS`;
a forward without branches or groups is plain SDPA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adapters.packed import TREE, Packed

ROWS = "tuneloop_rows"


class Group(NamedTuple):
    """R texts of a feed that have about as many tokens in it, at most q each, and at most k keys."""

    queries: Tensor  # [R * q], places in the feed
    keys: Tensor  # [R * k], columns
    sees: Tensor  # [R, 1, q, k], bool
    real: Tensor  # which of the R * q are not padding


def tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    branches: Packed | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, T, width]; key, value [1, kv heads, P + T, width]; the branches cover 0..T in order.

    The P keys at the beginning are a soft prompt's: every branch sees them. Returns [1, T, heads, width].
    """
    if branches is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    tree = branches.branches
    key, value, shared_heads = _heads(query.shape[1], key, value)
    virtual = key.shape[2] - query.shape[2]
    soft = [(key[:, :, :virtual], value[:, :, :virtual])] if virtual else []
    key, value = key[:, :, virtual:], value[:, :, virtual:]
    # split and slice once: the gradient of every slice is as large as the whole
    sizes = [branch.stop - branch.start for branch in tree]
    queries, keys, values = query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2)
    shared: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    masks: dict[tuple[int, int], Tensor] = {}
    found = []
    for branch, q, k, v in zip(tree, queries, keys, values, strict=True):
        before = virtual
        for first, last in branch.path:
            if (first, last) not in shared:
                shared[first, last] = (key[:, :, first:last], value[:, :, first:last])
            before += last - first
        if before:
            path = [*soft, *(shared[part] for part in branch.path)]
            k = torch.cat([*(one for one, _ in path), k], 2)
            v = torch.cat([*(one for _, one in path), v], 2)
        size = (q.shape[2], before)
        if before and size not in masks:
            masks[size] = torch.ones(size[0], sum(size), dtype=torch.bool, device=q.device).tril(before)
        answers = functional.scaled_dot_product_attention(
            q, k, v, masks.get(size), dropout, is_causal=not before, scale=scaling, enable_gqa=shared_heads
        )
        found.append(answers)
    return torch.cat(found, 2).transpose(1, 2).contiguous(), None


def rows_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    groups: Sequence[Group] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query [1, heads, Q, width]; key, value [1, kv heads, K, width]; every query is in one group.

    Returns [1, Q, heads, width].
    """
    if groups is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    _, heads, _, width = query.shape
    places, found = [], []
    for group in groups:
        rows, _, q, k = group.sees.shape
        asked = query[0, :, group.queries].view(heads, rows, q, width).transpose(0, 1)
        keys, values = (one[0, :, group.keys].view(-1, rows, k, width).transpose(0, 1) for one in (key, value))
        keys, values, shared_heads = _heads(heads, keys, values)
        answers = functional.scaled_dot_product_attention(
            asked, keys, values, attn_mask=group.sees, scale=scaling, enable_gqa=shared_heads
        )
        places.append(group.queries[group.real])
        found.append(answers.transpose(1, 2).reshape(rows * q, heads, width)[group.real])
    return torch.cat(found)[torch.cat(places).argsort()][None], None


def _heads(heads: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, bool]:
    """key and value [n, kv heads, tokens, width], and whether several query heads share one of theirs. A CPU's kernel
    takes them so, which keeps every copy of them small; on CUDA no fast one takes both a mask and shared heads."""
    shared = key.shape[1] != heads
    if shared and key.device.type != "cpu":
        key, value = (repeat_kv(one, heads // one.shape[1]) for one in (key, value))
        shared = False
    return key, value, shared


for name, attention in ((TREE, tree_attention), (ROWS, rows_attention)):
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)
