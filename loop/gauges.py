"""What the gateway's /metrics says of the loop, read from the log's tables and the daemon's pulse."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from loop import health, progress, pulse
from loop.bootstrap import App
from loop.exposition import Family, Sample
from loop.lease import holder
from loop.notify.outbox import read_box
from loop.policy import labels_missing
from loop.services import read_endpoints
from loop.state import LoopState
from store.counts import counts, total
from store.errors import StepError

SIDES = ("train", "exam", "none")
# events that are worth counting: rare ones, whose number an index gives at once
COUNTED = (
    "TrainingFailed", "EvaluationFailed", "StepInterrupted", "AdapterPromoted", "AdapterRolledBack",
    "CandidateRejected", "LeaseAcquired",
)  # fmt: skip
_PAGE, _TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")

Rows = list[tuple[Any, ...]]


def families(app: App, now: datetime) -> list[Family]:
    """All metrics of a workspace.

    Raises:
        StoreError: the log cannot be read.
    """
    state = app.state()  # the read tables are kept up by the daemon: a scrape writes nothing
    found = [*_daemon(app), *_parts(app, now), *_log(app, now), *_machine(app)]
    for collect in (_records, _labels, _cycles, _verdicts):
        found += collect(app, state)
    return [*found, *_mirror(app, now), *_notify(app)]


def unreadable() -> list[Family]:
    """What is said of a workspace that cannot be read."""
    return [_gauge("tuneloop_workspace_readable", "Whether the workspace's log could be read.", [Sample(0)])]


def _gauge(name: str, about: str, samples: list[Sample]) -> Family:
    return Family(name, "gauge", about, samples)


def _counter(name: str, about: str, samples: list[Sample]) -> Family:
    return Family(name, "counter", about, samples)


# ---------------------------------------------------------------- daemon, parts, machine


def _daemon(app: App) -> Iterator[Family]:
    try:
        version = metadata.version("tuneloop")
    except metadata.PackageNotFoundError:
        version = "unknown"
    run = app.workspace.paths.run
    running, beat = bool(holder(run)), pulse.read(run)

    def told(value: Callable[[pulse.Pulse], float]) -> list[Sample]:
        return [Sample(value(beat))] if running and beat is not None else []

    yield _gauge("tuneloop_info", "The program's version.", [Sample(1, {"version": version})])
    yield _gauge("tuneloop_workspace_readable", "Whether the workspace's log could be read.", [Sample(1)])
    yield _gauge("tuneloop_daemon_running", "Whether a daemon holds the workspace's lock.", [Sample(running)])
    yield _gauge("tuneloop_daemon_seconds_since_tick", "Since the daemon's last tick ended.", told(pulse.age))
    yield _gauge("tuneloop_daemon_tick_seconds", "How long its last tick took.", told(lambda one: one.tick_seconds))
    yield _counter("tuneloop_daemon_ticks_total", "Ticks since it started.", told(lambda one: one.ticks))
    about = "Ticks and commands that failed since it started."
    yield _counter("tuneloop_daemon_failures_total", about, told(lambda one: one.failed))
    about = "Commands that failed and are left alone for a while."
    yield _gauge("tuneloop_daemon_held_commands", about, told(lambda one: len(one.held)))


def _parts(app: App, now: datetime) -> Iterator[Family]:
    about = "Whether a part of the loop works, if not well; parts that are turned off are left out."
    parts = [one for one in health.parts(app, now) if one.state != "off"]
    yield _gauge("tuneloop_part_up", about, [Sample(one.state != "down", {"part": one.name}) for one in parts])


def _log(app: App, now: datetime) -> Iterator[Family]:
    yield _gauge(
        "tuneloop_log_events", "Position of the log's last event.", [Sample(app.workspace.log.head().position)]
    )
    seen = health.read_verified(app)
    at = [Sample(seen.at.timestamp())] if seen else []
    yield _gauge("tuneloop_log_verified_timestamp_seconds", "When the workspace was last verified.", at)
    problems = [Sample(seen.problems)] if seen else []
    yield _gauge("tuneloop_log_verified_problems", "What the last verification found.", problems)
    backups = _rows(app, "SELECT max(recorded_at) FROM events WHERE type = 'BackupCompleted'")[0][0]
    about = "When the last backup was completed."
    stamp = [Sample(datetime.fromisoformat(backups).timestamp())] if backups else []
    yield _gauge("tuneloop_backup_timestamp_seconds", about, stamp)
    query = f"SELECT type, count(*) FROM events WHERE type IN ({', '.join('?' * len(COUNTED))}) GROUP BY type"  # noqa: S608
    found: dict[str, int] = dict(_rows(app, query, *COUNTED))
    about = "Events of rare kinds in the log."
    yield _counter("tuneloop_events_total", about, [Sample(found.get(one, 0), {"type": one}) for one in COUNTED])


def _machine(app: App) -> Iterator[Family]:
    free = shutil.disk_usage(app.root).free
    yield _gauge("tuneloop_disk_free_bytes", "Free space where the workspace lies.", [Sample(free)])
    size = app.workspace.paths.database.stat().st_size
    yield _gauge("tuneloop_database_bytes", "Size of the database file.", [Sample(size)])
    usage = [(name, found) for name, pid in _processes(app) if (found := _usage(pid)) is not None]
    memory = [Sample(resident, {"process": name}) for name, (resident, _) in usage]
    yield _gauge("tuneloop_process_resident_memory_bytes", "Resident memory by process.", memory)
    cpu = [Sample(seconds, {"process": name}) for name, (_, seconds) in usage]
    yield _counter("tuneloop_process_cpu_seconds_total", "Processor time by process, since it started.", cpu)


def _processes(app: App) -> list[tuple[str, int]]:
    """(name, id) of the daemon, its services and, where one works, the first step."""
    run = app.workspace.paths.run
    found: dict[str, int] = {}
    beat = pulse.read(run)
    if beat is not None and holder(run):
        found = {"daemon": beat.pid, **read_endpoints(run).pids}
    steps = progress.step_processes(app.workspace.paths.runs)
    return [*{**found, "gateway": os.getpid()}.items(), *(("step", pid) for pid in steps[:1])]


def _usage(pid: int) -> tuple[int, float] | None:
    """Resident bytes and processor seconds of a process; None where it has ended."""
    try:
        pages = int(Path("/proc", str(pid), "statm").read_text().split()[1])
        fields = Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, IndexError, ValueError):
        return None
    return pages * _PAGE, (int(fields[11]) + int(fields[12])) / _TICKS


# ---------------------------------------------------------------- tasks


def _records(app: App, state: LoopState) -> Iterator[Family]:
    counted = {name: counts(app.workspace.read, name) for name in app.settings.tasks}
    yield _counter(
        "tuneloop_records_total",
        "Records that came in, by side of the split.",
        [
            Sample(found.get("received", {}).get(side, 0), {"task": name, "side": side})
            for name, found in counted.items()
            for side in SIDES
        ],
    )
    yield _counter(
        "tuneloop_quarantined_total",
        "Lines that could not be taken in.",
        [Sample(total(found, "quarantined"), {"task": name}) for name, found in counted.items()],
    )
    yield _gauge(
        "tuneloop_queue_open",
        "Records that wait for a label, by side.",
        [
            Sample(found.get("queue", {}).get(side, 0), {"task": name, "side": side})
            for name, found in counted.items()
            for side in ("train", "exam")
        ],
    )
    served = [
        ({"task": name, "answerer": answerer}, one)
        for name in app.settings.tasks
        for answerer, one in state.task(name).served.items()
    ]
    about = "Production's records by the answerer that is known to have answered."
    yield _counter("tuneloop_answers_total", about, [Sample(one.records, labels) for labels, one in served])
    about = "Those among them that production corrected later."
    yield _counter("tuneloop_corrections_total", about, [Sample(one.disagreements, labels) for labels, one in served])


def _labels(app: App, state: LoopState) -> Iterator[Family]:
    tasks = {name: state.task(name) for name in app.settings.tasks}
    yield _gauge(
        "tuneloop_labels",
        "Labels that stand, by side and class.",
        [
            Sample(count, {"task": name, "side": side, "label": label})
            for name, task in tasks.items()
            for side, found in (("train", task.labels_train), ("exam", task.labels_exam))
            for label, count in found.items()
        ],
    )
    exam = [Sample(task.exam_total, {"task": name}) for name, task in tasks.items()]
    yield _gauge("tuneloop_exam_items", "Labelled audit draws: the exam.", exam)
    missing = [
        Sample(max(0, labels_missing(task, app.settings.tasks[name])), {"task": name}) for name, task in tasks.items()
    ]
    yield _gauge("tuneloop_labels_missing", "Labels until the next training.", missing)
    champions = [
        Sample(1, {"task": name, "answerer": task.champion.answerer, "kind": task.champion.kind})
        for name, task in tasks.items()
        if task.champion.answerer
    ]
    yield _gauge("tuneloop_champion_info", "Who answers production.", champions)


def _cycles(app: App, state: LoopState) -> Iterator[Family]:
    now = app.now()
    yield _gauge("tuneloop_paused", "Whether people have paused the loop.", [Sample(state.paused)])
    open_ones = [(name, cycle) for name in app.settings.tasks if (cycle := state.task(name).cycle) is not None]
    phases = [Sample(1, {"task": name, "phase": cycle.phase}) for name, cycle in open_ones]
    yield _gauge("tuneloop_cycle_phase", "The phase that a task's run is in; absent where none is open.", phases)
    ages = [
        Sample(max(0.0, (now - cycle.phase_since).total_seconds()), {"task": name, "phase": cycle.phase})
        for name, cycle in open_ones
    ]
    yield _gauge("tuneloop_cycle_phase_seconds", "How long it has been in that phase.", ages)
    works = [one for one in progress.doing(app, state, now) if one.of]
    done = [Sample(one.done / one.of, {"task": one.task}) for one in works]
    yield _gauge("tuneloop_step_progress_ratio", "How far the step at work is, 0 to 1.", done)
    left = [Sample(one.seconds_left, {"task": one.task}) for one in works if one.seconds_left is not None]
    yield _gauge("tuneloop_step_seconds_left", "How long it will still take, as earlier ones tell.", left)
    query = "SELECT task, state, count(*) FROM runs GROUP BY task, state"
    runs = [Sample(count, {"task": task, "state": name}) for task, name, count in _rows(app, query)]
    yield _gauge("tuneloop_runs", "Runs by what became of them.", runs)


def _verdicts(app: App, _: LoopState) -> Iterator[Family]:
    query = "SELECT task, verdict, count(*) FROM evaluations WHERE verdict != '' GROUP BY task, verdict"
    verdicts = [Sample(count, {"task": task, "verdict": name}) for task, name, count in _rows(app, query)]
    yield _counter("tuneloop_verdicts_total", "The gate's verdicts.", verdicts)
    accuracies: list[Sample] = []
    for name in app.settings.tasks:
        newest = "SELECT results FROM evaluations WHERE task = ? AND results != '[]' ORDER BY position DESC LIMIT 1"
        for (results,) in _rows(app, newest, name):
            accuracies += [
                Sample(one["accuracy"], {"task": name, "answerer": one["answerer"], "decoding": one["decoding"]})
                for one in json.loads(results)
            ]
    about = "Accuracy on the exam at the newest look, by answerer."
    yield _gauge("tuneloop_exam_accuracy_ratio", about, accuracies)


# ---------------------------------------------------------------- mirror and messages


def _mirror(app: App, now: datetime) -> Iterator[Family]:
    rules = app.settings.wandb
    missing, oldest = health.mirror_lag(app) if rules.enabled and rules.mode != "disabled" else (0, None)
    about = "Events that Weights & Biases still lacks."
    yield _gauge("tuneloop_mirror_events_behind", about, [Sample(missing)])
    age = max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
    yield _gauge("tuneloop_mirror_seconds_behind", "Age of the oldest of them.", [Sample(age)])


def _notify(app: App) -> Iterator[Family]:
    boxes = []
    for name in sorted(app.settings.notify):
        try:
            boxes.append((name, read_box(app.workspace.paths.notify / f"{name}.json")))
        except StepError:
            continue  # the notifier says that it cannot be read; its part is down

    def told(value: Callable[[Any], float]) -> list[Sample]:
        return [Sample(value(box), {"target": name}) for name, box in boxes]

    yield _gauge("tuneloop_notify_waiting", "Messages that wait.", told(lambda box: len(box.waiting)))
    yield _gauge("tuneloop_notify_failures", "Failed tries in a row.", told(lambda box: box.failures))
    yield _counter("tuneloop_notify_delivered_total", "Messages that were taken.", told(lambda box: box.delivered))
    yield _counter("tuneloop_notify_dropped_total", "Messages that were given up.", told(lambda box: box.dropped))


def _rows(app: App, query: str, *values: object) -> Rows:
    with app.workspace.database.reading() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query, tuple(values)).all()]
