"""The settings of a workspace: `tuneloop.toml`, overridden by `TUNELOOP_...` environment variables.

`TUNELOOP_TASKS__TICKETS__TRAINING__RANK=32` overrides `rank` in `[tasks.tickets.training]`: sections are
joined by two underscores. Variables without two underscores (`TUNELOOP_HOME`) are none of ours here.
Every field carries its own description, from which `loop.first_settings` writes the commented file.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from adapters.combinations import refusal
from adapters.fields import Schema, read_schema
from adapters.free_form import Metric
from adapters.profiles import defaults, of_built_in
from adapters.specs import Backend, Method, Objective, Profile, Targets
from loop.balance import Kind
from loop.manners import parse_window
from prompts import templates
from store.errors import SettingsError
from store.targets import is_seal

FILE_NAME = "tuneloop.toml"
PREFIX = "TUNELOOP_"
TASK_NAME = r"^[a-z][a-z0-9_-]{0,39}$"

# What `tuneloop init` writes into the gate's section. The code's own defaults are None on purpose:
# a workspace whose file names no threshold promotes nothing.
GATE_THRESHOLDS: Mapping[str, Any] = {
    "better_than_baseline": True,
    "not_worse_margin": 0.02,
    "max_recall_drop": 0.10,
    "max_forgetting": 0.05,
    "max_bits_rise": 0.05,
    "max_invalid": 0.0,
}


class FreeKind(NamedTuple):
    """A kind of task that answers in free words: its own prompt, and what may score it, the usual first."""

    prompt: str
    metrics: tuple[Metric, ...]


FREE_KINDS: Mapping[str, FreeKind] = {
    "extraction": FreeKind("extract", ("fields",)),
    "instruction": FreeKind("answer", ("chrf", "judge")),
    "style": FreeKind("answer", ("chrf", "judge")),
}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def secret_in(url: str) -> str:
    """What of a URL may be a key, so that it must not be written anywhere; "" for none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "is no URL"
    if "@" in parts.netloc:
        return "holds a user name or password"
    return "holds a query" if parts.query or parts.fragment else ""


class ModelSettings(Section):
    """The base model that adapters are trained on and served with."""

    base: str = Field(default="", description="folder or hub id; empty: the built-in SmolLM2-135M-Instruct")
    quantisation: Literal["nf4", "bf16", "fp32"] = Field(
        default="nf4", description="of the base, in training and in serving"
    )
    compute: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="precision of the products; auto: bf16 where the device has it, else fp32"
    )

    @model_validator(mode="after")
    def _wide(self) -> ModelSettings:
        if self.quantisation == "fp32" and self.compute == "bf16":
            raise ValueError("compute: weights in fp32 are multiplied in fp32. Leave compute out")
        return self


class EndpointSettings(Section):
    """Where prompts are answered: any OpenAI-compatible URL. The key comes from OPENAI_API_KEY only."""

    url: str = Field(default="", description="empty: OPENAI_BASE_URL; else the local engine with the base model")
    model: str = Field(default="", description="name of the model there; empty: the local engine's base model")
    timeout_seconds: float = Field(default=60.0, gt=0, description="of one request")
    retries: int = Field(default=2, ge=0, le=20, description="of a failed request, with growing pauses")
    concurrency: int = Field(default=4, ge=1, le=256, description="requests in flight at once")

    @field_validator("url")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        if problem := secret_in(url):
            raise ValueError(f"the URL {problem}; put the key into OPENAI_API_KEY")
        return url


class DaemonSettings(Section):
    gateway_host: str = Field(
        default="127.0.0.1", min_length=1, description="address of production's door; off loopback a token is required"
    )
    gateway_port: int = Field(default=0, ge=0, le=65535, description="port of production's door; 0: any free one")
    gateway_token_file: str = Field(
        default="", description="holds its bearer token, for your eyes only; empty: TUNELOOP_TOKEN, where it is set"
    )
    gateway_names: list[str] = Field(default=[], description="more names that clients may call it by (Host header)")
    gateway_rate: float = Field(
        default=200.0, ge=0, description="requests a second from one address, twice as many at once; 0: no limit"
    )
    gateway_rate_all: float = Field(default=1000.0, ge=0, description="and from all together; 0: no limit")
    log_format: Literal["human", "json"] = Field(default="human", description="of log lines; json for a collector")
    tick_seconds: float = Field(default=5.0, gt=0, description="the daemon looks again at least this often")
    rescan_seconds: float = Field(
        default=30.0, gt=0, description="the inbox is listed again this often, whatever was notified"
    )
    settle_seconds: float = Field(
        default=2.0, ge=0, description="a file in the inbox is taken once unchanged for this long"
    )
    polling: bool = Field(default=False, description="poll the inbox instead of inotify (network file systems)")
    max_line_bytes: int = Field(default=1_000_000, ge=1000, description="a longer input line is quarantined")
    max_text_chars: int = Field(default=20_000, ge=10, description="a longer text is quarantined")
    batch: int = Field(default=200, ge=1, le=10_000, description="records a transaction at intake")
    stop_seconds: float = Field(
        default=20.0, gt=0, description="a running step gets this long to save a checkpoint at shutdown"
    )


class WandbSettings(Section):
    enabled: bool = Field(default=True, description="mirror runs and events to Weights & Biases")
    project: str = Field(default="tuneloop", min_length=1, description="project name")
    entity: str = Field(default="", description="team or user; empty: your default")
    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        default="auto", description="auto: WANDB_MODE if set, else online with a key and offline without"
    )
    send_text: bool = Field(default=False, description="also send the texts of sample outputs, not only record ids")


class ResourceSettings(Section):
    """Manners of training and evaluation beside production."""

    nice: int = Field(default=10, ge=0, le=19, description="priority of steps; 19 gives way to everything")
    memory_limit_mb: int = Field(default=0, ge=0, description="of a step, in MiB; 0: none")
    window: str = Field(default="", description='steps start only then, e.g. "22:00-06:00"; empty: always')
    timezone: str = Field(default="", description="of the window, e.g. Europe/Vienna; empty: the machine's")
    gpu_free_mb: int = Field(
        default=0, ge=0, description="GPU memory kept free for production, in MiB: steps wait, or save and give way"
    )

    @field_validator("window")
    @classmethod
    def _window(cls, window: str) -> str:
        if window:
            parse_window(window)
        return window

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, timezone: str) -> str:
        if timezone:
            try:
                ZoneInfo(timezone)
            except (KeyError, ValueError, OSError):
                raise ValueError(f"{timezone!r} is no time zone (write it as Europe/Vienna)") from None
        return timezone


NotifyEvent = Literal["labels_needed", "training_failed", "verdict", "promotion", "rollback", "degraded"]


class NotifySettings(Section):
    """Somebody who is told what happens: `[notify.NAME]`, any number of them."""

    kind: Literal["webhook", "slack", "command"] = Field(
        description="webhook: JSON; slack: {text} (also Mattermost, Discord's /slack); command: JSON on its stdin"
    )
    url: SecretStr = Field(default=SecretStr(""), description="of webhook and slack; it is never shown")
    url_env: str = Field(default="", description="or the environment variable that holds the URL")
    command: list[str] = Field(default=[], description="program and arguments; no shell")
    secret_env: str = Field(
        default="", description="variable with a key: webhooks are then signed (Standard Webhooks, HMAC-SHA256)"
    )
    events: list[NotifyEvent] = Field(default=list(get_args(NotifyEvent)), min_length=1, description="what it is told")
    timeout_seconds: float = Field(default=10.0, gt=0, le=600, description="of one delivery, all in all")
    give_up_hours: float = Field(
        default=72.0, gt=0, description="a message that could not be delivered is dropped then: later than a weekend"
    )

    @model_validator(mode="after")
    def _address(self) -> NotifySettings:
        url = self.url.get_secret_value()
        if self.kind == "command":
            if not self.command or url or self.url_env:
                raise ValueError("kind 'command' needs command = [program, arguments...] and no url")
        elif self.command or bool(url) == bool(self.url_env):
            raise ValueError(f"kind {self.kind!r} needs either url or url_env, and no command")
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("url must begin with http:// or https://")
        return self


class AlertSettings(Section):
    """When `labels_needed` and `degraded` are told."""

    labels_open: int = Field(default=20, ge=1, description="open reviews after a harvest before people are told")
    after_seconds: float = Field(
        default=300.0, ge=0, description="a fault is told once it has lasted this long, its end likewise"
    )
    wandb_behind_seconds: float = Field(default=3600.0, gt=0, description="age of the oldest event W&B still lacks")
    disk_free_mb: int = Field(default=2000, ge=0, description="free space, in MiB, below which the disk counts as low")
    quarantine_an_hour: int = Field(
        default=100, ge=1, description="lines in an hour from which the quarantine counts as growing"
    )


class SplitSettings(Section):
    exam_share: float = Field(
        default=0.3, gt=0, lt=1, description="chance that a record's cluster is drawn for the exam"
    )
    near_duplicate: float = Field(
        default=0.9, gt=0.5, le=1, description="cosine of character n-grams from which texts are one"
    )
    seed: int = Field(default=1, ge=0, description="of the draw; changing it moves no record that is already in")


class CurationSettings(Section):
    """What is trained on of the labels there are."""

    measure: Literal["tfidf", "embeddings"] = Field(
        default="tfidf", description="of near-duplicates; embeddings need pip install 'tuneloop[embeddings]'"
    )
    threshold: float = Field(
        default=0.9, gt=0.5, le=1, description="cosine by that measure from which two texts are one; embeddings: 0.95"
    )
    reweight: bool = Field(
        default=False, description="show examples of small classes more often, until all classes weigh the same"
    )


class HarvestSettings(Section):
    queue_size: int = Field(default=100, ge=1, description="open reviews at most")
    min_new: int = Field(default=20, ge=1, description="new records before the next harvest")
    every_seconds: float = Field(
        default=60.0, ge=0, description="or this long after the last one, when anything is new"
    )
    uncertain_share: float = Field(default=0.3, ge=0, le=1, description="of a harvest: lowest margins")
    disputed_share: float = Field(
        default=0.3, ge=0, le=1, description="of a harvest: the control disagrees with production"
    )
    rare_share: float = Field(default=0.2, ge=0, le=1, description="of a harvest: predicted classes that labels lack")
    coverage_share: float = Field(
        default=0.2, ge=0, le=1, description="of a harvest: random, so that no region stays unseen"
    )
    margin_below: float = Field(default=0.5, ge=0, le=1, description="only margins under this count as uncertain")
    cold_labels: int = Field(
        default=50, ge=0, description="with fewer labels random records fill the rest of the queue"
    )
    seed: int = Field(default=1, ge=0, description="of the random parts")


class TriggerSettings(Section):
    first: int = Field(default=50, ge=2, description="training-side labels before the first training")
    every: int = Field(default=20, ge=1, description="new ones since the last successful training before the next")
    plateau_rounds: int = Field(default=3, ge=1, description="candidates in a row that gain less than plateau_delta")
    plateau_delta: float = Field(default=0.005, ge=0, le=1, description="accuracy gain that still counts as progress")
    overnight_examples: int = Field(default=500, ge=2, description="labels for the larger run after a plateau")
    overnight_rank: int = Field(default=32, ge=1, description="its LoRA rank")
    gentle_general_share: float = Field(
        default=0.10, ge=0, lt=1, description="general examples in the retry after forgetting"
    )
    gentle_rate_factor: float = Field(
        default=0.5, gt=0, le=1, description="and its learning rate, as a share of the usual one"
    )


class TrainingSettings(Section):
    """What is not set comes from `adapters.profiles`, by method, objective and profile."""

    method: Method = Field(default="qlora", description="qlora, lora, full, prefix, prompt or ia3: docs/methods.md")
    objective: Objective = Field(
        default="sft", description="sft: the labels; dpo: labels against wrong answers; grpo, rloo: a reward"
    )
    profile: Profile = Field(default="standard", description="simple: rank 8; standard: 16; complex: 32")
    targets: Targets = Field(
        default="all-linear", description="layers with LoRA or IA3: attention-min (q and v), attention, all-linear"
    )
    rank: int = Field(default=16, ge=1, le=1024, description="LoRA rank: 4-8 simple tasks, 16 default, 32-64 complex")
    alpha: int = Field(default=32, ge=1, description="LoRA scale")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="LoRA dropout")
    dora: bool = Field(default=False, description="LoRA with magnitudes of its own: slower, at times better")
    rslora: bool = Field(default=False, description="LoRA scaled by alpha / sqrt(rank), for high ranks")
    virtual_tokens: int = Field(default=20, ge=1, le=1000, description="length of a soft prompt (prefix, prompt)")
    soft_prompt_text: str = Field(default="", description="what it starts as; empty: the prompt's instructions")
    beta: float = Field(default=0.1, ge=0, description="how strongly dpo, grpo and rloo hold on to their start")
    min_pairs: int = Field(default=20, ge=2, description="corrections that dpo needs; with fewer it is sft")
    imitation: float = Field(default=1.0, ge=0, description="weight of the label's own loss beside dpo's")
    generations: int = Field(default=8, ge=2, description="answers to each prompt that grpo and rloo compare")
    sampling_temperature: float = Field(default=1.0, gt=0, le=5, description="of these answers")
    learning_rate: float = Field(
        default=2e-4, gt=0, le=1, description="peak, cosine; not set: 2e-4, built-in model 1e-3, else by method"
    )
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="LoRA: 0 to 0.01; full: 0.01 to 0.1")
    batch_size: int = Field(default=16, ge=1, description="effective")
    micro_batch_size: int = Field(default=8, ge=1, description="examples in memory at once")
    epochs: float = Field(
        default=3.0, gt=0, description="below 1,000 examples more than 3 is warned of; min_steps may need more"
    )
    min_steps: int = Field(default=60, ge=1, description="wins over epochs, and the event says so; built-in model: 120")
    max_steps: int = Field(default=2000, ge=1, description="optimiser steps at most")
    eval_every: int = Field(default=10, ge=1, description="steps between two looks at the validation examples")
    checkpoint_every: int = Field(default=20, ge=1, description="steps between two checkpoints")
    patience: int = Field(default=3, ge=1, description="looks without a rise of accuracy before it stops")
    min_valid: int = Field(
        default=50, ge=0, description="below this many validation examples nothing is steered by them"
    )
    max_length: int = Field(default=512, ge=16, description="tokens; a longer ticket is shortened in its middle")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradient clipping")
    gradient_checkpointing: bool = Field(default=False, description="less memory, more time; for large models")
    seed: int = Field(default=1, ge=0, description="of training")
    threads: int = Field(default=0, ge=0, description="0: all cores")
    samples: int = Field(default=8, ge=0, description="sample outputs kept")
    abstain_below: float = Field(
        default=0.0, ge=0, lt=1, description="no answer where the best label is less probable; 0: always answers"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:0, ...")
    backend: Backend = Field(default="trl", description="trl: here; axolotl, unsloth: see [backends.NAME]")
    stratified: bool = Field(default=True, description="batches of sft hold the classes in their shares")
    launcher: str = Field(default="", description='several processes, e.g. "torchrun --nproc_per_node 2"')
    general_share: float = Field(default=0.08, ge=0, lt=1, description="general examples mixed in, against forgetting")
    general_file: str = Field(default="", description="JSONL of chat messages; empty: the built-in general examples")
    valid_share: float = Field(default=0.15, ge=0, lt=1, description="of the training side, for validation")
    max_attempts: int = Field(default=3, ge=1, description="before a failing run is parked")

    @model_validator(mode="before")
    @classmethod
    def _by_method(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        usual, batch = defaults(*chosen(values)), values.get("batch_size")
        if "micro_batch_size" in usual and isinstance(batch, int) and batch > 0:
            usual["micro_batch_size"] = math.gcd(usual["micro_batch_size"], batch)  # of a smaller batch all of it
        return {**usual, **values}


class BackendSettings(Section):
    """An environment of its own for axolotl or unsloth, whose pins conflict with ours: `[backends.axolotl]`."""

    python: str = Field(min_length=1, description="its interpreter, e.g. /opt/axolotl/bin/python")


class GateSettings(Section):
    """Thresholds have no default in the code: what the file does not set is not checked, and with neither
    `better_than_baseline` nor `not_worse_margin` set nothing is promoted."""

    min_exam: int = Field(default=40, ge=1, description="labelled exam records before anything is judged")
    exam_growth: int = Field(
        default=20, ge=1, description="audit labels more before an undecided candidate is looked at again"
    )
    p_value: float = Field(default=0.05, gt=0, lt=1, description="exact McNemar, two-sided, over all looks together")
    better_than_baseline: bool | None = Field(default=None, description="must be significantly better than the prompt")
    not_worse_margin: float | None = Field(
        default=None, ge=0, lt=1, description="accuracy the champion may lead by, at most"
    )
    protected: list[str] = Field(default=[], description="classes that may not lose recall; empty: none")
    max_recall_drop: float | None = Field(
        default=None, ge=0, le=1, description="recall that a protected class may lose"
    )
    max_forgetting: float | None = Field(default=None, ge=0, le=1, description="relative loss on general questions")
    max_bits_rise: float | None = Field(default=None, ge=0, description="relative rise of bits per byte of plain text")
    max_latency_ms: float | None = Field(default=None, gt=0, description="milliseconds an answer")
    max_invalid: float | None = Field(default=None, ge=0, le=1, description="share of answers that are no label")
    beat_control: Literal["ignore", "warn", "require"] = Field(
        default="warn", description="against TF-IDF + regression"
    )
    max_looks: int = Field(default=3, ge=1, le=3, description="looks at the exam a candidate may have")

    @property
    def quality_thresholds(self) -> bool:
        """Whether anything says how good a candidate has to be."""
        return bool(self.better_than_baseline) or self.not_worse_margin is not None


class RollbackSettings(Section):
    enabled: bool = Field(default=True, description="roll back by itself when feedback turns bad")
    min_feedback: int = Field(default=30, ge=1, description="corrections and confirmations before it is judged")
    drop: float = Field(
        default=0.10, gt=0, le=1, description="accuracy by feedback below the predecessor's, beyond chance"
    )


class TaskSettings(Section):
    kind: Kind = Field(
        default="classification", description="or extraction, instruction, style: answers in free words, docs/tasks.md"
    )
    labels: list[str] = Field(description="the classes, at least two; other kinds have none")
    json_schema: str = Field(default="", description="extraction: the JSON Schema file of its answers")
    metric: Metric | Literal[""] = Field(
        default="", description="fields (extraction), chrf (the others' default) or judge: what an answer is worth"
    )
    judge_model: str = Field(
        default="", description="metric judge: a model at [endpoint]; empty: the one that answers prompts"
    )
    answer_tokens: int = Field(default=256, ge=1, le=8192, description="of an answer in free words, at most")
    description: str = Field(default="", description="what is classified, in a few words")
    label_descriptions: dict[str, str] = Field(default={}, description="what each label means, in a few words")
    prompts: list[str] = Field(
        default=["zero-shot", "few-shot", "chain-of-thought"],
        min_length=1,
        description="prompt versions that compete for the baseline (name or name@version)",
    )
    prompt: str = Field(default="", description="use this prompt version whatever the scores say; empty: the best")
    shots: int = Field(default=4, ge=0, le=64, description="examples in a few-shot prompt")
    splits: SplitSettings = Field(default_factory=SplitSettings)
    curation: CurationSettings = Field(default_factory=CurationSettings)
    harvest: HarvestSettings = Field(default_factory=HarvestSettings)
    trigger: TriggerSettings = Field(default_factory=TriggerSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    gate: GateSettings = Field(default_factory=GateSettings)
    rollback: RollbackSettings = Field(default_factory=RollbackSettings)

    @property
    def free(self) -> bool:
        """Whether answers are free words, not labels."""
        return self.kind != "classification"

    @model_validator(mode="before")
    @classmethod
    def _by_kind(cls, values: Any) -> Any:
        kind = values.get("kind") if isinstance(values, dict) else None
        if not isinstance(kind, str) or kind not in FREE_KINDS:
            return values
        named = values.get("prompts") or [values.get("prompt") or FREE_KINDS[kind].prompt]
        chosen = named[0] if isinstance(named, list) else named
        given = {"labels": [], "metric": FREE_KINDS[kind].metrics[0], "prompts": named, "prompt": chosen}
        return {**given, **{name: value for name, value in values.items() if value != "" or name not in given}}

    @field_validator("labels")
    @classmethod
    def _labels(cls, labels: list[str], info: ValidationInfo) -> list[str]:
        if info.data.get("kind", "classification") != "classification":
            if labels:
                raise ValueError(f"a task of kind {info.data['kind']!r} answers in free words and has none")
            return labels
        if len(labels) < 2:
            raise ValueError("at least two labels are needed")
        for label in labels:
            if not label.strip() or label != label.strip() or not label.isprintable() or len(label) > 80:
                raise ValueError(f"{label!r} must be 1 to 80 printable characters without spaces around them")
            if is_seal(label):
                raise ValueError(f"{label!r} is how free words are named")
        folded = [label.casefold() for label in labels]
        twice = sorted({label for label in folded if folded.count(label) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} stands twice (capitals do not count)")
        return labels

    @model_validator(mode="after")
    def _fitting(self) -> TaskSettings:
        """Refuse what does not go with the task's kind, by the key's name."""
        if self.kind == "classification":
            for key in ("json_schema", "metric", "judge_model", "answer_tokens"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} is for answers in free words: kind 'classification' has labels")
            return self
        if self.metric not in FREE_KINDS[self.kind].metrics:
            known = " or ".join(FREE_KINDS[self.kind].metrics)
            raise ValueError(f"metric {self.metric!r} does not go with kind {self.kind!r}: {known}")
        if bool(self.json_schema) != (self.kind == "extraction"):
            told = "is needed: kind 'extraction' is scored by its fields" if not self.json_schema else ""
            raise ValueError(f"json_schema {told or f'is for kind extraction: here is {self.kind!r}'}")
        if self.judge_model and self.metric != "judge":
            raise ValueError(f"judge_model is for metric 'judge': here is {self.metric!r}")
        if len(self.prompts) != 1:
            raise ValueError("prompts must name one version: versions are compared by labels, and here are none")
        if self.training.objective != "sft":
            raise ValueError(
                f"training.objective {self.training.objective!r} needs labels: kind {self.kind!r} has none"
            )
        if self.training.abstain_below:
            raise ValueError(f"training.abstain_below is a label's probability: kind {self.kind!r} has none")
        if self.training.backend != "trl":
            raise ValueError(f"training.backend {self.training.backend!r} is driven for labels, not for {self.kind!r}")
        return self

    @model_validator(mode="after")
    def _known_labels(self) -> TaskSettings:
        for key, names in (
            ("label_descriptions", list(self.label_descriptions)),
            ("gate.protected", self.gate.protected),
        ):
            for name in names:
                if name not in self.labels:
                    raise ValueError(f"{key} names {name!r}, which is not a label{_nearest(name, self.labels)}")
        return self


def chosen(training: Mapping[str, Any]) -> list[Any]:
    """Method, objective and profile of a training section, unchecked, as it says or by default."""
    fields = TrainingSettings.model_fields
    return [training.get(name, fields[name].default) for name in ("method", "objective", "profile")]


def _for_built_in(task: Any) -> Any:
    training = task.get("training", {}) if isinstance(task, dict) else None
    if not isinstance(training, dict):
        return task
    method, objective, _ = chosen(training)
    return {**task, "training": {**of_built_in(method, objective), **training}}


class Settings(BaseSettings):
    """Everything `tuneloop.toml` can say. Built in code it reads neither file nor environment; `load` does."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", strict=True)

    model: ModelSettings = Field(default_factory=ModelSettings)
    endpoint: EndpointSettings = Field(default_factory=EndpointSettings)
    daemon: DaemonSettings = Field(default_factory=DaemonSettings)
    wandb: WandbSettings = Field(default_factory=WandbSettings)
    resources: ResourceSettings = Field(default_factory=ResourceSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    notify: dict[str, NotifySettings] = Field(default={})
    backends: dict[Literal["axolotl", "unsloth"], BackendSettings] = Field(default={})
    tasks: dict[str, TaskSettings] = Field(min_length=1)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _by_model(cls, values: Any) -> Any:
        """Defaults of the built-in model, in every training section that does not say otherwise."""
        model, tasks = (values.get(name) for name in ("model", "tasks"))
        base = model.get("base") if isinstance(model, dict) else getattr(model, "base", "")
        if base or not isinstance(tasks, dict):
            return values
        return {**values, "tasks": {name: _for_built_in(task) for name, task in tasks.items()}}

    @field_validator("notify")
    @classmethod
    def _targets(cls, targets: dict[str, NotifySettings]) -> dict[str, NotifySettings]:
        for name in targets:
            if not re.fullmatch(TASK_NAME, name):
                raise ValueError(f"{name!r} is no name: small letters, digits, '-' and '_', a letter first")
        return targets

    @field_validator("tasks")
    @classmethod
    def _names(cls, tasks: dict[str, TaskSettings]) -> dict[str, TaskSettings]:
        for name in tasks:
            if not re.fullmatch(TASK_NAME, name):
                raise ValueError(f"{name!r} is no task name: small letters, digits, '-' and '_', a letter first")
        return tasks

    @model_validator(mode="after")
    def _methods(self) -> Settings:
        for name, task in self.tasks.items():
            found = refusal(task.training, self.model.quantisation)
            if found is not None:
                raise ValueError(f"tasks.{name}.training.{found.key}: {found.reason}. {found.hint}")
            chosen = task.training.backend
            if chosen != "trl" and chosen not in self.backends:
                raise ValueError(
                    f"tasks.{name}.training.backend is {chosen!r}: say where it lives, [backends.{chosen}] python = ..."
                )
        return self

    def task(self, name: str) -> TaskSettings:
        """One task's settings.

        Raises:
            SettingsError: there is no such task.
        """
        if name in self.tasks:
            return self.tasks[name]
        known = ", ".join(sorted(self.tasks))
        raise SettingsError(f"there is no task {name!r}", hint=f"{FILE_NAME} knows: {known}.")


class EnvironmentSource(PydanticBaseSettingsSource):
    """`TUNELOOP_A__B__C=value` as {a: {b: {c: value}}}; `names` remembers which variable set which path."""

    def __init__(self, settings_cls: type[BaseSettings], env: Mapping[str, str], tasks: list[str]) -> None:
        super().__init__(settings_cls)
        self.env = env
        self.tasks = tasks
        self.names: dict[tuple[str, ...], str] = {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False  # __call__ reads all variables at once

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for variable in sorted(self.env):
            rest = variable.removeprefix(PREFIX)
            if rest == variable or "__" not in rest:
                continue
            path = rest.lower().split("__")
            if path[0] == "tasks" and len(path) > 1:
                # a variable's name cannot hold the '-' of a task's name
                path[1] = next((task for task in self.tasks if task.replace("-", "_") == path[1]), path[1])
            self.names[tuple(path)] = variable
            target = values
            for part in path[:-1]:
                target = target.setdefault(part, {})
                if not isinstance(target, dict):
                    raise SettingsError(f"{variable} contradicts another variable", hint="Unset one of the two.")
            target[path[-1]] = _parse(self.env[variable], _annotation(path))
        return values


def load(root: Path, env: Mapping[str, str] | None = None) -> Settings:
    """Read `root`/tuneloop.toml and the environment's overrides.

    Raises:
        SettingsError: the file is missing or is no TOML, a key is unknown (the nearest known one is named),
            or a value does not fit (key, value and what was expected are named).
    """
    path = root / FILE_NAME
    if not path.is_file():
        raise SettingsError(f"{path} is not there", hint="Make a workspace with: tuneloop init")
    try:
        file_values = TomlConfigSettingsSource(Settings, toml_file=path)()
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no valid TOML: {error}", hint="Mend that line.") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    tasks = file_values.get("tasks")
    environment = EnvironmentSource(
        Settings, os.environ if env is None else env, list(tasks) if isinstance(tasks, dict) else []
    )
    values = _merge(file_values, environment())
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise _settings_error(error, path, environment.names) from None
    for name, task in settings.tasks.items():
        if task.free:
            _check_free(root, task, f"{path.name}: tasks.{name}")
    return settings


def _check_free(root: Path, task: TaskSettings, where: str) -> None:
    try:
        schema_of(root, task)
    except SettingsError as error:
        raise SettingsError(f"{where}.json_schema: {error.message}", hint=error.hint) from None
    try:
        template = templates.read(task.prompt, root / "prompts")
    except SettingsError as error:
        raise SettingsError(f"{where}.prompts: {error.message}", hint=error.hint) from None
    if template.shots or template.reasoning:
        does = "shows labelled examples" if template.shots else "reasons before its label"
        raise SettingsError(
            f"{where}.prompts: {template.name} {does}, and kind {task.kind!r} has no labels",
            hint="`extract`, `answer`, or a file of your own without `shots` and `reasoning`: prompts/templates.py.",
        )


def schema_of(root: Path, task: TaskSettings) -> Schema | None:
    """The JSON Schema of a task's answers; None where they have none.

    Raises:
        SettingsError: its file cannot be read, or is no schema.
    """
    return read_schema(root / task.json_schema) if task.json_schema else None


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _annotation(path: list[str] | tuple[Any, ...]) -> Any:
    """The annotation of the setting at `path`; None where there is none."""
    kind: Any = Settings
    for part in path:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            kind = kind.model_fields[part].annotation
        else:
            return None
    return kind


def _parse(text: str, annotation: Any) -> Any:
    """A variable's text as the value it stands for: TOML where the setting is not itself a string."""
    if annotation is str or get_origin(annotation) is Literal:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _settings_error(error: ValidationError, path: Path, variables: Mapping[tuple[str, ...], str]) -> SettingsError:
    problems, to_change = [], set[str]()
    for problem in error.errors(include_url=False):
        place = tuple(part for part in problem["loc"] if isinstance(part, str))
        key = ".".join(place)
        where = f"{variables[place]} in the environment" if place in variables else path.name
        below = {name for path, name in variables.items() if path[: len(place)] == place}
        to_change |= below if place in variables else {"", *below}
        if problem["type"] == "extra_forbidden":
            parent = _annotation(place[:-1])
            known = list(parent.model_fields) if isinstance(parent, type) and issubclass(parent, BaseModel) else []
            # the value stays out of the message: people paste keys and passwords into the wrong place
            problems.append(f"{where}: unknown key {key!r}{_nearest(place[-1], known)}")
        elif problem["type"] == "missing":
            problems.append(f"{where}: {key!r} is missing")
        elif problem["type"] == "value_error":
            problems.append(f"{where}: {key + ': ' if key else ''}{problem['ctx']['error']}")
        else:
            message = problem["msg"].removeprefix("Input should be ")
            shown = "" if place[:1] == ("notify",) else f"is {problem['input']!r}, "  # addresses hold keys
            problems.append(f"{where}: {key!r} {shown}expected {message}")
    told = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
    named = sorted(to_change - {""})
    hint = [f"Edit {path}."] if "" in to_change else []
    hint += [f"Change or unset {', '.join(named)} in the environment."] if named else []
    return SettingsError(told, hint=" ".join(hint))
