"""Near-duplicates among many texts: each is kept, or is near to one that is.

Texts are taken in the order of the list; one that is near to an earlier kept text goes. Nothing ever grows with the
square of their number: pairs are found through what two near texts must have in common, a chunk of texts at a time.

Two texts are near when one of these cosines reaches its threshold:

- of their character 4-grams weighted by TF-IDF (Salton and Buckley 1988, "Term-weighting approaches in automatic
  text retrieval"): common words weigh little, which finds paraphrases. Exact. Pairs come from prefix filtering
  (Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search"): of each text its rarest grams alone, until
  the others are shorter than `SUFFIX` of the threshold. By Cauchy-Schwarz the others add less than that, so a pair
  whose rarest grams do not make up the difference is not near.
- of the same grams unweighted, the measure at arrival (`loop.similarity`): a misspelling, rare as it is, hides no copy.
  Pairs come from its MinHash bands, which miss fewer than 2 in 10,000.
- of embeddings, in the place of TF-IDF where they are wanted. Exact: every text with every kept one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from loop.similarity import GRAM, THRESHOLD, band_keys_of, normalised

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Rows: TypeAlias = npt.NDArray[np.int64]

# of length 1, float32 [texts, dimensions]; what cannot be embedded is a row of zeros
Vectors: TypeAlias = "npt.NDArray[np.float32]"
Embed: TypeAlias = "Callable[[Sequence[str]], npt.NDArray[np.float32]]"

SUFFIX = 0.78  # measured on 100,000 texts: 13 s, with 0.89 17 s, with 1.0 23 s
_CHUNK = 1024  # texts that are decided together
_ENTRIES = 4_000_000  # of one product of keys (about 80 MB), unless a single text has more
_PAIRS = 20_000  # compared at once (about 50 MB)
_BLOCK = 256  # embeddings multiplied at once
_SLACK = 1e-5  # what float32 may lose of a cosine


class Near(msgspec.Struct, frozen=True):
    """Text `index` is near to the kept text `of`."""

    index: int
    of: int


def near_duplicates_among(
    texts: Sequence[str],
    threshold: float,
    *,
    plain: float = THRESHOLD,
    protected: int = 0,
    embed: Embed | None = None,
) -> list[Near]:
    """The texts that go, in their order; all others are kept.

    Args:
        texts: in order of preference.
        threshold: cosine of TF-IDF, or of the embeddings where `embed` is given; above 0, at most 1.
        plain: cosine of the unweighted grams, likewise.
        protected: so many of the first texts are kept whatever they are near to.
        embed: makes embeddings.

    Raises:
        ValueError: a threshold is out of range.
    """
    for value in (threshold, plain):
        if not 0 < value <= 1:
            raise ValueError(f"a threshold must be above 0 and at most 1, not {value}")
    words = [normalised(text) for text in texts]
    first: dict[str, int] = {}
    unique: list[int] = []
    gone: dict[int, int] = {}
    for index, text in enumerate(words):
        same = first.setdefault(text, index)
        if same == index or index < protected:
            unique.append(index)
        else:
            gone[index] = same
    spoken = [index for index in unique if words[index]]  # the empty text is near to nothing else
    measures = _measures([words[index] for index in spoken], threshold, plain, embed)
    of = _decided(measures, len(spoken), sum(index < protected for index in spoken))
    moved = {spoken[place]: spoken[other] for place, other in enumerate(of) if other != place}
    gone = {index: moved.get(same, same) for index, same in gone.items()} | moved  # also the copy of one that goes
    return [Near(index, gone[index]) for index in sorted(gone)]


class _Measure(Protocol):
    def near(self, ones: Rows, others: Rows) -> Iterator[tuple[Rows, Rows]]:
        """Near pairs (of `ones`, of `others`), as two arrays of equal length at a time."""
        ...


def _decided(measures: Sequence[_Measure], count: int, protected: int) -> list[int]:
    """For each text the kept one that it is near to; itself where it is kept."""
    import numpy as np

    of = np.arange(count)
    for start in range(0, count, _CHUNK):
        chunk = np.arange(start, min(start + _CHUNK, count))
        kept = np.flatnonzero(of[:start] == np.arange(start))
        for measure in measures:
            for ones, others in measure.near(chunk[chunk >= protected], kept):
                np.minimum.at(of, ones, others)  # the earliest
        left = chunk[of[chunk] == chunk]
        within: list[tuple[int, int]] = []
        for measure in measures:
            for ones, others in measure.near(left[left >= protected], left):
                earlier = others < ones
                within += zip(ones[earlier].tolist(), others[earlier].tolist(), strict=True)
        for one, other in sorted(within):
            if of[one] == one and of[other] == other:
                of[one] = other
    return [int(other) for other in of]


class _Sparse:
    """Rows of `vectors` (CSR, length 1) are near when their product reaches the threshold; only pairs whose rows of
    `keys` have a product of at least `least` can be."""

    def __init__(self, vectors: Any, keys: Any, least: float, threshold: float) -> None:
        self._vectors, self._keys, self._least, self._threshold = vectors, keys, least, threshold

    def near(self, ones: Rows, others: Rows) -> Iterator[tuple[Rows, Rows]]:
        import numpy as np

        if not len(ones) or not len(others):
            return
        index = self._keys[others].T.tocsr()
        own = self._keys[ones]
        holders = np.diff(index.indptr)
        costs = np.add.reduceat(np.append(holders[own.indices], 0), np.minimum(own.indptr[:-1], own.nnz))
        for start, stop in _blocks(np.where(np.diff(own.indptr) > 0, costs, 0)):
            product = (own[start:stop] @ index).tocoo()
            enough = product.data >= self._least - _SLACK
            first, second = ones[start + product.row[enough]], others[product.col[enough]]
            for place in range(0, len(first), _PAIRS):
                one, other = first[place : place + _PAIRS], second[place : place + _PAIRS]
                cosines = np.asarray(self._vectors[one].multiply(self._vectors[other]).sum(axis=1)).ravel()
                near = cosines >= self._threshold - _SLACK
                yield one[near], other[near]


class _Dense:
    """The same for rows of a plain array, every pair of them."""

    def __init__(self, vectors: Vectors, threshold: float) -> None:
        self._vectors, self._threshold = vectors, threshold

    def near(self, ones: Rows, others: Rows) -> Iterator[tuple[Rows, Rows]]:
        import numpy as np

        against = self._vectors[others].T
        for start in range(0, len(ones), _BLOCK):
            block = ones[start : start + _BLOCK]
            row, column = np.nonzero(self._vectors[block] @ against >= self._threshold - _SLACK)
            yield block[row], others[column]


def _measures(words: Sequence[str], threshold: float, plain: float, embed: Embed | None) -> list[_Measure]:
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
    from sklearn.preprocessing import normalize

    if not words:
        return []
    counts = CountVectorizer(
        analyzer="char_wb", ngram_range=(GRAM, GRAM), binary=True, lowercase=False, dtype=np.float32
    ).fit_transform(words)
    measures: list[_Measure] = [_Sparse(normalize(counts), _bands(words), 1.0, plain)]
    if embed is not None:
        return [*measures, _Dense(embed(words), threshold)]
    weighted = _rarest_first(TfidfTransformer().fit_transform(counts))
    suffix = SUFFIX * threshold
    return [*measures, _Sparse(weighted, _prefixes(weighted, suffix), threshold - suffix, threshold)]


def _bands(words: Sequence[str]) -> Any:
    """Which texts share a MinHash band: CSR, a column a band's value, all ones."""
    import numpy as np
    from scipy import sparse

    keys = [key for text in band_keys_of(words) for key in text]
    _, columns = np.unique(np.frombuffer(b"".join(keys), dtype=np.uint64), return_inverse=True)
    ends = np.linspace(0, len(keys), len(words) + 1, dtype=np.int64)
    return sparse.csr_matrix((np.ones(len(keys), dtype=np.float32), columns, ends))


def _rarest_first(matrix: Any) -> Any:
    """The same matrix with its columns, and so each row's entries, in order of rarity."""
    import numpy as np

    order = np.argsort(np.bincount(matrix.indices, minlength=matrix.shape[1]), kind="stable")
    rank = np.empty(len(order), dtype=matrix.indices.dtype)
    rank[order] = np.arange(len(order))
    matrix.indices = rank[matrix.indices]
    matrix.has_sorted_indices = False
    matrix.sort_indices()
    return matrix


def _prefixes(matrix: Any, suffix: float) -> Any:
    """Of each row the first entries, until what follows is shorter than `suffix`; columns of one row lead nowhere."""
    import numpy as np
    from scipy import sparse

    squares = np.concatenate([[0.0], np.cumsum(matrix.data.astype(np.float64) ** 2)])
    ends = np.repeat(squares[matrix.indptr[1:]], np.diff(matrix.indptr))
    common = np.bincount(matrix.indices, minlength=matrix.shape[1]) > 1
    kept = (ends - squares[:-1] >= suffix**2) & common[matrix.indices]
    starts = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return sparse.csr_matrix((matrix.data[kept], matrix.indices[kept], starts), shape=matrix.shape)


def _blocks(costs: Rows) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose costs add up to `_ENTRIES` at most; a row that costs more has one of its own."""
    start, total = 0, 0
    for place, cost in enumerate(costs.tolist()):
        if total + cost > _ENTRIES and place > start:
            yield start, place
            start, total = place, 0
        total += cost
    if start < len(costs):
        yield start, len(costs)
