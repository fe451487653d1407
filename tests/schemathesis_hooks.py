"""What JSON Schema cannot say of a chat: the last message is the user's, only the first may be the system's, and all
choices together have to fit into the model."""

from __future__ import annotations

from typing import Any

import schemathesis

from adapters.chat import MAX_CHOICE_CHARS, MAX_CHOICES

FEW, SHORT = 20, 20


@schemathesis.hook
def before_call(_: Any, case: Any, **__: Any) -> None:
    """`map_body` would miss the cases of the coverage phase."""
    case.body = mended(case.body)


def mended(body: Any) -> Any:
    """Put the turns of a generated chat in order and leave few choices; anything else stays, wrong or not."""
    if not isinstance(body, dict):
        return body
    for holder, name in ((body, "guided_choice"), (body.get("structured_outputs"), "choice")):
        choices = holder.get(name) if isinstance(holder, dict) else None
        if _are_choices(choices):
            holder[name] = [one for one in choices if len(one) <= SHORT][:FEW] or choices[:1]
    turns = body.get("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return body
    for place, turn in enumerate(turns):
        last = place == len(turns) - 1
        if (last and turn.get("role") in ("system", "developer", "assistant")) or (
            place and turn.get("role") in ("system", "developer")
        ):
            turn["role"] = "user"
    return body


def _are_choices(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= MAX_CHOICES
        and all(isinstance(one, str) and 0 < len(one) <= MAX_CHOICE_CHARS for one in value)
        and len(set(value)) == len(value)
    )
