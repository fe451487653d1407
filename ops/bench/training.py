"""Training speed: plain TRL, TRL with its best settings here, and ours, on the same model, seed and data, in turn.

    python ops/bench/training.py [--steps 6] [--base FOLDER] [--batch 8]

Each trainer runs in a process of its own, so that its peak memory is its own. A prompt of about 200 tokens (labels,
rules, examples) and one of about 40 are tried. The first step warms up and is not counted. Prints the loss of each
step side by side, examples a second, and both ratios against plain TRL; the data is Banking77's
(TUNELOOP_BENCH_DATA), else the demo's tickets.

Plain TRL is what its documentation shows first: SFTTrainer and LoraConfig with their defaults, on the same tokens and
labels (its own tokenisation would also learn the line end that a chat template writes after an answer). Its best
settings are those that its guide to speed and memory names and that run on this device: on a CPU no gradient
checkpointing; on a GPU packing, padding-free FlashAttention and Liger's kernels as well, each only where installed.
Packing forms other batches, so that its losses are not those of the same step.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from adapters import base_model
from adapters.child import peak_memory_mb
from adapters.encode import encode
from adapters.specs import (
    Example,
    Message,
    Metric,
    PromptSpec,
    TrainSpec,
    read_json,
    read_lines,
    write_json,
    write_lines,
)

RULES = (
    "You classify messages of a bank's customers. Reply with the label alone, exactly as it is spelled in the list, "
    "without a full stop, an explanation or a second label. Read the whole message before you decide. Where two "
    "labels tempt, take the one that names what the customer wants to have done, not what the message mentions on "
    "the way. A complaint about money that has not arrived is about the transfer, not about the balance. A card that "
    "has not come is about delivery, a card that does not work is about the card itself."
)
PEERS = ("trl", "trl-best", "ours")


def examples(count: int, *, long: bool) -> tuple[list[Example], PromptSpec, list[str]]:
    """Examples of twelve labels under a long or a short prompt."""
    pairs = _pairs()
    labels = sorted({label for _, label in pairs})[:12]
    chosen = [pair for pair in pairs if pair[1] in labels]
    random.Random(7).shuffle(chosen)  # noqa: S311
    listed = ", ".join(labels)
    system = f"{RULES} Labels: {listed}." if long else f"Classify. Labels: {', '.join(labels[:4])} and so on."
    prompt = PromptSpec(name="bench@1", digest="", system=system)
    found = [
        Example(
            id=str(number),
            messages=[Message("system", system), Message("user", text), Message("assistant", label)],
            label=label,
        )
        for number, (text, label) in enumerate(chosen[:count])
    ]
    return found, prompt, labels


def _pairs() -> list[tuple[str, str]]:
    folder = os.environ.get("TUNELOOP_BENCH_DATA")
    if folder and (path := Path(folder) / "banking77" / "train.csv").exists():
        with path.open(encoding="utf-8", newline="") as file:
            return [(row["text"], row["category"].replace("_", " ")) for row in csv.DictReader(file)]
    path = Path(__file__).parents[2] / "examples" / "tickets" / "tickets.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["text"], row["label"]) for row in rows]


def make_folder(folder: Path, base: Path, quantisation: Any, steps: int, batch: int, *, long: bool) -> None:
    """A run folder: what our child gets, and the peers read the same files."""
    found, prompt, labels = examples(batch * steps, long=long)
    spec = TrainSpec(
        run_id="bench", task="bench", adapter="bench-v1", labels=labels, prompt=prompt,
        base=base_model.reference(base, quantisation), method="qlora" if quantisation == "nf4" else "lora",
        batch_size=batch, micro_batch_size=batch, min_steps=steps, max_steps=steps, epochs=1.0, eval_every=1000,
        checkpoint_every=1000, samples=0, seed=1, stratified=False,
    )  # fmt: skip
    folder.mkdir()
    write_json(folder / "spec.json", spec)
    write_lines(folder / "train.jsonl", found)
    (folder / "valid.jsonl").touch()


class Measured(msgspec.Struct):
    losses: list[float]
    seconds: list[float]  # of each step
    peak_mb: float
    settings: str = ""


def run_peer(folder: Path, best: bool) -> Measured:
    """Train a run folder with TRL's own trainer, in this process."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from adapters import methods

    spec = read_json(folder / "spec.json", TrainSpec)
    base_model.quiet()
    model, tokenizer = base_model.load(spec.base, spec.device, training=True)
    gpu = torch.cuda.is_available()
    rows = []
    for one in read_lines(folder / "train.jsonl", Example):
        coded = encode(tokenizer, one.messages, spec.max_length)
        rows.append({"input_ids": coded.tokens, "labels": [-100] * coded.start + coded.tokens[coded.start :]})
    options: dict[str, Any] = {}
    if best:
        options["gradient_checkpointing"] = False
        if gpu and importlib.util.find_spec("liger_kernel"):
            options["use_liger_kernel"] = True
        if gpu and importlib.util.find_spec("flash_attn"):
            model.set_attn_implementation("flash_attention_2")
            options |= {"packing": True, "padding_free": True}
    told: list[float] = []
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(-time.monotonic())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if gpu:
                torch.cuda.synchronize()
            times[-1] += time.monotonic()

        def on_log(self, _: Any, __: Any, ___: Any, logs: dict[str, float] | None = None, **____: Any) -> None:
            if logs and "loss" in logs:
                told.append(float(logs["loss"]))

    lora = LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=methods.TARGETS[spec.targets],
        task_type="CAUSAL_LM",
    )  # fmt: skip
    config = SFTConfig(
        output_dir=str(folder / "out"), max_steps=spec.max_steps, per_device_train_batch_size=spec.batch_size,
        learning_rate=spec.learning_rate, lr_scheduler_type="cosine", warmup_steps=1, logging_steps=1, seed=spec.seed,
        data_seed=spec.seed, bf16=model.dtype == torch.bfloat16, use_cpu=not gpu, report_to="none",
        disable_tqdm=True, save_strategy="no", max_length=spec.max_length, max_grad_norm=spec.max_grad_norm, **options,
    )  # fmt: skip
    torch.manual_seed(spec.seed)
    trainer = SFTTrainer(
        model=model, args=config, processing_class=tokenizer, train_dataset=Dataset.from_list(rows), peft_config=lora,
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    peak = torch.cuda.max_memory_allocated() / 2**20 if gpu else peak_memory_mb()
    return Measured(told, times, peak, ", ".join(f"{key}={value}" for key, value in options.items()))


def run_ours(folder: Path) -> Measured:
    """Train a run folder with the child process that the daemon starts."""
    subprocess.run([sys.executable, "-m", "adapters.train", str(folder)], check=True)
    lines = [line for line in read_lines(folder / "metrics.jsonl", Metric) if line.loss is not None]
    times = [after.seconds - before.seconds for before, after in itertools.pairwise(lines)]
    result = json.loads((folder / "result.json").read_bytes())
    return Measured([line.loss or 0.0 for line in lines], [times[0], *times], result["peak_memory_mb"])


def measure(peer: str, folder: Path) -> Measured:
    if peer == "ours":
        return run_ours(folder)
    command = [sys.executable, "-P", __file__, "--peer", peer, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Measured)


def show(console: Console, title: str, batch: int, found: dict[str, Measured]) -> None:
    table = Table(title=title, title_justify="left")
    for name in ("trainer", "seconds a step", "examples a second", "ratio", "peak MB", "ratio", "loss of each step"):
        table.add_column(name, justify="left" if name in ("trainer", "loss of each step") else "right")
    plain = found["trl"]
    for name, one in found.items():
        step = statistics.median(one.seconds[1:])
        ratio = statistics.median(plain.seconds[1:]) / step
        table.add_row(
            f"{name} {one.settings}".strip(),
            f"{step:.2f}", f"{batch / step:.1f}", f"{ratio:.2f}", f"{one.peak_mb:.0f}",
            f"{one.peak_mb / plain.peak_mb:.2f}", " ".join(f"{loss:.3f}" for loss in one.losses),
        )  # fmt: skip
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--base", default="")
    parser.add_argument("--quantisation", choices=("nf4", "bf16", "fp32"), default="nf4")
    parser.add_argument("--prompts", nargs="+", choices=("long", "short"), default=["long", "short"])
    parser.add_argument("--peer", choices=PEERS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.peer:
        print(msgspec.json.encode(run_peer(options.folder, options.peer == "trl-best")).decode())
        return
    console = Console(width=None if sys.stdout.isatty() else 150)
    base = base_model.ensure(options.base)
    with tempfile.TemporaryDirectory() as scratch:
        for length in options.prompts:
            found = {}
            for peer in PEERS:
                folder = Path(scratch) / f"{length}-{peer}"
                make_folder(folder, base, options.quantisation, options.steps, options.batch, long=length == "long")
                found[peer] = measure(peer, folder)
            title = f"{length} prompt, {base.name}, {options.quantisation}, batch {options.batch}"
            show(console, title, options.batch, found)


if __name__ == "__main__":
    main()
