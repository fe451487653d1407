"""From labels to a training set: quality before quantity, every step counted. Pure but for the time it takes.

Steps and their source, the mission's document ("Dataset Curation"): near-duplicates out (cosine similarity), classes
balanced (10:1 teaches the majority), failures in, labels audited, sizes held against the guideline. scikit-learn is
loaded when it is called: the daemon has it done by a child (`loop.fitting`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from loop import balance
from loop.neighbours import Embed, near_duplicates_among
from loop.similarity import THRESHOLD
from loop.suspects import LEAST, OutOfFold, Suspect, find_suspects
from store.events import CurationCount

NAMED = 5  # records that a warning names


class Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """A training-side label with its text. `failure`: production had answered otherwise."""

    id: str
    text: str
    label: str
    cluster: str
    position: int  # of the label in the log
    failure: bool | None = False  # None: what production answered is not known


class LeftOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record that is not trained on: the step that took it out, and the record that it is near to."""

    id: str
    step: str
    near: str = ""


class Curated(msgspec.Struct, frozen=True, kw_only=True):
    train: list[Labelled]
    valid: list[Labelled]
    copies: dict[str, int]  # class -> how often each of its examples is trained on; 1 where it is not named
    left_out: list[LeftOut]
    counts: list[CurationCount]
    warnings: list[str]
    suspects: list[Suspect]  # most doubtful first
    rare: list[str]  # classes that more labels are asked for

    @property
    def lines(self) -> int:
        """Training examples, copies counted."""
        return sum(self.copies.get(one.label, 1) for one in self.train)


def curate(
    rows: Sequence[Labelled],
    exam: Mapping[str, str],
    classes: Sequence[str],
    *,
    valid_share: float,
    near_duplicate: float,
    seed: int,
    plain: float = THRESHOLD,
    embed: Embed | None = None,
    out_of_fold: OutOfFold | None = None,
    reweight: bool = False,
    kind: balance.Kind = "classification",
) -> Curated:
    """Choose what is trained on.

    Args:
        rows: all standing training-side labels.
        exam: id -> text of what must never be trained on, nor anything near to it.
        classes: the task's labels.
        valid_share: share of the clusters that is held out for validation.
        near_duplicate: cosine (of TF-IDF, or of embeddings) from which two texts are one.
        seed: of cap and hold-out.
        plain: the same for unweighted grams, the measure at arrival.
        embed: makes embeddings, where they are wanted.
        out_of_fold: for the audit of labels; None leaves it out.
        reweight: show examples of small classes more often, until all classes weigh the same.
        kind: of the task: which size guideline holds. Without classes nothing is capped, repeated or audited, and
            rows carry no label.

    Raises:
        ValueError: a cosine is out of range.
    """
    counts = [CurationCount(step="labels", count=len(rows), detail="training-side labels")]
    warnings: list[str] = []

    def count(step: str, number: int, detail: str) -> None:
        counts.append(CurationCount(step=step, count=number, detail=detail))

    kept, left_out = _apart(rows, exam, near_duplicate, plain, embed)
    gone = Counter(one.step for one in left_out)
    measure = "embeddings" if embed is not None else "TF-IDF"
    count("leaks", gone["leaks"], "near-duplicates of exam items, refused")
    count("duplicates", gone["duplicates"], f"cosine of at least {near_duplicate:g} by {measure}; the newest stays")
    warnings += _conflicts(rows, left_out)
    rare, uneven = balance.rare(kept, classes), balance.warnings(kept, classes, kind)
    labelled = kind == "classification"
    if labelled:
        kept, over = balance.capped(kept, seed)
        left_out += [LeftOut(one.id, "capped") for one in over]
        count("capped", len(over), f"beyond {balance.CAP_RATIO}:1 of the smallest class and {balance.KEPT} examples")
    failures = sum(one.failure is True for one in kept)
    count("failures", failures, "answered wrongly by production, included")
    suspects: list[Suspect] = []
    audited = "labels that a model that has not seen them doubts"
    if out_of_fold is not None and len(kept) >= LEAST and labelled:
        ids, texts, labels = zip(*((one.id, one.text, one.label) for one in kept), strict=True)
        suspects = find_suspects(ids, texts, labels, out_of_fold)
    else:
        audited = f"not audited: that takes {LEAST} labels" if len(kept) < LEAST else "not audited"
    if labelled:
        count("suspects", len(suspects), audited)
    train, valid = _divided(kept, valid_share, seed)
    count("validation", len(valid), "held out by cluster")
    copies = balance.copies(Counter(one.label for one in train), even=reweight) if labelled else {}
    if labelled:
        again = sum(copies.get(one.label, 1) - 1 for one in train)
        shown = ", ".join(f"{label} x{times}" for label, times in sorted(copies.items()))
        count("repeated", again, f"examples shown again: {shown}" if shown else "no class is shown more than once")
    warnings += uneven
    if any(one.failure is not None for one in kept) and not failures:
        warnings.append("no example is one that production got wrong: those teach most")
    if suspects:
        warnings.append(f"{len(suspects)} labels look doubtful: {_some(one.id for one in suspects)}")
    return Curated(
        train=train,
        valid=valid,
        copies=copies,
        left_out=left_out,
        counts=counts,
        warnings=warnings,
        suspects=suspects,
        rare=rare,
    )


def general_count(train: int, share: float) -> int:
    """How many general examples make up `share` of the mixed set."""
    return round(train * share / (1 - share))


def _apart(
    rows: Sequence[Labelled], exam: Mapping[str, str], threshold: float, plain: float, embed: Embed | None
) -> tuple[list[Labelled], list[LeftOut]]:
    """Rows that are near to nothing in the exam nor to a newer row, in the order of their labels; and the others."""
    newest = sorted(rows, key=lambda one: -one.position)
    ids = [*exam, *(one.id for one in newest)]
    texts = [*exam.values(), *(one.text for one in newest)]
    near = near_duplicates_among(texts, threshold, plain=plain, protected=len(exam), embed=embed)
    left_out = [LeftOut(ids[one.index], "leaks" if one.of < len(exam) else "duplicates", ids[one.of]) for one in near]
    gone = {one.index for one in near}
    kept = [one for index, one in enumerate(newest, len(exam)) if index not in gone]
    return sorted(kept, key=lambda one: one.position), left_out


def _conflicts(rows: Sequence[Labelled], left_out: Sequence[LeftOut]) -> list[str]:
    labels = {one.id: one.label for one in rows}
    differ = [one.id for one in left_out if one.step == "duplicates" and labels[one.id] != labels[one.near]]
    if not differ:
        return []
    return [f"{len(differ)} near-duplicates carry different labels; the newest one counts: {_some(differ)}"]


def _divided(kept: Sequence[Labelled], valid_share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Training and validation, by cluster; a class that only validation would hold goes back to training."""
    train = [one for one in kept if _place(one.cluster, seed) >= valid_share]
    held = [one for one in kept if _place(one.cluster, seed) < valid_share]
    trained = {one.label for one in train}
    back = [one for one in held if one.label not in trained]
    return [*train, *back], [one for one in held if one.label in trained]


def _place(cluster: str, seed: int) -> float:
    """A cluster's place in [0, 1), independent of the draw that made it training-side."""
    digest = hashlib.blake2b(f"validation/{seed}/{cluster}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _some(ids: Iterable[str]) -> str:
    named = list(ids)
    return ", ".join(named[:NAMED]) + (" ..." if len(named) > NAMED else "")
