"""Accuracy on twelve confusable intents: prompts, adapters and the control with few and with many examples.

    python -P ops/bench/quality.py [--counts 4 12 50] [--seeds 1] [--methods qlora] [--rate 1e-3] [--steps 120]

Zero-shot and few-shot prompts, an adapter by each method and the control, each with the same 4, 12 or 50 examples per
class. Adapters are trained by the child process that the daemon starts, on the base as it is served, and answer by
label scores. Prints accuracy with 95% intervals (Wilson; over several seeds the mean, its spread and the interval of
the pooled answers) and seconds. Data is Banking77's (TUNELOOP_BENCH_DATA): the twelve intents about cards and
transfers that are confused most; test items near to a training example (TF-IDF cosine of 0.9) are left out.
`--json FILE` appends every single result, for comparing settings over many runs; `--wording` and `--average` are
levers that the product does not have (levers.py).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parent))  # last: store.py there is a bench, not the package

import levers

from adapters import base_model, profiles
from adapters.bank import Bank
from adapters.combinations import LORA
from adapters.control import Control
from adapters.metrics import wilson
from adapters.scoring import Scorer
from adapters.specs import Example, Message, PromptSpec, TrainSpec, write_json, write_lines

INTENTS = (
    "card_arrival", "card_delivery_estimate", "card_linking", "card_not_working", "declined_card_payment",
    "declined_transfer", "failed_transfer", "lost_or_stolen_card", "pending_transfer",
    "transfer_not_received_by_recipient", "transfer_timing", "pending_card_payment",
)  # fmt: skip
NEAR = 0.9
Pairs = list[tuple[str, str]]


class Outcome(msgspec.Struct):
    """One answerer's result with one seed."""

    answerer: str
    per_class: int
    seed: int
    right: int
    of: int
    seconds: float  # of training
    settings: dict[str, Any] = {}


def read(name: str) -> Pairs:
    folder = os.environ.get("TUNELOOP_BENCH_DATA")
    path = Path(folder or "") / "banking77" / f"{name}.csv"
    if not folder or not path.exists():
        raise SystemExit("set TUNELOOP_BENCH_DATA to a folder with banking77/train.csv and test.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], spelled(row["category"])) for row in csv.DictReader(file) if row["category"] in INTENTS]


def spelled(intent: str) -> str:
    """The label as people would write it: models know words better than names with underscores."""
    return intent.replace("_", " ")


def worded(wording: str, base: Path, labels: list[str], texts: list[str], scratch: Path) -> tuple[Path, dict[str, str]]:
    """The base model to train on, and what each label is called in training."""
    if wording == "names":
        return base, {label: label.replace(" ", "_") for label in labels}
    if wording == "letters":
        return base, dict(zip(labels, string.ascii_uppercase, strict=False))
    if wording == "tokens":
        return scratch, levers.class_tokens(base, labels, texts, scratch)
    return base, {label: label for label in labels}


def draw(pairs: Pairs, per_class: int, seed: int) -> Pairs:
    """`per_class` examples of each label, in the order of a shuffle."""
    chance = random.Random(seed)  # noqa: S311
    found: Pairs = []
    for label in sorted({label for _, label in pairs}):
        found += chance.sample([pair for pair in pairs if pair[1] == label], per_class)
    chance.shuffle(found)
    return found


def without_near(test: Pairs, train: Pairs) -> Pairs:
    """Test items that no training text comes near to."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    view = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit([text for text, _ in train])
    known, asked = view.transform([text for text, _ in train]), view.transform([text for text, _ in test])
    nearest = (asked @ known.T).max(axis=1).toarray().ravel()
    return [pair for pair, near in zip(test, nearest, strict=True) if near < NEAR]


def system_prompt(labels: list[str], names: dict[str, str] | None = None) -> str:
    called = [(names or {}).get(label, label) for label in labels]
    listed = "; ".join(
        name if name.replace("_", " ") == label else f"{name} ({label})"
        for name, label in zip(called, labels, strict=True)
    )
    return f"Classify the bank customer's message. Reply with exactly one of these labels: {listed}."


def prompted(scorer: Scorer, prompt: PromptSpec, test: Pairs, labels: list[str], adapter: str = "") -> int:
    scored = scorer.score(adapter, prompt, [text for text, _ in test], labels)
    return sum(one.label == label for one, (_, label) in zip(scored, test, strict=True))


def trained(
    base: Path, prompt: PromptSpec, train: Pairs, test: Pairs, options: Any, method: str, seed: int
) -> list[Outcome]:
    """Train one adapter and let it answer; with `--average` its averaged weights as well."""
    labels = sorted({label for _, label in train})
    quantisation: Any = "nf4" if method == "qlora" else "bf16"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        spec = TrainSpec(
            run_id="quality", task="quality", adapter="quality-v1", labels=labels, prompt=prompt, method=method,
            base=base_model.reference(base, quantisation), min_steps=options.steps,
            max_steps=options.steps, micro_batch_size=8, eval_every=10_000, checkpoint_every=10_000, samples=0,
            seed=seed, stratified=options.order == "stratified",
        )  # fmt: skip
        usual = {"learning_rate": options.rate} if method in LORA else profiles.METHODS[method]
        spec = msgspec.structs.replace(spec, **{**usual, **json.loads(options.set)})
        write_json(folder / "spec.json", spec)
        rows = [
            Example(
                id=str(number), label=label,
                messages=[Message("system", prompt.system), Message("user", text), Message("assistant", label)],
            )
            for number, (text, label) in enumerate(train)
        ]  # fmt: skip
        write_lines(folder / "train.jsonl", rows)
        (folder / "valid.jsonl").touch()
        started = time.monotonic()
        command = [sys.executable, "-P", levers.__file__, str(folder), "--average", str(options.average)]
        subprocess.run(command, check=True)
        seconds = time.monotonic() - started
        settings = {"rate": spec.learning_rate, "steps": options.steps, **json.loads(options.set)}
        settings |= {"wording": options.wording, "order": options.order}
        adapters = {method: folder / "adapter"}
        if options.average:
            adapters[f"{method}, averaged"] = levers.averaged(folder)
        outcomes = []
        bank = Bank.open(spec.base)
        for name, adapter in adapters.items():
            bank.load(name, adapter)
            right = prompted(Scorer(bank), prompt, test, labels, name)
            outcomes.append(Outcome(name, len(train) // len(labels), seed, right, len(test), seconds, settings))
    return outcomes


def controlled(train: Pairs, test: Pairs, seed: int) -> Outcome:
    labels = {label for _, label in test}
    started = time.monotonic()
    control = Control.fit([text for text, _ in train], [label for _, label in train], seed=seed)
    seconds = time.monotonic() - started
    told = control.predict_proba([text for text, _ in test])
    right = sum(max(one, key=lambda name: one[name]) == label for one, (_, label) in zip(told, test, strict=True))
    return Outcome("control", len(train) // len(labels), seed, right, len(test), seconds)


def few_shot(prompt: PromptSpec, shots: Pairs) -> PromptSpec:
    turns = [turn for text, label in shots for turn in (Message("user", text), Message("assistant", label))]
    return msgspec.structs.replace(prompt, name="few-shot@1", shots=turns)


def show(console: Console, outcomes: list[Outcome]) -> None:
    table = Table()
    for name in ("answerer", "examples per class", "accuracy", "95% interval", "spread over seeds", "seconds"):
        table.add_column(name, justify="left" if name == "answerer" else "right")
    for key in dict.fromkeys((one.answerer, one.per_class) for one in outcomes):
        some = [one for one in outcomes if (one.answerer, one.per_class) == key]
        low, high = wilson(sum(one.right for one in some), sum(one.of for one in some))
        shares = [one.right / one.of for one in some]
        spread = f"{min(shares):.3f} to {max(shares):.3f}" if len(some) > 1 else ""
        table.add_row(
            key[0], str(key[1]) if key[1] else "", f"{statistics.mean(shares):.3f}", f"{low:.3f} to {high:.3f}", spread,
            f"{statistics.mean(one.seconds for one in some):.0f}",
        )  # fmt: skip
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[4, 12, 50])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--methods", nargs="*", default=["qlora"])
    parser.add_argument("--rate", type=float, default=1e-3, help="of LoRA; other methods have theirs, or that of --set")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--test", type=int, default=240)
    parser.add_argument("--base", default="")
    parser.add_argument("--set", default="{}", help="more fields of TrainSpec, as JSON")
    parser.add_argument("--no-prompts", action="store_true")
    parser.add_argument("--wording", choices=("words", "names", "letters", "tokens"), default="words")
    parser.add_argument("--order", choices=("stratified", "shuffled"), default="stratified")
    parser.add_argument(
        "--average", type=int, default=0, help="also answer with the mean weights of so many last steps"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 110)
    base_model.quiet()
    base = base_model.ensure(options.base)
    pool, asked = read("train"), read("test")
    labels = sorted({label for _, label in pool})
    prompt = PromptSpec(name="zero-shot@1", digest="", system=system_prompt(labels))
    most = draw(pool, max(options.counts), 1)
    test = without_near(asked, pool)
    random.Random(5).shuffle(test)  # noqa: S311
    test = test[: options.test]
    outcomes: list[Outcome] = []

    def note(one: Outcome) -> None:
        outcomes.append(one)
        console.print(f"{one.answerer} {one.per_class} seed {one.seed}: {one.right / one.of:.3f}", highlight=False)
        if options.json:
            with options.json.open("ab") as file:
                file.write(msgspec.json.encode(one) + b"\n")

    if not options.no_prompts:
        scorer = Scorer(Bank.open(base_model.reference(base, "bf16")))
        note(Outcome("zero-shot", 0, 1, prompted(scorer, prompt, test, labels), len(test), 0.0))
        shots = few_shot(prompt, draw(most, 1, 1))
        note(Outcome("few-shot", 1, 1, prompted(scorer, shots, test, labels), len(test), 0.0))
        del scorer
    with tempfile.TemporaryDirectory() as scratch:
        base, names = worded(options.wording, base, labels, [text for text, _ in pool + test], Path(scratch))
        told = msgspec.structs.replace(prompt, system=system_prompt(labels, names))
        exam = [(text, names[label]) for text, label in test]
        for seed in options.seeds:
            for count in options.counts:
                train = draw(pool, count, seed)
                note(controlled(train, test, seed))
                for method in options.methods:
                    called = [(text, names[label]) for text, label in train]
                    for one in trained(base, told, called, exam, options, method, seed):
                        note(one)
    show(console, outcomes)


if __name__ == "__main__":
    main()
