"""The training step: `python -m adapters.train RUN_FOLDER` (contract of the folder: adapters.specs).

It goes on from the last complete checkpoint of its folder exactly as if nothing had happened. SIGTERM saves a
checkpoint and ends with exit code 0 and no result.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from adapters import base_model, methods, objectives, samples
from adapters.backends import launched
from adapters.calibration import temperature
from adapters.child import Journal, Stopping, Threads, Unrecoverable, peak_memory_mb, run
from adapters.encode import encode, token_counts
from adapters.registry import AdapterCard, is_whole, write_card
from adapters.specs import Example, Metric, SampleOutput, TrainResult, TrainSpec, read_json, read_lines, write_json
from store.errors import ModelError, SettingsError
from store.kill_points import reached
from store.labels import parse_label

if TYPE_CHECKING:
    from adapters.trainer import LabelledPrompts, Steered


FEW = 1000  # examples; below them more than FEW_EPOCHS memorises
FEW_EPOCHS = 3.0


class Plan(msgspec.Struct, frozen=True):
    """How long a training takes, in optimiser steps."""

    steps: int
    an_epoch: int
    cap: int  # steps of the epochs that are asked for, below 1,000 examples of three at most
    notes: list[str] = []

    @property
    def epochs(self) -> float:
        return self.steps / self.an_epoch

    @property
    def epoch_cap_exceeded(self) -> bool:
        """Whether `min_steps`, or epochs beyond three below 1,000 examples, ask for more than the cap."""
        return self.steps > self.cap


def plan(spec: TrainSpec, examples: int) -> Plan:
    """Steps of a training: those of its epochs, but at least `min_steps` and at most `max_steps`.

    `examples` are those that the objective trains on, see `adapters.objectives`.
    """
    batches = math.ceil(objectives.count(spec, examples) / spec.micro_batch_size)
    an_epoch = max(1, math.ceil(batches / (spec.batch_size // spec.micro_batch_size)))
    steps = min(max(math.ceil(spec.epochs * an_epoch), spec.min_steps, 1), spec.max_steps)
    cap = max(1, math.ceil(min(spec.epochs, FEW_EPOCHS if examples < FEW else spec.epochs) * an_epoch))
    forced = steps > max(cap, spec.min_steps)  # not by the minimum of steps, which has a reason of its own
    ran = f"{steps / an_epoch:.3g} epochs over {examples} examples"
    warning = f"{ran}, as `epochs` asks: beyond {FEW_EPOCHS:g} below {FEW:,} examples a model memorises"
    return Plan(steps, an_epoch, cap, [warning] if forced else [])


def train(folder: Path, stopping: Stopping) -> None:
    """Train what `folder` asks for.

    Raises:
        ModelError: the combination, the base model or the prompt does not allow it.
        Unrecoverable: there is nothing to train on, or training diverged.
        StepError: spec.json or the examples cannot be read.
    """
    spec = read_json(folder / "spec.json", TrainSpec)
    _check(spec)
    examples = read_lines(folder / "train.jsonl", Example)
    valid = [example for example in read_lines(folder / "valid.jsonl", Example) if example.kind == "task"]
    if not examples:
        raise Unrecoverable("train.jsonl holds no examples", hint="Label more records.")
    spec = objectives.settle(spec, examples)
    used = objectives.examples_for(spec, examples)
    base_model.digest(spec.base.path)  # a missing model is told before torch is loaded
    if spec.backend != "trl":
        _outside(folder, spec, used, valid)
        return
    if spec.launcher and not launched.is_rank():
        launched.train(folder, spec)
        return
    base_model.quiet()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    threads = Threads(folder, spec.threads or len(os.sched_getaffinity(0)) // launched.local_world())
    threads.adjust()
    from adapters.making import make, rows_for
    from adapters.trainer import Watch, forget_unfit

    checkpoints = folder / "checkpoints"
    resumed = forget_unfit(checkpoints)
    place = folder if launched.rank() == 0 else launched.scratch()
    journal = Journal(place, resume_at=resumed)
    samples.resume(place, resumed)
    journal.write(Metric(phase="loading"))
    device = base_model.resolve_device(spec.device)
    model, tokenizer = base_model.load(spec.base, device, training=True)
    model = methods.adapt(model, tokenizer, spec)
    data = rows_for(tokenizer, spec, used)
    held = _labelled(tokenizer, spec, valid)
    planned = plan(spec, len(used))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    warmup = math.ceil(spec.warmup * planned.steps)
    watch = Watch(journal, threads, stopping, planned.steps, warmup)
    shown = (valid or [one for one in examples if one.kind == "task"])[: spec.samples]

    def write(trainer: Steered) -> None:
        written = _samples(trainer, tokenizer, spec, shown[: samples.EACH], most=samples.TOKENS)
        samples.add(place, trainer.state.global_step, written)

    trainer = make(spec, checkpoints, planned.steps, warmup, model, tokenizer, data, held, watch, write)
    reached("train.loaded")

    stopping.hold = True
    at_end = resumed and (resumed >= planned.steps or _stopped(checkpoints, resumed))
    if resumed:
        trainer.load_checkpoint(checkpoints / f"checkpoint-{resumed}")
    if not at_end:
        trainer.train(resume_from_checkpoint=str(checkpoints / f"checkpoint-{resumed}") if resumed else None)
    stopping.hold = False
    steps = trainer.state.global_step
    if stopping.asked:
        raise SystemExit(0)

    reached("train.trained")
    best = trainer.restore_best() or steps
    if launched.rank() > 0:
        return
    notes = [*spec.notes, *planned.notes, *_padded(model)]
    methods.settle(trainer.model, spec)
    journal.write(Metric(step=steps, of=planned.steps, phase="calibrating"))
    scores = trainer.label_scores(held) if held.prompts else []
    accuracy = _accuracy(scores, held)
    warmth = temperature(scores, held.targets, enough=spec.min_valid)
    journal.write(Metric(step=steps, of=planned.steps, eval_accuracy=accuracy, phase="sampling"))
    written = _samples(trainer, tokenizer, spec, shown)
    card = AdapterCard(
        base_digest=spec.base.digest,
        quantisation=spec.base.quantisation,
        prompt=spec.prompt.name,
        temperature=warmth,
        abstain_below=spec.abstain_below,
        labels=spec.labels,
    )
    _save(trainer.model, tokenizer, card, folder / "adapter")
    reached("train.adapter_renamed")
    losses = [line.loss for line in journal.lines if line.loss is not None]
    write_json(
        folder / "result.json",
        TrainResult(
            run_id=spec.run_id,
            steps=steps,
            epochs=round(steps / planned.an_epoch, 3),
            seconds=journal.seconds(),
            train_loss=sum(losses) / max(1, len(losses)),
            stopped="plateau" if trainer.steering.stopped else "steps",
            temperature=warmth,
            peak_memory_mb=round(peak_memory_mb(), 1),
            compute=base_model.precision(spec.base, device),
            trainable_parameters=trainable,
            truncated=data.shortened,
            tokens=token_counts(data.rows),
            epoch_cap_exceeded=steps > planned.cap,
            resumed_from=resumed,
            eval_accuracy=accuracy,
            samples=samples.spread(read_lines(folder / samples.FILE, SampleOutput), written, best),
            objective=spec.objective,
            notes=notes,
        ),
    )
    reached("train.result_written")


def _outside(folder: Path, spec: TrainSpec, examples: list[Example], valid: list[Example]) -> None:
    """Have the back end of the spec train, and write the result.

    Raises:
        Unrecoverable: there is no GPU, or no environment of the back end.
    """
    from adapters.backends import outside

    try:
        outside.check(spec)
    except ModelError as error:
        raise Unrecoverable(error.message, hint=error.hint) from error
    planned = plan(spec, len(examples))
    resumed = outside.last_step(folder, spec)
    journal = Journal(folder, resume_at=resumed)
    tuned = outside.train(folder, spec, examples, valid, planned.steps, journal)
    losses = [line.loss for line in journal.lines if line.loss is not None]
    write_json(
        folder / "result.json",
        TrainResult(
            run_id=spec.run_id,
            steps=planned.steps,
            epochs=round(planned.epochs, 3),
            seconds=journal.seconds(),
            train_loss=sum(losses) / max(1, len(losses)),
            stopped="steps",
            temperature=tuned.temperature,
            peak_memory_mb=round(outside.peak_memory_mb(), 1),
            trainable_parameters=tuned.parameters,
            truncated=tuned.shortened,
            epoch_cap_exceeded=planned.epoch_cap_exceeded,
            resumed_from=resumed,
            eval_accuracy=tuned.eval_accuracy,
            samples=tuned.samples,
            notes=[*spec.notes, *planned.notes, f"trained by {spec.backend}: validation did not steer it"],
        ),
    )
    reached("train.result_written")


def _check(spec: TrainSpec) -> None:
    try:
        methods.check(spec)
    except SettingsError as error:  # trying again as it is cannot help
        raise Unrecoverable(error.message, hint=error.hint) from error


def _padded(model: Any) -> list[str]:
    from adapters.packed import can_pack

    reason = can_pack(methods.base_of(model))
    return [f"trained on padded batches, several times slower: {reason}"] if reason else []


def _labelled(tokenizer: Any, spec: TrainSpec, valid: list[Example]) -> LabelledPrompts:
    from adapters.making import rows_for
    from adapters.trainer import LabelledPrompts

    if not spec.labels:
        return LabelledPrompts([], [], [], rows_for(tokenizer, spec, valid).rows)
    answers = []
    for label in spec.labels:
        row = encode(tokenizer, spec.prompt.messages("", label))
        answers.append(row.tokens[row.start :])
    room = spec.max_length - max(len(answer) for answer in answers)
    prompts, targets = [], []
    for example in valid:
        label = example.label or example.messages[-1].content
        if label in spec.labels:
            prompts.append(encode(tokenizer, example.messages[:-1], room, user=spec.prompt.user).tokens)
            targets.append(spec.labels.index(label))
    return LabelledPrompts(prompts, answers, targets)


def _stopped(checkpoints: Path, step: int) -> bool:
    from adapters.checkpoints import STEERING
    from adapters.trainer import Steering

    return read_json(checkpoints / f"checkpoint-{step}" / STEERING, Steering).stopped


def _accuracy(scores: list[list[float]], held: LabelledPrompts) -> float | None:
    from adapters.trainer import loss_and_accuracy

    return loss_and_accuracy(scores, held)[1] if scores else None


def _samples(
    trainer: Steered, tokenizer: Any, spec: TrainSpec, chosen: list[Example], most: int = sys.maxsize
) -> list[SampleOutput]:
    """What the adapter writes for a few examples, unguided and greedy, in at most so many tokens."""
    import torch

    if not chosen:
        return []
    prompts = [encode(tokenizer, e.messages[:-1], spec.max_length, user=spec.prompt.user).tokens for e in chosen]
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    device = next(trainer.model.parameters()).device
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    training = trainer.model.training
    trainer.model.eval()
    try:
        with torch.no_grad(), trainer.precision():
            written = trainer.model.generate(
                input_ids=ids,
                attention_mask=seen,
                max_new_tokens=min(spec.prompt.max_tokens, most),
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=pad,
            )
    finally:
        trainer.model.train(training)
    texts = tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
    return [
        # what was written may echo the ticket, and goes into an event: only a label is kept; free words, which the
        # caller seals, stay as they are
        SampleOutput(
            id=example.id,
            expected=example.label,
            answered=(parse_label(text, spec.labels) or "") if spec.labels else text.strip(),
        )
        for example, text in zip(chosen, texts, strict=True)
    ]


def _save(model: Any, tokenizer: Any, card: AdapterCard, folder: Path) -> None:
    """Write what was trained as a plain folder, all of it or nothing."""
    import torch

    temporary = folder.with_name(folder.name + ".part")
    for leftover in (temporary, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    methods.save(model, temporary, torch.bfloat16 if card.quantisation == "bf16" else None)
    if is_whole(temporary):
        tokenizer.save_pretrained(str(temporary))
    (temporary / "README.md").unlink(missing_ok=True)
    write_card(temporary, card)
    for file in temporary.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    reached("train.adapter_written")
    temporary.rename(folder)


if __name__ == "__main__":
    sys.exit(run(train, sys.argv[1:]))
