"""Untrusted text on a terminal: tickets can hold escape sequences, and nothing of them may reach the screen.

Everything printed goes through here: `plain` for words, `json_text` for JSON. Markup is no concern of theirs:
the consoles of `loop.cli.output` parse none.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

# joiners that scripts and names need; every other invisible format character can only mislead
_KEPT_FORMATS = {"\u200c", "\u200d"}
_DROPPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def is_safe(character: str) -> bool:
    """Whether a character may be written to a terminal: no control, surrogate, bidi or invisible character."""
    if " " <= character <= "~" or character in _KEPT_FORMATS:
        return True
    return unicodedata.category(character) not in _DROPPED


def plain(text: object, *, lines: bool = False) -> str:
    """`text` without anything that a terminal would act on.

    Tabs become a space. Line breaks become one too, unless `lines` is set: then they stay, as "\\n".
    """
    kept: list[str] = []
    for character in str(text).replace("\r\n", "\n"):
        if character in "\n\r\x0b\x0c\x85\u2028\u2029":
            kept.append("\n" if lines else " ")
        elif character == "\t":
            kept.append(" ")
        elif is_safe(character):
            kept.append(character)
    return "".join(kept)


def short(text: object, limit: int) -> str:
    """`text` on one line of at most `limit` characters, runs of spaces joined."""
    words = " ".join(plain(text).split())
    return words if len(words) <= limit else words[: max(0, limit - 1)].rstrip() + "…"


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """JSON in which every character that a terminal would act on is an escape; it reads back as the same value."""
    encoded = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    return "".join(c if c == "\n" or is_safe(c) else _escape(c) for c in encoded)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[i : i + 2], 'big'):04x}" for i in range(0, len(units), 2))
