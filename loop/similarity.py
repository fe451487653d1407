"""What makes a text the near-duplicate of one that is in already. Among many texts see `loop.neighbours`.

Two texts are near-duplicates when the cosine of their words' character 4-grams (letter case, punctuation, accents'
encoding and the order of words aside) reaches a threshold, 0.9 by default. A gram counts once however often it
occurs: repeating a phrase makes no two texts alike. Candidates come from MinHash signatures cut into bands: texts
that share a band are compared exactly.

Source: Broder, A. (1997), "On the resemblance and containment of documents"; Indyk, P. and Motwani, R. (1998),
"Approximate nearest neighbors". A cosine of 0.9 between sets is a Jaccard similarity of at least 0.81; with 16 bands
of 4 rows such a pair is missed with a probability below 2 in 10,000.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

GRAM = 4  # characters
BANDS = 16
ROWS = 4
THRESHOLD = 0.9
_WORD = re.compile(r"\w+")
_CHUNK_CHARS = 400_000  # characters hashed at once: bounds memory at about 250 MB


def normalised(text: str) -> str:
    """The form that is compared: NFKC, letter case folded, words with one space between; punctuation counts only
    in a text that holds nothing else."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\0", "\ufffd")  # NUL is our own filler
    return " ".join(_WORD.findall(folded) or folded.split())


def grams(text: str) -> frozenset[str]:
    """The character 4-grams of the text's words, each with a space around it."""
    return frozenset(word[i : i + GRAM] for word in _words(text) for i in range(len(word) - GRAM + 1))


def cosine(first: frozenset[str], second: frozenset[str]) -> float:
    """Cosine of two sets: what they share over the geometric mean of their sizes, 0..1."""
    return len(first & second) / math.sqrt(len(first) * len(second)) if first and second else 0.0


def similarity(first: str, second: str) -> float:
    """Cosine of the character 4-grams of two texts, 0..1."""
    return cosine(grams(first), grams(second))


def band_keys(text: str) -> list[bytes]:
    """The text's 16 band keys. They are plain hashes: key them with a secret before storing them."""
    return band_keys_of([text])[0]


def near_duplicates(
    text: str, candidates: Iterable[tuple[str, str]], threshold: float = THRESHOLD
) -> list[tuple[str, float]]:
    """(id, cosine) of the candidates (id, text) that are near-duplicates of `text`, the nearest first."""
    own = grams(text)
    found = [(identity, cosine(own, grams(other))) for identity, other in candidates]
    found = [item for item in found if item[1] >= threshold]
    return sorted(found, key=lambda item: (-item[1], item[0]))


def _words(text: str) -> list[str]:
    """Normalised words between spaces, filled up to one gram; one empty word where there is none."""
    words = normalised(text).split(" ")
    return [f" {word} ".ljust(GRAM, "\0") for word in words] if words != [""] else [" \0\0\0"]


def band_keys_of(texts: Sequence[str]) -> list[list[bytes]]:
    """`band_keys` of each text; many at once are ten times faster."""
    keys: list[list[bytes]] = []
    chunk: list[str] = []
    size = 0
    for text in texts:
        padded = "".join(_words(text))
        if chunk and size + len(padded) > _CHUNK_CHARS:
            keys += _chunk_keys(chunk)
            chunk, size = [], 0
        chunk.append(padded)
        size += len(padded)
    return keys + _chunk_keys(chunk) if chunk else keys


def _chunk_keys(padded: Sequence[str]) -> list[list[bytes]]:
    import numpy as np

    lengths = np.array([len(text) for text in padded])
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    count = len(points) - GRAM + 1
    windows = np.zeros(count, dtype=np.uint64)
    for offset in range(GRAM):
        windows = windows * np.uint64(0x9E3779B97F4A7C15) + points[offset : count + offset]
    # every word, and so every text, begins with a space and ends with one or with a filler: between the two
    # lies a boundary, and a window across it is no gram
    boundary = np.isin(points[:-1], (0, 32)) & (points[1:] == 32)
    inside = np.ones(count, dtype=bool)
    for offset in range(GRAM - 1):
        inside &= ~boundary[offset : count + offset]
    kept = _mixed(windows[inside])
    firsts = (np.cumsum(inside) - 1)[np.cumsum(lengths) - lengths]
    minima = np.empty((len(padded), BANDS * ROWS), dtype=np.uint64)
    for row, (factor, shift) in enumerate(_permutations()):
        minima[:, row] = np.minimum.reduceat(_mixed(kept * np.uint64(factor) + np.uint64(shift)), firsts)
    return [
        [
            hashlib.blake2b(bytes([band]) + row[band * ROWS : (band + 1) * ROWS].tobytes(), digest_size=8).digest()
            for band in range(BANDS)
        ]
        for row in minima
    ]


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Each value's bits well mixed (the finaliser of splitmix64)."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _permutations() -> list[tuple[int, int]]:
    """Fixed odd factors and shifts of 64 bits: stored keys must mean the same tomorrow."""
    pairs = []
    for row in range(BANDS * ROWS):
        digest = hashlib.blake2b(f"tuneloop minhash {row}".encode(), digest_size=16).digest()
        pairs.append((int.from_bytes(digest[:8], "little") | 1, int.from_bytes(digest[8:], "little")))
    return pairs
