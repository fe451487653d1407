"""What one tick of the loop costs over a short and over a long log, with ten new events each time.

    python ops/bench/tick.py [--events 1000000] [--rounds 20]

A tick is what the daemon does with new events: fold, decide, harvest, bring the read tables up to date. Prints both
medians and their ratio, measured in the same run, the two workspaces in turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loop import datasets
from loop.bootstrap import App, open_app
from loop.first_settings import default_toml
from loop.policy import decide
from loop.steps import Steps
from store.events import RecordReceived
from store.log import Draft
from store.workspace import Workspace

TASK = "tickets"
NEW = 10
BATCH = 5000
SHORT = 1000


def received(number: int) -> Draft:
    record = f"r{number:012d}"
    side = "exam" if number % 3 == 0 else "train"
    event = RecordReceived(
        task=TASK, record_id=record, text_digest="0" * 64, chars=100, source="inbox", side=side, audit=side == "exam",
        audit_probability=0.3, cluster=record, answer="billing", answered_by="zero-shot@1", confidence=0.8, margin=0.6,
    )  # fmt: skip
    return Draft(event, f"record/{record}")


def make(root: Path, events: int) -> App:
    root.mkdir()
    (root / "tuneloop.toml").write_text(default_toml(["urgent", "billing", "technical", "general"]))
    Workspace.create(root).close()
    app = open_app(root)
    for start in range(0, events, BATCH):
        drafts = [received(number) for number in range(start, min(events, start + BATCH))]
        app.workspace.log.append(drafts, actor="bench", now=datetime.now(UTC))
    app.workspace.projections.catch_up()
    app.state()
    return app


def tick(app: App, number: int) -> float:
    """Seconds of one tick after ten new events."""
    app.workspace.log.append([received(number + i) for i in range(NEW)], actor="bench", now=datetime.now(UTC))
    started = time.perf_counter()
    state = app.state()
    decide(state, app.settings, app.now())
    task, rules = state.task(TASK), app.settings.tasks[TASK]
    drafts = datasets.harvest(app, Steps(app.workspace.paths.logs), task, rules)
    assert drafts is not None  # no control that would have to be asked
    app.workspace.log.append(drafts, actor="bench", now=app.now())
    app.workspace.projections.catch_up()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"short": SHORT, "long": options.events}
        with console.status("writing the logs"):
            apps = {name: make(Path(folder) / name, size) for name, size in sizes.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sizes}
        for round_number in range(options.rounds):
            for name, app in apps.items():
                seconds[name].append(tick(app, 10_000_000 + round_number * NEW))
        table = Table("log", "events", "median tick", box=None)
        for name, values in seconds.items():
            table.add_row(name, f"{sizes[name]:,}", f"{statistics.median(values) * 1000:.1f} ms")
        console.print(table)
        ratio = statistics.median(seconds["long"]) / statistics.median(seconds["short"])
        console.print(f"tick over the long log / over the short one: {ratio:.2f} (goal: at most 2)")
        for app in apps.values():
            app.close()


if __name__ == "__main__":
    main()
