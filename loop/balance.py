"""How many examples of each class there are, and what is done where one drowns the others. Pure.

A training set of ten to one teaches the majority. So beyond that the majority is capped, and what the rare classes
have counts more by being repeated; the loop goes on however skewed production is, and asks for `rare` records.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeVar

Kind = Literal["classification", "extraction", "instruction", "style"]
WARN_RATIO = 3
CAP_RATIO = 10
KEPT = 50  # examples that a cap leaves a class: one stray label of a new class must not cost all others theirs
MOST_COPIES = 10  # of one example: more often seen it is learned by heart
# the mission's document, "Size guidelines": examples a class for classification, in all for the others
GUIDELINES: Mapping[Kind, tuple[int, int]] = {
    "classification": (50, 200),
    "extraction": (100, 500),
    "instruction": (500, 1_000),
    "style": (1_000, 5_000),
}


class Example(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def failure(self) -> bool | None: ...


E = TypeVar("E", bound=Example)


def capped(rows: Sequence[E], seed: int) -> tuple[list[E], list[E]]:
    """(kept, left out) in their order: no class has more than ten times the smallest one, or `KEPT`, whichever is
    more. Failures of production stay first, then chance decides."""
    sizes = Counter(one.label for one in rows)
    limit = max(CAP_RATIO * min(sizes.values(), default=0), KEPT)
    if all(size <= limit for size in sizes.values()):
        return list(rows), []
    order = list(rows)
    random.Random(seed).shuffle(order)  # noqa: S311
    order.sort(key=lambda one: not one.failure)
    taken: Counter[str] = Counter()
    chosen: set[str] = set()
    for one in order:
        if taken[one.label] < limit:
            taken[one.label] += 1
            chosen.add(one.id)
    return [one for one in rows if one.id in chosen], [one for one in rows if one.id not in chosen]


def rare(rows: Sequence[Example], classes: Sequence[str]) -> list[str]:
    """Classes with less than a tenth of the largest one's examples, those without any among them."""
    sizes = Counter(one.label for one in rows)
    return [label for label in classes if sizes[label] * CAP_RATIO < max(sizes.values(), default=0)]


def copies(sizes: Mapping[str, int], *, even: bool = False) -> dict[str, int]:
    """How often an example of each class is shown; classes shown once are left out.

    Args:
        sizes: examples a class, after the cap.
        even: bring every class up to the largest, as far as `MOST_COPIES` goes; else only to a tenth of it.
    """
    largest = max(sizes.values(), default=0)
    wanted = {
        label: min(MOST_COPIES, round(largest / size) if even else math.ceil(largest / (CAP_RATIO * size)))
        for label, size in sizes.items()
        if size
    }
    return {label: times for label, times in wanted.items() if times > 1}


def warnings(rows: Sequence[Example], classes: Sequence[str], kind: Kind = "classification") -> list[str]:
    """What size and balance leave to be desired. Without classes (`kind` is not classification) the number of
    examples alone is looked at."""
    least, most = GUIDELINES[kind]
    if kind != "classification":
        return [f"{len(rows)} examples: the guideline for {kind} is {least}-{most}"] if len(rows) < least else []
    sizes = Counter(one.label for one in rows)
    found = []
    if few := [f"{label} {sizes[label]}" for label in classes if sizes[label] < least]:
        found.append(f"below the guideline of {least}-{most} examples a class: {', '.join(few)}")
    present = [sizes[label] for label in classes if sizes[label]]
    if present and max(present) >= WARN_RATIO * min(present):
        found.append(f"classes are {max(present) / min(present):.1f}:1 (a warning from {WARN_RATIO}:1)")
    if asked := rare(rows, classes):
        found.append(f"beyond {CAP_RATIO}:1, more labels are asked for: {', '.join(asked)}")
    return found
