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
    if body.get("stream") or body.get("n", 1) not in (1, None):
        raise Refusal(400, "streaming and n above 1 are not offered")
    messages = [_message(turn) for turn in turns]
    if messages[-1].role != "user":
        raise Refusal(400, "the last message must be the user's")
    system = messages[0].content if messages[0].role == "system" else ""
    shots = messages[1:-1] if messages[0].role == "system" else messages[:-1]
    if any(shot.role == "system" for shot in shots):
        raise Refusal(400, "only the first message may be the system's")
    wanted = bool(body.get("logprobs"))
    return Asked(
        model=model,
        prompt=PromptSpec(name="", digest="", system=system, shots=shots),
        text=messages[-1].content,
        choices=_choices(body),
        max_tokens=int(_number(body, ("max_completion_tokens", "max_tokens"), 16, 1, MAX_TOKENS)),
        temperature=_number(body, ("temperature",), 0.0, 0.0, 2.0),
        seed=int(_number(body, ("seed",), 0, -(2**62), 2**62)),
        top=max(1, int(_number(body, ("top_logprobs",), 1, 0, TOP_LIMIT))) if wanted else 0,
    )


def _message(turn: Any) -> Message:
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str)) if len(parts) == len(content) else None
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise Refusal(400, "every message needs a role (system, user, assistant) and a text as content")
    return Message(role, content)


def _choices(body: dict[str, Any]) -> tuple[str, ...]:
    structured = body.get("structured_outputs")
    choices = structured.get("choice") if isinstance(structured, dict) else body.get("guided_choice")
    if choices is None:
        return ()
    if (
        not isinstance(choices, list)
        or not 0 < len(choices) <= MAX_CHOICES
        or not all(isinstance(one, str) and 0 < len(one) <= MAX_CHOICE_CHARS for one in choices)
        or len(set(choices)) != len(choices)
    ):
        raise Refusal(
            400, f"'choice' must be 1 to {MAX_CHOICES} different strings of 1 to {MAX_CHOICE_CHARS} characters"
        )
    return tuple(choices)


def _number(body: dict[str, Any], names: Sequence[str], default: float, low: float, high: float) -> float:
    value = next((body[name] for name in names if body.get(name) is not None), default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refusal(400, f"{names[0]!r} must be a number from {low:g} to {high:g}")
    return value


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
