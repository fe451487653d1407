import random
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.metrics import mcnemar_exact, paired_difference, wilson
from loop.gate import Evidence, evidence, judge, level_per_look
from loop.settings import GATE_THRESHOLDS, GateSettings
from store.errors import StepError
from store.events import (
    AnswererKind,
    AnswererResult,
    CandidateJudged,
    EvaluationStarted,
    EvaluationSucceeded,
    ForgettingMeasured,
    PairedResult,
)

DEFAULT = GateSettings(**GATE_THRESHOLDS)


def result(name: str, kind: AnswererKind, correct: int, n: int, **more: Any) -> AnswererResult:
    low, high = wilson(correct, n)
    share = correct / n if n else 0.0
    values: dict[str, Any] = {
        "recall": {"urgent": share, "billing": share},
        "support": {"urgent": n // 2, "billing": n - n // 2},
        "abstained": 0,
        "invalid": 0,
        "latency_ms": 50.0,
        "accuracy": share,
        "decoding": "classify" if kind == "control" else "score",
    }
    return AnswererResult(answerer=name, kind=kind, n=n, correct=correct, low=low, high=high, **(values | more))


def paired(opponent: str, gained: int, lost: int, n: int, decoding: str = "score") -> PairedResult:
    difference, low, high = paired_difference(gained, lost, n)
    return PairedResult(
        opponent=opponent,
        decoding=decoding,
        n=n,
        gained=gained,
        lost=lost,
        difference=difference,
        low=low,
        high=high,
        p_value=mcnemar_exact(gained, lost),
    )


def forgetting(drop: float = 0.0, bits: float = 0.0, noise: float = 0.03) -> ForgettingMeasured:
    return ForgettingMeasured(
        run_id="r",
        evaluation_id="e",
        candidate="t-v2",
        suite="built-in",
        questions=120,
        base_accuracy=0.5,
        accuracy=0.5 * (1 - drop),
        accuracy_drop=drop,
        drop_low=drop - noise,
        drop_high=drop + noise,
        base_bits_per_byte=1.0,
        bits_per_byte=1 + bits,
        bits_rise=bits,
    )


def shown(
    *,
    n: int = 100,
    baseline: tuple[int, int] = (40, 5),
    champion: tuple[int, int] | None = None,
    control: tuple[int, int] = (8, 4),
    look: int = 1,
    forgot: ForgettingMeasured | None = None,
    own: dict[str, Any] | None = None,
    theirs: dict[str, Any] | None = None,
) -> Evidence:
    """Evidence on `n` records; (gained, lost) of the candidate against each opponent."""
    serving = "t-v1" if champion else "zero-shot@1"
    results = [
        result("t-v2", "adapter", n * 8 // 10, n, **(own or {})),
        result("zero-shot@1", "prompt", n // 2, n, **(theirs or {})),
        result("control", "control", n * 7 // 10, n),
    ]
    pairs = [paired("zero-shot@1", *baseline, n), paired("control", *control, n)]
    if champion:
        results.append(result("t-v1", "adapter", n * 7 // 10, n, **(theirs or {})))
        pairs.append(paired("t-v1", *champion, n))
    return Evidence(
        started=EvaluationStarted(
            task="t",
            run_id="r",
            evaluation_id="e",
            attempt=1,
            candidate="t-v2",
            champion=serving,
            baseline="zero-shot@1",
            exam=n,
            hard_exam=0,
            look=look,
        ),
        evaluated=EvaluationSucceeded(
            task="t", run_id="r", evaluation_id="e", artifact="a", results=results, paired=pairs, seconds=1.0
        ),
        forgetting=forgot or forgetting(),
    )


def outcome(judged: CandidateJudged, name: str) -> str:
    return next(check.outcome for check in judged.checks if check.name == name)


def names(judged: CandidateJudged) -> list[str]:
    return [check.name for check in judged.checks]


def test_a_clearly_better_candidate_is_promoted() -> None:
    judged = judge(shown(), DEFAULT)
    assert judged.verdict == "promote"
    assert "+35.0%" in judged.summary
    assert judged.summary.count("\n") == 0
    assert names(judged).count("baseline") == 1
    assert "champion" not in names(judged)  # the baseline is the champion: it is met once


def test_without_thresholds_nothing_is_promoted() -> None:
    judged = judge(shown(baseline=(90, 0)), GateSettings())
    assert judged.verdict == "reject"
    assert outcome(judged, "thresholds") == "fail"
    # latency alone says nothing about quality
    assert judge(shown(), GateSettings(max_latency_ms=1000.0)).verdict == "reject"


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 3))
def test_nothing_without_thresholds_whatever_the_numbers(gained: int, lost: int, look: int) -> None:
    assert judge(shown(n=120, baseline=(gained, lost), look=look), GateSettings()).verdict != "promote"


@given(
    st.integers(40, 400),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.floats(0, 0.3),
    st.floats(-0.2, 0.5),
    st.integers(1, 3),
)
def test_verdict_follows_from_the_checks(
    n: int, gained: float, lost: float, champion: float, drop: float, look: int
) -> None:
    given_evidence = shown(
        n=n,
        baseline=(int(gained * n), int(lost * n)),
        champion=(int(champion * n), int(lost * n)),
        look=look,
        forgot=forgetting(drop),
    )
    judged = judge(given_evidence, DEFAULT)
    outcomes = {check.outcome for check in judged.checks}
    if "fail" in outcomes:
        assert judged.verdict == "reject"
    elif "unsure" in outcomes:
        assert judged.verdict == ("reject" if look == 3 else "inconclusive")
    else:
        assert judged.verdict == "promote"
    assert judged.summary


@given(st.integers(0, 49), st.integers(0, 50))
def test_more_wins_never_hurt(gained: int, lost: int) -> None:
    order = ["reject", "inconclusive", "promote"]
    before = judge(shown(baseline=(gained, lost)), DEFAULT).verdict
    after = judge(shown(baseline=(gained + 1, lost)), DEFAULT).verdict
    assert order.index(after) >= order.index(before)


def test_luck_is_not_enough() -> None:
    judged = judge(shown(baseline=(10, 4)), DEFAULT)
    assert judged.verdict == "inconclusive"
    assert outcome(judged, "baseline") == "unsure"
    assert judge(shown(baseline=(10, 4), look=3), DEFAULT).verdict == "reject"
    assert "still open after 3 looks" in judge(shown(baseline=(10, 4), look=3), DEFAULT).summary


def test_a_small_exam_decides_nothing() -> None:
    judged = judge(shown(n=30, baseline=(20, 0)), DEFAULT)
    assert judged.verdict == "inconclusive"
    assert outcome(judged, "exam") == "unsure"


def test_worse_than_the_baseline_is_rejected_at_once() -> None:
    assert judge(shown(baseline=(5, 40)), DEFAULT).verdict == "reject"


def test_the_champion_must_not_be_better() -> None:
    assert judge(shown(n=400, champion=(30, 10)), DEFAULT).verdict == "promote"
    worse = judge(shown(n=400, champion=(10, 50)), DEFAULT)
    assert (worse.verdict, outcome(worse, "champion")) == ("reject", "fail")
    equal = judge(shown(n=100, champion=(8, 8)), DEFAULT)
    assert (equal.verdict, outcome(equal, "champion")) == ("inconclusive", "unsure")


def test_a_gain_below_its_standard_error_is_luck() -> None:
    """On many records an equal candidate is surely not worse; the Ladder still keeps the champion."""
    assert outcome(judge(shown(n=4000, champion=(42, 40)), DEFAULT), "champion") == "unsure"
    assert outcome(judge(shown(n=4000, champion=(60, 40)), DEFAULT), "champion") == "pass"


def test_a_margin_alone_is_checked_against_a_baseline_that_serves() -> None:
    margin = GateSettings(not_worse_margin=0.02)
    assert judge(shown(baseline=(40, 5)), margin).verdict == "promote"
    judged = judge(shown(baseline=(2, 60)), margin)
    assert (judged.verdict, outcome(judged, "champion")) == ("reject", "fail")


def test_looks_share_the_error() -> None:
    once = DEFAULT.model_copy(update={"max_looks": 1})
    assert level_per_look(once) == pytest.approx(0.05)
    assert level_per_look(DEFAULT.model_copy(update={"max_looks": 2})) == pytest.approx(0.0294, abs=1e-4)
    assert level_per_look(DEFAULT) == pytest.approx(0.0221, abs=1e-4)
    assert judge(shown(baseline=(14, 4)), once).verdict == "promote"  # p = 0.031
    assert judge(shown(baseline=(14, 4)), DEFAULT).verdict == "inconclusive"


def test_pocock_keeps_the_error_over_three_looks() -> None:
    chance = random.Random(1)  # noqa: S311
    z, wrong, n = NormalDist().inv_cdf(1 - level_per_look(DEFAULT) / 2), 0, 20_000
    for _ in range(n):
        total = 0.0
        for look in (1, 2, 3):
            total += chance.gauss(0, 1)
            if abs(total) / look**0.5 >= z:
                wrong += 1
                break
    assert wrong / n == pytest.approx(0.05, abs=0.006)


def test_forgetting_rejects() -> None:
    judged = judge(shown(forgot=forgetting(drop=0.12)), DEFAULT)
    assert (judged.verdict, outcome(judged, "forgetting")) == ("reject", "fail")
    judged = judge(shown(forgot=forgetting(bits=0.075)), DEFAULT)
    assert (judged.verdict, outcome(judged, "bits_per_byte")) == ("reject", "fail")
    chance = forgetting(drop=0.06, noise=0.1)
    assert outcome(judge(shown(forgot=chance), DEFAULT), "forgetting") == "warn"


def test_what_is_set_must_be_measured() -> None:
    bare = Evidence(started=shown().started, evaluated=shown().evaluated)
    judged = judge(bare, DEFAULT)
    assert judged.verdict != "promote"
    assert "not measured" in judged.summary
    nothing = EvaluationSucceeded(
        task="t", run_id="r", evaluation_id="e", artifact="a", results=[], paired=[], seconds=1.0
    )
    unpaired = Evidence(started=shown().started, evaluated=nothing, forgetting=forgetting())
    assert judge(unpaired, DEFAULT).verdict != "promote"


def test_protected_classes() -> None:
    fallen = {"own": {"recall": {"urgent": 0.4, "billing": 0.9}}, "theirs": {"recall": {"urgent": 0.9, "billing": 0.5}}}
    assert judge(shown(**fallen), DEFAULT).verdict == "promote"
    protecting = DEFAULT.model_copy(update={"protected": ["urgent"]})
    judged = judge(shown(**fallen), protecting)
    assert (judged.verdict, outcome(judged, "recall")) == ("reject", "fail")
    assert judge(shown(champion=(30, 5), **fallen), protecting).verdict == "reject"
    few = {"own": {"recall": {"urgent": 0.2}, "support": {"urgent": 3}}}
    assert outcome(judge(shown(**few), protecting), "recall") == "unsure"
    unseen = {"own": {"recall": {"billing": 0.9}}}
    assert outcome(judge(shown(**unseen), protecting), "recall") == "unsure"


def test_latency_and_format() -> None:
    strict = DEFAULT.model_copy(update={"max_latency_ms": 40.0})
    assert outcome(judge(shown(), strict), "latency") == "fail"
    assert judge(shown(own={"invalid": 1}), DEFAULT).verdict == "reject"


def test_the_control_warns_or_decides() -> None:
    losing = shown(own={"accuracy": 0.6})
    judged = judge(losing, DEFAULT)
    assert (judged.verdict, outcome(judged, "control")) == ("promote", "warn")
    assert "does not beat the control" in judged.summary
    assert judge(losing, DEFAULT.model_copy(update={"beat_control": "require"})).verdict == "reject"
    assert "control" not in names(judge(losing, DEFAULT.model_copy(update={"beat_control": "ignore"})))
    assert judge(shown(), DEFAULT.model_copy(update={"beat_control": "require"})).verdict == "promote"


def test_the_served_decoding_decides() -> None:
    both = shown()
    pairs = [paired("zero-shot@1", 0, 30, 100, "generate"), *both.evaluated.paired]
    evaluated = EvaluationSucceeded(
        task="t", run_id="r", evaluation_id="e", artifact="a", results=both.evaluated.results, paired=pairs, seconds=1.0
    )
    judged = judge(Evidence(started=both.started, evaluated=evaluated, forgetting=both.forgetting), DEFAULT)
    assert judged.verdict == "promote"
    assert "by score" in judged.summary


def test_evidence_is_found_among_events() -> None:
    given_evidence = shown()
    other = forgetting()
    events = [given_evidence.started, given_evidence.evaluated, other]
    assert evidence(events, "e").forgetting == other
    with pytest.raises(StepError):
        evidence(events[:1], "e")
    with pytest.raises(StepError):
        evidence(events, "another")
