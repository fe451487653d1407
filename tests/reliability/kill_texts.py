"""The texts of the world that is killed, and how its files steer the torch-free child. It imports nothing heavy, since
every child of every run does."""

from __future__ import annotations

from typing import Any

TASK = "tickets"
LABELS = {"fruit": ("apple", "pear", "plum", "fig", "lime"), "metal": ("iron", "zinc", "tin", "gold", "lead")}
# files in the workspace that tell the torch-free child how its work goes
LOSES, FAILS, DIES_ONCE = "candidate-loses", "training-fails", "training-dies-once"


def answer_of(text: str) -> str:
    """The right label of a text of this world."""
    return next((label for label, words in LABELS.items() if any(word in text.split() for word in words)), "fruit")


def text(number: int) -> str:
    """A text that no other number has anything near to."""
    words = LABELS[("fruit", "metal")[number % 2]]
    return f"{words[number % 5]} " + " ".join(f"{(number * 7919 + i * 104729) % 99991:x}" for i in range(6))


def seeds(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Labelled examples."""
    return [{"id": f"s{n}", "text": text(n), "label": answer_of(text(n))} for n in range(start, start + count)]


def answered(by: str, numbers: range, wrong: bool) -> list[dict[str, Any]]:
    """Records that `by` has answered, all rightly or all wrongly."""
    lines = []
    for n in numbers:
        right = answer_of(text(n))
        other = next(label for label in LABELS if label != right)
        lines.append({"id": f"p{n}", "text": text(n), "answer": other if wrong else right, "answered_by": by})
    return lines
