"""Near-duplicates among many texts, held against comparing all with all."""

import csv
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from loop import neighbours
from loop.neighbours import Embed, Near, near_duplicates_among
from loop.similarity import normalised, similarity

TICKETS = [
    "I was charged twice for March, please refund one of the payments.",
    "The export to CSV stops at 100 rows and then shows an error.",
    "How do I change the e-mail address of my account?",
    "Nobody in our hospital can log in since this morning!",
]
WORDS = ["card", "payment", "refund", "twice", "declined", "why", "was", "my", "the", "top", "up", "not", "working"]
sentences = st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join)
ROUNDING = 1e-4


def weighted(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """All TF-IDF cosines, from scikit-learn's dense product: [texts, texts]."""
    distinct = list(dict.fromkeys(normalised(text) for text in texts))
    if not any(distinct):
        return np.eye(len(texts))
    fitted = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), binary=True, lowercase=False)
    fitted.fit([text for text in distinct if text])
    rows = fitted.transform([normalised(text) for text in texts])
    return np.asarray((rows @ rows.T).todense())


def holds(texts: Sequence[str], near: Sequence[Near], cosines: npt.NDArray[np.float64], threshold: float) -> None:
    """Each text is kept, or near to an earlier kept one; no two kept ones are near."""
    gone = {one.index for one in near}
    kept = [index for index in range(len(texts)) if index not in gone]
    for one in near:
        same = normalised(texts[one.index]) == normalised(texts[one.of])
        best = max(cosines[one.index, one.of], similarity(texts[one.index], texts[one.of]))
        assert one.of < one.index and one.of not in gone
        assert same or best >= threshold - ROUNDING
    for place, one in enumerate(kept):
        for other in kept[:place]:
            assert cosines[one, other] < threshold + ROUNDING
            assert similarity(texts[one], texts[other]) < threshold + ROUNDING


@given(st.lists(sentences | st.text(max_size=12), max_size=30), st.sampled_from([0.6, 0.8, 0.9, 1.0]))
@settings(max_examples=150, deadline=None)
def test_all_pairs_would_say_the_same(texts: list[str], threshold: float) -> None:
    near = near_duplicates_among(texts, threshold, plain=max(threshold, 0.9))
    gone = {one.index for one in near}
    cosines = weighted(texts)
    kept = [index for index in range(len(texts)) if index not in gone]
    for one in near:
        best = max(cosines[one.index, one.of], similarity(texts[one.index], texts[one.of]))
        assert one.of < one.index and one.of not in gone
        assert normalised(texts[one.index]) == normalised(texts[one.of]) or best >= threshold - ROUNDING
    assert not [(a, b) for a in kept for b in kept if b < a and cosines[a, b] >= threshold + ROUNDING]


def test_chunks_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(3)  # noqa: S311
    texts = [" ".join(chance.choice(WORDS) for _ in range(6)) for _ in range(400)]
    whole = near_duplicates_among(texts, 0.8)
    assert 20 < len(whole) < 380
    holds(texts, near_duplicates_among(texts, 0.9), weighted(texts), 0.9)
    for name, value in (("_CHUNK", 7), ("_ENTRIES", 3), ("_PAIRS", 2)):
        monkeypatch.setattr(neighbours, name, value)
    assert near_duplicates_among(texts, 0.8) == whole


def test_small_changes_and_paraphrases_go_and_other_tickets_stay() -> None:
    texts = [
        *TICKETS,
        "i was charged TWICE for march,  please refund one of the payments!!",
        "I was charged twice for Marhc, please refund one of the payments.",
        "The weather is fine today",
    ]
    assert [(one.index, one.of) for one in near_duplicates_among(texts, 0.9)] == [(4, 0), (5, 0)]


def test_protected_texts_stay_and_are_what_others_are_near_to() -> None:
    texts = ["Pay me now please", "pay me now, please", "Pay me, now: please!", "something else"]
    assert near_duplicates_among(texts, 0.9, protected=2) == [Near(2, 0)]
    assert near_duplicates_among(texts, 0.9) == [Near(1, 0), Near(2, 0)]


def test_a_chain_keeps_both_of_its_ends() -> None:
    words = [f"word{chr(97 + n)}{chr(98 + n)}" for n in range(24)]
    first, middle, last = " ".join(words[:20]), " ".join(words[2:22]), " ".join(words[4:])
    assert similarity(first, middle) > 0.85 > similarity(first, last)
    assert near_duplicates_among([first, middle, last], 0.85, plain=0.85) == [Near(1, 0)]


@pytest.mark.parametrize("texts", [[], [""], ["", " "], ["!!", "??"], ["", "a", "A ", "b"]])
def test_texts_without_words(texts: list[str]) -> None:
    near = near_duplicates_among(texts, 0.9)
    assert {one.index for one in near} == {
        index for index, text in enumerate(texts) if normalised(text) in map(normalised, texts[:index])
    }


@pytest.mark.parametrize("wrong", [0.0, 1.5, float("nan")])
def test_a_threshold_out_of_range_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        near_duplicates_among(["a"], wrong)


def test_many_copies_and_one_template_stay_cheap() -> None:
    copies = [f"{TICKETS[n % 4]} {'.' * (n % 3)}" for n in range(20_000)]
    alerts = [f"Disk {n % 97} of server {n % 89} is full since minute {n % 60}" for n in range(3_000)]
    start = time.process_time()
    assert len(near_duplicates_among(copies, 0.9)) == 19_996
    assert len(near_duplicates_among(alerts, 0.5, plain=0.5)) > 2_500
    assert time.process_time() - start < 20


def test_real_queries_with_all_pairs() -> None:
    data = os.environ.get("TUNELOOP_BENCH_DATA")
    if not data:
        pytest.skip("TUNELOOP_BENCH_DATA is not set")
    path = next(Path(data).glob("banking77/*test*.csv"))
    with path.open(encoding="utf-8", newline="") as file:
        texts = [row[0] for row in csv.reader(file)][1:1501]
    near = near_duplicates_among(texts, 0.9)
    assert len(near) > 50
    holds(texts, near, weighted(texts), 0.9)


# ---------------------------------------------------------------- embeddings


@pytest.fixture(scope="module")
def embed() -> Embed:
    pytest.importorskip("wordllama")
    from loop.embeddings import embedder

    return embedder()


def test_embeddings_find_what_means_the_same(embed: Embed) -> None:
    texts = [
        "How old do I have to be to open an account?",
        "My card was swallowed by the machine",
        "What age do you have to be to open an account?",
        "",
    ]
    assert near_duplicates_among(texts, 0.9) == []
    assert near_duplicates_among(texts, 0.9, embed=embed) == [Near(2, 0)]


@given(st.lists(sentences, max_size=12))
@settings(max_examples=30, deadline=None)
def test_embeddings_have_length_one_or_nothing(embed: Embed, texts: list[str]) -> None:
    vectors = embed([*texts, ""])
    lengths = np.linalg.norm(vectors, axis=1)
    assert vectors.dtype == np.float32 and vectors.shape == (len(texts) + 1, 256)
    assert all(
        abs(length - 1) < 1e-5 or (length == 0 and not text) for length, text in zip(lengths, [*texts, ""], strict=True)
    )
    near = near_duplicates_among(texts, 0.95, embed=embed)
    gone = {one.index for one in near}
    for a in set(range(len(texts))) - gone:
        for b in set(range(a)) - gone:
            assert vectors[a] @ vectors[b] < 0.95 + ROUNDING or not texts[a]


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from loop.embeddings import embedder
    from store.errors import SettingsError

    monkeypatch.setitem(sys.modules, "wordllama", None)
    with pytest.raises(SettingsError, match="not installed") as refused:
        embedder()
    assert "tuneloop[embeddings]" in refused.value.hint
