"""chrF: how alike two texts are, by the character n-grams that they share. Pure.

Popović, M. (2015), "chrF: character n-gram F-score for automatic MT evaluation", WMT; with the values that sacreBLEU
takes as well (chrF2: n-grams of 1 to 6 characters without white space, recall counting twice; Post 2018).
"""

from __future__ import annotations

from collections import Counter

ORDER = 6
BETA = 2
LONGEST = 20_000  # characters of a text that are compared


def chrf(answered: str, right: str) -> float:
    """0..1; 1 for equal texts. Precision and recall are averaged over the lengths of which both have n-grams; where
    either has no character but white space it is 0."""
    first, second = ("".join(text[:LONGEST].split()) for text in (answered, right))
    precision = recall = 0.0
    lengths = min(ORDER, len(first), len(second))
    for size in range(1, lengths + 1):
        mine, theirs = _grams(first, size), _grams(second, size)
        shared = (mine & theirs).total()
        precision += shared / mine.total() / lengths
        recall += shared / theirs.total() / lengths
    if precision + recall == 0:
        return 0.0
    return min(1.0, (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall))


def _grams(text: str, size: int) -> Counter[str]:
    return Counter(text[start : start + size] for start in range(len(text) - size + 1))
