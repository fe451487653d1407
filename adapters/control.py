"""The control: TF-IDF and logistic regression on the same labels that an adapter is trained on.

It learns in under a second and is hard to beat on few examples, so it stands in every comparison. It needs
scikit-learn (imported when used) and never torch. It is saved as JSON and plain arrays, nothing is pickled.
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

FORMAT = 1
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)  # values of C that cross-validation chooses from
_VIEWS: dict[str, dict[str, Any]] = {
    "word": {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
    "char": {"analyzer": "char_wb", "ngram_range": (2, 5)},
}


class Control:
    """A fitted control. Make one with `Control.fit` or `Control.load`."""

    def __init__(
        self,
        labels: list[str],
        vocabularies: dict[str, list[str]],
        idf: dict[str, npt.NDArray[np.float64]],
        weights: npt.NDArray[np.float64],
        bias: npt.NDArray[np.float64],
        strength: float,
        cross_validated: float | None,
    ) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.labels = labels
        self.strength = strength  # the C that was chosen
        self.cross_validated = cross_validated  # accuracy of that C, None where there were too few examples
        self._vocabularies, self._idf, self._weights, self._bias = vocabularies, idf, weights, bias
        self._views = []
        for name, options in _VIEWS.items():
            view = TfidfVectorizer(
                **options,
                lowercase=True,
                sublinear_tf=True,
                vocabulary={t: i for i, t in enumerate(vocabularies[name])},
            )
            view.idf_ = idf[name]
            self._views.append(view)

    @classmethod
    def fit(
        cls, texts: Sequence[str], labels: Sequence[str], *, seed: int = 1, strength: float | None = None
    ) -> Control:
        """Fit on texts and their labels; C is `strength`, or chosen by stratified cross-validation (up to 5 folds).

        Classes are weighted by the inverse of their frequency: production's mix is skewed, and the gate looks at
        the recall of every class.

        Raises:
            InputError: no text, or fewer than two different labels.
        """
        import numpy as np
        from scipy import sparse
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.model_selection import StratifiedKFold, cross_val_score

        if len(texts) != len(labels):
            raise InputError(f"{len(texts)} texts but {len(labels)} labels", hint="Give one label per text.")
        found = Counter(labels)
        if len(found) < 2:
            raise InputError(
                f"the control needs at least two different labels, not {len(found)}", hint="Label more examples."
            )
        views = {
            name: TfidfVectorizer(**options, lowercase=True, sublinear_tf=True) for name, options in _VIEWS.items()
        }
        try:
            features = sparse.hstack([view.fit_transform(texts) for view in views.values()], format="csr")
        except ValueError as error:  # scikit-learn's "empty vocabulary"
            raise InputError(f"the texts hold no words: {error}", hint="Check the texts.") from error
        # With an L2 penalty the weights lie in the span of the examples, so the regression is solved exactly in
        # the coordinates of that span: as many columns as examples instead of tens of thousands of n-grams.
        values, vectors = np.linalg.eigh((features @ features.T).toarray())
        kept = values > 1e-9 * values[-1]
        lengths, vectors = np.sqrt(values[kept]), vectors[:, kept]
        inside = vectors * lengths
        targets = np.asarray(labels)
        folds = min(5, min(found.values()))
        chosen, best = strength or 1.0, None
        if folds >= 2 and strength is None:
            splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
            for tried in STRENGTHS:
                score = float(np.mean(cross_val_score(_regression(tried), inside, targets, cv=splits)))
                if best is None or score > best:
                    chosen, best = tried, score
        model = _regression(chosen).fit(inside, targets)
        weights = model.coef_ @ (features.T @ (vectors / lengths)).T
        bias = model.intercept_
        if len(found) == 2:  # scikit-learn keeps one row for two classes
            weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
        vocabularies = {name: [str(term) for term in view.get_feature_names_out()] for name, view in views.items()}
        idf = {name: view.idf_ for name, view in views.items()}
        return cls([str(c) for c in model.classes_], vocabularies, idf, weights, bias, chosen, best)

    def predict_proba(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Label -> probability for each text; the labels are those seen in `fit`."""
        import numpy as np
        from scipy import sparse

        if not texts:
            return []
        features = sparse.hstack([view.transform(texts) for view in self._views], format="csr")
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
            "vocabularies": self._vocabularies,
        }
        (folder / "control.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
        arrays: dict[str, Any] = {f"idf_{name}": values for name, values in self._idf.items()}
        np.savez(folder / "weights.npz", weights=self._weights, bias=self._bias, **arrays)

    @classmethod
    def load(cls, folder: Path) -> Control:
        """Read a saved control.

        Raises:
            ArtifactError: a file is missing, damaged or of another format.
        """
        import numpy as np

        try:
            about = json.loads((folder / "control.json").read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']}, not {FORMAT}")
            with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
                idf = {name: arrays[f"idf_{name}"] for name in _VIEWS}
                weights, bias = arrays["weights"], arrays["bias"]
            vocabularies = {name: about["vocabularies"][name] for name in _VIEWS}
            width = sum(len(terms) for terms in vocabularies.values())
            if weights.shape != (len(about["labels"]), width) or bias.shape != (len(about["labels"]),):
                raise ValueError(f"weights of shape {weights.shape}")
            if any(len(idf[name]) != len(vocabularies[name]) for name in _VIEWS):
                raise ValueError("vocabulary and weights are of different length")
            return cls(
                about["labels"], vocabularies, idf, weights, bias, float(about["strength"]), about["cross_validated"]
            )
        except Exception as error:  # zip, JSON, key, shape: whatever is off, the folder is not a control
            raise ArtifactError(
                f"{folder} is not a saved control: {error}", hint="Train again, or restore the folder from a backup."
            ) from error


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
