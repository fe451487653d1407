"""Methods of fine-tuning: from a training spec to a model with something to train.

What a combination cannot do is refused before anything is loaded, see `adapters.combinations`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import base_model
from adapters.combinations import LORA, SAMPLED, SOFT, refusal
from adapters.registry import CONFIG, MODEL_CONFIG
from adapters.specs import Targets, TrainSpec
from store.errors import ModelError, SettingsError

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

TARGETS: dict[Targets, str | list[str]] = {
    "attention-min": ["q_proj", "v_proj"],
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "all-linear": "all-linear",  # every linear layer except the output's
}
IA3_FEEDFORWARD = ["down_proj"]
IA3_TARGETS: dict[Targets, list[str]] = {
    "attention": ["k_proj", "v_proj"],
    "all-linear": ["k_proj", "v_proj", *IA3_FEEDFORWARD],  # those of the paper
}
DEFAULT = "default"  # PEFT's name of the adapter that is trained


def check(spec: TrainSpec) -> None:
    """Refuse a spec that cannot be trained. Needs neither torch nor the model.

    Raises:
        SettingsError: the combination is impossible; the message begins with the key.
        ModelError: its libraries are missing, or there is nothing at `init_adapter`.
    """
    found = refusal(spec, spec.base.quantisation)
    if found is not None:
        raise SettingsError(f"{found.key}: {found.reason}", hint=found.hint)
    if spec.init_adapter:
        name = MODEL_CONFIG if spec.method == "full" else CONFIG
        if not (Path(spec.init_adapter) / name).is_file():
            raise ModelError(
                f"{spec.init_adapter} is no adapter to start from",
                hint=f"Give a folder with {name}, as training wrote it.",
            )
    wanted = ["torch", "transformers", "trl", "peft"] + ["bitsandbytes"] * (spec.base.quantisation == "nf4")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"training needs {', '.join(missing)}", hint="Install the training stack: pip install 'tuneloop[train]'"
        )


def unused(spec: TrainSpec) -> frozenset[str]:
    """Names of settings that say nothing about this training, so that its record does not claim them."""
    names: set[str] = set()
    if spec.method not in LORA:
        names |= {"rank", "alpha", "dropout", "dora", "rslora"}
    if spec.method not in LORA and spec.method != "ia3":
        names |= {"targets"}
    if spec.method not in SOFT:
        names |= {"virtual_tokens", "soft_prompt_text"}
    if spec.objective == "sft":
        names |= {"beta"}
    if spec.objective != "sft" or spec.backend != "trl":
        names |= {"stratified"}
    if spec.objective != "dpo":
        names |= {"min_pairs", "imitation"}
    if spec.objective not in SAMPLED:
        names |= {"generations", "sampling_temperature"}
    return frozenset(names)


def peft_config(spec: TrainSpec) -> PeftConfig:
    """The PEFT configuration of a checked spec other than full fine-tuning.

    LoRA: Hu et al. 2021; QLoRA: Dettmers et al. 2023; prefix tuning: Li and Liang 2021; prompt tuning: Lester et al.
    2021; IA3: Liu et al. 2022.
    """
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig

    kind = {"task_type": "CAUSAL_LM"}
    match spec.method:
        case "qlora" | "lora":
            return LoraConfig(
                r=spec.rank,
                lora_alpha=spec.alpha,
                lora_dropout=spec.dropout,
                target_modules=TARGETS[spec.targets],
                use_dora=spec.dora,
                use_rslora=spec.rslora,
                bias="none",
                **kind,
            )
        case "ia3":
            targets = IA3_TARGETS[spec.targets]
            feedforward = [name for name in targets if name in IA3_FEEDFORWARD]
            return IA3Config(target_modules=targets, feedforward_modules=feedforward, **kind)
        case "prefix":
            return PrefixTuningConfig(num_virtual_tokens=spec.virtual_tokens, **kind)
        case "prompt":
            # started from text by `adapters.soft`, which leaves neither the text nor a path in the configuration
            return PromptTuningConfig(num_virtual_tokens=spec.virtual_tokens, prompt_tuning_init="RANDOM", **kind)
    raise ValueError(f"{spec.method} has no PEFT configuration")


def adapt(model: Any, tokenizer: Any, spec: TrainSpec) -> Any:
    """`model` with something to train: a fresh adapter, that of `spec.init_adapter`, or all of its own weights.

    Raises:
        ModelError: the adapter to start from, or the method, does not fit the model.
    """
    import torch

    torch.manual_seed(spec.seed)
    try:
        if spec.method == "full":
            return _whole(model, spec)
        if spec.method in SOFT:
            from adapters import soft

            return soft.attach(model, tokenizer, peft_config(spec), _start_text(spec), spec.init_adapter)
        from peft import PeftModel, get_peft_model

        if spec.init_adapter:
            return PeftModel.from_pretrained(model, spec.init_adapter, is_trainable=True)
        return get_peft_model(model, peft_config(spec))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        from_where = f"{spec.init_adapter} does" if spec.init_adapter else f'method "{spec.method}" does'
        hint = "Start from an adapter of the same base and method, or from none."
        raise ModelError(
            f"{from_where} not fit this base model: {str(error)[:200]}",
            hint=hint if spec.init_adapter else "Choose other `targets` or another `method`.",
        ) from error


def _whole(model: Any, spec: TrainSpec) -> Any:
    if spec.init_adapter:
        from safetensors.torch import load_model

        from adapters.registry import MODEL_WEIGHTS

        load_model(model, str(Path(spec.init_adapter) / MODEL_WEIGHTS))
    # in bf16 an update of a ten-thousandth is rounded away: the weights that are trained are kept in fp32
    return model.float().requires_grad_(True)


def _start_text(spec: TrainSpec) -> str:
    return spec.soft_prompt_text or spec.prompt.system or f"Classify. Labels: {', '.join(spec.labels)}."


def settle(model: Any, spec: TrainSpec) -> None:
    """After training: a whole model with the values it is served with, so that what is measured is what serves."""
    import torch

    if spec.method == "full" and spec.base.quantisation == "bf16":
        model.to(torch.bfloat16)
        if base_model.precision(spec.base, model.device.type) == "fp32":
            model.float()


def base_of(model: Any) -> Any:
    """The Hugging Face model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def save(model: Any, folder: Path, whole: torch.dtype | None = None) -> None:
    """Write what was trained: the adapter as a plain PEFT folder, or after full fine-tuning the whole model, in `whole`
    (which it then has in memory too) or as it is."""
    from peft import PeftModel

    if isinstance(model, PeftModel):  # TRL keeps a copy of the start beside it
        model.save_pretrained(str(folder), save_embedding_layers=False, selected_adapters=[DEFAULT])
        _order(folder / CONFIG)
    else:
        (model if whole is None else model.to(whole)).save_pretrained(str(folder), max_shard_size="1TB")


def _order(config: Path) -> None:
    """Name modules in one order: PEFT writes sets, whose order changes from process to process, and the same training
    is to have the same address."""
    values = json.loads(config.read_text(encoding="utf-8"))
    for name in ("target_modules", "feedforward_modules"):
        if isinstance(values.get(name), list):
            values[name].sort()
    config.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")
