"""Statistics of an evaluation, in plain Python: every number the gate decides on is computed here.

Counts go in, numbers come out; nothing is read or written. `answerer_results` and `paired_results` turn the
predictions of a run folder into the values of an `EvaluationSucceeded` event.

Sources:
    Wilson, E. B. (1927), "Probable inference, the law of succession, and statistical inference", JASA 22: the
        score interval of one proportion.
    McNemar, Q. (1947), Psychometrika 12, in its exact (binomial) form: the test of two paired proportions.
    Agresti, A. and Min, Y. (2005), "Simple improved confidence intervals for comparing matched proportions",
        Statistics in Medicine 24: Wald's paired interval after adding one half to each of the four cells.
    Newcombe, R. G. (1998), "Interval estimation for the difference between independent proportions", Statistics in
        Medicine 17: his tenth method, from two Wilson intervals.
    Guo, C. et al. (2017), "On calibration of modern neural networks", arXiv 1706.04599: expected calibration
        error (the temperature is fitted in `adapters.calibration`).
    Cohen, J. (1960), "A coefficient of agreement for nominal scales": kappa.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from adapters.specs import AnswererKind, Decoding, ExamItem, Prediction
from store.events import AnswererResult, PairedResult

Z95 = 1.959963984540054  # two-sided 95% of the standard normal


class Interval(NamedTuple):
    low: float
    high: float


class Difference(NamedTuple):
    """Difference of two proportions (first minus second) with its interval, 95% unless said, each in -1..1."""

    difference: float
    low: float
    high: float


def accuracy(correct: Sequence[bool]) -> float:
    """Share of True, 0..1; 0.0 for no items."""
    return sum(correct) / len(correct) if correct else 0.0


def wilson(correct: int, n: int, z: float = Z95) -> Interval:
    """Wilson's score interval of `correct` out of `n`; (0, 1) when nothing was measured.

    Raises:
        ValueError: `correct` is not within 0..n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} correct of {n}")
    if n == 0:
        return Interval(0.0, 1.0)
    share, spread = correct / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # at the ends the bound is the share itself; rounding must not move it past
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    high = 1.0 if correct == n else min(1.0, middle + half)
    return Interval(low, high)


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p-value of the exact McNemar test, from the discordant pairs alone.

    Under the null hypothesis each discordant pair falls either way with one half, so this is the two-sided
    binomial test of `gained` out of `gained + lost`.
    """
    n, fewer = gained + lost, min(gained, lost)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, float((2 * tail) / (1 << n)) if n < 1000 else math.exp(math.log(2 * tail) - n * math.log(2)))


def paired_difference(gained: int, lost: int, n: int, z: float = Z95) -> Difference:
    """(gained - lost) / n with Agresti and Min's interval (one half added to each cell of the 2x2 table).

    Args:
        gained: items that only the first got right.
        lost: items that only the second got right.
        n: all paired items.

    Raises:
        ValueError: the discordant pairs are more than the items.
    """
    if gained < 0 or lost < 0 or gained + lost > n:
        raise ValueError(f"{gained} gained and {lost} lost of {n}")
    if n == 0:
        return Difference(0.0, -1.0, 1.0)
    total = n + 2
    discordant, net = gained + lost + 1, gained - lost
    middle = net / total
    half = z * math.sqrt(discordant - net * net / total) / total
    difference = net / n
    return Difference(difference, max(-1.0, min(difference, middle - half)), min(1.0, max(difference, middle + half)))


def independent_difference(first: int, of: int, second: int, of_second: int, z: float = Z95) -> Difference:
    """first / of - second / of_second, counted on different items, with Newcombe's interval.

    Raises:
        ValueError: a count is not within 0..n, or an n is not above 0.
    """
    if min(of, of_second) <= 0:
        raise ValueError(f"{first} of {of} against {second} of {of_second}")
    a, b = first / of, second / of_second
    one, other = wilson(first, of, z), wilson(second, of_second, z)
    low = a - b - math.hypot(a - one.low, other.high - b)
    return Difference(a - b, low, a - b + math.hypot(one.high - a, b - other.low))


def mean_difference(differences: Sequence[float], z: float = Z95) -> Difference:
    """Mean of paired differences with its normal 95% interval; not clipped, unlike a proportion's."""
    n = len(differences)
    if n == 0:
        return Difference(0.0, -math.inf, math.inf)
    mean = math.fsum(differences) / n
    if n == 1:
        return Difference(mean, -math.inf, math.inf)
    variance = math.fsum((value - mean) ** 2 for value in differences) / (n - 1)
    half = z * math.sqrt(variance / n)
    return Difference(mean, mean - half, mean + half)


def recall_by_class(expected: Sequence[str], answered: Sequence[str | None]) -> dict[str, float]:
    """Per label that was expected at least once: the share of its items that were answered with it."""
    support = Counter(expected)
    hits = Counter(truth for truth, answer in zip(expected, answered, strict=True) if truth == answer)
    return {label: hits[label] / support[label] for label in sorted(support)}


def softmax(scores: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Probabilities of log-scores after division by `temperature` (above 0)."""
    top = max(scores)
    weights = [math.exp((score - top) / temperature) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[bool], bins: int = 10) -> float:
    """Mean gap between confidence and accuracy over equal-width bins, weighted by their items; 0..1."""
    held: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for confidence, right in zip(confidences, correct, strict=True):
        held[min(bins - 1, max(0, int(confidence * bins)))].append((confidence, right))
    gaps = (abs(math.fsum(c for c, _ in part) - sum(r for _, r in part)) for part in held)
    return math.fsum(gaps) / len(confidences) if confidences else 0.0


def cohen_kappa(first: Sequence[str | None], second: Sequence[str | None]) -> float:
    """Agreement of two raters beyond chance, -1..1; 1.0 where both gave one and the same label throughout."""
    n = len(first)
    if n == 0:
        return 0.0
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    left, right = Counter(first), Counter(second)
    by_chance = sum(left[label] * right[label] for label in left) / (n * n)
    return 1.0 if by_chance == 1.0 else (observed - by_chance) / (1.0 - by_chance)


# ---------------------------------------------------------------- predictions to event values


def answerer_results(
    exam: Iterable[ExamItem], predictions: Iterable[Prediction], kinds: Mapping[str, AnswererKind]
) -> list[AnswererResult]:
    """One result per answerer and decoding, in the order in which they first appear.

    The estimate is made on the exam's own items; hard items (harvested failures) are counted apart. An item
    without a prediction counts as an abstention. `latency_ms` is the median over the items.

    Args:
        exam: the items; predictions for other ids are left out.
        predictions: of any number of answerers.
        kinds: answerer's name -> kind.
    """
    items = list(exam)
    return [
        _answerer_result(items, answers, name, kinds[name], decoding)
        for (name, decoding), answers in _by_answerer(predictions).items()
    ]


def paired_results(
    exam: Iterable[ExamItem], predictions: Iterable[Prediction], candidate: str, opponents: Sequence[str]
) -> list[PairedResult]:
    """The candidate against each opponent on the same items, hard ones left out.

    Like is compared with like: one result per decoding that both have. A control has only "classify": it meets
    each decoding of the other side, whose name the result then carries.
    """
    truth = {item.id: item.label for item in exam if not item.hard}
    answers = _by_answerer(predictions)
    mine = [decoding for name, decoding in answers if name == candidate]
    found = []
    for opponent in opponents:
        theirs = [decoding for name, decoding in answers if name == opponent]
        for own, other in ((a, b) for a in mine for b in theirs if a == b or "classify" in (a, b)):
            shown = other if own == "classify" else own
            found.append(_paired(truth, answers[candidate, own], answers[opponent, other], opponent, shown))
    return found


def _paired(
    truth: Mapping[str, str],
    first: Mapping[str, Prediction],
    second: Mapping[str, Prediction],
    opponent: str,
    decoding: Decoding,
) -> PairedResult:
    common = [item for item in truth if item in first and item in second]
    rights = [(first[item].label == truth[item], second[item].label == truth[item]) for item in common]
    gained = sum(a and not b for a, b in rights)
    lost = sum(b and not a for a, b in rights)
    difference, low, high = paired_difference(gained, lost, len(common))
    return PairedResult(
        opponent=opponent,
        decoding=decoding,
        n=len(common),
        gained=gained,
        lost=lost,
        difference=difference,
        low=low,
        high=high,
        p_value=mcnemar_exact(gained, lost),
    )


def _answerer_result(
    exam: Sequence[ExamItem], answers: Mapping[str, Prediction], name: str, kind: AnswererKind, decoding: Decoding
) -> AnswererResult:
    regular = [item for item in exam if not item.hard]
    hard = [item for item in exam if item.hard]
    given = [answers.get(item.id) for item in regular]
    labels = [answer.label if answer else None for answer in given]
    correct = [label == item.label for label, item in zip(labels, regular, strict=True)]
    low, high = wilson(sum(correct), len(correct))
    sure = [
        (share, best == item.label)  # also where the answer was withheld
        for answer, item in zip(given, regular, strict=True)
        if answer is not None and answer.probabilities
        for best, share in [max(answer.probabilities.items(), key=lambda one: one[1])]
    ]
    # words that are no label are invalid; silence, and a score below the threshold, are an abstention
    invalid = sum(1 for answer in given if answer is not None and answer.label is None and answer.raw.strip())
    return AnswererResult(
        answerer=name,
        kind=kind,
        decoding=decoding,
        n=len(regular),
        correct=sum(correct),
        accuracy=accuracy(correct),
        low=low,
        high=high,
        recall=recall_by_class([item.label for item in regular], labels),
        support=dict(sorted(Counter(item.label for item in regular).items())),
        abstained=labels.count(None) - invalid,
        invalid=invalid,
        latency_ms=median([answer.latency_ms for answer in given if answer is not None] or [0.0]),
        ece=expected_calibration_error([c for c, _ in sure], [r for _, r in sure]) if sure else None,
        hard_n=len(hard),
        hard_correct=sum(item.id in answers and answers[item.id].label == item.label for item in hard),
    )


def _by_answerer(predictions: Iterable[Prediction]) -> dict[tuple[str, Decoding], dict[str, Prediction]]:
    """Of two predictions for one item, answerer and decoding the later stands (a resumed evaluation)."""
    found: dict[tuple[str, Decoding], dict[str, Prediction]] = {}
    for prediction in predictions:
        found.setdefault((prediction.answerer, prediction.decoding), {})[prediction.id] = prediction
    return found
