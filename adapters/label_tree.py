"""Labels as a prefix tree, and the kept beginning of a prompt that the tree hangs off (see `adapters.scoring`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec


class Tree(msgspec.Struct, frozen=True):
    """Labels as a prefix tree. Context 0 is the end of the text; context i > 0 is the node `tokens[i - 1]`.

    `parents` names the context that each node continues, `depths` counts from 1. `paths` holds, per label, the
    (context, token) pairs whose log-probabilities make up its score.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    paths: list[list[tuple[int, int]]]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Tree:
        """The tree of token sequences, each ending in the end-of-turn token (which is predicted, never fed)."""
        tree = cls([], [], [], [])
        known: dict[tuple[int, int], int] = {}
        for sequence in sequences:
            context, path = 0, []
            for place, token in enumerate(sequence):
                path.append((context, token))
                if place == len(sequence) - 1:
                    break
                if (context, token) not in known:
                    tree.tokens.append(token)
                    tree.parents.append(context)
                    tree.depths.append(place + 1)
                    known[context, token] = len(tree.tokens)
                context = known[context, token]
            tree.paths.append(path)
        return tree

    def sight(self) -> list[list[bool]]:
        """Which node sees which: itself and what it continues."""
        rows: list[list[bool]] = []
        for index, parent in enumerate(self.parents):
            row = list(rows[parent - 1]) if parent else [False] * len(self.tokens)
            row[index] = True
            rows.append(row)
        return rows


class Prefix(msgspec.Struct, frozen=True):
    """The kept beginning of a prompt: its tokens, and keys and values per layer ([1, heads, length, width])."""

    tokens: list[int]
    layers: list[tuple[Any, Any]]
    virtual: int  # positions of a soft prompt before the tokens


def repeated(layers: Sequence[tuple[Any, Any]], rows: int) -> Any:
    """A cache of `rows` rows over keys and values of one; nothing is copied before it grows."""
    from transformers import DynamicCache

    return DynamicCache([(key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1)) for key, value in layers])


def cut(prefix: Prefix, shared: int) -> Prefix:
    """The first `shared` tokens of a kept prefix."""
    if shared == len(prefix.tokens):
        return prefix
    end = prefix.virtual + shared
    return Prefix(prefix.tokens[:shared], [(k[:, :, :end], v[:, :, :end]) for k, v in prefix.layers], prefix.virtual)


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences share at their beginning; at least one of the second is left over."""
    count = 0
    for one, other in zip(first, second[:-1], strict=False):
        if one != other:
            break
        count += 1
    return count
