"""What preferences and rewards add to an adapter that already answers: dpo, grpo and rloo on the real small model.

    python ops/bench/methods.py [--only start dpo grpo rloo sft] [--folder DIR] [--seed 1]

`start` trains an adapter by QLoRA on a few examples per class and lets it answer new messages, as production would.
People correct them: the wrong answers are dpo's pairs, all of the new labels are prompts for grpo and rloo. Each
begins from the start and is trained by the daemon's own child process; then start and outcome answer the same
held-out items by label scores. The table says how many were gained and lost, and the paired 95% interval of the
difference in accuracy. `sft` trains on old and new labels from the base model with the same number of steps: what the
loop does without an objective. Pieces can run one at a time with `--folder`, which keeps what they leave; one that was
cut short goes on from its last checkpoint.

Data is Banking77's twelve most confused intents (TUNELOOP_BENCH_DATA), else the built-in tickets.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parent))  # last: store.py there is a bench, not the package

from quality import Pairs, draw, read, system_prompt, without_near

from adapters import base_model, profiles
from adapters.bank import Bank
from adapters.metrics import paired_difference
from adapters.scoring import Scorer
from adapters.specs import Example, PromptSpec, TrainResult, TrainSpec, read_json, write_json, write_lines

PIECES = ("start", "dpo", "grpo", "rloo", "sft")


class Data(msgspec.Struct):
    first: Pairs  # that the start learns from
    new: Pairs  # that production meets afterwards
    held: Pairs
    answers: list[str] = []  # of the start to `new`


class Outcome(msgspec.Struct):
    name: str
    right: list[bool]
    seconds: float
    settings: dict[str, Any]


def split(seed: int, first: int, new: int, held: int) -> Data:
    """First examples and new ones per class, and held-out items that come near to none of them."""
    if os.environ.get("TUNELOOP_BENCH_DATA"):
        pool, asked = read("train"), read("test")
    else:
        path = Path(__file__).parents[2] / "examples" / "tickets" / "tickets.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        pairs = [(row["text"], row["label"]) for row in rows]
        random.Random(seed).shuffle(pairs)  # noqa: S311
        asked, pool = pairs[:200], pairs[200:]
        first, new = min(first, 6), min(new, 12)
    drawn = draw(pool, first + new, seed)
    taken: dict[str, int] = {}
    data = Data([], [], [])
    for pair in drawn:
        taken[pair[1]] = taken.get(pair[1], 0) + 1
        (data.first if taken[pair[1]] <= first else data.new).append(pair)
    random.Random(5).shuffle(asked)  # noqa: S311
    data.held = without_near(asked, drawn)[:held]
    return data


def train(
    folder: Path, base: Path, prompt: PromptSpec, examples: list[Example], labels: list[str], **changes: Any
) -> tuple[TrainSpec, TrainResult]:
    """Have the child train, or go on where it was cut short; defaults are those that `tuneloop.toml` would give."""
    objective = changes.get("objective", "sft")
    usual = profiles.defaults("qlora", objective, "standard")
    values: dict[str, Any] = {"eval_every": 10_000, "checkpoint_every": 10, "samples": 0, **usual, **changes}
    spec = TrainSpec(
        run_id=folder.name, task="bench", adapter="bench-v1", labels=labels, prompt=prompt,
        base=base_model.reference(base, "nf4"), **values,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "spec.json", spec)
    write_lines(folder / "train.jsonl", examples)
    (folder / "valid.jsonl").touch()
    subprocess.run([sys.executable, "-m", "adapters.train", str(folder)], check=True)
    return spec, read_json(folder / "result.json", TrainResult)


def answers(spec: TrainSpec, adapter: Path, texts: list[str]) -> list[str]:
    bank = Bank.open(spec.base)
    bank.load("tuned", adapter)
    return [one.label for one in Scorer(bank).score("tuned", spec.prompt, texts, spec.labels)]


def show(console: Console, folder: Path) -> None:
    outcomes = [msgspec.json.decode(file.read_bytes(), type=Outcome) for file in sorted(folder.glob("*.outcome.json"))]
    start = next((one for one in outcomes if one.name == "start"), None)
    if start is None:
        return
    table = Table()
    for name in (
        "trained by",
        "held-out",
        "accuracy",
        "gained",
        "lost",
        "difference, 95% interval",
        "seconds",
        "settings",
    ):
        table.add_column(name, justify="left" if name in ("trained by", "settings") else "right")
    for one in sorted(outcomes, key=lambda one: PIECES.index(one.name)):
        n = len(one.right)
        pairs = list(zip(start.right, one.right, strict=True))
        gained, lost = pairs.count((False, True)), pairs.count((True, False))
        found = paired_difference(gained, lost, n)
        interval = f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" if one is not start else ""
        shown = ", ".join(f"{key} {value}" for key, value in one.settings.items())
        table.add_row(
            one.name, str(n), f"{sum(one.right) / n:.3f}", str(gained), str(lost), interval, f"{one.seconds:.0f}", shown
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PIECES, default=list(PIECES))
    parser.add_argument("--folder", type=Path, help="keeps what the pieces leave; default: a temporary one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=4, help="examples per class that the start learns from")
    parser.add_argument("--new", type=int, default=30, help="new labels per class")
    parser.add_argument("--held", type=int, default=450)
    parser.add_argument("--start-steps", type=int, default=60)
    parser.add_argument("--steps", type=int, default=0, help="default: those of the profile, 60 for dpo and sft")
    parser.add_argument("--set", default="{}", help="more fields of TrainSpec for dpo, grpo and rloo, as JSON")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    base_model.quiet()
    base = base_model.ensure("")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for piece in [piece for piece in PIECES if piece in options.only]:
            run(folder, base, piece, options)
            show(console, folder)


def run(folder: Path, base: Path, piece: str, options: Any) -> None:
    kept = folder / "data.json"
    if piece == "start":
        data = split(options.seed, options.first, options.new, options.held)
    else:
        data = msgspec.json.decode(kept.read_bytes(), type=Data)
    labels = sorted({label for _, label in data.first})
    prompt = PromptSpec(name="zero-shot@1", digest="", system=system_prompt(labels))

    def examples(pairs: Pairs, said: list[str] = []) -> list[Example]:  # noqa: B006
        return [
            Example(
                id=str(number), label=label, messages=prompt.messages(text, label),
                rejected=said[number] if said and said[number] != label else "",
            )
            for number, (text, label) in enumerate(pairs)
        ]  # fmt: skip

    count = options.steps or profiles.OBJECTIVES.get(piece, {}).get("min_steps", 60)
    steps: dict[str, Any] = {"min_steps": count, "max_steps": count}
    begun = {"seed": options.seed, "init_adapter": str(folder / "start" / "adapter"), **steps}
    if piece == "start":
        rows, changes = examples(data.first), {"seed": options.seed, "learning_rate": 1e-3}
        changes |= {"min_steps": options.start_steps, "max_steps": options.start_steps}
    elif piece == "sft":
        both = options.start_steps + count
        rows = examples(data.first + data.new)
        changes = {"seed": options.seed, "learning_rate": 1e-3, "min_steps": both, "max_steps": both}
    else:
        rows = examples(data.new, data.answers)
        changes = {"objective": piece, **begun, **json.loads(options.set)}
    spec, result = train(folder / piece, base, prompt, rows, labels, **changes)
    if result.notes:
        raise SystemExit("; ".join(result.notes))
    adapter = folder / piece / "adapter"
    if piece == "start":
        data.answers = answers(spec, adapter, [text for text, _ in data.new])
        kept.write_bytes(msgspec.json.encode(data))
    said = answers(spec, adapter, [text for text, _ in data.held])
    right = [one == label for one, (_, label) in zip(said, data.held, strict=True)]
    used = {"examples": len(rows), "steps": spec.max_steps, "rate": spec.learning_rate}
    if piece == "dpo":
        used["corrections"] = sum(bool(row.rejected) for row in rows)
    if piece in ("dpo", "grpo", "rloo"):
        used["beta"] = spec.beta
    if piece in ("grpo", "rloo"):
        used |= {"prompts a step": spec.batch_size // spec.generations, "answers": spec.generations}
    outcome = Outcome(piece, right, result.seconds, used)
    (folder / f"{piece}.outcome.json").write_bytes(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
