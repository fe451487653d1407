import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from adapters import metrics
from adapters.specs import ExamItem, Prediction

counts = st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
pairs = st.tuples(st.integers(0, 80), st.integers(0, 80), st.integers(0, 200)).map(lambda t: (t[0], t[1], sum(t)))


@given(counts)
def test_wilson_holds_the_share_and_agrees_with_scipy(count: tuple[int, int]) -> None:
    correct, n = count
    low, high = metrics.wilson(correct, n)
    assert 0.0 <= low <= high <= 1.0
    if n:
        assert low <= correct / n <= high
        theirs = binomtest(correct, n).proportion_ci(0.95, method="wilson")
        assert low == pytest.approx(theirs.low, abs=1e-9)
        assert high == pytest.approx(theirs.high, abs=1e-9)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_agrees_with_the_binomial_test_and_is_symmetric(gained: int, lost: int) -> None:
    p_value = metrics.mcnemar_exact(gained, lost)
    assert p_value == metrics.mcnemar_exact(lost, gained)
    theirs = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert p_value == pytest.approx(theirs, rel=1e-9)


def test_mcnemar_of_many_pairs_does_not_overflow() -> None:
    assert 0.0 < metrics.mcnemar_exact(2600, 2400) < 0.01
    assert metrics.mcnemar_exact(2500, 2500) == 1.0


@given(pairs)
def test_paired_difference_is_antisymmetric_and_holds_the_point(pair: tuple[int, int, int]) -> None:
    gained, lost, n = pair
    difference, low, high = metrics.paired_difference(gained, lost, n)
    assert -1.0 <= low <= difference <= high <= 1.0
    mirrored = metrics.paired_difference(lost, gained, n)
    assert mirrored.low == pytest.approx(-high) and mirrored.high == pytest.approx(-low)


def test_paired_difference_covers_the_truth_in_about_95_of_100_experiments() -> None:
    """Exact coverage for n=60 with discordant probabilities 0.2 and 0.1: sum over the multinomial."""
    n, p, q = 60, 0.2, 0.1
    covered = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            _, low, high = metrics.paired_difference(b, c, n)
            if low <= p - q <= high:
                ways = math.comb(n, b) * math.comb(n - b, c)
                covered += ways * p**b * q**c * (1 - p - q) ** (n - b - c)
    assert 0.94 < covered < 0.97


def test_independent_difference_is_newcombe_s_and_antisymmetric() -> None:
    found = metrics.independent_difference(56, 70, 48, 80)  # of his paper's table II, (a), method 10
    assert [round(value, 4) for value in found] == [0.2, 0.0524, 0.3339]
    other = metrics.independent_difference(48, 80, 56, 70)
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low))
    with pytest.raises(ValueError, match="0 of 0"):
        metrics.independent_difference(1, 2, 0, 0)


def test_counts_that_cannot_be_are_refused() -> None:
    for wrong in (lambda: metrics.wilson(3, 2), lambda: metrics.paired_difference(2, 2, 3)):
        with pytest.raises(ValueError, match="of"):
            wrong()


def test_nothing_measured_says_nothing() -> None:
    assert metrics.wilson(0, 0) == (0.0, 1.0)
    assert metrics.paired_difference(0, 0, 0) == (0.0, -1.0, 1.0)
    assert metrics.mcnemar_exact(0, 0) == 1.0
    assert metrics.expected_calibration_error([], []) == 0.0
    assert metrics.mean_difference([]).high == math.inf


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_lies_between_none_and_all(items: list[tuple[float, bool]]) -> None:
    error = metrics.expected_calibration_error([c for c, _ in items], [r for _, r in items])
    assert 0.0 <= error <= 1.0
    sure = metrics.expected_calibration_error([float(r) for _, r in items], [r for _, r in items])
    assert sure == 0.0


@given(st.lists(st.floats(-80, 80), min_size=1, max_size=12), st.floats(0.1, 10))
def test_softmax_is_a_distribution_in_the_order_of_the_scores(scores: list[float], temperature: float) -> None:
    shares = metrics.softmax(scores, temperature)
    assert math.fsum(shares) == pytest.approx(1.0)
    assert shares[scores.index(max(scores))] == max(shares)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_kappa_of_a_rater_with_himself_is_one(labels: list[str]) -> None:
    assert metrics.cohen_kappa(labels, labels) == pytest.approx(1.0)


def test_kappa_knows_chance() -> None:
    first = ["a"] * 25 + ["a"] * 25 + ["b"] * 25 + ["b"] * 25
    second = ["a"] * 25 + ["b"] * 25 + ["a"] * 25 + ["b"] * 25
    assert metrics.cohen_kappa(first, second) == pytest.approx(0.0)
    # Cohen's textbook table: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert metrics.cohen_kappa(first, second) == pytest.approx(0.4)


def prediction(item: str, answerer: str, decoding: str, label: str | None, **more: object) -> Prediction:
    return Prediction(id=item, answerer=answerer, decoding=decoding, label=label, **more)  # type: ignore[arg-type]


EXAM = [
    ExamItem(id="1", text="", label="a"),
    ExamItem(id="2", text="", label="a"),
    ExamItem(id="3", text="", label="b"),
    ExamItem(id="4", text="", label="b"),
    ExamItem(id="5", text="", label="b", hard=True),
]


def test_results_keep_hard_items_apart_and_tell_invalid_from_abstained() -> None:
    answers = [
        prediction("1", "few@1", "generate", "a", raw="a", latency_ms=10),
        prediction("2", "few@1", "generate", None, raw="bananas", latency_ms=30),
        prediction("3", "few@1", "generate", None, latency_ms=20),
        prediction("4", "few@1", "generate", "b", raw="b", latency_ms=40),
        prediction("5", "few@1", "generate", "b", raw="b", latency_ms=900),
    ]
    (result,) = metrics.answerer_results(EXAM, answers, {"few@1": "prompt"})
    assert (result.n, result.correct, result.invalid, result.abstained) == (4, 2, 1, 1)
    assert (result.hard_n, result.hard_correct) == (1, 1)
    assert result.recall == {"a": 0.5, "b": 0.5} and result.support == {"a": 2, "b": 2}
    assert result.latency_ms == 25 and result.ece is None
    assert result.low < result.accuracy == 0.5 < result.high


def test_an_answer_below_the_threshold_is_an_abstention_and_its_probability_still_counts() -> None:
    told = {"1": ("a", 0.9), "2": (None, 0.6), "3": ("b", 0.9), "4": ("b", 0.9)}  # what is withheld would be right
    answers = [
        prediction(item, "v1", "score", label, probabilities={"a": share, "b": 1 - share} if item in "12" else
                   {"a": 1 - share, "b": share})
        for item, (label, share) in told.items()
    ]  # fmt: skip
    (result,) = metrics.answerer_results(EXAM, answers, {"v1": "adapter"})
    assert (result.correct, result.abstained, result.invalid) == (3, 1, 0)
    assert result.ece == pytest.approx((3 * 0.1 + 0.4) / 4)


def test_pairs_are_made_under_the_same_decoding_and_a_control_meets_each() -> None:
    answers = [
        *[
            prediction(i, "v1", d, "a", probabilities={"a": 0.9, "b": 0.1})
            for i in "12345"
            for d in ("generate", "score")
        ],
        *[prediction(i, "few@1", d, "b") for i in "12345" for d in ("generate", "score")],
        *[prediction(i, "control", "classify", item.label) for i, item in zip("12345", EXAM, strict=True)],
    ]
    pairs = metrics.paired_results(EXAM, answers, "v1", ["few@1", "control"])
    assert [(p.opponent, p.decoding) for p in pairs] == [
        ("few@1", "generate"),
        ("few@1", "score"),
        ("control", "generate"),
        ("control", "score"),
    ]
    assert [(p.gained, p.lost, p.n) for p in pairs] == [(2, 2, 4), (2, 2, 4), (0, 2, 4), (0, 2, 4)]
    reverse = metrics.paired_results(EXAM, answers, "control", ["v1"])
    assert [(p.decoding, p.gained) for p in reverse] == [("generate", 2), ("score", 2)]
    scored = [
        r
        for r in metrics.answerer_results(EXAM, answers, {"v1": "adapter", "few@1": "prompt", "control": "control"})
        if r.ece
    ]
    assert [r.answerer for r in scored] == ["v1", "v1"]
    assert scored[0].ece == pytest.approx(0.4)


def test_a_repeated_prediction_replaces_the_first() -> None:
    answers = [prediction("1", "v1", "score", "b"), prediction("1", "v1", "score", "a")]
    (result,) = metrics.answerer_results(EXAM[:1], answers, {"v1": "adapter"})
    assert result.correct == 1
