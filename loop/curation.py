"""From labels to a training set: quality before quantity, every step counted. Pure but for the time it takes.

Steps and their source, the mission's document ("Dataset Curation"): near-duplicates out (cosine similarity), classes
balanced (10:1 teaches the majority), failures in, labels audited, 50 to 200 examples a class. The audit is
confident learning (Northcutt et al. 2021, arXiv 1911.00068) with the control's out-of-fold probabilities.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from loop.similarity import near_duplicate_groups, near_to
from store.events import CurationCount

WARN_RATIO = 3
CAP_RATIO = 10
GUIDELINE = (50, 200)  # examples a class
FOLDS = 5
MIN_FOR_AUDIT = 100  # labels: a control of fewer doubts what it does not know
MOST_SUSPECT = 0.05  # share of the labels that is reported, at most: a list nobody reads audits nothing
AUDIT_STRENGTH = 10.0  # the control's C in the audit; choosing it five times over would take seconds


class Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """A training-side label with its text. `failure`: production had answered otherwise."""

    id: str
    text: str
    label: str
    cluster: str
    position: int  # of the label in the log
    failure: bool = False


class Curated(msgspec.Struct, frozen=True, kw_only=True):
    train: list[Labelled]
    valid: list[Labelled]
    counts: list[CurationCount]
    warnings: list[str]
    suspects: list[str]  # record ids, most suspect first
    rare: list[str]  # classes that need more labels before the rest of the majority is used


# texts, labels -> one label -> probability for each text, made without having seen it
OutOfFold = Callable[[Sequence[str], Sequence[str]], Sequence[Mapping[str, float]]]


def curate(
    rows: Sequence[Labelled],
    exam_texts: Sequence[str],
    classes: Sequence[str],
    *,
    valid_share: float,
    near_duplicate: float,
    seed: int,
    out_of_fold: OutOfFold | None = None,
) -> Curated:
    """Choose what is trained on.

    Args:
        rows: all standing training-side labels.
        exam_texts: texts that must never be trained on, nor anything near to them.
        classes: the task's labels.
        valid_share: share of the clusters that is held out for validation.
        near_duplicate: cosine from which two texts are one.
        seed: of cap and hold-out.
        out_of_fold: for the audit of labels; None leaves it out.
    """
    counts: list[CurationCount] = [CurationCount(step="labels", count=len(rows), detail="training-side labels")]
    warnings: list[str] = []
    kept, leaks = _without_leaks(rows, exam_texts, near_duplicate)
    counts.append(CurationCount(step="leaks", count=leaks, detail="near-duplicates of exam items, refused"))
    kept, copies, conflicts = _without_copies(kept, near_duplicate)
    counts.append(CurationCount(step="duplicates", count=copies, detail=f"cosine of at least {near_duplicate}"))
    if conflicts:
        warnings.append(f"{conflicts} groups of near-duplicates carry different labels; the newest one counts")
    kept, capped, rare = _balanced(kept, classes, seed)
    counts.append(CurationCount(step="capped", count=capped, detail=f"beyond {CAP_RATIO}:1 of the smallest class"))
    failures = sum(one.failure for one in kept)
    counts.append(CurationCount(step="failures", count=failures, detail="answered wrongly by production, included"))
    suspects = find_suspects(kept, out_of_fold) if out_of_fold and len(kept) >= MIN_FOR_AUDIT else []
    counts.append(CurationCount(step="suspects", count=len(suspects), detail="labels that the control doubts"))
    valid = [one for one in kept if _share(one.cluster, seed) < valid_share]
    train = [one for one in kept if _share(one.cluster, seed) >= valid_share]
    train, valid = _every_class_trained(train, valid)
    counts.append(CurationCount(step="validation", count=len(valid), detail="held out by cluster"))
    warnings += _size_warnings(kept, classes, rare)
    if suspects:
        warnings.append(f"{len(suspects)} labels look doubtful: {', '.join(suspects[:5])}")
    return Curated(train=train, valid=valid, counts=counts, warnings=warnings, suspects=suspects, rare=rare)


def find_suspects(rows: Sequence[Labelled], out_of_fold: OutOfFold) -> list[str]:
    """Ids of labels that contradict a confident other class: its probability reaches the mean that its own
    examples get. The most confident contradiction comes first; at most a twentieth of the labels is named."""
    shares = out_of_fold([one.text for one in rows], [one.label for one in rows])
    own: dict[str, list[float]] = {}
    for one, share in zip(rows, shares, strict=True):
        own.setdefault(one.label, []).append(share.get(one.label, 0.0))
    threshold = {label: sum(values) / len(values) for label, values in own.items()}
    found: list[tuple[float, str]] = []
    for one, share in zip(rows, shares, strict=True):
        others = {name: value for name, value in share.items() if value >= threshold.get(name, 1.1)}
        best = max(others, key=lambda name: others[name], default=one.label)
        if best != one.label:
            found.append((share.get(one.label, 0.0) - others[best], one.id))
    return [identity for _, identity in sorted(found)][: round(MOST_SUSPECT * len(rows))]


def control_out_of_fold(texts: Sequence[str], labels: Sequence[str]) -> list[Mapping[str, float]]:
    """Out-of-fold probabilities of the control over five folds."""
    from adapters.control import Control

    found: list[Mapping[str, float]] = [{} for _ in texts]
    by_class = sorted(range(len(texts)), key=lambda index: labels[index])
    folds = {index: place % FOLDS for place, index in enumerate(by_class)}
    for fold in range(FOLDS):
        inside = [index for index in range(len(texts)) if folds[index] != fold]
        outside = [index for index in range(len(texts)) if folds[index] == fold]
        if len({labels[index] for index in inside}) < 2 or not outside:
            continue
        kept = [texts[index] for index in inside]
        model = Control.fit(kept, [labels[index] for index in inside], strength=AUDIT_STRENGTH)
        for index, share in zip(outside, model.predict_proba([texts[index] for index in outside]), strict=True):
            found[index] = share
    return found


def general_count(train: int, share: float) -> int:
    """How many general examples make up `share` of the mixed set."""
    return round(train * share / (1 - share))


def _without_leaks(rows: Sequence[Labelled], exam: Sequence[str], threshold: float) -> tuple[list[Labelled], int]:
    groups = near_duplicate_groups([*(one.text for one in rows), *exam], threshold)
    leaked = {index for group in groups if group[-1] >= len(rows) for index in group if index < len(rows)}
    leaked |= near_to([one.text for one in rows], exam, threshold)
    return [one for index, one in enumerate(rows) if index not in leaked], len(leaked)


def _without_copies(rows: Sequence[Labelled], threshold: float) -> tuple[list[Labelled], int, int]:
    kept: list[Labelled] = []
    conflicts = 0
    for group in near_duplicate_groups([one.text for one in rows], threshold):
        members = [rows[index] for index in group]
        conflicts += len({one.label for one in members}) > 1
        kept.append(max(members, key=lambda one: one.position))
    kept.sort(key=lambda one: one.position)
    return kept, len(rows) - len(kept), conflicts


def _balanced(rows: Sequence[Labelled], classes: Sequence[str], seed: int) -> tuple[list[Labelled], int, list[str]]:
    """Cap every class at ten times the smallest one, failures kept first; name the classes that cause it."""
    sizes = Counter(one.label for one in rows)
    smallest = min((sizes[label] for label in classes if sizes[label]), default=0)
    limit = CAP_RATIO * smallest
    rare = [label for label in classes if sizes[label] * CAP_RATIO < max(sizes.values(), default=0)]
    if not any(size > limit for size in sizes.values()):
        return list(rows), 0, rare
    order = list(rows)
    random.Random(seed).shuffle(order)  # noqa: S311
    order.sort(key=lambda one: not one.failure)
    taken: Counter[str] = Counter()
    chosen: set[str] = set()
    for one in order:
        if taken[one.label] < limit:
            taken[one.label] += 1
            chosen.add(one.id)
    kept = [one for one in rows if one.id in chosen]
    return kept, len(rows) - len(kept), rare


def _every_class_trained(train: list[Labelled], valid: list[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """A class that only validation holds goes back to training."""
    trained = {one.label for one in train}
    back = [one for one in valid if one.label not in trained]
    return [*train, *back], [one for one in valid if one.label in trained]


def _size_warnings(rows: Sequence[Labelled], classes: Sequence[str], rare: Sequence[str]) -> list[str]:
    sizes = Counter(one.label for one in rows)
    warnings = []
    few = [f"{label} {sizes[label]}" for label in classes if sizes[label] < GUIDELINE[0]]
    if few:
        warnings.append(f"below the guideline of {GUIDELINE[0]}-{GUIDELINE[1]} examples a class: {', '.join(few)}")
    present = [sizes[label] for label in classes if sizes[label]]
    if present and max(present) >= WARN_RATIO * min(present):
        warnings.append(f"classes are {max(present) / min(present):.1f}:1 (a warning from {WARN_RATIO}:1)")
    if rare:
        warnings.append(f"beyond {CAP_RATIO}:1, more labels are asked for: {', '.join(rare)}")
    return warnings


def _share(cluster: str, seed: int) -> float:
    """A cluster's place in [0, 1), independent of the draw that made it training-side."""
    digest = hashlib.blake2b(f"validation/{seed}/{cluster}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
