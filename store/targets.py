"""Answers in free words, as events may name them.

A task of kind extraction, instruction or style has no classes: what is right is a text, and that text is a customer's.
So events name it by a seal, a digest under its record's own salt, wherever they name the label of another task. The
words lie beside the record's text and are erased with it, and its salt too: the seal then tells nothing. Equal words
about one record have equal seals, so that corrections and disagreements are seen as with labels.
"""

from __future__ import annotations

import hashlib
import re

TARGET = "target"  # what counters count all seals under: each stands once
SAID = "said"  # where a text's meta holds the words by their seal
_SEAL = re.compile(r"^target:[0-9a-f]{32}$")


def sealed(salt: bytes, words: str) -> str:
    """The seal of words about the record whose salt it is: "target:" and 32 hex characters."""
    return f"target:{hashlib.sha256(salt + b'target' + words.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def is_seal(label: str | None) -> bool:
    """Whether a label is a seal."""
    return label is not None and _SEAL.match(label) is not None


def as_class(label: str) -> str:
    """What a label counts under."""
    return TARGET if is_seal(label) else label
