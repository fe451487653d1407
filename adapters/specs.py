"""The contract of a step's child process: what goes into its run folder and what comes out.

A run folder carries everything a step needs, so that the same step can run in another process, in another
environment or on another machine:

    spec.json           TrainSpec or EvalSpec, written by the parent
    train.jsonl         one Example a line          (training)
    valid.jsonl         one Example a line          (training; may be empty)
    exam.jsonl          one ExamItem a line         (evaluation)
    metrics.jsonl       one Metric a line, appended by the child while it works
    samples.jsonl       one SampleOutput a line, appended at each evaluation of a training
    checkpoints/        checkpoint-N folders, each complete only once its COMPLETE file exists
    adapter/            a plain PEFT folder; after full fine-tuning a whole model (training)
    predictions.jsonl   one Prediction a line       (evaluation)
    result.json         TrainResult or EvalResult, written last and atomically; its presence means done
    error.json          StepFailure, when the child could say what went wrong

The module is free of torch: the loop and the CLI import it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from store.errors import StepError
from store.kill_points import reached
from store.prompting import Message as Message
from store.prompting import PromptSpec as PromptSpec

Method = Literal["qlora", "lora", "full", "prefix", "prompt", "ia3"]
Targets = Literal["attention-min", "attention", "all-linear"]
Objective = Literal["sft", "dpo", "grpo", "rloo"]
Profile = Literal["standard", "simple", "complex"]
Backend = Literal["trl", "axolotl", "unsloth"]
Quantisation = Literal["nf4", "bf16", "fp32"]
Compute = Literal["auto", "bf16", "fp32"]
Decoding = Literal["generate", "score", "classify"]
AnswererKind = Literal["prompt", "adapter", "control"]


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One training example. `kind` "general" marks the mixed-in general-domain share."""

    id: str
    messages: list[Message]
    kind: Literal["task", "general"] = "task"
    label: str = ""
    rejected: str = ""  # what production answered instead of the label; empty: it was right, or did not answer


class ExamItem(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    text: str
    label: str
    hard: bool = False  # harvested failure: reported apart, never in the estimate
    target: str = ""  # the right words, where `label` is their seal


class BaseModelRef(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    digest: str  # of the safetensors and config, see adapters.base_model
    quantisation: Quantisation = "nf4"
    compute: Compute = "auto"  # precision of the products, see adapters.base_model.precision


class TrainSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults are the document's for LoRA/QLoRA, except where a measurement is named; `adapters.profiles` has those
    of other methods and objectives."""

    run_id: str
    task: str
    adapter: str
    labels: list[str]  # none: answers are free words, and each example's label is the seal of its target
    prompt: PromptSpec
    base: BaseModelRef
    method: Method = "qlora"
    objective: Objective = "sft"
    profile: Profile = "standard"  # where the values below come from, for the record
    targets: Targets = "all-linear"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0  # 0.05 costs 45% more time a step on CPU (measured)
    dora: bool = False  # weight-decomposed LoRA (Liu et al. 2024)
    rslora: bool = False  # LoRA scaled by alpha / sqrt(rank) (Kalajdzievski 2023)
    virtual_tokens: int = 20  # of a soft prompt
    soft_prompt_text: str = ""  # what it starts from; empty: the prompt's own instructions
    beta: float = 0.1  # how strongly dpo, grpo and rloo hold on to their start
    min_pairs: int = 20  # corrections that dpo needs
    imitation: float = 1.0  # weight of the label's own loss beside dpo's (Pang et al. 2024)
    generations: int = 8  # answers to each prompt that grpo and rloo compare
    sampling_temperature: float = 1.0  # of these answers
    learning_rate: float = 2e-4
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.0
    batch_size: int = 16  # effective
    micro_batch_size: int = 8
    epochs: float = 3.0
    min_steps: int = 60  # wins over the epoch cap (measured: 9 steps 0.36, 72 steps 0.79)
    max_steps: int = 2000
    eval_every: int = 10
    checkpoint_every: int = 20
    patience: int = 3  # evaluations without a rise of task accuracy; needs enough validation
    min_valid: int = 50  # below it validation does not steer
    stratified: bool = True  # batches hold the classes in their shares (measured: docs/benchmarks.md)
    max_length: int = 512  # tokens
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False  # less memory, about a third more time
    seed: int = 1
    threads: int = 0  # 0: all cores
    built_in: bool = False  # whether the base is the built-in model, which has defaults of its own
    samples: int = 8  # sample outputs kept at the end; of evaluations before it the first three
    abstain_below: float = 0.0  # what the adapter's card says: a best label of less probability is no answer
    init_adapter: str = ""  # warm start from this folder
    device: str = "auto"
    backend: Backend = "trl"  # who trains: this environment, or a command in one of its own
    backend_python: str = ""  # that environment's interpreter
    launcher: str = ""  # words before `-m MODULE` that start several processes: "accelerate launch --num_processes 2"
    notes: list[str] = []  # what was decided otherwise than asked for, and why; repeated in the result


class AnswererSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One competitor in an evaluation. Prompts and adapters are shown under both decodings."""

    name: str
    kind: AnswererKind
    prompt: PromptSpec | None = None  # prompt and adapter
    adapter: str = ""  # PEFT folder
    control: str = ""  # folder of a saved control
    temperature: float = 1.0
    abstain_below: float = 0.0  # by label scores
    decodings: list[Decoding] = msgspec.field(default_factory=lambda: ["generate", "score"])


class ForgettingSpec(msgspec.Struct, frozen=True, kw_only=True):
    suite: str = "built-in"
    path: str = ""  # jsonl of choice and text items; empty: the built-in one
    questions: int = 120  # at most
    passages: int = 40
    cache: str = ""  # file that keeps the base model's own results, keyed by base and suite


class EvalSpec(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    evaluation_id: str
    task: str
    labels: list[str]  # none: answers are free words
    base: BaseModelRef
    candidate: str  # name of the answerer that is judged
    answerers: list[AnswererSpec]
    forgetting: ForgettingSpec | None = None
    batch_size: int = 16
    seed: int = 1
    threads: int = 0
    device: str = "auto"


class Metric(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of metrics.jsonl. Training: step/of/loss. Evaluation: done/of/phase."""

    step: int = 0
    of: int = 0
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None  # before clipping
    eval_loss: float | None = None
    eval_accuracy: float | None = None
    seconds: float = 0.0
    phase: str = ""
    reward: float | None = None  # mean over the answers of a step (reinforcement learning)


class SampleOutput(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    expected: str
    answered: str
    step: int = 0  # optimiser steps before it was written


class TrainResult(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    steps: int
    epochs: float
    seconds: float
    train_loss: float
    stopped: Literal["steps", "plateau"]
    temperature: float
    peak_memory_mb: float
    compute: str = ""  # precision of the products; empty: another back end knows
    trainable_parameters: int
    truncated: int  # tickets shortened in the middle
    epoch_cap_exceeded: bool
    resumed_from: int = 0
    eval_accuracy: float | None = None
    samples: list[SampleOutput] = []
    tokens: dict[str, int] = {}  # of the training examples, see encode.token_counts
    objective: Objective = "sft"  # what was really trained by
    notes: list[str] = []  # for people: what was done otherwise than asked for, and why


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    answerer: str
    decoding: Decoding
    label: str | None  # None: abstained or not a label
    raw: str = ""  # what was generated, cut to 80 characters where there are labels
    probabilities: dict[str, float] = {}
    latency_ms: float = 0.0
    score: float | None = None  # what free words are worth, 0..1; None: not known
    invalid: bool = False  # free words that are not of the asked form


class ForgettingResult(msgspec.Struct, frozen=True, kw_only=True):
    suite: str
    questions: int
    passages: int
    base_correct: list[bool]
    correct: list[bool]
    base_bits: list[float]  # bits per byte, one per passage
    bits: list[float]
    bytes: list[int]
    seconds: float


class EvalResult(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    evaluation_id: str
    seconds: float
    peak_memory_mb: float
    forgetting: ForgettingResult | None = None


class StepFailure(msgspec.Struct, frozen=True, kw_only=True):
    """What the child itself could say of its failure; `retry` is False where trying again cannot help, `disk` is True
    where only the disk was to blame."""

    message: str
    hint: str = ""
    retry: bool = True
    disk: bool = False


KNOWN = "known.jsonl"  # predictions of earlier looks, in an evaluation's run folder: they are not made again
S = TypeVar("S", bound=msgspec.Struct)


def write_json(path: Path, value: msgspec.Struct) -> None:
    """Write atomically and durably: temp file, fsync, rename."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(value), indent=1))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    reached("file.temporary_written")
    temporary.replace(path)


def read_json(path: Path, kind: type[S]) -> S:
    """Read a struct from a run folder.

    Raises:
        StepError: the file is missing or does not hold a `kind`.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise StepError(f"{path.name} cannot be read: {error}", hint=f"Look at {path}.") from error


def write_lines(path: Path, values: list[S]) -> None:
    """One JSON object a line."""
    path.write_bytes(b"".join(msgspec.json.encode(value) + b"\n" for value in values))


def read_lines(path: Path, kind: type[S]) -> list[S]:
    """Read one struct a line; a torn last line (a writer was killed) is left out.

    Raises:
        StepError: a line before the last does not hold a `kind`.
    """
    decoder = msgspec.json.Decoder(kind)
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    values: list[S] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values.append(decoder.decode(line))
        except (UnicodeDecodeError, msgspec.MsgspecError) as error:
            if number == len(lines):
                break
            raise StepError(f"{path.name}:{number} cannot be read: {error}", hint=f"Look at {path}.") from error
    return values
