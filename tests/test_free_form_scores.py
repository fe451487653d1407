"""What answers in free words are worth: by their fields, by chrF, by a judge's verdicts; and the statistics of it."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import fields, free_form, mean_scores
from adapters.chrf import chrf
from adapters.fields import NotAsked, Schema
from adapters.metrics import paired_difference, wilson
from adapters.specs import ExamItem, Prediction
from loop.gate import Evidence, judge
from loop.settings import GateSettings
from prompts import judge as the_judge
from store.errors import SettingsError
from store.events import AnswererResult, EvaluationStarted, EvaluationSucceeded, PairedResult

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
ENCODABLE = st.text(st.characters(exclude_categories=["Cs"]))

# ---------------------------------------------------------------- fields


@given(JSON, JSON)
def test_a_score_lies_between_0_and_1_and_is_the_same_both_ways(first: Any, second: Any) -> None:
    worth = fields.score(first, second)
    assert 0.0 <= worth <= 1.0 and worth == fields.score(second, first)
    assert (worth == 1.0) == (fields.normal(first) == fields.normal(second))


@given(JSON)
def test_a_value_is_worth_1_against_itself_however_it_is_written(value: Any) -> None:
    spaced = json.dumps(value, indent=3, sort_keys=True)
    assert fields.score(fields.parse(spaced), fields.parse(fields.written(value))) == 1.0


@given(st.text(max_size=60))
def test_any_words_are_a_value_or_refused_without_being_quoted(words: str) -> None:
    try:
        fields.parse(words)
    except NotAsked as error:
        assert len(words) < 6 or words not in str(error)


@pytest.mark.parametrize(
    ("answered", "worth"),
    [
        ({"a": 1.0, "b": "x  y", "c": [1, 2]}, 1.0),  # numbers by value, white space by being there
        ({"a": 1, "b": "x y", "c": [2, 1]}, 0.5),  # lists by place
        ({"a": 1, "b": "x y"}, 2 * 2 / (2 + 4)),
        ({"a": "1", "b": "x y", "c": [1, 2]}, 0.75),  # a number is no string
        ({"a": True, "b": "X y", "c": []}, 0.0),
        ({"a": 1, "b": "x y", "c": [1, 2], "d": None}, 2 * 4 / (5 + 4)),
    ],
)
def test_fields_count_one_by_one(answered: Any, worth: float) -> None:
    assert fields.score(answered, {"a": 1, "b": "x y", "c": [1, 2]}) == pytest.approx(worth)


def test_an_answer_of_another_form_is_worth_nothing() -> None:
    schema = Schema({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}})
    target = '{"a": 1}'
    assert free_form.score("fields", '{"a": 1, "b": 2}', target, schema) == pytest.approx(2 / 3)
    for words in ("", '{"a": "1"}', "{}", 'Sure! {"a": 1}', '{"a": 1} {"a": 1}', '{"a": 1, "a": 1}', "[" * 5000, "NaN"):
        assert free_form.score("fields", words, target, schema) is None, words


@pytest.mark.parametrize("source", [[], {"type": "objct"}, {"$ref": "file:///etc/passwd"}, {"$ref": "http://x/y"}])
def test_what_is_no_schema_or_points_elsewhere_is_refused(source: Any) -> None:
    with pytest.raises(SettingsError):
        Schema(source)


# ---------------------------------------------------------------- chrF


@pytest.mark.parametrize(
    ("answered", "right", "percent"),  # by sacreBLEU 2: CHRF().sentence_score(answered, [right])
    [
        ("the cat sat on the mat", "the cat is on the mat", 64.5779420625287),
        ("Größe 😀 neu", "Die Größe ist neu", 29.852659499709976),
        ("abc", "abcd", 68.86227544910179),
        ("hello world", "goodbye", 8.771929824561402),
        ("a", "a", 100.0),
        ("Please reset my password today.", "Kindly reset the password for me today", 38.5799866912411),
    ],
)
def test_chrf_is_that_of_sacrebleu(answered: str, right: str, percent: float) -> None:
    assert 100 * chrf(answered, right) == pytest.approx(percent)


@given(ENCODABLE, ENCODABLE)
def test_chrf_lies_between_0_and_1_and_is_1_for_the_same_words(first: str, second: str) -> None:
    assert 0.0 <= chrf(first, second) <= 1.0
    if first.strip():
        assert chrf(first, f" {first}\n") == pytest.approx(1.0)


# ---------------------------------------------------------------- the judge's words


@given(st.text(max_size=40))
def test_a_reply_is_a_verdict_only_as_the_word_itself(reply: str) -> None:
    found = the_judge.verdict(reply)
    assert found is None or reply.strip(" \t\r\n.,;:!\"'`*_").upper() == found


@pytest.mark.parametrize("reply", ["FIRST or SECOND", "I say FIRST", "first second", "", "Answer: TIE", "1", "[TIE]"])
def test_anything_else_is_no_verdict(reply: str) -> None:
    assert the_judge.verdict(reply) is None


def test_a_judge_that_looks_only_at_the_place_finds_all_equal() -> None:
    for word in (the_judge.FIRST, the_judge.SECOND, the_judge.TIE):
        assert the_judge.worth(word, word) == 0.5
    assert the_judge.worth("FIRST", "SECOND") == 1.0 and the_judge.worth("SECOND", "FIRST") == 0.0
    assert the_judge.worth("FIRST", None) is None


@given(ENCODABLE, ENCODABLE)
def test_nobody_can_write_the_marks(text: str, words: str) -> None:
    asked = the_judge.question(text, words, "right", "secret")
    mark = asked[1:17]
    assert asked.count(f"[{mark} ") == 6 and mark not in text + words
    assert the_judge.question(text, words, "right", "another")[1:17] != mark


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(10, 2.228139), (20, 2.085963), (39, 2.022691), (100, 1.983972), (1000, 1.962339)]
)
def test_students_distribution(freedom: int, quantile: float) -> None:
    assert mean_scores.t_quantile(0.975, freedom) == pytest.approx(quantile, abs=2e-4)
    assert mean_scores.t_tails(quantile, freedom) == pytest.approx(0.05, abs=2e-3)


def test_where_all_say_the_same_there_is_still_doubt() -> None:
    found, error, p_value = mean_scores.paired([1.0] * 51)
    assert error == 0 and 0 < p_value < 1e-12 and 0.85 < found.low < 0.95 and found.high == 1.0
    found, error, p_value = mean_scores.paired([0.0] * 51)
    assert (found.difference, error, p_value) == (0.0, 0.0, 1.0) and found.low == -found.high < 0
    assert mean_scores.mean_interval(1.0, 0.0, 51).low == pytest.approx(wilson(51, 51).low, abs=0.03)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=30, max_size=80))
def test_scores_of_0_and_1_have_the_interval_of_labels(pairs: list[tuple[bool, bool]]) -> None:
    found, _, _ = mean_scores.paired([float(a) - float(b) for a, b in pairs])
    gained, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    labels = paired_difference(gained, lost, len(pairs))
    assert found.difference == pytest.approx(labels.difference)
    assert (found.low, found.high) == pytest.approx((labels.low, labels.high), abs=0.03)  # t instead of normal


def test_the_interval_is_that_of_resampling() -> None:
    chance = random.Random(7)  # noqa: S311
    values = [chance.choice([0.0, 0.0, 0.5, 1.0]) - chance.choice([0.0, 0.5, 1.0]) for _ in range(60)]
    found, _, p_value = mean_scores.paired(values)
    means = sorted(math.fsum(chance.choices(values, k=60)) / 60 for _ in range(4000))
    assert found.low == pytest.approx(means[100], abs=0.02) and found.high == pytest.approx(means[3900], abs=0.02)
    assert (p_value < 0.05) == (found.low > 0 or found.high < 0)


@given(st.lists(st.floats(-1, 1), max_size=50))
def test_any_differences_have_an_interval_around_their_mean(values: list[float]) -> None:
    found, error, p_value = mean_scores.paired(values)
    assert -1.0 <= found.low <= found.difference + 1e-9 and found.difference <= found.high + 1e-9 <= 1.0 + 1e-8
    assert error >= 0 and 0.0 <= p_value <= 1.0
    if len(values) < 2:
        assert (found.low, found.high, p_value) == (-1.0, 1.0, 1.0)


def prediction(item: str, answerer: str, raw: str) -> Prediction:
    return Prediction(id=item, answerer=answerer, decoding="generate", label=None, raw=raw, latency_ms=2.0)


def test_an_exam_of_free_words_is_counted_and_paired() -> None:
    schema = Schema({"type": "object"})
    exam = [ExamItem(id=f"e{n}", text="", label="s", target=f'{{"a": {n}, "b": 0}}', hard=n == 3) for n in range(4)]
    said = [prediction(f"e{n}", "new", f'{{"a": {n}, "b": 0}}') for n in range(4)]
    said += [prediction(f"e{n}", "old", words) for n, words in enumerate(['{"a": 0, "b": 0}', "sorry", '{"b": 0}'])]
    said += [prediction("gone", "old", "x")]
    scored = free_form.scored("fields", exam, said, schema)
    new, old = mean_scores.results(exam, scored, {"new": "adapter", "old": "prompt"}, "fields")
    assert (new.n, new.correct, new.accuracy, new.invalid, new.hard_correct) == (3, 3, 1.0, 0, 1)
    assert (old.n, old.correct, old.invalid, old.hard_n, old.hard_correct) == (3, 1, 1, 1, 0)
    assert old.accuracy == pytest.approx((1 + 0 + 2 / 3) / 3) and old.recall == {} and old.metric == "fields"
    (paired,) = mean_scores.paired_results(exam, scored, "new", ["old"], "fields")
    assert (paired.n, paired.gained, paired.lost) == (3, 2, 0)
    assert paired.difference == pytest.approx(1 - old.accuracy)


def test_answers_without_a_verdict_are_left_out_and_counted() -> None:
    exam = [ExamItem(id=f"e{n}", text="", label="s", target="t") for n in range(3)]
    said = [prediction(f"e{n}", "new", words) for n, words in enumerate(["x", "y", " "])]
    scored = free_form.scored("judge", exam, said, verdicts={("new", "e0"): 1.0})
    (found,) = mean_scores.results(exam, scored, {"new": "adapter"}, "judge")
    assert (found.n, found.abstained, found.invalid, found.accuracy) == (2, 1, 1, 0.5)


# ---------------------------------------------------------------- the gate


def look(differences: list[float], *, invalid: int = 0, champion: str = "base") -> Evidence:
    difference, error, p_value = mean_scores.paired(differences)
    pair = PairedResult(
        opponent="base", decoding="generate", n=len(differences), gained=sum(d > 0 for d in differences),
        lost=sum(d < 0 for d in differences), difference=difference.difference, low=difference.low,
        high=difference.high, p_value=p_value, metric="fields", error=error,
    )  # fmt: skip
    mine = AnswererResult(
        answerer="new", kind="adapter", decoding="generate", n=len(differences), correct=0, accuracy=0.5, low=0.4,
        high=0.6, recall={}, abstained=0, invalid=invalid, latency_ms=1.0, metric="fields",
    )  # fmt: skip
    started = EvaluationStarted(
        run_id="r", evaluation_id="e", attempt=1, candidate="new", champion=champion, baseline="base",
        exam=len(differences), hard_exam=0, look=1,
    )  # fmt: skip
    done = EvaluationSucceeded(run_id="r", evaluation_id="e", artifact="", results=[mine], paired=[pair], seconds=1)
    return Evidence(started=started, evaluated=done)


RULES = GateSettings(better_than_baseline=True)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.2, 0.3, 0.1, 0.25] * 15, "promote"),
        ([0.2, -0.3, 0.1, 0.02] * 15, "inconclusive"),
        ([-0.2, -0.3, -0.1, 0.02] * 15, "reject"),
        ([0.2, 0.3, 0.1, 0.25], "inconclusive"),  # the exam is too small
    ],
)
def test_the_verdict_is_by_paired_scores(differences: list[float], verdict: str) -> None:
    judged = judge(look(differences), RULES)
    assert judged.verdict == verdict and "by fields" in judged.checks[1].detail
    assert {check.name for check in judged.checks} == {"exam", "baseline"}


def test_a_champion_is_held_by_the_interval_of_scores() -> None:
    rules = GateSettings(not_worse_margin=0.02)
    assert judge(look([0.1, 0.2, -0.05] * 20), rules).verdict == "promote"
    assert judge(look([0.1, -0.2, 0.05] * 20), rules).verdict == "inconclusive"
    assert judge(look([-0.1, -0.2, 0.05] * 20), rules).verdict == "reject"


def test_too_many_answers_of_another_form_reject() -> None:
    judged = judge(
        look([0.2, 0.3, 0.1, 0.25] * 15, invalid=9), GateSettings(better_than_baseline=True, max_invalid=0.1)
    )
    assert judged.verdict == "reject" and "9 of 60 answers are not of the asked form" in judged.summary
