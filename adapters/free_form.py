"""What an answer in free words is worth against the right one: scores of a metric, and no words. Pure.

`fields` and `chrf` are reckoned here. `judge` asks a model, which the loop does: see `prompts.judge`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from adapters import fields
from adapters.chrf import chrf
from adapters.fields import NotAsked, Schema
from adapters.specs import ExamItem, Prediction

Metric = Literal["fields", "chrf", "judge"]


def score(metric: Metric, words: str, target: str, schema: Schema | None = None) -> float | None:
    """What an answer is worth, 0..1; None where its form is not what was asked: no JSON as the schema has it, or
    nothing at all.

    Raises:
        ValueError: the metric is not one that is reckoned.
        NotAsked: the target itself is no JSON.
    """
    if metric == "fields":
        right = fields.parse(target)
        try:
            return fields.score(fields.parse(words, schema), right)
        except NotAsked:
            return None
    if metric == "chrf":
        return chrf(words, target) if words.strip() else None
    raise ValueError(f"{metric} is not reckoned")


def scored(
    metric: Metric,
    exam: Sequence[ExamItem],
    predictions: Iterable[Prediction],
    schema: Schema | None = None,
    verdicts: Mapping[tuple[str, str], float] | None = None,
) -> list[Prediction]:
    """The predictions about the exam with what they are worth.

    Args:
        metric: of the task.
        exam: with targets.
        predictions: with their words in `raw`.
        schema: of structured answers.
        verdicts: of the judge, by answerer and item; an answer without one keeps no score.
    """
    targets = {item.id: item.target for item in exam}
    found = []
    for one in predictions:
        if one.id not in targets:
            continue
        if metric == "judge":
            invalid = not one.raw.strip()
            worth = 0.0 if invalid else (verdicts or {}).get((one.answerer, one.id))
        else:
            reckoned = score(metric, one.raw, targets[one.id], schema)
            invalid, worth = reckoned is None, reckoned or 0.0
        found.append(msgspec.structs.replace(one, score=worth, invalid=invalid))
    return found
