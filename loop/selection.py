"""Which records people should look at, and why. Pure.

Reasons, strongest first: *misclassified* (production was corrected later), *disputed* (the control says something
else), *uncertain* (a small margin between the first two labels), *rare* (a predicted class that labels lack) and
*coverage* (drawn at random, so that no region stays unseen). Each but the first has a quota, so that no single
reason fills the queue; while labels are few, random records take what is left.

Margins and disagreement: Settles (2009), "Active learning literature survey", sections 3.1 and 3.2. The control is
the better selector until an adapter is calibrated: margin sampling with it needed a third fewer labels over
eight seeds, with an under-trained language model it was worse than random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import msgspec

from loop.settings import HarvestSettings
from store.events import ReviewReason, Side
from store.targets import is_seal
from store.wording import counted

PRIORITY = {"misclassified": 4.0, "disputed": 3.0, "uncertain": 2.0, "rare": 1.0, "coverage": 0.0}
RARE_BELOW = 0.5  # of the mean number of labels per class


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An unlabelled record that is not in the queue, with all opinions on it."""

    record_id: str
    cluster: str
    side: Side
    answer: str | None = None  # production's
    margin: float | None = None
    feedback: str | None = None
    opinion: str | None = None  # the control's
    opinion_margin: float = 0.0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    record_id: str
    side: Side
    reasons: list[ReviewReason]
    priority: float


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    wanted: list[Wanted]
    dropped: int  # corrected by production, but the queue was full


def select(
    candidates: Sequence[Candidate],
    rules: HarvestSettings,
    *,
    labels: Mapping[str, int],
    room: int,
    taken_clusters: frozenset[str] = frozenset(),
) -> Selection:
    """The records to review.

    Args:
        candidates: what came in and is neither labelled nor queued.
        rules: quotas and thresholds.
        labels: training-side labels per class, every class of the task named.
        room: free places in the queue.
        taken_clusters: near-duplicate clusters that are labelled or queued already.
    """
    chosen: dict[str, Wanted] = {}
    clusters = set(taken_clusters)
    chance = random.Random(f"{rules.seed}/{len(candidates)}")  # noqa: S311
    train = [one for one in candidates if one.side == "train"]

    def take(pool: Sequence[Candidate], limit: int) -> int:
        count = 0
        for one in pool:
            if len(chosen) >= room or count >= limit:
                break
            if one.cluster not in clusters:
                clusters.add(one.cluster)
                chosen[one.record_id] = _wanted(one, rules, labels)
                count += 1
        return count

    corrected = [one for one in candidates if one.side != "none" and _misclassified(one)]
    take(corrected, room)
    dropped = sum(one.record_id not in chosen and one.cluster not in clusters for one in corrected)
    left = room - len(chosen)
    take(_ranked(train, _dispute, chance), round(rules.disputed_share * left))
    take(_ranked(train, lambda one: _doubt(one, rules), chance), round(rules.uncertain_share * left))
    take(_ranked(train, lambda one: _rarity(one, labels), chance), round(rules.rare_share * left))
    cold = sum(labels.values()) < rules.cold_labels
    shuffled = list(train)
    chance.shuffle(shuffled)
    take(shuffled, room if cold else round(rules.coverage_share * left))
    return Selection(wanted=sorted(chosen.values(), key=lambda one: -one.priority), dropped=dropped)


def corrected(answer: str | None, feedback: str) -> ReviewReason:
    """The reason for a record that production was corrected on."""
    detail = f"said {answer or 'nothing'}, corrected to {feedback}"
    if is_seal(feedback):  # words that no event may hold
        detail = "production was corrected"
    return ReviewReason(name="misclassified", detail=detail, score=1.0)


def _ranked(pool: Sequence[Candidate], score: Callable[[Candidate], float], chance: random.Random) -> list[Candidate]:
    """Those with a score above 0, highest first; equals in random order."""
    scored = [(score(one), chance.random(), one) for one in pool]
    return [one for value, _, one in sorted(scored, key=lambda item: (-item[0], item[1])) if value > 0]


def _misclassified(one: Candidate) -> bool:
    return one.feedback is not None and one.feedback != one.answer


def _dispute(one: Candidate) -> float:
    differs = one.opinion is not None and one.answer is not None and one.opinion != one.answer
    return max(one.opinion_margin, 1e-9) if differs else 0.0


def _doubt(one: Candidate, rules: HarvestSettings) -> float:
    """1 minus the margin, of whoever has one; an abstention of production is full doubt."""
    if one.answer is None and one.feedback is None:
        return 1.0
    margin = one.margin if one.opinion is None else one.opinion_margin
    return 1.0 - margin if margin is not None and margin < rules.margin_below else 0.0


def _rarity(one: Candidate, labels: Mapping[str, int]) -> float:
    guess = one.opinion or one.answer
    if guess is None or guess not in labels:
        return 0.0
    mean = sum(labels.values()) / max(1, len(labels))
    return 1.0 - labels[guess] / mean if mean and labels[guess] < RARE_BELOW * mean else 0.0


def _wanted(one: Candidate, rules: HarvestSettings, labels: Mapping[str, int]) -> Wanted:
    reasons: list[ReviewReason] = []
    if _misclassified(one):
        reasons.append(corrected(one.answer, str(one.feedback)))
    if (score := _dispute(one)) > 0:
        detail = f"said {one.answer}, the control says {one.opinion}"
        reasons.append(ReviewReason(name="disputed", detail=detail, score=round(score, 4)))
    if (score := _doubt(one, rules)) > 0:
        detail = "no answer" if one.answer is None else f"margin {1 - score:.2f}"
        reasons.append(ReviewReason(name="uncertain", detail=detail, score=round(score, 4)))
    if (score := _rarity(one, labels)) > 0:
        guess = one.opinion or one.answer or ""
        detail = f"looks like {guess}, which has {counted(labels.get(guess, 0), 'label')}"
        reasons.append(ReviewReason(name="rare", detail=detail, score=round(score, 4)))
    if not reasons:
        reasons.append(ReviewReason(name="coverage", detail="drawn at random"))
    strongest = max(PRIORITY[reason.name] + reason.score for reason in reasons)
    return Wanted(record_id=one.record_id, side=one.side, reasons=reasons, priority=round(strongest, 4))
