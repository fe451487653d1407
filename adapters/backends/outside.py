"""A training by axolotl or unsloth: tokens out, their command, and an adapter like any other of ours back.

Everything that holds customer text lies in `checkpoints/outside`, which is removed with the run's texts.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from adapters import combinations, registry
from adapters.backends import axolotl, commands, unsloth
from adapters.bank import Bank
from adapters.calibration import temperature
from adapters.child import Journal
from adapters.encode import encode
from adapters.metrics import accuracy
from adapters.registry import AdapterCard
from adapters.scoring import Scorer
from adapters.specs import Example, Metric, SampleOutput, TrainSpec
from store.errors import StepError
from store.labels import parse_label

FILES = (registry.CONFIG, registry.WEIGHTS)
PACKAGES = {"axolotl": axolotl.PACKAGE, "unsloth": unsloth.PACKAGE}


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What came back, calibrated: everything that a result says of an adapter."""

    temperature: float
    eval_accuracy: float | None
    samples: list[SampleOutput]
    parameters: int
    shortened: int


def check(spec: TrainSpec) -> None:
    """Refuse what cannot run here, before anything is made ready.

    Raises:
        ModelError: there is no GPU, no such environment, or it lacks the package.
    """
    commands.check_environment(spec.backend, spec.backend_python, PACKAGES[spec.backend])


def train(
    folder: Path, spec: TrainSpec, examples: Sequence[Example], valid: Sequence[Example], steps: int, journal: Journal
) -> Tuned:
    """Have the back end train, check what it made, calibrate it and put it into `folder`/adapter.

    Raises:
        ModelError: the prompt does not fit.
        StepError: the command failed or left no adapter.
        ArtifactError: what it left is no adapter of this base.
    """
    work = _work(folder)
    work.mkdir(parents=True, exist_ok=True)
    shortened = _write_tokens(work / "tokens.jsonl", spec, examples)
    output = work / "output"
    warmup = math.ceil(spec.warmup * steps)
    words, on_line = _prepared(work, folder, spec, steps, warmup, output, journal)
    commands.run(words, work, on_line)
    if not all((output / name).is_file() for name in FILES):
        raise StepError(f"{spec.backend} ended without an adapter", hint="The run's log holds what it said.")
    adapter = folder / "adapter.part"
    for leftover in (adapter, folder / "adapter"):
        shutil.rmtree(leftover, ignore_errors=True)
    adapter.mkdir()
    for name in FILES:
        shutil.copyfile(output / name, adapter / name)
    journal.write(Metric(step=steps, of=steps, phase="calibrating"))
    tuned = _calibrated(adapter, spec, valid, shortened)
    adapter.rename(folder / "adapter")
    return tuned


def last_step(folder: Path, spec: TrainSpec) -> int:
    """The optimiser step that the back end goes on from; 0 where there is none."""
    place = _work(folder) / ("output" if spec.backend == "axolotl" else "unsloth")
    names = [one.name.rpartition("-")[2] for one in place.glob("checkpoint-*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def _work(folder: Path) -> Path:
    return folder / "checkpoints" / "outside"


def peak_memory_mb() -> float:
    """Largest resident memory of the command, in MiB; what it took of the GPU is not known here."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _prepared(
    work: Path, folder: Path, spec: TrainSpec, steps: int, warmup: int, output: Path, journal: Journal
) -> tuple[list[str], Callable[[str], None]]:
    """The command's words, and what is done with its lines."""
    if spec.backend == "unsloth":
        shutil.copyfile(folder / "spec.json", work / "spec.json")
        (work / "plan.json").write_text(json.dumps(unsloth.plan(spec, steps, warmup, output)), encoding="utf-8")

        def of_unsloth(line: str) -> None:
            if (found := unsloth.metric(line, steps)) is not None:
                journal.write(found)

        return unsloth.command(spec, work), of_unsloth
    file = work / "config.yaml"
    processes = combinations.processes(spec.launcher) or 1
    values = axolotl.config(spec, steps, warmup, work / "tokens.jsonl", output, processes)
    file.write_text(axolotl.written(values), encoding="utf-8")
    done = last_step(folder, spec)

    def of_axolotl(line: str) -> None:
        nonlocal done
        if (found := axolotl.metric(line, done + 1, steps)) is not None:
            done += 1
            journal.write(found)

    return axolotl.command(spec, file), of_axolotl


def _write_tokens(file: Path, spec: TrainSpec, examples: Sequence[Example]) -> int:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(spec.base.path, local_files_only=True)
    shortened, lines = 0, []
    for example in examples:
        user = spec.prompt.user if example.kind == "task" else "{text}"
        row = encode(tokenizer, example.messages, spec.max_length, user=user)
        labels = [-100] * row.start + row.tokens[row.start :]
        lines.append(
            json.dumps({"input_ids": row.tokens, "attention_mask": [1] * len(row.tokens), "labels": labels}) + "\n"
        )
        shortened += row.shortened
    file.write_text("".join(lines), encoding="utf-8")
    return shortened


def _calibrated(adapter: Path, spec: TrainSpec, valid: Sequence[Example], shortened: int) -> Tuned:
    """Write the card of an adapter, with the temperature that its validation answers ask for."""
    bank = Bank.open(spec.base, spec.device)
    bank.load("tuned", adapter)
    scorer = Scorer(bank, max_length=spec.max_length)
    asked = [one for one in valid if one.label in spec.labels]
    texts = [_ticket(one, spec) for one in asked]
    scored = scorer.score("tuned", spec.prompt, texts, spec.labels) if asked else []
    targets = [spec.labels.index(one.label) for one in asked]
    warmth = temperature(
        [[one.scores[label] for label in spec.labels] for one in scored], targets, enough=spec.min_valid
    )
    right = [one.label == its.label for one, its in zip(scored, asked, strict=True)]
    said = scorer.generate("tuned", spec.prompt, texts[: spec.samples]) if asked and spec.samples else []
    registry.write_card(
        adapter,
        AdapterCard(
            base_digest=spec.base.digest,
            quantisation=spec.base.quantisation,
            prompt=spec.prompt.name,
            temperature=warmth,
            abstain_below=spec.abstain_below,
            labels=spec.labels,
        ),
    )
    info = registry.describe(adapter)
    samples = [
        SampleOutput(id=one.id, expected=one.label, answered=parse_label(words.text, spec.labels) or "")
        for one, words in zip(asked, said, strict=False)
    ]
    return Tuned(
        temperature=warmth,
        eval_accuracy=accuracy(right) if right else None,
        samples=samples,
        parameters=info.parameters,
        shortened=shortened,
    )


def _ticket(example: Example, spec: TrainSpec) -> str:
    """The ticket inside a rendered example."""
    before, _, after = spec.prompt.user.partition("{text}")
    content = next(message.content for message in reversed(example.messages) if message.role == "user")
    return content[len(before) : len(content) - len(after)]
