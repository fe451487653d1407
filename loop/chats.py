"""OpenAI chat JSONL, one example a line: the form that fine-tuning files have everywhere. Pure.

Written lines are what Python's `json.dumps` makes of them, without escapes for other alphabets, and `id` first where
there is one:

    {"messages": [{"role": "system", "content": "..."}, {"role": "user", "content": "..."}, ...]}

Characters at which some readers break lines, or terminals obey, are escaped. Reading a written line and writing it
again gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from loop.formats import BadLine, decode
from store.prompting import Message, PromptSpec

_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029]")
_ROLES: Mapping[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",  # what newer models call it
    "user": "user",
    "assistant": "assistant",
}


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """A finished conversation: its last turn is the assistant's."""

    messages: list[Message]
    id: str = ""

    @property
    def turns(self) -> tuple[str, str, str]:
        """(system text or "", last user text, last answer)."""
        system = self.messages[0].content if self.messages[0].role == "system" else ""
        user = next(turn.content for turn in reversed(self.messages) if turn.role == "user")
        return system, user, self.messages[-1].content

    @property
    def longer(self) -> bool:
        """Whether it holds more than one question and its answer."""
        return sum(turn.role != "system" for turn in self.messages) > 2


def write(chat: Chat) -> bytes:
    """The line of an example, line end included."""
    turns = [{"role": turn.role, "content": turn.content} for turn in chat.messages]
    value = {"id": chat.id, "messages": turns} if chat.id else {"messages": turns}
    text = json.dumps(value, ensure_ascii=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode() + b"\n"


def read(raw: bytes) -> Chat:
    """The example that a line holds.

    Raises:
        BadLine: it is no JSON object with `messages`, a turn is of an unknown role or holds no text, or the last turn
            is not an answer to a user's.
    """
    value = decode(raw)
    turns = value.get("messages")
    if not isinstance(turns, list) or not turns:
        raise BadLine("'messages' is missing or no list of turns")
    messages = [_message(turn) for turn in turns]
    if messages[-1].role != "assistant":
        raise BadLine("the last turn is not the assistant's")
    if not any(turn.role == "user" for turn in messages):
        raise BadLine("no turn is the user's")
    if not messages[-1].content.strip():
        raise BadLine("the last turn is empty")
    identity = value.get("id", "")
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise BadLine("'id' is neither a string nor a whole number")
    return Chat(messages=messages, id=str(identity))


def unwrapped(prompt: PromptSpec, user: str) -> str:
    """The ticket within a user turn: what the deployed prompt puts around it is taken off, once, where it is there."""
    before, _, after = prompt.user.partition("{text}")
    if user.startswith(before) and user.endswith(after) and len(user) >= len(before) + len(after):
        return user[len(before) : len(user) - len(after)]
    return user


def as_deployed(prompt: PromptSpec, chat: Chat) -> bool:
    """Whether an example has exactly the form that the prompt has in production."""
    _, user, answer = chat.turns
    return list(chat.messages) == prompt.messages(unwrapped(prompt, user), answer)


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise BadLine("a turn is no object")
    role = turn.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        known = ", ".join(_ROLES)
        raise BadLine(f"a turn's role is none of {known}")
    if any(turn.get(key) for key in ("tool_calls", "function_call")):
        raise BadLine("a turn calls tools: that is not trained here")
    return Message(_ROLES[role], _text(turn.get("content")))


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts: Sequence[Any] = [part.get("text") if isinstance(part, dict) else None for part in content]
        if parts and all(isinstance(part, str) for part in parts):
            content = "\n".join(parts)
    if not isinstance(content, str):
        raise BadLine("a turn holds no text")
    return content
