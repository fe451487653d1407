"""What a model is shown: plain data that prompts, training and serving share, so that they cannot drift apart."""

from __future__ import annotations

from typing import Literal

import msgspec


class Message(msgspec.Struct, frozen=True):
    role: Literal["system", "user", "assistant"]
    content: str


class PromptSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt version, rendered down to what a model sees.

    `shots` are finished user/assistant turns between the system text and the ticket; `user` holds one
    `{text}`. `reasoning` marks chain-of-thought prompts, whose answer follows the last "Label:".
    """

    name: str  # name@version
    digest: str
    system: str
    user: str = "{text}"
    shots: list[Message] = []
    reasoning: bool = False
    max_tokens: int = 8

    def messages(self, text: str, label: str | None = None) -> list[Message]:
        """System, shots, ticket, and the label as the assistant's turn when it is known."""
        turns = [Message("system", self.system)] if self.system else []
        turns += self.shots
        turns.append(Message("user", self.user.replace("{text}", text)))
        if label is not None:
            turns.append(Message("assistant", label))
        return turns
