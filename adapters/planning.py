"""What a training will take, before anything is loaded: trainable parameters, and memory by part. Pure, no torch.

Weights and optimiser follow from the model's shape alone. 4-bit weights take 4.127 bits each: NF4 with one scale per
64 weights, the scales themselves in 8 bits (Dettmers et al. 2023, section 3). Whatever is trained, adapters or all
weights, is kept in 4 bytes, with a gradient and two moments of Adam in 4 bytes each. The usual table for full
fine-tuning (56 GB for 7B) has all of that in 2 bytes: `usual=True` counts so.

Activations are those of one micro-batch. With checkpointing each layer keeps its input, and one layer at a time its
inside; without, every layer keeps its inside: values of hidden and of MLP size whose number is fitted to measured peaks
of SmolLM2-135M on a CPU (docs/benchmarks.md says how close; soft prompts keep less for their backward pass). In bf16
there are more of them, since autocast keeps what it rounds. A CPU's tensors below `MMAP_BYTES` lie in the C library's
heap, where freed neighbours of other sizes leave gaps: they take `HEAP_GAPS` times their size. What sampling takes at
the end is not counted, nor what the changing sizes of a long training's steps add to the gaps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from adapters.child import MMAP_BYTES
from adapters.specs import TrainSpec
from store.errors import ModelError

NF4_BYTES = 4.127 / 8
GIB = 2.0**30
CPU_BYTES = 0.58e9  # the process with torch, transformers, peft and trl, without a model
CUDA_BYTES = 1.5e9  # context, libraries' workspace and the allocator's slack: what the usual tables imply


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of a Llama-like decoder."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = False

    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one block: name -> (in, out)."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, query),
            "k_proj": (self.hidden, key),
            "v_proj": (self.hidden, key),
            "o_proj": (query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """Weights of the blocks: what is quantised."""
        return self.layers * sum(rows * columns for rows, columns in self.linears().values())

    @property
    def other_parameters(self) -> int:
        """Embeddings, output layer and norms: what is not."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden * (2 * self.layers + 1)

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.other_parameters


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes by part."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    process: float  # libraries, context, workspace

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimiser + self.activations + self.process


def read_shape(folder: Path) -> Shape:
    """The shape that a model folder's config.json gives.

    Raises:
        ModelError: it cannot be read, or is no decoder of this kind.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        config = config.get("text_config", config)
        heads = int(config["num_attention_heads"])
        return Shape(
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder / 'config.json'} does not give the model's sizes: {type(error).__name__} {error}",
            hint="Plans are made for Llama-like models: Llama, Qwen, Mistral, Gemma, SmolLM.",
        ) from error


def trainable_parameters(shape: Shape, spec: TrainSpec) -> int:
    """How many parameters a method trains."""
    linears = shape.linears()
    match spec.method:
        case "full":
            return shape.parameters
        case "prompt":
            return spec.virtual_tokens * shape.hidden
        case "prefix":
            return spec.virtual_tokens * shape.layers * 2 * shape.kv_heads * shape.head_dim
        case "ia3":
            return shape.layers * (linears["k_proj"][1] + linears["v_proj"][1] + linears["down_proj"][0])
    names = {"attention-min": ["q_proj", "v_proj"], "attention": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    chosen = names.get(spec.targets, list(linears))
    return shape.layers * spec.rank * sum(sum(linears[name]) for name in chosen)


def memory(
    shape: Shape,
    spec: TrainSpec,
    tokens: int,
    *,
    learned: int = 0,
    compute: Literal["bf16", "fp32"] = "bf16",
    gpu: bool = False,
    usual: bool = False,
) -> Memory:
    """Peak memory of a training.

    Args:
        shape: of the base model.
        spec: method, rank, quantisation, and whether activations are recomputed in the backward pass.
        tokens: in one micro-batch as it is laid out (a shared prefix counts once).
        learned: of these, how many predict something; 0: all of them. Only they are projected to the vocabulary.
        compute: precision of the products, see `adapters.base_model.precision`.
        gpu: whether it runs on one.
        usual: full fine-tuning as the usual table counts it, with everything in 16 bits; here it is in 32.
    """
    trained = trainable_parameters(shape, spec)
    if spec.base.quantisation == "fp32":
        compute = "fp32"
    if spec.method == "full":
        each = 2.0 if usual else 4.0
        weights, gradients, optimiser = each * trained, each * trained, 2 * each * trained
    else:
        other = 2.0 if compute == "bf16" else 4.0
        kept = NF4_BYTES if spec.base.quantisation == "nf4" else other
        weights = kept * shape.linear_parameters + other * shape.other_parameters + 4.0 * trained
        gradients, optimiser = 4.0 * trained, 8.0 * trained
    size = 2 if compute == "bf16" else 4
    inner = INSIDE[compute]
    wide, wider = tokens * size * shape.hidden, tokens * size * shape.intermediate
    inside = inner.hidden * _with_gaps(wide, gpu) + inner.mlp * _with_gaps(wider, gpu)
    working = WORKING.hidden * wide + WORKING.mlp * wider
    layers = working + (shape.layers * wide + inside if spec.gradient_checkpointing else shape.layers * inside)
    logits = (learned or tokens) * shape.vocabulary * (size + 8)
    return Memory(
        weights=weights,
        gradients=gradients,
        optimiser=optimiser,
        activations=layers + logits,
        process=CUDA_BYTES if gpu else CPU_BYTES,
    )


def _with_gaps(size: float, gpu: bool) -> float:
    return size * HEAP_GAPS if size < MMAP_BYTES and not gpu else size


class Values(NamedTuple):
    """Values per token, fitted to measured peaks: see `python -P ops/bench/planning.py`."""

    hidden: float  # times the hidden size
    mlp: float  # times the MLP's size


INSIDE = {"bf16": Values(20.0, 2.0), "fp32": Values(17.0, 1.5)}  # what a layer keeps for its backward pass
WORKING = Values(5.0, 2.0)  # the gradients of the one layer that the backward pass is at
HEAP_GAPS = 1.84
