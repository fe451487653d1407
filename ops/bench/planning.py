"""What `tuneloop train --plan` says of memory, beside the measured peak of a few real steps.

    python -P ops/bench/planning.py [--methods qlora lora full] [--micro 4 8 16] [--prompts short long] [--base DIR]

Each line is a process of its own that makes four steps on the built-in tickets (`adapters.probe`); its peak is that of
the whole process, torch included. A long prompt is about 200 tokens, a short one about 40.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from adapters import base_model, planning, profiles
from adapters.probe import FILE, Probe
from adapters.specs import Example, PromptSpec, TrainSpec, read_json, write_json, write_lines
from loop.steps import MODEL_ENVIRONMENT

TICKETS = Path(__file__).parents[2] / "examples" / "tickets" / "tickets.jsonl"
SHORT = "You sort support tickets. Answer with one word: urgent, billing, technical or general."
RULES = (
    " Urgent: harm is happening now, or will within a day, to people, data, money or safety; an outage counts."
    " Billing: anything about invoices, prices, refunds, charges, payment methods, taxes, receipts or contracts."
    " Technical: something is broken, slow or wrongly set up, or the customer asks how to set it up or connect it."
    " General: everything else, such as praise, requests for features, questions about the company, or goodbyes."
    " Where two fit, urgent comes first, then billing. A threat to leave is not urgent. A question about a price that"
    " has not been charged is general. Never explain your answer, never answer with anything but one of the words."
)


def measure(base: Path, method: Any, micro: int, system: str, compute: Any) -> tuple[Probe, planning.Memory]:
    prompt = PromptSpec(name="bench@1", digest="", system=system)
    quantisation: Any = "nf4" if method == "qlora" else "bf16"
    spec = TrainSpec(
        run_id="plan", task="plan", adapter="plan-v1", labels=["urgent", "billing", "technical", "general"],
        prompt=prompt, method=method, base=base_model.reference(base, quantisation, compute), micro_batch_size=micro,
        batch_size=micro, **profiles.defaults(method, "sft", "standard"),
    )  # fmt: skip
    tickets = [json.loads(line) for line in TICKETS.read_text(encoding="utf-8").splitlines()][
        :micro
    ]  # all in one micro-batch, as planned
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_json(folder / "spec.json", spec)
        rows = [
            Example(id=one["id"], label=one["label"], messages=prompt.messages(one["text"], one["label"]))
            for one in tickets
        ]
        write_lines(folder / "train.jsonl", rows)
        (folder / "valid.jsonl").touch()
        environment = {**os.environ, **MODEL_ENVIRONMENT}
        subprocess.run([sys.executable, "-m", "adapters.probe", str(folder)], check=True, env=environment)
        probe = read_json(folder / FILE, Probe)
    gpu = probe.device.startswith("cuda")
    shape = planning.read_shape(base)
    return probe, planning.memory(shape, spec, probe.tokens, learned=probe.learned, compute=probe.compute, gpu=gpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["qlora", "lora", "full", "prefix", "prompt", "ia3"])
    parser.add_argument("--micro", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--prompts", nargs="+", choices=("short", "long"), default=["short", "long"])
    parser.add_argument("--compute", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--base", default="")
    options = parser.parse_args()
    base_model.quiet()
    base = base_model.ensure(options.base)
    table = Table()
    for name in ("method", "in", "prompt", "micro-batch", "tokens", "planned MB", "measured MB", "planned / measured"):
        table.add_column(name, justify="left" if name in ("method", "in", "prompt") else "right")
    for method in options.methods:
        for kind in options.prompts:
            for micro in options.micro:
                probe, planned = measure(
                    base, method, micro, SHORT + (RULES if kind == "long" else ""), options.compute
                )
                sizes = [f"{size / 1e6:.0f}" for size in (planned.total, probe.peak)]
                ratio = f"{planned.total / probe.peak:.2f}"
                table.add_row(method, probe.compute, kind, str(micro), str(probe.tokens), *sizes, ratio)
    Console(width=None if sys.stdout.isatty() else 110).print(table)


if __name__ == "__main__":
    main()
