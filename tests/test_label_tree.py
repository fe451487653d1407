"""The tree of labels, and the search that reads no more of it than it must."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.label_tree import Search, Tree
from adapters.metrics import softmax

END = 9
sequences = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=5).map(lambda tokens: (*tokens, END)),
    min_size=1, max_size=10, unique=True,
)  # fmt: skip


def paths(tree: Tree) -> dict[int, list[int]]:
    """Label -> its tokens, by walking down from the end of the text."""
    found: dict[int, list[int]] = {}

    def walk(context: int, before: list[int]) -> None:
        for token, target in tree.steps[context]:
            if target < 0:
                found[-1 - target] = [*before, token]
            else:
                assert tree.tokens[target - 1] == token and tree.parents[target - 1] == context
                assert tree.ancestors(target)[-1] == tree.ancestors(target)[len(before)]
                walk(target, [*before, token])

    walk(0, [])
    return found


@given(sequences)
def test_a_tree_holds_each_beginning_once_and_every_path(labels: list[tuple[int, ...]]) -> None:
    tree = Tree(labels)
    beginnings = {label[:end] for label in labels for end in range(1, len(label))}
    assert len(tree.tokens) == len(beginnings) == len(tree.subtree(0)) - 1
    assert [tuple(paths(tree)[label]) for label in range(len(labels))] == labels
    for context in tree.contexts:
        before = [tree.tokens[node - 1] for node in reversed(tree.ancestors(context))]
        assert len(before) == (tree.depths[context - 1] if context else 0)
        under = [label for label, tokens in enumerate(labels) if list(tokens[: len(before)]) == before]
        assert sorted(tree.below[context]) == under
        if context:
            assert all(tree.below[node] == tree.below[context] for node in tree.line(context))


values = st.dictionaries(
    st.tuples(st.integers(0, 60), st.integers(0, END)), st.floats(-12, 0), max_size=60
)  # fmt: skip


@given(sequences, values, st.sampled_from([0.0, 1e-4, 0.01, 0.3, 0.9]), st.floats(0.1, 5))
def test_a_search_finds_the_best_label_and_probabilities_within_the_tolerance(
    labels: list[tuple[int, ...]], chances: dict[tuple[int, int], float], tolerance: float, temperature: float
) -> None:
    tree = Tree(labels)

    def step(context: int, token: int) -> float:
        return chances.get((context, token), -0.5)

    exact = []
    for label in labels:
        context, total = 0, 0.0
        for token in label:
            total += step(context, token)
            context = next(target for one, target in tree.steps[context] if one == token)
        exact.append(total)
    search = Search(tree)
    asked, read = [0], []
    while asked:
        read += asked
        for context in asked:
            search.learn(context, [step(context, token) for token, _ in tree.steps[context]])
        asked = search.next(tolerance, temperature)
    assert len(read) == len(set(read))
    found = search.scores()
    assert all(one == pytest.approx(other) or one > other for one, other in zip(found, exact, strict=True))
    assert exact[found.index(max(found))] == pytest.approx(max(exact))
    shares, others = softmax(found, temperature), softmax(exact, temperature)
    assert all(abs(one - other) <= tolerance + 1e-9 for one, other in zip(shares, others, strict=True))
    if tolerance == 0:
        assert sorted(read) == list(tree.contexts) and found == pytest.approx(exact)


def test_a_sure_answer_leaves_the_other_branches_alone() -> None:
    tree = Tree([(1, 2, 3, END), (1, 2, 4, END), (5, 6, 7, END)])
    search = Search(tree)
    search.learn(0, [math.log(0.999), math.log(0.001)])
    first = search.next(0.01)
    assert [tree.tokens[node - 1] for node in first] == [1, 2]  # together: nothing parts between them
    for context, told in zip(first, [[0.0], [math.log(0.99), math.log(0.01)]], strict=True):
        search.learn(context, told)
    assert [tree.tokens[node - 1] for node in search.next(0.02)] == [3]
    assert len(search.next(0.001)) == 5  # more than half is asked for: all of it at once
