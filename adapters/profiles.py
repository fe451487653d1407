"""Default values of a training by method, objective and profile. Pure, no torch.

`[tasks.NAME.training]` says `method`, `objective` and `profile`; what it does not say itself comes from here, and all
of it is recorded with the run. The columns for full fine-tuning and for LoRA and QLoRA and the advice on rank are
those of docs/methods.md, meant for models of billions of parameters; the built-in one has values of its own. Soft
prompts and IA3 need far higher rates because they have a thousandth of the parameters, preferences and rewards lower
ones because they begin from an adapter that already answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.combinations import LORA
from adapters.specs import Method, Objective, Profile

METHODS: Mapping[Method, Mapping[str, Any]] = {
    "qlora": {},  # the fields' own defaults: rate 1e-4 to 5e-4, weight decay 0 to 0.01, 2 to 5 epochs, batch 8 to 32
    "lora": {},
    "full": {"learning_rate": 2e-5, "weight_decay": 0.01},  # rate 1e-5 to 5e-5, weight decay 0.01 to 0.1, 1 to 3 epochs
    "prefix": {"learning_rate": 1e-2},
    "prompt": {"learning_rate": 1e-2},
    "ia3": {"learning_rate": 1e-2},
}
# of the built-in model, for LoRA by sft: 135M parameters learn little in 60 steps at 2e-4 (docs/benchmarks.md)
BUILT_IN: Mapping[str, Any] = {"learning_rate": 1e-3, "min_steps": 120}
OBJECTIVES: Mapping[Objective, Mapping[str, Any]] = {
    "sft": {},
    "dpo": {"learning_rate": 5e-5, "beta": 0.1},
    "grpo": {"learning_rate": 1e-4, "beta": 0.0, "batch_size": 64, "micro_batch_size": 64, "min_steps": 200},
    "rloo": {"learning_rate": 1e-4, "beta": 0.05, "batch_size": 64, "micro_batch_size": 64, "min_steps": 200},
}
PROFILES: Mapping[Profile, Mapping[str, Any]] = {
    "standard": {},  # rank 16
    "simple": {"rank": 8, "alpha": 16},  # two or a few clear classes: rank 4 to 8
    "complex": {"rank": 32, "alpha": 64},  # many or overlapping classes, style, long answers: rank 32 to 64
}


def of_built_in(method: Any, objective: Any) -> dict[str, Any]:
    """What the built-in model has otherwise than the columns."""
    return dict(BUILT_IN) if isinstance(method, str) and method in LORA and objective == "sft" else {}


def defaults(method: Any, objective: Any, profile: Any, *, built_in: bool = False) -> dict[str, Any]:
    """Values for what is not set, by field of the training settings. Unknown names give none: they are refused where
    fields are checked.

    Args:
        method, objective, profile: as they are named in the settings.
        built_in: whether the base is the built-in model.
    """
    found = of_built_in(method, objective) if built_in else {}
    tables: list[tuple[Mapping[Any, Mapping[str, Any]], Any]] = [
        (METHODS, method),
        (OBJECTIVES, objective),
        (PROFILES, profile),
    ]
    for table, name in tables:
        found.update(table.get(name, {}) if isinstance(name, str) else {})
    return found
