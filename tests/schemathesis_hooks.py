"""What JSON Schema cannot say of a chat: the last message is the user's, and only the first may be the system's."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(_: Any, body: Any) -> Any:
    """Put the turns of a generated chat in order; anything else stays as it was generated, wrong or not."""
    turns = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return body
    for place, turn in enumerate(turns):
        last = place == len(turns) - 1
        if (last and turn.get("role") in ("system", "developer", "assistant")) or (
            place and turn.get("role") in ("system", "developer")
        ):
            turn["role"] = "user"
    return body
