"""Log-probabilities of padded batches by way of packed ones: what makes preferences and rewards affordable.

DPO asks for a prompt twice, GRPO and RLOO for every prompt once per drawn answer, and all prompts begin with the same
instructions. TRL asks its model for per-token log-probabilities by a forward of its own (`fused_lm_head=True`); here
the same forward lays the batch out as a prefix tree, computes what is shared once, and gives the same numbers.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from adapters.packed import Packed, pack


def pack_log_probs(base: Any, *, tree: bool, temperature: float = 1.0) -> None:
    """Let TRL's fused forward of `base` (a Hugging Face model that TRL has given one) take the packed way.

    Args:
        base: its forward is replaced.
        tree: its attention is `adapters.attention`'s; else it takes a mask per token.
        temperature: that TRL's own forward divides logits by.
    """
    padded = base.forward

    @functools.wraps(padded)  # generate() looks at the signature
    def forward(
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        fused_lm_head: bool = False,
        **options: Any,
    ) -> Any:
        if not fused_lm_head or input_ids is None or attention_mask is None or labels is None:
            named = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
            given = {name: value for name, value in named.items() if value is not None}
            return padded(**given, fused_lm_head=fused_lm_head, **options)
        packed, places = lay_out(input_ids, attention_mask, labels)
        options.pop("num_items_in_batch", None)
        inputs = packed.inputs(tree=tree, device=input_ids.device)
        logits = padded(**inputs, **{**options, "use_cache": False}).logits[0].float() / temperature
        return _outputs(logits, packed.targets.to(logits.device), places.to(logits.device), labels[:, 1:])

    base.forward = forward


def lay_out(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> tuple[Packed, Tensor]:
    """A padded batch as a prefix tree.

    Args:
        input_ids, attention_mask, labels: int64 [B, T]; labels are -100 except for the last tokens of each sequence.

    Returns:
        The tree, and for each of its N targets the index into [B, T - 1] (flattened) of the place that predicts it.
    """
    sequences, starts, positions = [], [], []
    for tokens, seen, learned in zip(input_ids.cpu(), attention_mask.cpu(), labels.cpu(), strict=True):
        kept = tokens[seen.bool()].tolist()
        places = torch.nonzero((learned != -100) & seen.bool()).flatten().tolist()
        sequences.append(kept)
        starts.append(len(kept) - len(places))
        positions.append(places)
    packed = pack(sequences, starts)
    width = input_ids.shape[1] - 1
    used = [0] * len(sequences)
    found = []
    for owner in packed.owners.tolist():
        found.append(owner * width + positions[owner][used[owner]] - 1)
        used[owner] += 1
    return packed, torch.tensor(found, dtype=torch.long)


def _outputs(logits: Tensor, targets: Tensor, places: Tensor, labels: Tensor) -> FusedCausalLMOutput:
    """logits fp32 [N, V], targets and places int64 [N], labels [B, T - 1]."""
    log_probs = logits.log_softmax(dim=-1)
    chosen = log_probs.gather(1, targets[:, None])[:, 0]
    mask = labels != -100

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(mask.numel()).index_put((places,), values).view(mask.shape)

    with torch.no_grad():
        top = (logits.argmax(dim=-1) == targets).float()
        mean = logits.mean(dim=-1)
        squares = (2 * log_probs).logsumexp(dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    return FusedCausalLMOutput(
        loss=-chosen.sum() / mask.sum().clamp(min=1),
        log_probs=spread(chosen),
        entropy=spread(entropy),
        log_sum_sq_probs=spread(squares),
        mean_logits=spread(mean),
        is_top1=spread(top).bool(),
        label_mask=mask,
    )
