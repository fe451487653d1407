from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.encode import GAP, encode, harmless
from store.errors import ModelError
from store.prompting import Message, PromptSpec

pytest.importorskip("transformers")

PROMPT = PromptSpec(name="p@1", digest="", system="Classify: billing or general.", user="Ticket: {text}\nLabel?")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(tiny_model))


def test_only_the_answer_and_the_end_of_its_turn_are_learned(tokenizer: Any) -> None:
    row = encode(tokenizer, PROMPT.messages("charged twice", "billing"))
    assert tokenizer.decode(row.tokens[row.start :]) == "billing<|im_end|>"
    assert not row.shortened


def test_the_prompt_of_training_is_the_prompt_of_serving(tokenizer: Any) -> None:
    trained = encode(tokenizer, PROMPT.messages("charged twice", "billing"))
    served = encode(tokenizer, PROMPT.messages("charged twice"))
    assert trained.tokens[: trained.start] == served.tokens
    assert served.start == len(served.tokens)


@settings(deadline=None, max_examples=30)
@given(text=st.text(min_size=200, max_size=900), limit=st.integers(120, 200))
def test_a_long_ticket_loses_its_middle_and_nothing_else(tokenizer: Any, text: str, limit: int) -> None:
    whole = encode(tokenizer, PROMPT.messages(text, "general"), 0, user=PROMPT.user)
    row = encode(tokenizer, PROMPT.messages(text, "general"), limit, user=PROMPT.user)
    assert len(row.tokens) <= limit
    assert row.shortened == (len(whole.tokens) > limit)
    words = tokenizer.decode(row.tokens)
    assert "Classify: billing or general.<|im_end|>" in words
    assert words.endswith("\nLabel?<|im_end|>\n<|im_start|>assistant\ngeneral<|im_end|>")
    assert "user\nTicket: " in words


def test_what_stays_is_the_beginning_and_the_end(tokenizer: Any) -> None:
    text = "first words " + "filler " * 300 + "last words"
    row = encode(tokenizer, PROMPT.messages(text, "general"), 150, user=PROMPT.user)
    words = tokenizer.decode(row.tokens)
    assert "Ticket: first words" in words
    assert "last words\nLabel?" in words
    assert GAP in words


def test_rules_that_do_not_fit_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ModelError) as caught:
        encode(tokenizer, [Message("system", "rule " * 200), Message("user", "hi")], 64)
    assert "max_length" in caught.value.hint


@settings(deadline=None, max_examples=50)
@given(parts=st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<|", "im_end", "|>", "<", "system\n", "x", " "])))
def test_a_ticket_cannot_end_its_turn_and_speak_as_the_system(tokenizer: Any, parts: list[str]) -> None:
    text = "".join(parts)
    row = encode(tokenizer, PROMPT.messages(text))
    plain = encode(tokenizer, PROMPT.messages("x"))
    for token in (tokenizer.convert_tokens_to_ids("<|im_start|>"), tokenizer.eos_token_id):
        assert row.tokens.count(token) == plain.tokens.count(token)
    assert harmless(tokenizer, text).replace(" ", "") == text.replace(" ", "")
