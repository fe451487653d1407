"""Parameter-efficient methods: from a training spec to a PEFT configuration.

What a combination cannot do is refused before anything is loaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.specs import Targets, TrainSpec
from store.errors import ModelError

if TYPE_CHECKING:
    from peft import LoraConfig

TARGETS: dict[Targets, str | list[str]] = {
    "attention-min": ["q_proj", "v_proj"],
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "all-linear": "all-linear",  # every linear layer except the output's
}


def check(spec: TrainSpec) -> None:
    """Refuse a spec that cannot be trained. Needs neither torch nor the model.

    Raises:
        ModelError: the combination is impossible, not built, or its libraries are missing.
    """
    if spec.method == "full" and spec.base.quantisation == "nf4":
        raise ModelError(
            "full fine-tuning of 4-bit weights is impossible: they cannot be updated",
            hint='Set `quantisation = "bf16"`, or `method = "qlora"`.',
        )
    if spec.method not in ("qlora", "lora"):
        raise ModelError(
            f'method "{spec.method}" is not available in this version',
            hint='Set `method = "qlora"` (4-bit base) or "lora" (bf16 or fp32 base).',
        )
    if spec.method == "qlora" and spec.base.quantisation != "nf4":
        raise ModelError(
            f"QLoRA trains on a 4-bit base, not on {spec.base.quantisation}",
            hint='Set `quantisation = "nf4"`, or `method = "lora"`.',
        )
    if spec.method == "lora" and spec.base.quantisation == "nf4":
        raise ModelError(
            "LoRA on a 4-bit base is QLoRA",
            hint='Set `method = "qlora"`, or `quantisation = "bf16"`.',
        )
    if spec.batch_size % spec.micro_batch_size:
        raise ModelError(
            f"a batch of {spec.batch_size} cannot be made of micro-batches of {spec.micro_batch_size}",
            hint="Let `micro_batch_size` divide `batch_size`.",
        )
    if spec.init_adapter and not (Path(spec.init_adapter) / "adapter_config.json").is_file():
        raise ModelError(
            f"{spec.init_adapter} is no adapter to start from", hint="Give a PEFT folder with adapter_config.json."
        )
    wanted = ["torch", "transformers", "trl", "peft"] + (["bitsandbytes"] if spec.method == "qlora" else [])
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"training needs {', '.join(missing)}", hint="Install the training stack: pip install 'tuneloop[train]'"
        )


def peft_config(spec: TrainSpec) -> LoraConfig:
    """The PEFT configuration of a checked spec (Hu et al. 2021; Dettmers et al. 2023)."""
    from peft import LoraConfig

    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=TARGETS[spec.targets],
        bias="none",
        task_type="CAUSAL_LM",
    )


def adapt(model: Any, spec: TrainSpec) -> Any:
    """`model` with a fresh adapter, or with that of `spec.init_adapter`, whose own configuration then holds.

    Raises:
        ModelError: the adapter to start from does not fit the model.
    """
    import torch
    from peft import PeftModel, get_peft_model

    if not spec.init_adapter:
        torch.manual_seed(spec.seed)
        return get_peft_model(model, peft_config(spec))
    try:
        return PeftModel.from_pretrained(model, spec.init_adapter, is_trainable=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"{spec.init_adapter} does not fit this base model: {str(error)[:200]}",
            hint="Start from an adapter of the same base, or from none.",
        ) from error
