"""From a spec, a model and examples to the trainer of its objective."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from datasets import Dataset
from trl import DPOConfig, GRPOConfig, RLOOConfig, SFTConfig

from adapters import attention, base_model, methods, preference, reinforce  # noqa: F401  (attention: see TREE)
from adapters.backends import launched
from adapters.encode import encode
from adapters.fused import pack_log_probs
from adapters.packed import TREE, can_pack
from adapters.specs import Example, TrainSpec
from adapters.trainer import LabelledPrompts, PackedCollator, PackedTrainer, Steered, Watch


class Rows(msgspec.Struct, frozen=True):
    """A trainer's data set as its rows, and how many tickets were shortened to fit."""

    rows: list[dict[str, Any]]
    shortened: int


def rows_for(tokenizer: Any, spec: TrainSpec, examples: list[Example]) -> Rows:
    """Examples in tokens, as the trainer of `spec.objective` wants them.

    Raises:
        ModelError: the prompt does not fit, or the chat template rewrites earlier turns.
    """
    if spec.objective == "dpo":
        return Rows(*preference.pairs(tokenizer, spec, examples))
    if spec.objective != "sft":
        return Rows(*reinforce.prompts(tokenizer, spec, examples))
    rows, shortened = [], 0
    for example in examples:
        user = spec.prompt.user if example.kind == "task" else "{text}"
        row = encode(tokenizer, example.messages, spec.max_length, user=user)
        rows.append(
            {"input_ids": row.tokens, "labels": [-100] * row.start + row.tokens[row.start :], "start": row.start}
        )
        shortened += row.shortened
    return Rows(rows, shortened)


def make(
    spec: TrainSpec,
    checkpoints: Path,
    steps: int,
    warmup: int,
    model: Any,
    tokenizer: Any,
    data: Rows,
    held: LabelledPrompts,
    watch: Watch,
    write: Callable[[Steered], None] | None = None,
) -> Steered:
    """The trainer of `spec.objective`.

    Args:
        spec: checked.
        checkpoints: folder for them.
        steps, warmup: optimiser steps of all, and of the warm-up among them.
        model: adapted, see `adapters.methods`.
        tokenizer: its tokenizer.
        data: from `rows_for`.
        held: validation prompts.
        watch: callback between steps.
        write: see `Steered`.
    """
    device = base_model.resolve_device(spec.device)
    base = methods.base_of(model)
    unpackable = can_pack(base)
    tree = not unpackable and device == "cpu"  # on a GPU one attention with a mask is faster than many small ones
    if unpackable:
        print(f"training on padded batches: {unpackable}", file=sys.stderr)
    if tree:
        base.set_attn_implementation(TREE)
    rows = Dataset.from_list(data.rows)
    common: dict[str, Any] = {
        "model": model,
        "processing_class": tokenizer,
        "train_dataset": rows,
        "eval_dataset": rows if held.count else None,  # Trainer wants one; `evaluate` scores `held`
        "callbacks": [watch],
        "valid": held,
        "steered": held.count >= max(1, spec.min_valid),
        "patience": spec.patience,
        "earliest": min(spec.min_steps, steps) // 2,
        "write": write,
    }
    arguments = _arguments(spec, checkpoints, steps, warmup, device, bool(held.count))
    if spec.objective == "sft":
        kept = {"max_length": spec.max_length, "dataset_kwargs": {"skip_prepare_dataset": True}}
        collator = None if unpackable else PackedCollator(tree=tree)
        config = SFTConfig(**arguments, **kept)
        return PackedTrainer(args=config, data_collator=collator, stratified=spec.stratified, **common)
    trainer: Steered
    temperature = 1.0
    if spec.objective == "dpo":
        # a preference between two labels says nothing of the others, which gain by it: the label is imitated as well
        losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, spec.imitation]} if spec.imitation else {}
        config = DPOConfig(**arguments, **losses, beta=spec.beta, max_length=None)
        trainer = preference.PreferenceTrainer(args=config, **common)
    else:
        temperature = spec.sampling_temperature
        drawn = {
            "beta": spec.beta,
            "num_generations": spec.generations,
            "per_device_eval_batch_size": spec.generations,
            "max_completion_length": reinforce.answer_tokens(tokenizer, spec),
            "temperature": temperature,
        }
        kind = reinforce.GroupTrainer if spec.objective == "grpo" else reinforce.LeaveOneOutTrainer
        config = (GRPOConfig if spec.objective == "grpo" else RLOOConfig)(**arguments, **drawn)
        given = reinforce.rewards(spec.labels, reinforce.end_tokens(model, tokenizer))
        trainer = kind(args=config, reward_funcs=given, **common)
    if not unpackable:
        pack_log_probs(base, tree=tree, temperature=temperature)
    return trainer


def _arguments(
    spec: TrainSpec, checkpoints: Path, steps: int, warmup: int, device: str, evaluated: bool
) -> dict[str, Any]:
    return {
        "output_dir": str(checkpoints),
        "max_steps": steps,
        "per_device_train_batch_size": spec.micro_batch_size,
        "gradient_accumulation_steps": spec.batch_size // (spec.micro_batch_size * launched.world()),
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": warmup,
        "weight_decay": spec.weight_decay,
        "max_grad_norm": spec.max_grad_norm,
        "bf16": base_model.precision(spec.base, device) == "bf16",
        "use_cpu": device == "cpu",
        "gradient_checkpointing": spec.gradient_checkpointing,
        "seed": spec.seed,
        "data_seed": spec.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if evaluated else "no",
        "eval_steps": spec.eval_every,
        "save_strategy": "steps",
        "save_steps": spec.checkpoint_every,
        "remove_unused_columns": False,
        "dataloader_pin_memory": device != "cpu",
        "report_to": "none",
        "disable_tqdm": True,
    }
