"""OpenAI's chat completions as the engine speaks them: requests read and checked, answers written. Pure, no torch."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from adapters.web import Refusal
from store.prompting import Message, PromptSpec

MAX_TOKENS = 256
MAX_CHOICES = 512
MAX_CHOICE_CHARS = 400
TOP_LIMIT = 20


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A chat request, checked. Those with an equal `group` can share a batch."""

    model: str
    prompt: PromptSpec
    text: str
    choices: tuple[str, ...] = ()
    max_tokens: int = 16
    temperature: float = 0.0
    seed: int = 0
    top: int = 0  # alternatives per token; 0: no log-probabilities wanted

    @property
    def group(self) -> tuple[Any, ...]:
        prompt = msgspec.json.encode(self.prompt)
        return (self.model, prompt, self.choices, self.max_tokens, self.seed, self.top)


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What comes back: the text, and OpenAI's `logprobs.content` where it was asked for."""

    text: str
    finish: str
    prompt_tokens: int
    tokens: int
    logprobs: list[dict[str, Any]] | None = None


def read_request(body: Any) -> Asked:
    """A chat request from its JSON.

    Raises:
        Refusal: a field is missing, malformed, or asks for what is not offered.
    """
    if not isinstance(body, dict):
        raise Refusal(400, "the body must be a JSON object")
    model, turns = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not isinstance(turns, list) or not turns:
        raise Refusal(400, "'model' and a non-empty list of 'messages' are needed")
    check_whole(body)
    messages = [_message(turn) for turn in turns]
    if messages[-1].role != "user":
        raise Refusal(400, "the last message must be the user's")
    system = messages[0].content if messages[0].role == "system" else ""
    shots = messages[1:-1] if messages[0].role == "system" else messages[:-1]
    if any(shot.role == "system" for shot in shots):
        raise Refusal(400, "only the first message may be the system's")
    wanted = body.get("logprobs")
    if wanted is not None and not isinstance(wanted, bool):
        raise Refusal(400, "'logprobs' must be true or false")
    most = _whole(body, "max_completion_tokens", 1, MAX_TOKENS)
    most_by_its_older_name = _whole(body, "max_tokens", 1, MAX_TOKENS)
    top = _whole(body, "top_logprobs", 0, TOP_LIMIT)
    return Asked(
        model=model,
        prompt=PromptSpec(name="", digest="", system=system, shots=shots),
        text=messages[-1].content,
        choices=_choices(body),
        max_tokens=most or most_by_its_older_name or 16,
        temperature=_number(body, "temperature", 0, 2) or 0.0,
        seed=_whole(body, "seed", -(2**62), 2**62) or 0,
        top=max(1, top or 0) if wanted else 0,
    )


def content_text(content: Any) -> str | None:
    """The text of a message's content, a string or a list of text parts; None where it is anything else."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        words = [text for text in texts if isinstance(text, str)]
        return "".join(words) if len(words) == len(content) else None
    return content if isinstance(content, str) else None


def check_whole(body: dict[str, Any]) -> None:
    """Refuse what neither engine nor gateway offers: an answer in pieces, or several.

    Raises:
        Refusal: `stream` or `n` asks for it.
    """
    stream, number = body.get("stream"), body.get("n")
    if stream is not None and stream is not False:
        raise Refusal(400, "streaming is not offered: an answer is one label")
    if number is not None and (isinstance(number, bool) or number != 1):
        raise Refusal(400, "n above 1 is not offered")


def _message(turn: Any) -> Message:
    role, text = (turn.get("role"), content_text(turn.get("content"))) if isinstance(turn, dict) else (None, None)
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant") or text is None:
        raise Refusal(400, "every message needs a role (system, user, assistant) and a text as content")
    return Message(role, text)


def _choices(body: dict[str, Any]) -> tuple[str, ...]:
    structured = body.get("structured_outputs")
    if structured is not None and not isinstance(structured, dict):
        raise Refusal(400, "'structured_outputs' must be an object")
    for choices in (body.get("guided_choice"), (structured or {}).get("choice")):
        if choices is not None and not _are_choices(choices):
            raise Refusal(
                400, f"'choice' must be 1 to {MAX_CHOICES} different strings of 1 to {MAX_CHOICE_CHARS} characters"
            )
    return tuple(choices or body.get("guided_choice") or ())


def _are_choices(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= MAX_CHOICES
        and all(isinstance(one, str) and 0 < len(one) <= MAX_CHOICE_CHARS for one in value)
        and len(set(value)) == len(value)
    )


def _number(body: dict[str, Any], name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refusal(400, f"{name!r} must be a number from {low:g} to {high:g}")
    return value


def _whole(body: dict[str, Any], name: str, low: int, high: int) -> int | None:
    value = _number(body, name, low, high)
    if value is None:
        return None
    if value != int(value):
        raise Refusal(400, f"{name!r} must be a whole number")
    return int(value)


def completion(asked: Asked, answered: Answered) -> dict[str, Any]:
    """The JSON of a chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answered.text},
        "finish_reason": answered.finish,
        "logprobs": None if answered.logprobs is None else {"content": answered.logprobs},
    }
    usage = {
        "prompt_tokens": answered.prompt_tokens,
        "completion_tokens": answered.tokens,
        "total_tokens": answered.prompt_tokens + answered.tokens,
    }
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [choice],
        "usage": usage,
    }


def log_share(share: float) -> float:
    """Natural logarithm of a probability; of 0 a very small number, which JSON can hold."""
    return math.log(max(share, 1e-30))


def logprob_entry(text: str, value: float, top: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """One entry of OpenAI's `logprobs.content`: a token, its log-probability, and the alternatives."""

    def entry(word: str, worth: float) -> dict[str, Any]:
        return {"token": word, "logprob": worth, "bytes": list(word.encode())}

    return {**entry(text, value), "top_logprobs": [entry(word, worth) for word, worth in top]}
