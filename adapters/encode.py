"""From chat messages to tokens, the same way in training and in serving.

Only the ticket may be shortened, and only in its middle: how it begins and how it ends say most about it, and the
rules before it and the label after it are never touched.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from store.errors import ModelError
from store.prompting import Message

GAP = " … "


class Encoded(msgspec.Struct, frozen=True):
    """Tokens of one example. `start` is the index of the first token that is to be learned (its length if none)."""

    tokens: list[int]
    start: int
    shortened: bool


def token_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How long examples are: how many `examples`, and in tokens `shortest`, `median`, `p95` and `longest` (nearest
    ranks), `total`, and `learned`: those that the loss looks at.

    Args:
        rows: with `input_ids` and `start` as in `Encoded`; none, or rows of another kind, have no counts.
    """
    lengths = sorted(len(row["input_ids"]) for row in rows if "start" in row)
    if not lengths:
        return {}
    last = len(lengths) - 1
    return {
        "examples": len(lengths),
        "shortest": lengths[0],
        "median": lengths[round(0.5 * last)],
        "p95": lengths[round(0.95 * last)],
        "longest": lengths[-1],
        "total": sum(lengths),
        "learned": sum(len(row["input_ids"]) - row["start"] for row in rows),
    }


def encode(tokenizer: Any, messages: Sequence[Message], max_length: int = 0, *, user: str = "{text}") -> Encoded:
    """Tokens of a conversation.

    When the last turn is the assistant's, it is what is learned: its own tokens and the end-of-turn token.
    Otherwise the tokens end where the assistant would begin. Prompt and answer are tokenised apart, so that the
    prompt of training is token for token the prompt of serving.

    Args:
        tokenizer: with a chat template.
        messages: the turns.
        max_length: of the whole, in tokens; a longer ticket loses its middle. 0: no limit.
        user: the prompt's `user` template: what it holds around `{text}` is kept whole.

    Raises:
        ModelError: it does not fit even without a ticket, or the chat template rewrites earlier turns.
    """
    prompt, answer = _tokens(tokenizer, messages)
    if not max_length or len(prompt) + len(answer) <= max_length:
        return Encoded(prompt + answer, len(prompt), False)
    place = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
    before, _, after = user.partition("{text}")
    content = messages[place].content if place >= 0 else ""
    if not (content.startswith(before) and content.endswith(after)):
        before = after = ""
    ticket = tokenizer(content[len(before) : len(content) - len(after)], add_special_tokens=False).input_ids
    keep = len(ticket) - (len(prompt) + len(answer) - max_length)
    turns = list(messages)
    while place >= 0 and keep > 0:
        head, tail = (keep + 1) // 2, keep // 2
        text = tokenizer.decode(ticket[:head]) + GAP + (tokenizer.decode(ticket[-tail:]) if tail else "")
        turns[place] = Message("user", before + text + after)
        prompt, answer = _tokens(tokenizer, turns)
        excess = len(prompt) + len(answer) - max_length
        if excess <= 0:
            return Encoded(prompt + answer, len(prompt), True)
        keep -= excess  # the gap and the seams cost a few tokens
    raise ModelError(
        f"the prompt alone needs more than {max_length} tokens",
        hint="Raise `training.max_length`, or use a shorter prompt.",
    )


def harmless(tokenizer: Any, text: str) -> str:
    """`text` with every spelling of an added token broken by a space, so that a ticket cannot end its own turn and
    speak as the system ("<|im_end|>" becomes "< |im_end|>")."""
    added = tokenizer.added_tokens_decoder
    known = sorted((token.content for token in added.values() if len(token.content) > 1), key=len, reverse=True)
    special = {number for number, token in added.items() if token.special} - {tokenizer.unk_token_id}
    for rewrite in (str, _compatible, " ".join):
        text = rewrite(text)
        for token in known:
            if token in text and not token.isspace():
                text = text.replace(token, f"{token[0]} {token[1:]}")
        # what a normaliser makes of other characters is seen only in the tokens
        if not special.intersection(tokenizer(text, add_special_tokens=False).input_ids):
            break
    return text


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _tokens(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    turns = [{"role": message.role, "content": harmless(tokenizer, message.content)} for message in messages]
    learned = bool(turns) and turns[-1]["role"] == "assistant"
    asked = turns[:-1] if learned else turns
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    prompt_tokens = list(tokenizer(prompt, add_special_tokens=False).input_ids)
    if not learned:
        return prompt_tokens, []
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    if not whole.startswith(prompt):
        raise ModelError(
            "the chat template of this base model changes earlier turns when an answer follows",
            hint="Use a base model whose template only appends.",
        )
    answer = list(tokenizer(whole[len(prompt) :], add_special_tokens=False).input_ids)
    if tokenizer.eos_token_id in answer:  # templates write a line break after it that is never generated
        answer = answer[: answer.index(tokenizer.eos_token_id) + 1]
    return prompt_tokens, answer
