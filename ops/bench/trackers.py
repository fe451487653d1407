"""The log's append beside MLflow, trackio and W&B offline: python ops/bench/trackers.py [--records N].

Each records the same series, one loss a step, in its normal way: MLflow into its default SQLite store, trackio into its
own, W&B into an offline run, the log one event a transaction. Each runs in a process of its own, in turns, in the same
run; rates are medians over the rounds. "Until closed" counts the closing of the run as well: what a tracker has only
queued is not written yet. Then each is killed (SIGKILL, with all it has started) right after its last call, and what
can be read of its files is counted. Syncs are counted by strace, where there is one.

MLflow and trackio get an environment of their own, in the cache folder: their pins are not ours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PINS = {"mlflow": "mlflow==3.17.2", "trackio": "trackio==0.43.0"}
NAMES = {"log": "tuneloop's log", "mlflow": "MLflow", "trackio": "trackio", "wandb": "W&B offline"}
SETTLE_SECONDS = 3.0  # for helpers that outlive a killed tracker
TRACED = 100  # records under strace, which is slow


# ---------------------------------------------------------------- one tracker, in a process of its own


def open_log(folder: Path) -> tuple[Callable[[int], None], Callable[[], None]]:
    from datetime import UTC, datetime

    from store.events import TrainingProgressed
    from store.log import Draft
    from store.workspace import Workspace

    workspace = Workspace.create(folder)

    def record(step: int) -> None:
        event = TrainingProgressed(task="bench", run_id="r", step=step, of=100_000, loss=1 / (step + 1))
        workspace.log.append([Draft(event, "run/r")], actor="bench", now=datetime.now(UTC))

    return record, workspace.close


def open_mlflow(folder: Path) -> tuple[Callable[[int], None], Callable[[], None]]:
    import mlflow

    mlflow.set_experiment("bench")
    mlflow.start_run()
    return lambda step: mlflow.log_metric("loss", 1 / (step + 1), step=step), mlflow.end_run


def open_trackio(folder: Path) -> tuple[Callable[[int], None], Callable[[], None]]:
    import trackio

    trackio.init(project="bench", name="r")
    return lambda step: trackio.log({"loss": 1 / (step + 1)}, step=step), trackio.finish


def open_wandb(folder: Path) -> tuple[Callable[[int], None], Callable[[], None]]:
    import wandb

    quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True, disable_git=True)
    run = wandb.init(project="bench", mode="offline", dir=str(folder), settings=quiet)
    return lambda step: run.log({"loss": 1 / (step + 1)}, step=step), run.finish


OPEN = {"log": open_log, "mlflow": open_mlflow, "trackio": open_trackio, "wandb": open_wandb}


def work(name: str, folder: Path, records: int, *, dies: bool) -> None:
    """Record, and print the seconds of the calls and of the whole; or die without a word after the last call."""
    if name == "log":
        sys.path.insert(0, str(ROOT))
    record, finish = OPEN[name](folder)
    record(0)  # what a first call sets up is no part of the rate
    started = time.perf_counter()
    for step in range(1, records + 1):
        record(step)
    called = time.perf_counter() - started
    if dies:
        os.killpg(0, signal.SIGKILL)
    finish()
    print(json.dumps({"called": called, "closed": time.perf_counter() - started}))


# ---------------------------------------------------------------- all of them


def interpreter(name: str) -> str | None:
    """The Python that has a tracker; MLflow's and trackio's is made on first use. None, told, where that fails."""
    if name not in PINS:
        return sys.executable
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tuneloop" / "bench" / "trackers"
    python = cache / "bin" / "python"
    if not python.exists():
        venv.create(cache, with_pip=True)
    marker = cache / f".{PINS[name]}"
    if not marker.exists():
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PINS[name]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
            print(f"{NAMES[name]} is left out: it cannot be installed ({reason[:150]})")
            return None
        marker.touch()
    return str(python)


def environment(folder: Path) -> dict[str, str]:
    keys = ("MLFLOW_", "WANDB_", "TRACKIO_", "TUNELOOP_", "HF_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(keys)}
    env |= {"TRACKIO_DIR": str(folder), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**env, "WANDB_ERROR_REPORTING": "false", "WANDB_CACHE_DIR": str(folder), "WANDB_DATA_DIR": str(folder)}


def run(name: str, python: str, folder: Path, records: int, *more: str, before: tuple[str, ...] = ()) -> Any:
    """Let a tracker work in a fresh folder; what it has printed last, as JSON, or None after a death."""
    folder.mkdir()
    command = [*before, python, "-P", str(Path(__file__).resolve()), "--worker", name, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--records", str(records), *more],
        capture_output=True, text=True, cwd=folder, env=environment(folder), timeout=600, start_new_session=True,
    )  # fmt: skip
    if "--dies" in more:
        return None
    if done.returncode:
        raise SystemExit(f"{NAMES[name]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def readable(name: str, folder: Path) -> int:
    """Records that can be read back from the files in `folder`, the first one left out."""
    if name == "log":
        return _rows(folder / ".tuneloop" / "tuneloop.sqlite", "events") - 1
    if name == "wandb":
        from adapters import wandb_segments

        places = [path for path in folder.rglob("offline-run-*") if path.is_dir() and wandb_segments.file_of(path)]
        return max([wandb_segments.last_step(path) for path in places], default=0)
    return max([_rows(path, "metrics") for path in folder.rglob("*.db")], default=1) - 1


def _rows(file: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        try:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
        except sqlite3.OperationalError:
            return 0


def syncs(name: str, python: str, folder: Path) -> float | None:
    """fsync and fdatasync calls a record, without those of start and end; None where they cannot be counted."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    counts = []
    for records in (1, 1 + TRACED):
        trace = folder / f"trace-{records}"
        with contextlib.suppress(SystemExit):
            run(name, python, folder / f"traced-{records}", records,
                before=(strace, "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(trace)))  # fmt: skip
        if not trace.exists():
            return None
        counts.append(len(re.findall(r"f(?:data)?sync\(", trace.read_text(errors="replace"))))
    return (counts[1] - counts[0]) / TRACED


def measure(records: int, rounds: int) -> None:
    from rich.console import Console
    from rich.table import Table

    found = {name: python for name in OPEN if (python := interpreter(name)) is not None}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    kept: dict[str, int] = {}
    synced: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="tuneloop-trackers-") as place:
        for number in range(rounds):
            for name, python in found.items():
                took = run(name, python, Path(place, f"{name}-{number}"), records)
                times[name].append((took["called"], took["closed"]))
        for name, python in found.items():
            folder = Path(place, f"{name}-dies")
            run(name, python, folder, records, "--dies")
            time.sleep(SETTLE_SECONDS)
            kept[name] = readable(name, folder)
            synced[name] = syncs(name, python, Path(place))
            for leftover in Path(place).glob("trac*"):
                shutil.rmtree(leftover, ignore_errors=True)
                leftover.unlink(missing_ok=True)
    table = Table(title=f"{records} records, one loss a step, {rounds} rounds")
    for column in (
        "tracker",
        "records/s in the call",
        "until closed",
        "ours to theirs",
        "kept after kill -9",
        "syncs a record",
    ):
        table.add_column(column, justify="left" if column == "tracker" else "right")
    ours = statistics.median(closed for _, closed in times["log"])
    for name, measured in times.items():
        called, closed = (statistics.median(one) for one in zip(*measured, strict=True))
        shown = synced[name]
        table.add_row(
            NAMES[name], f"{records / called:,.0f}", f"{records / closed:,.0f}",
            "" if name == "log" else f"{closed / ours:.2f}",
            f"{kept[name]} of {records}", "–" if shown is None else f"{shown:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)
    print("ours to theirs: rate of the log by the rate of the tracker, both until closed; above 1 the log is faster")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", choices=sorted(OPEN), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dies", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.folder, given.records, dies=given.dies)
        return
    sys.path.insert(0, str(ROOT))
    measure(given.records, given.rounds)


if __name__ == "__main__":
    main()
