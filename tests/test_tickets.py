"""The tickets that the demo streams: enough of them, unlike each other, neither trivial nor noise."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "tickets"
LABELS = {"urgent", "billing", "technical", "general"}


@pytest.fixture(scope="module")
def tickets() -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / "tickets.jsonl").read_text().splitlines()]


def test_there_are_enough_in_a_skewed_mix(tickets: list[dict[str, str]]) -> None:
    counts = Counter(ticket["label"] for ticket in tickets)
    assert len(tickets) >= 800
    assert set(counts) == LABELS
    assert min(counts.values()) >= 100
    assert max(counts.values()) >= 2 * min(counts.values())
    assert len({ticket["id"] for ticket in tickets}) == len(tickets)


def test_no_two_are_alike(tickets: list[dict[str, str]]) -> None:
    from scipy.sparse import triu
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [ticket["text"] for ticket in tickets]
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)).fit_transform(texts)
    pairs = triu(vectors @ vectors.T, k=1).tocoo()
    assert max(pairs.data) <= 0.9
    close = {index for row, col, value in zip(pairs.row, pairs.col, pairs.data, strict=True) if value > 0.8
             for index in (row, col)}  # fmt: skip
    assert len(close) < 0.02 * len(texts)


def test_the_control_is_neither_perfect_nor_lost(tickets: list[dict[str, str]], capsys: pytest.CaptureFixture) -> None:
    from adapters.control import Control

    folds = 5
    right = 0
    for fold in range(folds):
        inside = [ticket for index, ticket in enumerate(tickets) if index % folds != fold]
        outside = [ticket for index, ticket in enumerate(tickets) if index % folds == fold]
        model = Control.fit([ticket["text"] for ticket in inside], [ticket["label"] for ticket in inside])
        answers = model.predict([ticket["text"] for ticket in outside])
        right += sum(answer == ticket["label"] for answer, ticket in zip(answers, outside, strict=True))
    accuracy = right / len(tickets)
    with capsys.disabled():
        print(f"\n5-fold accuracy of TF-IDF + logistic regression on the tickets: {accuracy:.3f}")
    assert 0.65 <= accuracy <= 0.92


def test_second_labels_allow_an_agreement(tickets: list[dict[str, str]], capsys: pytest.CaptureFixture) -> None:
    from adapters.metrics import cohen_kappa

    second = [json.loads(line) for line in (FOLDER / "second_labels.jsonl").read_text().splitlines()]
    first = {ticket["id"]: ticket["label"] for ticket in tickets}
    assert len({one["id"] for one in second}) == 60
    assert {one["label"] for one in second} <= LABELS
    kappa = cohen_kappa([first[one["id"]] for one in second], [one["label"] for one in second])
    with capsys.disabled():
        print(f"\nCohen's kappa of the two labels on 60 hard tickets: {kappa:.2f}")
    assert kappa > 0.6
