import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adapters import control as control_module
from adapters.control import Control
from store.errors import ArtifactError, InputError

TEXTS = {
    "billing": [
        "I was charged twice for May",
        "refund my last invoice please",
        "wrong amount on the invoice",
        "the charge on my card",
    ],
    "technical": [
        "the app crashes on login",
        "error 500 when I open reports",
        "login page will not load",
        "app freezes after update",
    ],
    "general": [
        "what are your opening hours",
        "do you have an office in Lyon",
        "how do I become a partner",
        "thanks for the help",
    ],
}
PAIRS = [(text, label) for label, texts in TEXTS.items() for text in texts]


@pytest.fixture(scope="module")
def control() -> Control:
    return Control.fit([text for text, _ in PAIRS], [label for _, label in PAIRS])


def test_it_learns_and_its_probabilities_add_up(control: Control) -> None:
    assert control.predict(["my invoice shows a wrong charge", "crashes at login"]) == ["billing", "technical"]
    for shares in control.predict_proba(["hello", "", "¿qué?"]):
        assert set(shares) == set(TEXTS) and sum(shares.values()) == pytest.approx(1.0)
    assert control.predict_proba([]) == []
    assert control.cross_validated is not None and 0 <= control.cross_validated <= 1


def test_it_equals_scikit_learn_on_all_columns(control: Control) -> None:
    """The solution within the span of the examples is the solution over all n-grams."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    views = [
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    ]
    features = sparse.hstack([view.fit_transform([text for text, _ in PAIRS]) for view in views])
    plain = LogisticRegression(C=control.strength, class_weight="balanced", max_iter=5000, tol=1e-8)
    plain.fit(features, [label for _, label in PAIRS])
    asked = ["invoice for the app", "opening hours", "zzz"]
    theirs = plain.predict_proba(sparse.hstack([view.transform(asked) for view in views]))
    ours = [[shares[label] for label in plain.classes_] for shares in control.predict_proba(asked)]
    assert np.abs(theirs - np.asarray(ours)).max() < 2e-3


def test_beyond_its_span_it_learns_from_all_and_sees_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{text} {'please ' * (number % 3)}number {number}" for number in range(30) for text, _ in PAIRS]
    labels = [label for _ in range(30) for _, label in PAIRS]
    texts += ["parcel lost in the post", "where is my parcel"]
    labels += ["delivery", "delivery"]
    whole = Control.fit(texts, labels)
    monkeypatch.setattr(control_module, "SPAN", 40)
    part = Control.fit(texts, labels)
    assert part.predict(texts[-2:]) == ["delivery", "delivery"]
    asked = [text for text, _ in PAIRS]
    assert part.predict(asked) == whole.predict(asked) == [label for _, label in PAIRS]
    assert part.cross_validated is not None and part.cross_validated > 0.9


def test_saved_and_loaded_it_answers_the_same_without_pickle(control: Control, tmp_path: Path) -> None:
    control.save(tmp_path / "control")
    assert sorted(path.name for path in (tmp_path / "control").iterdir()) == ["control.json", "weights.npz"]
    again = Control.load(tmp_path / "control")
    texts = ["charged twice", "freezes", "Привет"]
    assert again.predict_proba(texts) == control.predict_proba(texts)
    with np.load(tmp_path / "control" / "weights.npz", allow_pickle=False) as arrays:
        kinds = {name: arrays[name].dtype.kind for name in arrays.files}
        assert set(kinds.values()) == {"f", "i"} and all(
            kind == "i" for name, kind in kinds.items() if name.startswith("columns")
        )


def test_no_piece_of_a_text_is_in_what_is_saved(control: Control, tmp_path: Path) -> None:
    """A dataset artifact is kept for good; the words of a customer must not be read back from it."""
    control.save(tmp_path)
    saved = (tmp_path / "control.json").read_bytes() + (tmp_path / "weights.npz").read_bytes()
    words = {word for text, _ in PAIRS for word in text.split() if len(word) > 4} - set(TEXTS)
    assert len(words) > 20 and [word for word in words if word.encode() in saved] == []


def test_a_control_of_the_first_format_still_answers(tmp_path: Path) -> None:
    """Format 1 kept its n-grams as words: written here as it was, with scikit-learn alone."""
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    views = {
        "word": TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
        "char": TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    }
    features = sparse.hstack([view.fit_transform([text for text, _ in PAIRS]) for view in views.values()])
    model = LogisticRegression(C=3.0, class_weight="balanced").fit(features, [label for _, label in PAIRS])
    labels = [str(label) for label in model.classes_]
    vocabularies = {name: view.get_feature_names_out().tolist() for name, view in views.items()}
    about = {"format": 1, "labels": labels, "strength": 3.0, "cross_validated": None, "vocabularies": vocabularies}
    (tmp_path / "control.json").write_text(json.dumps(about))
    idf = {f"idf_{name}": view.idf_ for name, view in views.items()}
    np.savez(tmp_path / "weights.npz", weights=model.coef_, bias=model.intercept_, **idf)
    asked = ["invoice for the app", "opening hours", "login crashes"]
    theirs = model.predict_proba(sparse.hstack([view.transform(asked) for view in views.values()]))
    ours = [[shares[label] for label in labels] for shares in Control.load(tmp_path).predict_proba(asked)]
    assert np.abs(theirs - np.asarray(ours)).max() < 2e-3


def test_two_classes_one_example_each() -> None:
    control = Control.fit(["refund", "crash"], ["billing", "technical"])
    assert control.predict(["refund", "crash"]) == ["billing", "technical"]
    assert control.cross_validated is None
    assert set(Control.fit(["??!", "!!."], ["billing", "technical"]).labels) == {"billing", "technical"}  # no words


@pytest.mark.parametrize("texts", [["a b", "c d"], ["", ""]])
def test_what_it_cannot_learn_from_is_refused(texts: list[str]) -> None:
    with pytest.raises(InputError):
        Control.fit(texts, ["billing", "billing" if texts[0] else "general"])


def test_a_damaged_folder_is_refused(control: Control, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a saved control"):
        Control.load(tmp_path)
    control.save(tmp_path)
    about = json.loads((tmp_path / "control.json").read_text())
    for damage in ({"format": 99}, {"labels": ["one"]}, {"columns": 1 << 20}):
        (tmp_path / "control.json").write_text(json.dumps(about | damage))
        with pytest.raises(ArtifactError):
            Control.load(tmp_path)
    (tmp_path / "control.json").write_text(json.dumps(about))
    (tmp_path / "weights.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ArtifactError):
        Control.load(tmp_path)


def test_importing_it_brings_neither_scikit_learn_nor_torch() -> None:
    heavy = "('sklearn', 'numpy', 'torch')"
    code = f"import sys, adapters.control, adapters.metrics; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
