"""The verdict on a candidate: promote, reject, or inconclusive. Pure: numbers of one look in, checks out.

Each check passes, fails, is unsure (more exam labels could settle it) or warns. One failure rejects; one doubt
asks for a larger exam, until the candidate's looks are spent. Rules and their sources:

- better than the baseline: exact McNemar test on the same items and decoding. A candidate may be looked at up to
  three times; the p-value is spent over the looks by Pocock's constant boundaries (Biometrika 64, 1977), so
  that looking again does not make a lucky promotion likelier.
- the same where answers are free words, by the paired t test of their scores (`adapters.mean_scores`).
- not worse than the champion: the paired interval's lower end stays above minus the margin, at the same
  per-look level; and the gain is at least its own standard error, as in the parameter-free Ladder (Blum and
  Hardt, arXiv 1502.04585), because keeping every lucky winner inflates the champion's score.
- general ability: at most the document's 5% lost. On some hundred questions a bare 5% rule is wrong in a fifth of the
  cases, so a loss counts when its interval excludes zero; bits per byte of plain text stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import NormalDist

import msgspec

from adapters import mean_scores
from adapters.metrics import paired_difference
from loop.settings import GateSettings
from store.errors import StepError
from store.events import (
    AnswererResult,
    CandidateJudged,
    EvaluationStarted,
    EvaluationSucceeded,
    Event,
    ForgettingMeasured,
    GateCheck,
    Outcome,
    PairedResult,
)

# nominal level per look at an overall 0.05, divided by 0.05 (Pocock 1977, two-sided)
POCOCK = {1: 1.0, 2: 0.588, 3: 0.442}
SERVED = "score"  # how adapters answer in production
FEW = 10  # items of a class below which a recall says too little to reject


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a candidate after one look at the exam."""

    started: EvaluationStarted
    evaluated: EvaluationSucceeded
    forgetting: ForgettingMeasured | None = None


def evidence(past: Iterable[Event], evaluation_id: str) -> Evidence:
    """Collect a look's evidence from a run's events.

    Raises:
        StepError: the look is not finished.
    """
    started: EvaluationStarted | None = None
    evaluated: EvaluationSucceeded | None = None
    forgetting: ForgettingMeasured | None = None
    for event in past:
        match event:
            case EvaluationStarted(evaluation_id=one) if one == evaluation_id:
                started = event
            case EvaluationSucceeded(evaluation_id=one) if one == evaluation_id:
                evaluated = event
            case ForgettingMeasured(evaluation_id=one) if one == evaluation_id:
                forgetting = event
    if started is None or evaluated is None:
        raise StepError(f"{evaluation_id} has no finished evaluation", hint="`tuneloop evaluate` makes one.")
    return Evidence(started=started, evaluated=evaluated, forgetting=forgetting)


def judge(found: Evidence, rules: GateSettings) -> CandidateJudged:
    """The verdict by these rules, with every check that was made."""
    started = found.started
    checks = [_exam_size(found, rules)]
    if rules.better_than_baseline:
        checks.append(_against_baseline(found, rules))
    # the baseline as champion is met once: better than it is more than not worse
    met = rules.better_than_baseline and started.champion == started.baseline
    if rules.not_worse_margin is not None and not met:
        checks.append(_against_champion(found, rules, rules.not_worse_margin))
    checks += _protected(found, rules)
    checks += _general_ability(found, rules)
    checks += _serving(found, rules)
    checks += _control(found, rules)
    if not rules.quality_thresholds:
        checks.append(_check("thresholds", "fail", "no quality threshold is set in [gate]: nothing is promoted"))
    verdict = _verdict(checks, last_look=started.look >= rules.max_looks)
    return CandidateJudged(
        task=started.task,
        run_id=started.run_id,
        evaluation_id=started.evaluation_id,
        candidate=started.candidate,
        champion=started.champion,
        verdict=verdict,
        checks=checks,
        summary=_summary(verdict, checks, started.look, rules.max_looks),
    )


def level_per_look(rules: GateSettings) -> float:
    """The p-value that one look may spend."""
    return rules.p_value * POCOCK[rules.max_looks]


def _verdict(checks: list[GateCheck], *, last_look: bool) -> Outcome:
    outcomes = {check.outcome for check in checks}
    if "fail" in outcomes:
        return "reject"
    if "unsure" in outcomes:
        return "reject" if last_look else "inconclusive"
    return "promote"


def _summary(verdict: Outcome, checks: list[GateCheck], look: int, looks: int) -> str:
    if verdict == "promote":
        main = [check.detail for check in checks if check.outcome == "pass" and check.name not in ("exam", "control")]
        warned = [check.detail for check in checks if check.outcome == "warn"]
        return "; but ".join(["; ".join(main[:2]), *warned])
    wanted = {"reject": ("fail", "unsure"), "inconclusive": ("unsure",)}[verdict]
    shown = [check for check in checks if check.outcome in wanted and check.name != "exam"]
    if verdict == "reject" and any(check.outcome == "fail" for check in checks):
        shown = [check for check in checks if check.outcome == "fail"]
    text = "; ".join(check.detail for check in (shown or checks)[:2])
    if verdict == "inconclusive":
        return f"{text}: more audit labels are needed (look {look} of {looks})"
    if verdict == "reject" and not any(check.outcome == "fail" for check in checks):
        return f"{text}: still open after {looks} looks"
    return text


def _check(name: str, outcome: str, detail: str, value: float | None = None, limit: float | None = None) -> GateCheck:
    return msgspec.convert(
        {"name": name, "outcome": outcome, "detail": detail, "value": value, "limit": limit}, GateCheck
    )


def _paired(found: Evidence, opponent: str) -> PairedResult | None:
    """The comparison under the decoding that the candidate is served with, else under one that both have."""
    matches = [one for one in found.evaluated.paired if one.opponent == opponent]
    return next((one for one in matches if one.decoding == SERVED), matches[0] if matches else None)


def _result(found: Evidence, answerer: str, decoding: str = SERVED) -> AnswererResult | None:
    matches = [one for one in found.evaluated.results if one.answerer == answerer]
    return next((one for one in matches if one.decoding == decoding), matches[0] if matches else None)


def _exam_size(found: Evidence, rules: GateSettings) -> GateCheck:
    n = found.started.exam
    enough = n >= rules.min_exam
    detail = f"{n} audit items in the exam" + ("" if enough else f", {rules.min_exam} are needed")
    return _check("exam", "pass" if enough else "unsure", detail, n, rules.min_exam)


def _against_baseline(found: Evidence, rules: GateSettings) -> GateCheck:
    started, level = found.started, level_per_look(rules)
    paired = _paired(found, started.baseline)
    if paired is None:
        return _check("baseline", "unsure", f"{started.baseline} was not evaluated beside it")
    better, worse = ("better", "worse") if paired.metric else ("gained", "lost")
    detail = (
        f"{paired.difference:+.1%} against {started.baseline} by {paired.metric or paired.decoding} "
        f"({paired.gained} {better}, {paired.lost} {worse}, p={paired.p_value:.2g}, limit {level:.2g})"
    )
    if paired.difference > 0 and paired.p_value <= level:
        outcome = "pass"
    elif paired.high <= 0 or (paired.difference <= 0 and started.look > 1):
        outcome = "fail"
    else:
        outcome = "unsure"
    return _check("baseline", outcome, detail, paired.p_value, level)


def _against_champion(found: Evidence, rules: GateSettings, margin: float) -> GateCheck:
    champion = found.started.champion
    paired = _paired(found, champion)
    if paired is None:
        return _check("champion", "unsure", f"{champion} was not evaluated beside it")
    error = _standard_error(paired)
    low, high = _interval(paired, error, level_per_look(rules))
    detail = (
        f"{paired.difference:+.1%} against the champion {champion} {f'by {paired.metric} ' if paired.metric else ''}"
        f"[{low:+.1%}, {high:+.1%}], margin {margin:.1%}, one standard error {error:.1%}"
    )
    if low >= -margin and paired.difference >= error:
        outcome = "pass"
    elif high < 0 or (paired.difference <= -margin and found.started.look > 1):
        outcome = "fail"
    else:
        outcome = "unsure"
    return _check("champion", outcome, detail, low, -margin)


def _interval(paired: PairedResult, error: float, level: float) -> tuple[float, float]:
    if paired.metric:
        return mean_scores.difference_interval(paired.difference, error, paired.n, level)
    _, low, high = paired_difference(paired.gained, paired.lost, paired.n, NormalDist().inv_cdf(1 - level / 2))
    return low, high


def _standard_error(paired: PairedResult) -> float:
    if paired.error is not None:
        return paired.error
    if paired.n < 2:
        return 1.0
    mean = paired.difference
    variance = ((paired.gained + paired.lost) - paired.n * mean * mean) / (paired.n - 1)
    return float((max(0.0, variance) / paired.n) ** 0.5)


def _protected(found: Evidence, rules: GateSettings) -> list[GateCheck]:
    limit = rules.max_recall_drop
    candidate = _result(found, found.started.candidate)
    opponent = _result(found, found.started.champion)
    if limit is None or candidate is None or opponent is None:
        return []
    checks = []
    for label in rules.protected:
        if label not in opponent.recall or label not in candidate.recall:
            checks.append(_check("recall", "unsure", f"no exam item of the protected class {label}"))
            continue
        drop = opponent.recall[label] - candidate.recall[label]
        n = candidate.support.get(label, 0)
        outcome = "pass" if drop <= limit else "fail" if n >= FEW else "unsure"
        detail = f"recall of {label} {opponent.recall[label]:.0%} → {candidate.recall[label]:.0%} on {n} items"
        checks.append(_check("recall", outcome, detail, drop, limit))
    return checks


def _general_ability(found: Evidence, rules: GateSettings) -> list[GateCheck]:
    measured = found.forgetting
    if measured is None:
        wanted = rules.max_forgetting is not None or rules.max_bits_rise is not None
        return [_check("forgetting", "unsure", "general ability was not measured")] if wanted else []
    checks = []
    if rules.max_forgetting is not None:
        drop, limit = measured.accuracy_drop, rules.max_forgetting
        certain = measured.drop_low > 0
        outcome = "pass" if drop <= limit else "fail" if certain else "warn"
        detail = (
            f"general ability {measured.base_accuracy:.1%} → {measured.accuracy:.1%} on {measured.questions} questions "
            f"(relative drop {drop:+.1%} [{measured.drop_low:+.1%}, {measured.drop_high:+.1%}], limit {limit:.0%})"
        )
        checks.append(_check("forgetting", outcome, detail, drop, limit))
    if rules.max_bits_rise is not None:
        rise, limit = measured.bits_rise, rules.max_bits_rise
        detail = f"bits per byte of plain text {rise:+.1%}, limit {limit:.0%}"
        checks.append(_check("bits_per_byte", "pass" if rise <= limit else "fail", detail, rise, limit))
    return checks


def _serving(found: Evidence, rules: GateSettings) -> list[GateCheck]:
    candidate = _result(found, found.started.candidate)
    if candidate is None:
        return [_check("served", "unsure", "the candidate was not evaluated as it is served")]
    checks = []
    if rules.max_latency_ms is not None:
        outcome = "pass" if candidate.latency_ms <= rules.max_latency_ms else "fail"
        detail = f"{candidate.latency_ms:.0f} ms an answer, limit {rules.max_latency_ms:.0f} ms"
        checks.append(_check("latency", outcome, detail, candidate.latency_ms, rules.max_latency_ms))
    if rules.max_invalid is not None and candidate.n:
        share = candidate.invalid / candidate.n
        outcome = "pass" if share <= rules.max_invalid else "fail"
        form = "not of the asked form" if candidate.metric else "no label"
        detail = f"{candidate.invalid} of {candidate.n} answers are {form}"
        checks.append(_check("format", outcome, detail, share, rules.max_invalid))
    return checks


def _control(found: Evidence, rules: GateSettings) -> list[GateCheck]:
    if rules.beat_control == "ignore":
        return []
    control = next((one for one in found.evaluated.results if one.kind == "control"), None)
    candidate = _result(found, found.started.candidate)
    if control is None or candidate is None:
        return []
    beaten = candidate.accuracy > control.accuracy
    worse = "fail" if rules.beat_control == "require" else "warn"
    detail = (
        f"{candidate.accuracy:.1%} {'beats' if beaten else 'does not beat'} "
        f"the control's {control.accuracy:.1%} (TF-IDF + regression on the same labels)"
    )
    return [_check("control", "pass" if beaten else worse, detail, candidate.accuracy, control.accuracy)]
