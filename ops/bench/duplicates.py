"""What finding near-duplicates among 100,000 texts costs: seconds and memory, and which of the planted ones it finds.

    TUNELOOP_BENCH_DATA=DIR python ops/bench/duplicates.py [--texts 100000]

Texts are two queries of Banking77 each (seed 1). A tenth of them are copies of others: with one letter changed, or
with a "please" added. Each line of the table is measured in a process of its own; memory is its peak, everything
included. The last line has texts of 12 words out of 60: hardly two of them alike, and nothing in them is rare, which
is as hard as it gets; it stands for what the time does not promise, and has a tenth of the texts.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

THRESHOLD = 0.9
SHARE = 0.1  # of planted copies


def queries() -> list[str]:
    folder = os.environ.get("TUNELOOP_BENCH_DATA")
    if not folder:
        sys.exit("TUNELOOP_BENCH_DATA names no folder with banking77/train.csv")
    with (Path(folder) / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def corpus(count: int, chance: random.Random) -> tuple[list[str], list[int]]:
    """(texts, indices of the planted copies)."""
    known = queries()
    originals = [f"{chance.choice(known)} {chance.choice(known)}" for _ in range(count - int(SHARE * count))]
    copies = []
    for number in range(count - len(originals)):
        text = chance.choice(originals)
        at = chance.randrange(len(text))
        copies.append(f"{text} please" if number % 2 else text[:at] + chance.choice("abcdefgh") + text[at + 1 :])
    return originals + copies, list(range(len(originals), count))


def uniform(count: int, chance: random.Random) -> list[str]:
    words = [chr(97 + a) + chr(97 + b) * 3 for a in range(10) for b in range(6)]
    return [" ".join(chance.choice(words) for _ in range(12)) for _ in range(count)]


def measure(what: str, count: int) -> dict[str, float]:
    from loop.neighbours import near_duplicates_among

    chance = random.Random(1)  # noqa: S311  (texts, not secrets)
    texts, planted = (uniform(count, chance), []) if what == "uniform" else corpus(count, chance)
    embed = None
    if what == "embeddings":
        from loop.embeddings import embedder

        embed = embedder()
    wall, cpu = time.perf_counter(), time.process_time()
    gone = {one.index for one in near_duplicates_among(texts, THRESHOLD, embed=embed)}
    return {
        "texts": count,
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "gone": len(gone),
        "planted": len(planted),
        "found": sum(index in gone for index in planted),
    }


def apart(what: str, count: int) -> dict[str, float]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", __file__, "--one", what, "--texts", str(count)], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--one", choices=("tfidf", "embeddings", "uniform"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one, options.texts)))
        return
    table = Table(title=f"near-duplicates, cosine of at least {THRESHOLD}")
    for name in ("measure", "texts", "seconds", "CPU seconds", "peak MiB", "removed", "planted, found"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    rows = [("tfidf", options.texts // 10), ("tfidf", options.texts), ("embeddings", options.texts)]
    for what, count in [*rows, ("uniform", options.texts // 10)]:
        one = apart(what, count)
        found = f"{one['found'] / one['planted']:.1%} of {one['planted']:.0f}" if one["planted"] else ""
        table.add_row(
            {"uniform": "tfidf, 60 words"}.get(what, what), f"{one['texts']:,}", f"{one['seconds']:.1f}",
            f"{one['cpu']:.1f}", f"{one['mib']:.0f}", f"{one['gone']:,}", found,
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
