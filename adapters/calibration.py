"""The temperature that makes label probabilities mean what they say, also where validation is small. Pure.

Guo et al. 2017 (arXiv 1706.04599): divide the label scores by one number, fitted on held-out examples. Ten of
them, all answered right, would ask for certainty; so the targets are smoothed as in Platt 1999, and below
`enough` examples the fit is shrunk towards 1 by as much as cross-validation finds best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

BOUNDS = (0.05, 20.0)
SHRINKAGE = (1.0, 0.75, 0.5, 0.25, 0.0)  # share of log T that is kept
_GOLDEN = (math.sqrt(5) - 1) / 2


def temperature(
    scores: Sequence[Sequence[float]], targets: Sequence[int], *, enough: int = 50, folds: int = 5
) -> float:
    """Temperature for label scores (log-likelihoods), 1.0 where there is nothing to fit on.

    Args:
        scores: [n][labels].
        targets: [n], index of the right label.
        enough: from this many examples the fit is taken as it is.
        folds: of the cross-validation below that.
    """
    n = len(scores)
    if n < 4 or len(scores[0]) < 2:
        return 1.0
    fitted = _fit(scores, targets)
    if n >= enough:
        return fitted
    folds = min(folds, n)
    parts = [([i for i in range(n) if i % folds != f], [i for i in range(n) if i % folds == f]) for f in range(folds)]
    inner = [(_fit([scores[i] for i in kept], [targets[i] for i in kept]), held) for kept, held in parts]

    def loss(share: float) -> float:
        return sum(
            _loss([scores[i] for i in held], [targets[i] for i in held], part**share, _smoothing(n)) * len(held)
            for part, held in inner
        )

    return float(fitted ** min(SHRINKAGE, key=loss))


def _smoothing(n: int) -> float:
    return 1.0 / (n + 2)


def _fit(scores: Sequence[Sequence[float]], targets: Sequence[int]) -> float:
    smoothing = _smoothing(len(scores))
    low, high = (math.log(bound) for bound in BOUNDS)
    one, two = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_one, at_two = (_loss(scores, targets, math.exp(x), smoothing) for x in (one, two))
    while high - low > 1e-4:
        if at_one <= at_two:
            high, two, at_two = two, one, at_one
            one = high - _GOLDEN * (high - low)
            at_one = _loss(scores, targets, math.exp(one), smoothing)
        else:
            low, one, at_one = one, two, at_two
            two = low + _GOLDEN * (high - low)
            at_two = _loss(scores, targets, math.exp(two), smoothing)
    return math.exp((low + high) / 2)


def _loss(scores: Sequence[Sequence[float]], targets: Sequence[int], warmth: float, smoothing: float) -> float:
    """Mean cross-entropy to targets that give `smoothing` of their mass to the other labels."""
    total = 0.0
    for row, target in zip(scores, targets, strict=True):
        scaled = [score / warmth for score in row]
        top = max(scaled)
        normaliser = top + math.log(sum(math.exp(score - top) for score in scaled))
        others = (sum(scaled) - scaled[target]) / (len(row) - 1)
        total += normaliser - (1 - smoothing) * scaled[target] - smoothing * others
    return total / len(scores)
