"""Numbers in sentences for people."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """So many things: "1 label", "2 labels". For nouns that take an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
