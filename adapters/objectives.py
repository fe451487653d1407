"""Which examples an objective trains on, and what is done where there are too few of them. Pure, no torch.

sft   every example: the answer is learned.
dpo   corrections: the label is preferred to what production answered (Rafailov et al. 2023). On corrections alone it
      learns that production's favourite labels are wrong everywhere and gets worse than its start, so
      the answers that people confirmed go in as well, preferred to the labels that they were mistaken for elsewhere.
grpo, rloo   labelled prompts: answers are drawn, and those that are right and well-formed are reinforced (Shao et al.
      2024; Ahmadian et al. 2024). They stand where guides say PPO, which TRL no longer has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from adapters import profiles
from adapters.combinations import SAMPLED
from adapters.specs import Example, TrainSpec

FEWEST_CLASSES = 2


def examples_for(spec: TrainSpec, examples: Sequence[Example]) -> list[Example]:
    """Those examples that `spec.objective` trains on, in their order; for dpo each with what is `rejected`."""
    if spec.objective == "dpo":
        return _preferences([one for one in examples if one.kind == "task" and one.label in spec.labels], spec.labels)
    if spec.objective in SAMPLED:
        return [one for one in examples if one.kind == "task" and one.label in spec.labels]
    return list(examples)


def _preferences(examples: Sequence[Example], labels: Sequence[str]) -> list[Example]:
    """Corrections as they are, and confirmed answers with a wrong one beside them.

    Where production said B and people A, examples that are B have A rejected, as often as that happened; a label that
    production was never wrong with has the labels rejected that stood for it, else those that were missed most.
    """
    corrections = [one for one in examples if is_correction(one, labels)]
    missed = Counter(one.label for one in corrections)
    instead: dict[str, list[str]] = {}
    for label in labels:
        found = [one.label for one in corrections if one.rejected == label]
        found = found or [one.rejected for one in corrections if one.label == label]
        instead[label] = found or [name for name, _ in missed.most_common() if name != label]
    turns: Counter[str] = Counter()
    chosen = []
    for one in examples:
        if is_correction(one, labels):
            chosen.append(one)
        elif not one.rejected and instead[one.label]:
            wrong = instead[one.label]
            chosen.append(msgspec.structs.replace(one, rejected=wrong[turns[one.label] % len(wrong)]))
            turns[one.label] += 1
    return chosen


def is_correction(example: Example, labels: Sequence[str]) -> bool:
    """Whether production answered another label than people gave."""
    return example.label in labels and example.rejected in labels and example.rejected != example.label


def settle(spec: TrainSpec, examples: Sequence[Example]) -> TrainSpec:
    """`spec` itself, or with too few examples for its objective the same training by sft, with a note that says why."""
    corrections = sum(one.kind == "task" and is_correction(one, spec.labels) for one in examples)
    if spec.objective == "dpo" and corrections < spec.min_pairs:
        return fall_back(
            spec, f"it needs {spec.min_pairs} corrections of production's answers and there are {corrections}"
        )
    classes = {one.label for one in examples_for(spec, examples)}
    if spec.objective in SAMPLED and len(classes) < FEWEST_CLASSES:
        return fall_back(spec, "it needs labelled examples of at least two classes")
    return spec


def fall_back(spec: TrainSpec, reason: str) -> TrainSpec:
    """The same training by sft from the base model. Values that the objective's column gave give way to sft's."""
    own = TrainSpec.__struct_defaults__
    fields = dict(zip(TrainSpec.__struct_fields__[-len(own) :], own, strict=True))
    before = {**fields, **profiles.defaults(spec.method, spec.objective, spec.profile, built_in=spec.built_in)}
    after = {**fields, **profiles.defaults(spec.method, "sft", spec.profile, built_in=spec.built_in)}
    changed = {
        name: value for name, value in after.items() if value != before[name] and getattr(spec, name) == before[name]
    }
    note = f"trained by sft instead of {spec.objective}: {reason}"
    return msgspec.structs.replace(spec, objective="sft", init_adapter="", notes=[*spec.notes, note], **changed)


def count(spec: TrainSpec, examples: int) -> int:
    """What one pass over the examples puts into batches: with groups of drawn answers each prompt counts so often."""
    return examples * spec.generations if spec.objective in SAMPLED else examples
