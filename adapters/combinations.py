"""What goes together: methods, targets, objectives and the base's quantisation. No torch; of files only the one that a
launcher names is looked at.

Settings are checked by it when they are read, and a training checks its spec again before it loads anything.
"""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import msgspec

from adapters.specs import Backend, Method, Objective, Quantisation, Targets

LORA = frozenset[Method](("qlora", "lora"))
SOFT = frozenset[Method](("prefix", "prompt"))
SAMPLED = frozenset[Objective](("grpo", "rloo"))  # reinforcement learning: groups of answers to one prompt


class Choice(Protocol):
    """What a spec and a task's training settings have in common."""

    @property
    def method(self) -> Method: ...
    @property
    def objective(self) -> Objective: ...
    @property
    def targets(self) -> Targets: ...
    @property
    def dora(self) -> bool: ...
    @property
    def rslora(self) -> bool: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def micro_batch_size(self) -> int: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def generations(self) -> int: ...
    @property
    def backend(self) -> Backend: ...
    @property
    def launcher(self) -> str: ...


class Refusal(msgspec.Struct, frozen=True):
    """Why a choice cannot be trained: the setting to look at ("training." left out), what is wrong, what to do."""

    key: str
    reason: str
    hint: str


def refusal(choice: Choice, quantisation: Quantisation) -> Refusal | None:
    """What is impossible about a choice; None when nothing is.

    Args:
        choice: a TrainSpec or a task's training settings.
        quantisation: of the base model.
    """
    for rule in (_method, _options, _objective, _backend, _batch):
        found = rule(choice, quantisation)
        if found is not None:
            return found
    return None


def _method(choice: Choice, quantisation: Quantisation) -> Refusal | None:
    if choice.method == "full" and quantisation == "nf4":
        return Refusal(
            "method",
            "full fine-tuning of 4-bit weights is impossible: they cannot be updated",
            'Set `quantisation = "bf16"` in [model], or `method = "qlora"`.',
        )
    if choice.method == "qlora" and quantisation != "nf4":
        return Refusal(
            "method",
            f"QLoRA trains on a 4-bit base, not on {quantisation}",
            'Set `quantisation = "nf4"` in [model], or `method = "lora"`.',
        )
    if choice.method == "lora" and quantisation == "nf4":
        return Refusal(
            "method", "LoRA on a 4-bit base is QLoRA", 'Set `method = "qlora"`, or `quantisation = "bf16"` in [model].'
        )
    return None


def _options(choice: Choice, quantisation: Quantisation) -> Refusal | None:
    for key in ("dora", "rslora"):
        if getattr(choice, key) and choice.method not in LORA:
            return Refusal(
                key, f'{key} is a kind of LoRA, not of "{choice.method}"', f'Set `{key} = false`, or `method = "lora"`.'
            )
    if choice.method == "ia3" and choice.targets == "attention-min":
        return Refusal(
            "targets",
            "IA3 scales keys, values and the feed-forward layer, never queries",
            'Set `targets = "all-linear"`, or "attention" for keys and values alone.',
        )
    if choice.method in SOFT and choice.gradient_checkpointing:
        return Refusal(
            "gradient_checkpointing",
            "a soft prompt lies in the cache of keys and values, which gradient checkpointing drops",
            "Set `gradient_checkpointing = false`, or another method.",
        )
    return None


def _objective(choice: Choice, quantisation: Quantisation) -> Refusal | None:
    if choice.objective != "sft" and choice.method not in LORA:
        return Refusal(
            "objective",
            f'"{choice.objective}" compares the adapter with its own start, which is built for LoRA, not for '
            f'"{choice.method}"',
            'Set `objective = "sft"`, or `method = "qlora"`.',
        )
    return None


def processes(launcher: str) -> int | None:
    """How many processes a launcher's words ask for: accelerate's --num_processes, torchrun's --nproc_per_node, or
    `num_processes` in the file of accelerate's --config_file; 0 where they do not say, None where that file is not an
    absolute path or cannot be read."""
    given: dict[str, str] = {}
    words = [part for word in shlex.split(launcher) for part in (word.split("=", 1) if word[:2] == "--" else [word])]
    for flag, value in pairwise(words):
        given.setdefault(flag.replace("-", "_"), value)
    for name in ("__num_processes", "__nproc_per_node"):
        if given.get(name, "").isdigit():
            return int(given[name])
    if "__config_file" not in given:
        return 0
    file = Path(given["__config_file"])
    if not file.is_absolute():  # whoever reads the settings may stand elsewhere
        return None
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r"(?m)^num_processes:\s*(\d+)\s*(#.*)?$", text)
    return int(found[1]) if found else 0


def _backend(choice: Choice, quantisation: Quantisation) -> Refusal | None:
    if choice.launcher:
        try:
            count = processes(choice.launcher)
        except ValueError as error:
            return Refusal("launcher", f"its quotes do not match ({error})", "Write it as in a shell.")
        # a file that is away for a moment must not keep every command from reading its settings
        if count is not None and (not count or choice.batch_size % (choice.micro_batch_size * count)):
            return Refusal(
                "launcher",
                "it must say how many processes it starts, so that micro-batches of all of them make up the batch",
                "Add --num_processes N, or --config_file FILE that has num_processes; N times `micro_batch_size` must "
                "divide `batch_size`.",
            )
    if choice.backend == "trl":
        return None
    if choice.method not in LORA or choice.objective != "sft":
        asked = choice.method if choice.method not in LORA else choice.objective
        return Refusal(
            "backend",
            f'"{choice.backend}" is driven for LoRA and QLoRA on labels, not for "{asked}"',
            'Set `backend = "trl"`.',
        )
    if choice.backend == "unsloth" and (choice.launcher or choice.dora):
        key = "launcher" if choice.launcher else "dora"
        return Refusal(
            key, f"unsloth is driven on one GPU and without DoRA, so not with `{key}`", f"Leave `{key}` out."
        )
    return None


def _batch(choice: Choice, quantisation: Quantisation) -> Refusal | None:
    if choice.batch_size % choice.micro_batch_size:
        return Refusal(
            "micro_batch_size",
            f"a batch of {choice.batch_size} cannot be made of micro-batches of {choice.micro_batch_size}",
            "Let `micro_batch_size` divide `batch_size`.",
        )
    if choice.objective in SAMPLED and choice.batch_size % choice.generations:
        return Refusal(
            "generations",
            f"a batch of {choice.batch_size} answers cannot be made of groups of {choice.generations}",
            "Let `generations` divide `batch_size`, which counts answers with this objective.",
        )
    return None
