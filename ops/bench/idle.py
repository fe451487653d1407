"""What an idle daemon costs: processor share and memory of it and of each process that it keeps.

    python -P ops/bench/idle.py [--seconds 60] [--settle 20] [--records 2000]

A real daemon on a workspace with a history: it has frozen a dataset and asked the control about new records, which
needs scikit-learn, and then has nothing to do (its window for trainings is closed). The figures are those of
/proc/<pid> over the measured time. The goal is the daemon's alone: below 0.5% of a core and 200 MB; engine, gateway,
mirror and notifier are processes of their own, and printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loop import intake
from loop.bootstrap import open_app
from loop.first_settings import default_toml
from loop.health import alive
from loop.services import read_endpoints
from store import events as ev
from store.log import Draft
from store.workspace import Workspace

TASK = "tickets"
TICKETS = Path(__file__).parents[2] / "examples" / "tickets" / "tickets.jsonl"
GOAL_SHARE, GOAL_MB = 0.005, 200.0
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


def make(root: Path, records: int) -> None:
    """A workspace with labelled examples and a prompt; half of the records come in here, half once it runs."""
    root.mkdir()
    tickets = [json.loads(line) for line in TICKETS.read_text(encoding="utf-8").splitlines()]
    labels = sorted({one["label"] for one in tickets})
    # a window that opens in half a day: a dataset is frozen, a training never starts
    hour = (datetime.now().astimezone().hour + 12) % 24
    window = {"resources": {"window": f"{hour:02d}:00-{hour:02d}:01"}, "wandb": {"mode": "offline"}}
    (root / "tuneloop.toml").write_text(default_toml(labels, task=TASK, overrides=window), encoding="utf-8")
    Workspace.create(root).close()
    with open_app(root) as app:
        prompt = ev.PromptAdopted(task=TASK, prompt="zero-shot@1", digest="", scores=[], reason="of the bench")
        app.workspace.log.append([Draft(prompt, f"task/{TASK}")], actor="bench", now=app.now())
        examples = [json.dumps({"text": one["text"], "label": one["label"]}).encode() for one in tickets[:200]]
        intake.ingest_lines(app, TASK, examples, claim="examples")
    lines = [
        {"id": f"r{number}", "text": f"{tickets[number % len(tickets)]['text']} ({number})", "answer": labels[0]}
        for number in range(records)
    ]
    with (root / "inbox" / "production.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def wait_for(ready: Callable[[], object], what: str, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.2)


def used(pid: int) -> tuple[float, float]:
    """(processor seconds, resident MB) of a process."""
    fields = Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()
    pages = int(Path("/proc", str(pid), "statm").read_text().split()[1])
    return (int(fields[11]) + int(fields[12])) / _TICKS, pages * _PAGE / 1e6


def peak_mb(pid: int) -> float:
    """The largest resident memory of a process so far."""
    lines = Path("/proc", str(pid), "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def kinds(root: Path) -> list[str]:
    with open_app(root) as app:
        return [one.type for one in app.workspace.log.read()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="measured")
    parser.add_argument("--settle", type=float, default=20.0, help="before that, once all is done")
    parser.add_argument("--records", type=int, default=2000)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "workspace"
        make(root, options.records)
        with (Path(folder) / "daemon.log").open("wb") as output:
            command = [sys.executable, "-m", "loop.cli.main", "-w", str(root), "run"]
            daemon = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            run = root / ".tuneloop" / "run"
            with console.status("waiting until the dataset is frozen and the control was asked"):
                wait_for(lambda: "DatasetFrozen" in kinds(root), "freezing a dataset")
                more = [{"id": f"s{number}", "text": f"a new ticket {number}"} for number in range(25)]
                (root / "inbox" / "more.jsonl").write_text("".join(json.dumps(one) + "\n" for one in more))
                wait_for(lambda: kinds(root).count("HarvestCompleted") >= 2, "a harvest with the control")
                wait_for(lambda: read_endpoints(run).engine and read_endpoints(run).gateway, "engine and gateway")
                time.sleep(options.settle)
            pids = {"daemon": daemon.pid, **read_endpoints(run).pids}
            before = {name: used(pid)[0] for name, pid in pids.items() if alive(pid)}
            with console.status(f"measuring for {options.seconds:.0f} s"):
                time.sleep(options.seconds)
            after = {name: used(pids[name]) for name in before}
            shares = {name: (after[name][0] - before[name]) / options.seconds for name in before}
            table = Table("process", "of a core", "resident MB", "at its peak", box=None)
            for name, share in shares.items():
                table.add_row(name, f"{share:.2%}", f"{after[name][1]:.0f}", f"{peak_mb(pids[name]):.0f}")
            console.print(table)
            share, memory = shares["daemon"], after["daemon"][1]
            met = share < GOAL_SHARE and memory < GOAL_MB
            goal = f"goal: below {GOAL_SHARE:.1%} and {GOAL_MB:.0f} MB"
            console.print(f"idle daemon: {share:.2%} of a core, {memory:.0f} MB ({goal}{'' if met else ': NOT met'})")
            return 0 if met else 1
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(timeout=60)


if __name__ == "__main__":
    sys.exit(main())
