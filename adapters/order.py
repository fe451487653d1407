"""The order in which a training sees its examples. No torch but the base class of samplers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.utils.data import Sampler


class Stratified(Sampler[int]):
    """Rows in a random order in which every stretch of an epoch holds each answer in its share.

    The i-th of an answer's n rows, themselves shuffled, falls at random into the i-th of n equal parts of the epoch:
    with twelve balanced classes a batch of sixteen holds every class once or twice. Single answers fall anywhere.
    Each epoch has an order of its own, which follows from the seed and its number: a resumed training repeats it.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], seed: int) -> None:
        """`rows` have `input_ids` and `start`, the index of the first token of the answer."""
        self._groups: dict[tuple[int, ...], list[int]] = {}
        for number, row in enumerate(rows):
            self._groups.setdefault(tuple(row["input_ids"][row["start"] :]), []).append(number)
        self._seed, self._epoch = seed, 0

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        chance = random.Random(f"{self._seed}/{self._epoch}")  # noqa: S311
        placed = [
            ((place + chance.random()) / len(group), number)
            for group in self._groups.values()
            for place, number in enumerate(chance.sample(group, len(group)))
        ]
        return iter([number for _, number in sorted(placed)])
