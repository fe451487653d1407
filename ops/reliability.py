"""Runs every reliability trial and prints what was done, what held, and the figures.

    python ops/reliability.py [--scale ci|full|soak] [--write docs/reliability.md] [PYTEST ARGUMENTS]

The trials are the tests under tests/reliability; this only chooses their size and makes the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("ci", "full", "soak"), default="ci")
    parser.add_argument("--write", type=Path, help="a Markdown file whose table is replaced")
    options, more = parser.parse_known_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        # a trial may take hours; each of its processes has a limit of its own
        command = [sys.executable, "-m", "pytest", "-o", f"timeout={6 * 3600}", "tests/reliability", *more]
        environment = {**os.environ, "TUNELOOP_SCALE": options.scale, "TUNELOOP_REPORT": str(report)}
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    table = ["| what was done to it | what held |", "|---|---|"]
    table += [f"| {line['done']} | {line['held']} |" for line in lines]
    minutes = (time.monotonic() - started) / 60
    told = f"Scale {options.scale}, {minutes:.0f} minutes on {os.cpu_count()} cores, {platform.system()}, "
    told += f"{datetime.now(UTC):%Y-%m-%d}; {'every trial passed' if code == 0 else 'NOT every trial passed'}."
    print("\n".join(["", *table, "", told]))
    if options.write:
        text = options.write.read_text(encoding="utf-8")
        head, found, _ = text.partition("<!-- table -->\n")
        if not found:
            raise SystemExit(f"{options.write} has no line <!-- table -->")
        options.write.write_text("\n".join([head + found + told, "", *table, ""]), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
