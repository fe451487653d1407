"""axolotl: its YAML from our spec, and what its lines say. Pure, no torch.

The data are tokens already (columns input_ids, attention_mask, labels, and no `type`), so that neither a chat template
nor a truncation of its own can make the prompt another one than that of serving.
"""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.methods import TARGETS
from adapters.specs import Metric, TrainSpec

PACKAGE = "axolotl"
MODULE = "axolotl.cli.train"


def config(spec: TrainSpec, steps: int, warmup: int, data: Path, output: Path, processes: int = 1) -> dict[str, Any]:
    """axolotl's configuration.

    Args:
        spec: LoRA or QLoRA by sft.
        steps, warmup: optimiser steps of all, and of the warm-up among them.
        data: JSON lines with tokens.
        output: folder for checkpoints and the adapter.
        processes: that the launcher starts; the batch is shared among them.
    """
    targets = TARGETS[spec.targets]
    layers = {"lora_target_linear": True} if targets == "all-linear" else {"lora_target_modules": targets}
    return {
        "base_model": spec.base.path,
        "load_in_4bit": spec.method == "qlora",
        "adapter": spec.method,
        "lora_r": spec.rank,
        "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout,
        "peft_use_dora": spec.dora,
        "peft_use_rslora": spec.rslora,
        **layers,
        **({"lora_model_dir": spec.init_adapter} if spec.init_adapter else {}),
        "datasets": [{"path": str(data), "ds_type": "json"}],
        "dataset_prepared_path": str(output.parent / "prepared"),
        "val_set_size": 0.0,
        "output_dir": str(output),
        "sequence_len": spec.max_length,
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "micro_batch_size": spec.micro_batch_size,
        "gradient_accumulation_steps": max(1, spec.batch_size // (spec.micro_batch_size * processes)),
        "max_steps": steps,
        "num_epochs": steps,  # more than enough: the steps end it
        "optimizer": "adamw_torch",
        "lr_scheduler": "cosine",
        "learning_rate": spec.learning_rate,
        "warmup_steps": warmup,
        "weight_decay": spec.weight_decay,
        "max_grad_norm": spec.max_grad_norm,
        "bf16": spec.base.quantisation != "fp32",
        "gradient_checkpointing": spec.gradient_checkpointing,
        "attn_implementation": "sdpa",
        "seed": spec.seed,
        "logging_steps": 1,
        "save_steps": spec.checkpoint_every,
        "save_total_limit": 2,
        "auto_resume_from_checkpoints": True,
    }


def written(values: Mapping[str, Any]) -> str:
    """The YAML file: JSON is YAML, and needs no library to be written rightly."""
    return json.dumps(values, indent=1) + "\n"


def command(spec: TrainSpec, file: Path) -> list[str]:
    """The words that start it, behind the launcher where there is one."""
    launcher = shlex.split(spec.launcher)
    return [*launcher, "-m", MODULE, str(file)] if launcher else [spec.backend_python, "-m", MODULE, str(file)]


def metric(line: str, step: int, of: int) -> Metric | None:
    """The training loss that a line tells of, as Trainer prints it: a dict of numbers, some of them as text."""
    start, end = line.find("{"), line.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        told = ast.literal_eval(line[start : end + 1])
        if not isinstance(told, dict) or "loss" not in told or "learning_rate" not in told:
            return None
        numbers = {name: float(told[name]) for name in ("loss", "learning_rate", "grad_norm") if name in told}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return Metric(step=step, of=of, phase="train", **numbers)
