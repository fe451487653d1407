"""Hostile tickets (`attacks.jsonl`): words that want to be orders, turns, structure, keys or labels."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

LABELS = ["urgent", "billing", "technical", "general"]
FILE = Path(__file__).with_name("attacks.jsonl")


class Attack(msgspec.Struct, frozen=True):
    """`echo` is what a model's answer means that repeats the whole text: "label", "other" or None."""

    name: str
    kind: str
    text: str
    echo: str | None = None

    def repeated(self) -> str | None:
        return {"label": LABELS[0], "other": LABELS[1], None: None}[self.echo]


def attacks(label: str = LABELS[0], other: str = LABELS[1]) -> list[Attack]:
    """All of them, against a task that has these two labels."""
    found = []
    for line in FILE.read_text(encoding="ascii").splitlines():
        value = json.loads(line)
        text = value["text"] * value.get("repeat", 1)
        text = text.replace("{label}", label).replace("{other}", other)
        found.append(Attack(value["name"], value["kind"], text, value["echo"]))
    return found
