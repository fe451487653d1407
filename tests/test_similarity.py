import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop.similarity import (
    band_keys,
    band_keys_of,
    cosine,
    grams,
    near_duplicates,
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


def test_nothing_is_near_to_nothing() -> None:
    assert cosine(grams(""), grams("a")) == 0
