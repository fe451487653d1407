"""Soft prompts (prompt and prefix tuning) in packed batches.

A soft prompt stands before every example, so in a packed batch it is one more shared prefix: its keys and values are
made once and lie in the cache before the packed tokens. PEFT's own forward knows only padded batches; the
model that `attach` returns takes both, and gives the same loss and gradients for both.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor


def attach(model: Any, tokenizer: Any, config: PeftConfig, text: str, start: str = "") -> Any:
    """`model` behind a soft prompt that can be trained.

    Args:
        model: the frozen base model.
        tokenizer: its tokenizer.
        config: of prompt or prefix tuning.
        text: what the soft prompt begins as, cut or repeated to its length. Random beginnings learn slowly.
        start: folder of an adapter to begin with instead.

    Raises:
        ValueError, OSError, RuntimeError: the folder does not fit.
    """
    import torch
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    from adapters.registry import WEIGHTS

    if start:
        config = PeftConfig.from_pretrained(start)
        config.inference_mode = False
    tuned = get_peft_model(model, config)
    with torch.no_grad():
        if start:
            set_peft_model_state_dict(tuned, load_file(str(Path(start) / WEIGHTS)))
        else:
            weight = tuned.prompt_encoder["default"].embedding.weight
            weight.copy_(_written(model, tokenizer, config, text))
    tuned.prompt_encoder.to(model.get_input_embeddings().weight.device)
    take_packed(tuned)
    return tuned


def take_packed(tuned: Any) -> None:
    """Let a soft prompt's PEFT model also take what `Packed.inputs` gives."""
    import torch

    padded = tuned.forward

    @functools.wraps(padded)
    def forward(*arguments: Any, **inputs: Any) -> Any:
        # a packed batch names its places and has no cache
        if isinstance(inputs.get("logits_to_keep"), torch.Tensor) and "past_key_values" not in inputs:
            return _packed(tuned, **inputs)
        return padded(*arguments, **inputs)

    tuned.forward = forward


def beginning(tuned: Any) -> Any:
    """A cache with the soft prompt's keys and values, as the first `num_virtual_tokens` positions."""
    import torch
    from transformers import DynamicCache

    base = tuned.get_base_model()
    prompt = tuned.get_prompt(batch_size=1)
    if not isinstance(prompt, torch.Tensor):  # prefix tuning: keys and values are what is trained
        return DynamicCache([(layer.keys.to(base.dtype), layer.values.to(base.dtype)) for layer in prompt.layers])
    cache = DynamicCache()
    base(inputs_embeds=prompt.to(base.dtype), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _packed(
    tuned: Any, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any
) -> Any:
    cache = beginning(tuned)
    virtual = cache.get_seq_length()
    if attention_mask is not None and attention_mask.shape[-1] == input_ids.shape[-1]:
        before = attention_mask.new_ones((*attention_mask.shape[:-1], virtual))
        attention_mask = _joined(before, attention_mask)
    inputs["use_cache"] = False
    base = tuned.get_base_model()
    return base(
        input_ids=input_ids,
        position_ids=position_ids + virtual,
        attention_mask=attention_mask,
        past_key_values=cache,
        **inputs,
    )


def _joined(first: Tensor, second: Tensor) -> Tensor:
    import torch

    return torch.cat((first, second), dim=-1)


def _written(model: Any, tokenizer: Any, config: PeftConfig, text: str) -> Tensor:
    """The soft prompt that says `text`: fp32 [virtual tokens, width].

    For prompt tuning the embeddings of its tokens; for prefix tuning the keys and values they have in every layer, in
    PEFT's order: layer by layer, keys before values.
    """
    import torch
    from transformers import DynamicCache

    ids = tokenizer(text, add_special_tokens=False).input_ids or [tokenizer.eos_token_id]
    wanted = config.num_virtual_tokens
    ids = (ids * -(-wanted // len(ids)))[:wanted]
    tokens = torch.tensor([ids], device=model.get_input_embeddings().weight.device)
    if config.peft_type == "PROMPT_TUNING":
        return model.get_input_embeddings()(tokens)[0].float()
    cache = DynamicCache()
    model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    parts = [
        part[0].transpose(0, 1).reshape(wanted, -1) for layer in cache.layers for part in (layer.keys, layer.values)
    ]
    return torch.cat(parts, dim=1).float()
