"""The general examples that keep a model from forgetting: those that come with tuneloop, and a user's own."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.specs import Message
from loop import general
from loop.neighbours import near_duplicates_among
from store.errors import StepError

ROOT = Path(__file__).parents[1]
# words by which requests of a kind are known
KINDS = {
    "summarise": ("summar", "sum up", "shorten", "condense", "main idea", "headline", "what is this text about"),
    "explain": ("explain", "why ", "what is ", "how do", "how does", "what does", "difference between"),
    "rewrite": ("rewrite", "correct the", "make this", "change ", "turn ", "simplif", "rephrase", "combine"),
    "translate": ("translate",),
    "calculate": ("calculate", "how many", "how much", "solve", "square root", "percent", "%", "area of", "average"),
    "code": ("python", "sql", "javascript", "shell", "regular expression", "html", "git ", "css", "bash"),
    "extract": ("extract", "find ", "which names", "which colours", "as json", "key-value", "what happened in"),
    "list": ("list ", "name three", "name four", "name two", "give me", "give three", "suggest"),
}


def turns(identity: str, built_in: general.General) -> tuple[str, str]:
    messages = built_in.get(identity)
    assert messages is not None
    return (
        " ".join(one.content for one in messages if one.role == "user"),
        " ".join(one.content for one in messages if one.role == "assistant"),
    )


def test_at_least_300_are_built_in_and_no_two_are_alike() -> None:
    built_in = general.read(ROOT, "")
    assert len(built_in.ids) >= 300
    asked, answered = zip(*(turns(one, built_in) for one in built_in.ids), strict=True)
    assert near_duplicates_among(asked, 0.9, plain=0.85) == []
    assert near_duplicates_among(answered, 0.75, plain=0.75) == []
    # not made from templates: beyond a word or two, hardly any request begins like another
    beginnings = Counter(" ".join(text.split()[:4]) for text in asked)
    assert max(beginnings.values()) <= 12
    assert sum(count == 1 for count in beginnings.values()) > 0.6 * len(asked)


def test_the_built_in_ones_are_of_every_kind_and_length() -> None:
    built_in = general.read(ROOT, "")
    texts = [turns(one, built_in) for one in built_in.ids]
    for kind, marks in KINDS.items():
        assert sum(any(mark in asked.lower() for mark in marks) for asked, _ in texts) >= 12, kind
    lengths = sorted(len(answer.split()) for _, answer in texts)
    assert lengths[0] <= 6 and lengths[-1] >= 90
    conversations = [built_in.get(one) or [] for one in built_in.ids]
    assert sum(messages[0].role == "system" for messages in conversations) >= 5
    assert sum(sum(one.role == "user" for one in messages) > 1 for messages in conversations) >= 5


def test_the_built_in_ones_give_no_question_of_the_forgetting_suite_away() -> None:
    lines = (ROOT / "adapters" / "data" / "forgetting.jsonl").read_text(encoding="utf-8").splitlines()
    suite = [str(one.get("question") or one["text"]) for one in map(json.loads, lines)]
    built_in = general.read(ROOT, "")
    asked = [turns(one, built_in)[0] for one in built_in.ids]
    near = near_duplicates_among([*suite, *asked], 0.75, plain=0.75, protected=len(suite))
    assert [one for one in near if one.of < len(suite)] == []


# ---------------------------------------------------------------- choosing and naming


def own(tmp_path: Path, count: int) -> general.General:
    lines = [
        json.dumps({"messages": [{"role": "user", "content": f"ask {n}"}, {"role": "assistant", "content": str(n)}]})
        for n in range(count)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return general.read(tmp_path, "own.jsonl")


@given(st.integers(1, 3000), st.floats(0.05, 0.10), st.integers(0, 3))
def test_they_make_up_their_share_as_far_as_there_are_some(lines: int, share: float, seed: int) -> None:
    built_in = general.General([[Message("user", str(n)), Message("assistant", "x")] for n in range(100)])
    chosen, warnings = general.choose(built_in, lines, share, seed)
    assert len(set(chosen)) == len(chosen) and set(chosen) <= set(built_in.ids)
    assert chosen == general.choose(built_in, lines, share, seed)[0]
    if len(chosen) < 100:
        assert abs(len(chosen) - share * (len(chosen) + lines)) <= 0.5 + 1e-6 and warnings == []


def test_too_few_or_an_unusual_share_is_said(tmp_path: Path) -> None:
    few = own(tmp_path, 10)
    chosen, (told,) = general.choose(few, 1000, 0.08, 1)
    assert len(chosen) == 10 and told.startswith("only 10 general examples for 1000 of the task (1.0%)")
    assert general.choose(few, 100, 0.0, 1) == (
        [], ["general examples make up 0.0% of the mix: 5% to 10% keep a model from forgetting"],
    )  # fmt: skip
    assert "20.0% of the mix" in general.choose(few, 20, 0.2, 1)[1][0]


def test_an_edited_file_changes_no_example_under_its_name(tmp_path: Path) -> None:
    before = own(tmp_path, 5)
    lines = (tmp_path / "own.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "own.jsonl").write_text("\n".join(lines[1:]) + "\n", encoding="utf-8")
    after = general.read(tmp_path, "own.jsonl")
    assert after.get(before.ids[0]) is None
    assert [after.get(one) for one in before.ids[1:]] == [before.get(one) for one in before.ids[1:]]
    assert after.get("general:0") == before.get("general:1")  # older datasets count lines


def test_a_file_that_cannot_be_used_says_which_lines(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="cannot be read"):
        general.read(tmp_path, "missing.jsonl")
    own(tmp_path, 2)
    with (tmp_path / "own.jsonl").open("a", encoding="utf-8") as file:
        file.write('\n{"messages": []}\n{"messages": [{"role": "user", "content": "x"}]}')
    with pytest.raises(StepError, match=r"line 4: 'messages' is missing.*; line 5: the last turn is not the"):
        general.read(tmp_path, "own.jsonl")
    (tmp_path / "own.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(StepError, match="it holds no line"):
        general.read(tmp_path, "own.jsonl")
