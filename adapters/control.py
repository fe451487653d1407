"""The control: TF-IDF and logistic regression on the same labels that an adapter is trained on.

It learns in under a second and is hard to beat on few examples, so it stands in every comparison. It needs
scikit-learn (imported when used) and never torch. It is saved as JSON and plain arrays, nothing is pickled, and no
piece of a text is in it: n-grams are hashed to columns (Weinberger et al. 2009, "Feature hashing for large scale
multitask learning"), and only the numbers of the columns are kept. Whoever has the file can still ask whether it
knows the hash of a guessed word.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.errors import ArtifactError, InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int32]
    Values = npt.NDArray[np.float64]

FORMAT = 2
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)  # values of C that cross-validation chooses from
SPAN = 3000  # examples; time and memory grow with its square
COLUMNS = 1 << 22  # of each view: with 100,000 different n-grams about one in 40 shares its column
_VIEWS: dict[str, dict[str, Any]] = {
    "word": {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
    "char": {"analyzer": "char_wb", "ngram_range": (2, 5)},
}


class Control:
    """A fitted control. Make one with `Control.fit` or `Control.load`."""

    def __init__(
        self,
        labels: list[str],
        columns: dict[str, Ids],
        idf: dict[str, Values],
        weights: Values,
        bias: Values,
        strength: float,
        cross_validated: float | None,
    ) -> None:
        """`columns`: for each view the hashed columns in use, ascending; `weights`: a column for each, view by view."""
        self.labels = labels
        self.strength = strength  # the C that was chosen
        self.cross_validated = cross_validated  # accuracy of that C, None where there were too few examples
        self._columns, self._idf, self._weights, self._bias = columns, idf, weights, bias

    @classmethod
    def fit(
        cls, texts: Sequence[str], labels: Sequence[str], *, seed: int = 1, strength: float | None = None
    ) -> Control:
        """Fit on texts and their labels; C is `strength`, or chosen by stratified cross-validation (up to 5 folds).

        With more than `SPAN` examples the weights are sought in the span of that many, drawn evenly from the classes
        (Williams and Seeger 2001, "Using the Nyström method to speed up kernel machines"), and C is chosen on those.

        Classes are weighted by the inverse of their frequency: production's mix is skewed, and the gate looks at
        the recall of every class.

        Raises:
            InputError: no text, or fewer than two different labels.
        """
        import numpy as np
        from scipy import sparse
        from sklearn.model_selection import StratifiedKFold, cross_val_score

        if len(texts) != len(labels):
            raise InputError(f"{len(texts)} texts but {len(labels)} labels", hint="Give one label per text.")
        found = Counter(labels)
        if len(found) < 2:
            raise InputError(
                f"the control needs at least two different labels, not {len(found)}", hint="Label more examples."
            )
        columns: dict[str, Ids] = {}
        idf: dict[str, Values] = {}
        blocks = []
        for name in _VIEWS:
            counts = _counts(name, texts)
            columns[name] = np.unique(counts.indices).astype(np.int32)
            counts = _narrowed(counts, columns[name])
            # as scikit-learn smooths it: as if one more text held every n-gram
            seen = np.bincount(counts.indices, minlength=len(columns[name]))
            idf[name] = np.log((1 + len(texts)) / (1 + seen)) + 1
            blocks.append(_weighted(counts, idf[name]))
        if not any(len(ids) for ids in columns.values()):
            raise InputError("the texts hold no words", hint="Check the texts.")
        features = sparse.hstack(blocks, format="csr")
        # With an L2 penalty the weights lie in the span of the examples, so the regression is solved exactly in
        # the coordinates of that span: as many columns as examples instead of tens of thousands of n-grams.
        targets = np.asarray(labels)
        rows = _drawn(targets, seed)
        spanning = features[rows]
        values, vectors = np.linalg.eigh((spanning @ spanning.T).toarray())
        kept = values > 1e-9 * values[-1]
        basis = vectors[:, kept] / np.sqrt(values[kept])
        chosen, best = strength or 1.0, None
        folds = min(5, min(Counter(labels[row] for row in rows).values()))
        if folds >= 2 and strength is None:
            inside = vectors[:, kept] * np.sqrt(values[kept])
            splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
            for tried in STRENGTHS:
                score = float(np.mean(cross_val_score(_regression(tried), inside, targets[rows], cv=splits)))
                if best is None or score > best:
                    chosen, best = tried, score
        model = _regression(chosen).fit((features @ spanning.T).toarray() @ basis, targets)
        weights = (spanning.T @ (basis @ model.coef_.T)).T
        bias = model.intercept_
        if len(found) == 2:  # scikit-learn keeps one row for two classes
            weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
        return cls([str(c) for c in model.classes_], columns, idf, weights, bias, chosen, best)

    def predict_proba(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Label -> probability for each text; the labels are those seen in `fit`."""
        import numpy as np
        from scipy import sparse

        if not texts:
            return []
        blocks = [_weighted(_narrowed(_counts(name, texts), self._columns[name]), self._idf[name]) for name in _VIEWS]
        features = sparse.hstack(blocks, format="csr")
        scores = features @ self._weights.T + self._bias
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        shares /= shares.sum(axis=1, keepdims=True)
        return [dict(zip(self.labels, map(float, row), strict=True)) for row in shares]

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The most probable label of each text."""
        return [max(shares, key=lambda label: shares[label]) for shares in self.predict_proba(texts)]

    def save(self, folder: Path) -> None:
        """Write control.json and weights.npz into `folder` (made if missing)."""
        import numpy as np

        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format": FORMAT,
            "labels": self.labels,
            "strength": self.strength,
            "cross_validated": self.cross_validated,
            "columns": COLUMNS,
        }
        (folder / "control.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
        arrays: dict[str, Any] = {f"idf_{name}": values for name, values in self._idf.items()}
        arrays.update({f"columns_{name}": ids for name, ids in self._columns.items()})
        np.savez(folder / "weights.npz", weights=self._weights, bias=self._bias, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Control:
        """Read a saved control; one of format 1, which held the n-grams themselves, is hashed on the way in.

        Raises:
            ArtifactError: a file is missing, damaged or of another format.
        """
        import numpy as np

        try:
            about = json.loads((folder / "control.json").read_text(encoding="utf-8"))
            if about["format"] not in (1, FORMAT):
                raise ValueError(f"format {about['format']}, not {FORMAT}")
            with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
                idf = {name: arrays[f"idf_{name}"] for name in _VIEWS}
                weights, bias = arrays["weights"], arrays["bias"]
                if about["format"] == 1:
                    columns, idf, weights = _hashed(about["vocabularies"], idf, weights)
                elif about["columns"] != COLUMNS:
                    raise ValueError(f"{about['columns']} columns, not {COLUMNS}")
                else:
                    columns = {name: arrays[f"columns_{name}"] for name in _VIEWS}
            width = sum(len(ids) for ids in columns.values())
            if weights.shape != (len(about["labels"]), width) or bias.shape != (len(about["labels"]),):
                raise ValueError(f"weights of shape {weights.shape}")
            for name, ids in columns.items():
                if len(idf[name]) != len(ids) or (np.diff(ids) <= 0).any():
                    raise ValueError(f"the columns of {name} and their weights do not fit")
            return cls(about["labels"], columns, idf, weights, bias, float(about["strength"]), about["cross_validated"])
        except Exception as error:  # zip, JSON, key, shape: whatever is off, the folder is not a control
            raise ArtifactError(
                f"{folder} is not a saved control: {error}", hint="Train again, or restore the folder from a backup."
            ) from error


def _counts(view: str, texts: Sequence[str]) -> Any:
    """How often each hashed n-gram is in each text: a sparse matrix of `COLUMNS` columns."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(**_VIEWS[view], lowercase=True, n_features=COLUMNS, norm=None, alternate_sign=False)
    return hashing.transform(texts)


def _narrowed(counts: Any, columns: Ids) -> Any:
    """The same matrix with only the given columns (ascending), in their order."""
    import numpy as np
    from scipy import sparse

    place = np.searchsorted(columns, counts.indices)
    known = columns[np.minimum(place, len(columns) - 1)] == counts.indices if len(columns) else place < 0
    ends = np.concatenate([[0], np.cumsum(known)])[counts.indptr]
    return sparse.csr_matrix((counts.data[known], place[known], ends), shape=(counts.shape[0], len(columns)))


def _weighted(counts: Any, idf: Values) -> Any:
    """TF-IDF with sublinear counts, each row of length 1."""
    import numpy as np
    from sklearn.preprocessing import normalize

    weighted = counts.copy()
    weighted.data = (np.log(weighted.data) + 1) * idf[weighted.indices]
    return normalize(weighted, copy=False) if weighted.nnz else weighted


def _hashed(
    vocabularies: dict[str, list[str]], idf: dict[str, Values], weights: Values
) -> tuple[dict[str, Ids], dict[str, Values], Values]:
    """Format 1's n-grams as hashed columns: (columns, idf, weights). N-grams that meet in a column share the mean of
    their weights and idf."""
    import numpy as np
    from sklearn.feature_extraction import FeatureHasher

    columns: dict[str, Ids] = {}
    kept: dict[str, Values] = {}
    blocks = []
    start = 0
    for name in _VIEWS:
        terms = vocabularies[name]
        own = weights[:, start : start + len(terms)]
        start += len(terms)
        if len(idf[name]) != len(terms) or own.shape[1] != len(terms):
            raise ValueError("vocabulary and weights are of different length")
        hasher = FeatureHasher(COLUMNS, input_type="string", alternate_sign=False)
        ids, place = np.unique(hasher.transform([[term] for term in terms]).indices, return_inverse=True)
        sizes = np.bincount(place, minlength=len(ids))
        kept[name] = np.bincount(place, idf[name], minlength=len(ids)) / sizes
        rows = [np.bincount(place, row, minlength=len(ids)) / sizes for row in own]
        blocks.append(np.asarray(rows).reshape(len(weights), len(ids)))
        columns[name] = ids.astype(np.int32)
    if start != weights.shape[1]:
        raise ValueError(f"weights of shape {weights.shape}")
    return columns, kept, np.hstack(blocks)


def _drawn(targets: npt.NDArray[np.str_], seed: int) -> npt.NDArray[np.intp]:
    """Rows of at most `SPAN` examples, ascending: round after round one of each class."""
    import numpy as np

    if len(targets) <= SPAN:
        return np.arange(len(targets))
    order = np.random.default_rng(seed).permutation(len(targets))
    turns: Counter[str] = Counter()
    turn = []
    for row in order:
        turn.append(turns[targets[row]])
        turns[targets[row]] += 1
    return np.sort(order[np.argsort(turn, kind="stable")[:SPAN]])


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
