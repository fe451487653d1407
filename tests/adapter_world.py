"""Random adapters of the tiny model, for tests of scoring, serving and evaluating."""

from __future__ import annotations

from pathlib import Path

from adapters import base_model
from adapters.registry import AdapterCard, write_card


def make_adapter(tiny_model: Path, folder: Path, seed: int, kind: str = "lora", strength: float = 0.3) -> Path:
    """Write a PEFT folder whose random weights change what the tiny model answers."""
    import torch
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

    ia3 = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    config = {
        "lora": LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM"),
        "ia3": IA3Config(task_type="CAUSAL_LM", **ia3),
        "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }[kind]
    model, _ = base_model.load(base_model.reference(tiny_model, "fp32"), "cpu")
    tuned = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (p for p in tuned.parameters() if p.requires_grad):
            value.add_(torch.randn(value.shape, generator=generator) * strength)
    tuned.save_pretrained(str(folder))
    return folder


def put_card(
    folder: Path,
    tiny_model: Path,
    *,
    temperature: float = 1.0,
    quantisation: str = "fp32",
    abstain_below: float = 0.0,
) -> Path:
    """Say in the folder that the adapter belongs to the tiny model."""
    digest = base_model.digest(tiny_model)
    card = AdapterCard(
        base_digest=digest,
        quantisation=quantisation,
        prompt="p@1",
        temperature=temperature,
        abstain_below=abstain_below,
    )
    write_card(folder, card)
    return folder
