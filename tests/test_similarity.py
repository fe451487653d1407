import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop.similarity import (
    band_keys,
    band_keys_of,
    cosine,
    grams,
    near_duplicate_groups,
    near_duplicates,
    near_to,
    similarity,
)

TICKETS = [
    "I was charged twice for March, please refund one of the payments.",
    "The export to CSV stops at 100 rows and then shows an error.",
    "How do I change the e-mail address of my account?",
    "Nobody in our hospital can log in since this morning!",
]
texts = st.text(max_size=60)


def test_small_changes_are_near_and_other_tickets_are_not() -> None:
    changed = "i was charged TWICE for March,  please refund one of the payments!!"
    assert similarity(TICKETS[0], changed) > 0.9
    assert max(similarity(TICKETS[0], other) for other in TICKETS[1:]) < 0.5
    found = near_duplicates(changed, enumerate_ids(TICKETS))
    assert [name for name, _ in found] == ["0"]


def enumerate_ids(values: list[str]) -> list[tuple[str, str]]:
    return [(str(index), value) for index, value in enumerate(values)]


@given(texts, texts)
def test_cosine_is_a_cosine(first: str, second: str) -> None:
    value = similarity(first, second)
    assert 0 <= value <= 1 + 1e-9
    assert value == pytest.approx(similarity(second, first))
    assert similarity(first, first) == pytest.approx(1)


@given(st.lists(texts, min_size=1, max_size=20))
@settings(max_examples=50)
def test_keys_do_not_depend_on_the_batch(values: list[str]) -> None:
    assert band_keys_of(values) == [band_keys(value) for value in values]


@given(st.permutations(TICKETS[0].split()))
@settings(max_examples=20)
def test_the_order_of_words_does_not_count(words: list[str]) -> None:
    shuffled = "  ".join(words)
    assert grams(shuffled) == grams(TICKETS[0])
    assert band_keys(shuffled) == band_keys(TICKETS[0])


@given(texts, texts)
def test_the_same_grams_have_the_same_keys(first: str, second: str) -> None:
    assert (grams(first) == grams(second)) == (band_keys(first) == band_keys(second))


@given(st.lists(st.sampled_from("abcdefghij "), min_size=40, max_size=120), st.integers(0, 39), st.booleans())
@settings(max_examples=200)
def test_near_duplicates_share_a_band(letters: list[str], at: int, remove: bool) -> None:
    text = "".join(letters)
    changed = text[:at] + ("" if remove else "z") + text[at + 1 :]
    if similarity(text, changed) < 0.9:
        return
    assert set(band_keys(text)) & set(band_keys(changed))


@given(st.lists(st.sampled_from([*TICKETS, *(t + "!" for t in TICKETS), *(t.upper() for t in TICKETS)]), max_size=15))
def test_groups_are_a_partition_of_near_duplicates(values: list[str]) -> None:
    groups = near_duplicate_groups(values)
    assert sorted(index for group in groups for index in group) == list(range(len(values)))
    of = {index: number for number, group in enumerate(groups) for index in group}
    for a, first in enumerate(values):
        for b, second in enumerate(values):
            assert (of[a] == of[b]) == (similarity(first, second) >= 0.9)
    assert groups == [sorted(group) for group in groups]


def test_many_copies_stay_cheap() -> None:
    values = [f"{TICKETS[n % 4]} {'.' * (n % 3)}" for n in range(4000)]
    start = time.perf_counter()
    assert len(near_duplicate_groups(values)) == 4
    assert time.perf_counter() - start < 5


def test_empty_and_short_texts() -> None:
    assert near_duplicate_groups([]) == []
    assert near_duplicate_groups(["", " ", "a", "A ", "b"]) == [[0, 1], [2, 3], [4]]
    assert cosine(grams(""), grams("a")) == 0


def test_paraphrases_of_the_exam_are_found() -> None:
    exam = [*TICKETS, "What age do I have to be?"]
    values = ["The weather is fine today", "What age do you have to be?", TICKETS[1].upper(), ""]
    assert near_to(values, exam) >= {2}
    assert near_to(values, exam, 0.7) == {1, 2}
    assert near_to([], exam) == near_to(values, []) == near_to([""], [""]) == set()


@given(st.lists(texts, max_size=6), st.lists(texts, min_size=1, max_size=6))
@settings(max_examples=25)
def test_copies_are_near_to_the_exam(values: list[str], exam: list[str]) -> None:
    found = near_to([*values, exam[0]], exam)
    if any(character.isalnum() for character in exam[0]):
        assert len(values) in found


def test_real_queries_with_all_pairs() -> None:
    data = os.environ.get("TUNELOOP_BENCH_DATA")
    if not data:
        pytest.skip("TUNELOOP_BENCH_DATA is not set")
    import csv

    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    path = next(Path(data).glob("banking77/*test*.csv"))
    with path.open(encoding="utf-8", newline="") as file:
        values = [row[0] for row in csv.reader(file)][1:1501]
    vectors = CountVectorizer(analyzer=lambda value: sorted(grams(value)), binary=True)
    counts = normalize(vectors.fit_transform(values))
    pairs = (counts @ counts.T).tocoo()
    near = {(a, b) for a, b, v in zip(pairs.row, pairs.col, pairs.data, strict=True) if a < b and v >= 0.9}
    of = {index: number for number, group in enumerate(near_duplicate_groups(values)) for index in group}
    found = sum(of[a] == of[b] for a, b in near)
    assert found >= 0.99 * len(near) > 0
