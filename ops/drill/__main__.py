"""Tries every entry of ops/runbook.md: something goes wrong, is told, and is cured by what the runbook says.

    python ops/drill [--only ALERT ...] [--keep FOLDER]

A real daemon with its engine, gateway and trainings on the built-in model; a Prometheus with our rules, without their
waiting times. For each alert: provoke it, wait until it fires, run everything under "Look at" as it stands, see whether
it tells, do what stands under "Do", wait until the alert is gone. Needs `prometheus` on the PATH, a package index for
the model, which is brought in anew, and root for the two alerts about the disk (a small tmpfs is mounted). Prints the
table that the runbook shows.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table
from troubles import ENTRIES, NOT_TRIED, Entry, nothing
from world import Failed, World

PATIENCE = 240.0


def tried(world: World, entry: Entry) -> tuple[float, float]:
    """(seconds until it fired, seconds until it was gone after the cure).

    Raises:
        Failed: it did not fire, nothing told it, or the cure did not help.
    """
    wanted = (entry.alert, entry.workspace)
    world.alert = entry.alert
    # what lasts since an earlier entry was told then
    already = len(world.messages.read_text()) if entry.provoke is not nothing and world.messages.exists() else 0
    started = time.monotonic()
    entry.provoke(world)
    world.until(lambda: wanted in world.firing(), "the alert fires", PATIENCE)
    fired = time.monotonic() - started
    said = world.look()
    if entry.workspace == "support" and not re.search(entry.told, said):
        raise Failed(f"nothing says {entry.told!r}: {said[-3000:]}")
    if entry.message:
        told = f"a message says {entry.message}"
        world.until(lambda: entry.message in world.messages.read_text()[already:], told, 60)
    started = time.monotonic()
    entry.cure(world)
    world.until(lambda: wanted not in world.firing(), "the alert goes", PATIENCE)
    return fired, time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="alerts, in the order of the table")
    parser.add_argument("--keep", type=Path, help="for workspace and logs; of an earlier drill, for --only")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # processes and the tmpfs go in any case
    console = Console(width=140, soft_wrap=True)
    table = Table("alert", "provoked by", "fired after", "cured by", "gone after", box=None)
    failed = 0
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        world = World(folder.resolve(), stack)
        if world.root.exists():  # kept from an earlier drill: some of its entries are tried again
            world.settings()
            world.restart()
        else:
            words = ["tuneloop", "init", str(world.root), "--labels", "a,b"]
            subprocess.run(words, env=world.environment, check=True, stdout=subprocess.DEVNULL)
            world.settings(task={"prompt": "no-such-prompt@1"})
        world.prometheus()
        for entry in ENTRIES:
            if options.only and entry.alert not in options.only:
                continue
            console.print(f"[dim]{entry.alert}: {entry.how} …[/dim]")
            shown = ["–", "–"]
            try:
                shown = [f"{seconds:.0f} s" for seconds in tried(world, entry)]
                console.print(f"{entry.alert}: fired after {shown[0]}, gone {shown[1]} after the cure began")
            except (Failed, subprocess.SubprocessError, OSError) as error:
                failed += 1
                console.print(f"[red]{entry.alert}: {error}[/red]", markup=True, highlight=False)
                shown = ["NOT", "NOT"]
                with contextlib.suppress(OSError, Failed):  # for the entries after it
                    world.restart()
            table.add_row(entry.alert, entry.how, shown[0], entry.cured_by, shown[1])
    for alert, why in NOT_TRIED.items():
        table.add_row(alert, why, "–", "", "–")
    console.print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
