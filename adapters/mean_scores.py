"""Statistics of answers that are worth something between 0 and 1, where labels are right or wrong. Pure.

Means stand with a t interval, and a candidate meets each opponent by the paired t test on the same items: the bounded
differences of some dozen items have a mean that is near enough to normal (tested against resampling). Where all items
say the same, a bare t interval has no width and a p-value of 0. So both are made after adding a few items that say
nothing, as is done for proportions: with scores of 0 and 1 the paired interval is Agresti and Min's.

Sources: Student (1908), "The probable error of a mean", Biometrika 6; quantile and tail of his distribution by the
expansions 26.7.5 and 26.7.8 of Abramowitz and Stegun (1964), off by less than a hundredth from ten items on. Agresti
and Coull (1998), "Approximate is better than exact for interval estimation of binomial proportions", The American
Statistician 52: two ones and two zeros more. Agresti and Min (2005), see `adapters.metrics`: half a difference of 1,
half a one of -1 and one of 0 more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist, fmean, median, stdev

from adapters.metrics import Difference, Interval
from adapters.specs import AnswererKind, Decoding, ExamItem, Prediction
from store.events import AnswererResult, PairedResult

_NORMAL = NormalDist()
EXACT = 1.0 - 1e-9  # a score from which an answer counts as wholly right


def t_quantile(share: float, freedom: int) -> float:
    """The value below which `share` (0..1) of Student's distribution with `freedom` degrees (at least 1) lies."""
    z = _NORMAL.inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def t_tails(t: float, freedom: int) -> float:
    """The share of Student's distribution that lies as far out as `t`, on both sides."""
    z = abs(t) * (1 - 1 / (4 * freedom)) / math.sqrt(1 + t * t / (2 * freedom))
    return math.erfc(z / math.sqrt(2))


def mean_error(values: Sequence[float]) -> float:
    """Standard error of the mean; 1.0, as far as a score goes, where fewer than two values say nothing of it."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 1.0


def mean_interval(mean: float, error: float, n: int, level: float = 0.05) -> Interval:
    """The two-sided interval of a mean score of `n` items with standard error `error`, within 0..1."""
    if n < 2:
        return Interval(0.0, 1.0)
    low, high = _interval(*_with(mean, error, n, items=4, total=2, squares=2), n, level)
    return Interval(max(0.0, min(mean, low)), min(1.0, max(mean, high)))


def difference_interval(mean: float, error: float, n: int, level: float = 0.05) -> Interval:
    """The same of a mean difference of two scores, within -1..1."""
    if n < 2:
        return Interval(-1.0, 1.0)
    low, high = _interval(*_with(mean, error, n, items=2, total=0, squares=1), n, level)
    return Interval(max(-1.0, min(mean, low)), min(1.0, max(mean, high)))


def paired(differences: Sequence[float]) -> tuple[Difference, float, float]:
    """(mean difference with its 95% interval, its standard error, two-sided p-value) of differences in -1..1; with
    fewer than two items it could be any."""
    n = len(differences)
    mean, error = fmean(differences) if n else 0.0, mean_error(differences)
    low, high = difference_interval(mean, error, n)
    if n < 2:
        return Difference(mean, low, high), error, 1.0
    middle, wider = _with(mean, error, n, items=2, total=0, squares=1)
    return Difference(mean, low, high), error, t_tails(middle / wider, n - 1)


def _interval(middle: float, error: float, n: int, level: float) -> Interval:
    half = t_quantile(1 - level / 2, n - 1) * error
    return Interval(middle - half, middle + half)


def _with(mean: float, error: float, n: int, *, items: int, total: float, squares: float) -> tuple[float, float]:
    """(mean, standard error) after adding `items` whose values sum up to `total` and their squares to `squares`."""
    all_squares = (n - 1) * error * error * n + n * mean * mean + squares
    middle = (n * mean + total) / (n + items)
    return middle, math.sqrt(max(0.0, all_squares / (n + items) - middle * middle) / (n + items))


# ---------------------------------------------------------------- predictions to event values


def results(
    exam: Sequence[ExamItem], predictions: Iterable[Prediction], kinds: Mapping[str, AnswererKind], metric: str
) -> list[AnswererResult]:
    """One result per answerer. `accuracy` is the mean score of the exam's own items, an item without an answer counting
    0 (but not one that the judge gave no verdict on: those are `abstained`); `correct` are the wholly right ones.

    Args:
        exam: the items; hard ones are counted apart.
        predictions: with scores.
        kinds: answerer's name -> kind.
        metric: what the scores are by.
    """
    return [
        _result(exam, answers, name, kinds[name], decoding, metric)
        for (name, decoding), answers in _by_answerer(predictions).items()
    ]


def paired_results(
    exam: Sequence[ExamItem], predictions: Iterable[Prediction], candidate: str, opponents: Sequence[str], metric: str
) -> list[PairedResult]:
    """The candidate against each opponent on the same items, hard ones left out; `gained` and `lost` count the items
    on which it scored higher and lower."""
    answers = _by_answerer(predictions)
    found = []
    for (name, decoding), theirs in answers.items():
        mine = answers.get((candidate, decoding), {})
        if name not in opponents:
            continue
        both = [(mine.get(item.id), theirs.get(item.id)) for item in exam if not item.hard]
        pairs = [(a.score, b.score) for a, b in both if a and b and a.score is not None and b.score is not None]
        differences = [a - b for a, b in pairs]
        difference, error, p_value = paired(differences)
        found.append(
            PairedResult(
                opponent=name,
                decoding=decoding,
                n=len(pairs),
                gained=sum(value > 0 for value in differences),
                lost=sum(value < 0 for value in differences),
                difference=difference.difference,
                low=difference.low,
                high=difference.high,
                p_value=p_value,
                metric=metric,
                error=error,
            )
        )
    return found


def _result(
    exam: Sequence[ExamItem],
    answers: Mapping[str, Prediction],
    name: str,
    kind: AnswererKind,
    decoding: Decoding,
    metric: str,
) -> AnswererResult:
    given = [(item, answers.get(item.id)) for item in exam]
    worth = [(item, 0.0 if one is None else one.score) for item, one in given]
    scores = [value for item, value in worth if not item.hard and value is not None]
    mean = fmean(scores) if scores else 0.0
    low, high = mean_interval(mean, mean_error(scores), len(scores))
    return AnswererResult(
        answerer=name,
        kind=kind,
        decoding=decoding,
        n=len(scores),
        correct=sum(value >= EXACT for value in scores),
        accuracy=mean,
        low=low,
        high=high,
        recall={},
        abstained=sum(value is None for item, value in worth if not item.hard),
        invalid=sum(one is None or one.invalid for item, one in given if not item.hard),
        latency_ms=median([one.latency_ms for _, one in given if one is not None] or [0.0]),
        hard_n=sum(item.hard for item in exam),
        hard_correct=sum(value is not None and value >= EXACT for item, value in worth if item.hard),
        metric=metric,
    )


def _by_answerer(predictions: Iterable[Prediction]) -> dict[tuple[str, Decoding], dict[str, Prediction]]:
    found: dict[tuple[str, Decoding], dict[str, Prediction]] = {}
    for one in predictions:
        found.setdefault((one.answerer, one.decoding), {})[one.id] = one
    return found
