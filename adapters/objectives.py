"""Which examples an objective trains on, and what is done where there are too few of them. Pure, no torch.

sft   every example: the answer is learned.
dpo   corrections: the label is preferred to what production answered (Rafailov et al. 2023).
grpo, rloo   labelled prompts: answers are drawn, and those that are right and well-formed are reinforced (Shao et al.
      2024; Ahmadian et al. 2024). They stand where guides say PPO, which TRL no longer has.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters import profiles
from adapters.combinations import SAMPLED
from adapters.specs import Example, TrainSpec

FEWEST_CLASSES = 2


def examples_for(spec: TrainSpec, examples: Sequence[Example]) -> list[Example]:
    """Those examples that `spec.objective` trains on, in their order."""
    if spec.objective == "dpo":
        return [one for one in examples if one.kind == "task" and is_correction(one, spec.labels)]
    if spec.objective in SAMPLED:
        return [one for one in examples if one.kind == "task" and one.label in spec.labels]
    return list(examples)


def is_correction(example: Example, labels: Sequence[str]) -> bool:
    """Whether production answered another label than people gave."""
    return example.label in labels and example.rejected in labels and example.rejected != example.label


def settle(spec: TrainSpec, examples: Sequence[Example]) -> TrainSpec:
    """`spec` itself, or with too few examples for its objective the same training by sft, with a note that says why."""
    usable = examples_for(spec, examples)
    if spec.objective == "dpo" and len(usable) < spec.min_pairs:
        return fall_back(
            spec, f"it needs {spec.min_pairs} corrections of production's answers and there are {len(usable)}"
        )
    if spec.objective in SAMPLED and len({one.label for one in usable}) < FEWEST_CLASSES:
        return fall_back(spec, "it needs labelled examples of at least two classes")
    return spec


def fall_back(spec: TrainSpec, reason: str) -> TrainSpec:
    """The same training by sft from the base model. Values that the objective's column gave give way to sft's."""
    plain = {**profiles.METHODS[spec.method], **profiles.PROFILES[spec.profile]}
    own = TrainSpec.__struct_defaults__
    names = TrainSpec.__struct_fields__[-len(own) :]
    usual = {**dict(zip(names, own, strict=True)), **plain}
    column = profiles.OBJECTIVES[spec.objective]
    changed = {name: usual[name] for name, value in column.items() if getattr(spec, name) == value}
    note = f"trained by sft instead of {spec.objective}: {reason}"
    return msgspec.structs.replace(spec, objective="sft", init_adapter="", notes=[*spec.notes, note], **changed)


def count(spec: TrainSpec, examples: int) -> int:
    """What one pass over the examples puts into batches: with groups of drawn answers each prompt counts so often."""
    return examples * spec.generations if spec.objective in SAMPLED else examples
