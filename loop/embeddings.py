"""Embeddings of texts, for near-duplicates that share their meaning and not their words. Behind an extra.

WordLlama (MIT): the mean of static token vectors, 256 dimensions, on the CPU and with NumPy alone. Its weights come
with its package; nothing is fetched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from loop.neighbours import Embed, Vectors
from store.errors import SettingsError


def embedder() -> Embed:
    """A function from texts to vectors of length 1, float32 [texts, 256].

    Raises:
        SettingsError: the extra is not installed, or its weights are not where its package keeps them.
    """
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    try:
        import numpy as np
        import wordllama

        # where it looks for downloads: its own folder, which holds weights and tokenizer
        model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    except ImportError as error:
        raise SettingsError(
            "curation.measure is 'embeddings', and they are not installed",
            hint="pip install 'tuneloop[embeddings]', or set curation.measure = 'tfidf'.",
        ) from error
    except FileNotFoundError as error:
        raise SettingsError(
            f"the installed embeddings lack their weights: {error}",
            hint="Reinstall 'tuneloop[embeddings]', or set curation.measure = 'tfidf'.",
        ) from error
    finally:  # its import sets logging up for the whole process
        root.setLevel(before[0])
        root.handlers[:] = before[1]

    def embed(texts: Sequence[str]) -> Vectors:
        vectors: Vectors = np.nan_to_num(model.embed(list(texts), norm=False), copy=False)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
        return unit

    return embed
