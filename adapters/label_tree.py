"""Labels as a prefix tree, and the search for those of its branches that can still hold a text's answer. Pure.

A log-probability is never above 0, so the sum down to a node bounds the score of every label below it. A search reads
the likeliest branches and leaves alone those whose labels, at their bounds, hold less than a tolerance together: branch
and bound (Land and Doig 1960, Econometrica 28) over label scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property


class Tree:
    """Labels as a prefix tree. Context 0 is the end of the text; context i > 0 is the node `tokens[i - 1]`.

    `parents` names the context that each node continues, `depths` counts from 1. `steps` holds, per context, the
    tokens that may follow and what they lead to: a node's context, or -1 - i for the end of label i.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        """Args:
        sequences: tokens of each label, ending in the end-of-turn token (which is predicted, never fed).
        """
        self.labels = len(sequences)
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self.steps: list[list[tuple[int, int]]] = [[]]
        known: dict[tuple[int, int], int] = {}
        for label, sequence in enumerate(sequences):
            context = 0
            for place, token in enumerate(sequence[:-1]):
                if (context, token) not in known:
                    self.tokens.append(token)
                    self.parents.append(context)
                    self.depths.append(place + 1)
                    self.steps.append([])
                    known[context, token] = len(self.tokens)
                    self.steps[context].append((token, len(self.tokens)))
                context = known[context, token]
            self.steps[context].append((sequence[-1], -1 - label))

    @property
    def contexts(self) -> range:
        """Context 0 and every node, each after what it continues."""
        return range(len(self.tokens) + 1)

    @cached_property
    def below(self) -> list[list[int]]:
        """Per context, the labels that begin with it."""
        found: list[list[int]] = [[] for _ in self.contexts]
        for context in reversed(self.contexts):
            for _, target in self.steps[context]:
                found[context] += [-1 - target] if target < 0 else found[target]
        return found

    def line(self, context: int) -> list[int]:
        """A node with all that must follow it before the labels below it part: read together."""
        nodes = [context]
        while len(self.steps[nodes[-1]]) == 1 and (target := self.steps[nodes[-1]][0][1]) > 0:
            nodes.append(target)
        return nodes

    @cached_property
    def sizes(self) -> list[int]:
        """Per context, how many nodes it and all that hang off it are."""
        found = [1] * len(self.contexts)
        for context in reversed(self.contexts[1:]):
            found[self.parents[context - 1]] += found[context]
        return found

    def subtree(self, context: int) -> list[int]:
        """A node and all that hang off it."""
        found, left = [], [context]
        while left:
            found.append(left.pop())
            left += [target for _, target in self.steps[found[-1]] if target > 0]
        return found

    def ancestors(self, context: int) -> list[int]:
        """The nodes from `context` up to the first, itself included."""
        found = []
        while context:
            found.append(context)
            context = self.parents[context - 1]
        return found


class Search:
    """What is known of one text's label scores, and what must be read next."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._scores: list[float | None] = [None] * tree.labels
        self._open: dict[int, float] = {0: 0.0}  # contexts not read yet: log-probability of reaching them

    def learn(self, context: int, values: Sequence[float]) -> None:
        """Log-probabilities of the steps of a context, in the order of `Tree.steps`; its parent was learnt before."""
        reached = self._open.pop(context)
        for (_, target), value in zip(self._tree.steps[context], values, strict=True):
            if target < 0:
                self._scores[-1 - target] = reached + value
            else:
                self._open[target] = reached + value

    def next(self, tolerance: float, temperature: float = 1.0) -> list[int]:
        """Nodes to read next, each after what it continues; empty when what is unread cannot matter.

        Args:
            tolerance: of probability (0..1) that all labels left unread may hold together after the softmax of
                `scores`; then no probability is off by more. 0 reads every label.
            temperature: of that softmax.
        """
        known = [score for score in self._scores if score is not None]
        top = max([*known, *self._open.values()])
        asked, mass = [], 0.0
        for context, bound in sorted(self._open.items(), key=lambda item: item[1]):
            mass += len(self._tree.below[context]) * math.exp((bound - top) / temperature)
            if tolerance == 0 or mass > tolerance:
                asked.append(context)
        lines = [node for context in sorted(asked) for node in self._tree.line(context)]
        if 2 * len(lines) <= sum(self._tree.sizes[context] for context in self._open):
            return lines
        # another pass over the weights would cost about as much as the other half
        return sorted(node for context in self._open for node in self._tree.subtree(context))

    def scores(self) -> list[float]:
        """Score of every label in nats; of an unread one the bound that its score does not reach."""
        found = list(self._scores)
        for context, bound in self._open.items():
            for label in self._tree.below[context]:
                found[label] = bound
        return [math.nan if score is None else score for score in found]
