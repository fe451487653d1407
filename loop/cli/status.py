"""`status` and `state`: where everything stands, at a glance."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop.cli import collect_as_usual
from loop.cli.context import AsJson, open_app
from loop.cli.driving import daemon_holder, describe
from loop.cli.output import ago, builtins, emit, now, percent, say, show, styled, table

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.state import LoopState, TaskState

SNAPSHOT_EVENTS = 2000  # a log longer than this is worth a copy of the state


def status(
    ctx: typer.Context,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds, until Ctrl-C.")] = False,
) -> None:
    """Show who serves, what is labelled, what the loop is doing and what it waits for.

    In the JSON only the part "daemon" tells of the moment; all else follows from the log.
    """
    with open_app(ctx) as app:
        while True:
            if as_json:
                emit(gather(app))
            else:
                if watch and sys.stdout.isatty():
                    sys.stdout.write("\x1b[H\x1b[2J")
                _print(app)
            if not watch:
                return
            collect_as_usual()
            sys.stdout.flush()
            time.sleep(2.0)
            app.workspace.projections.catch_up()


def state(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Print the folded state that the loop decides on, as JSON (with or without --json)."""
    with open_app(ctx, caught_up=False) as app:
        emit(folded(app))


def folded(app: App) -> LoopState:
    """The state after the log's last event; keeps a copy where a long log has none."""
    from loop import snapshot

    state = app.state()
    if state.position > SNAPSHOT_EVENTS and not (app.workspace.paths.run / snapshot.FILE).exists():
        app.save_snapshot()
    return state


def gather(app: App) -> dict[str, Any]:
    """Everything that `status` says, as JSON values. Only "daemon" depends on more than the log and the settings."""
    from loop.cli.notify import target_status
    from loop.services import read_endpoints

    state = folded(app)
    endpoints = read_endpoints(app.workspace.paths.run)
    holder = daemon_holder(app.workspace.paths.run)
    return {
        "workspace": str(app.root),
        "position": state.position,
        "paused": {"reason": state.pause_reason, "since": builtins(state.paused_at)} if state.paused else None,
        "tasks": {name: task_status(app, state, name) for name in app.settings.tasks},
        "daemon": {
            "running": bool(holder),
            "holder": holder,
            "engine": endpoints.engine,
            "gateway": endpoints.gateway,
            "notify": {name: target_status(app, name) for name in sorted(app.settings.notify)},
        },
    }


def task_status(app: App, state: LoopState, name: str) -> dict[str, Any]:
    """One task's part of `status`."""
    from loop.cli import reads
    from loop.policy import waits
    from store.counts import counts

    task = state.task(name)
    counted = counts(app.workspace.read, name)
    verdict = reads.last_evaluation(app.workspace, name, judged=True)
    champion = task.champion
    return {
        "champion": {"answerer": champion.answerer, "kind": champion.kind, "position": champion.position},
        "baseline": task.baseline,
        "records": {"total": task.records, **{side: counted.get("received", {}).get(side, 0) for side in SIDES}},
        "labels": {
            "train": _per_class(app, name, task.labels_train),
            "exam": _per_class(app, name, task.labels_exam),
            "hard_exam": task.labels_hard,
        },
        "train_labels": task.train_total,
        "exam_size": task.exam_total,
        "queue": {
            "open": sum(counted.get("queue", {}).values()),
            "by_reason": counted.get("open", {}),
            "by_side": counted.get("queue", {}),
            "skipped": counted.get("skipped", {}).get("", 0),
        },
        "quarantined": sum(counted.get("quarantined", {}).values()),
        "erased": counted.get("erased", {}).get("", 0),
        "step": _step(task),
        "waits": waits(state, app.settings, name),
        "last_verdict": verdict
        and {name: verdict[name] for name in ("candidate", "champion", "verdict", "summary", "look", "evaluation_id")},
    }


SIDES = ("train", "exam", "none")


def _per_class(app: App, task: str, counts: Any) -> dict[str, int]:
    known = app.settings.tasks[task].labels
    return {label: counts.get(label, 0) for label in [*known, *sorted(set(counts) - set(known))]}


def _step(task: TaskState) -> dict[str, Any] | None:
    cycle = task.cycle
    if cycle is None:
        return None
    return {
        "run": cycle.run_id,
        "adapter": cycle.adapter,
        "phase": cycle.phase,
        "since": builtins(cycle.phase_since),
        "attempt": cycle.attempt,
        "step": cycle.step,
        "of": cycle.of,
        "reason": cycle.reason,
    }


# ---------------------------------------------------------------- for people


def _print(app: App) -> None:
    from loop.cli.notify import in_words

    values = gather(app)
    state = app.state()
    daemon = values["daemon"]
    say(
        styled("daemon   ", "bold"),
        f"running ({daemon['holder']})" if daemon["running"] else "not running: `tuneloop run`",
    )
    if daemon["gateway"]:
        say(styled("gateway  ", "bold"), f"{daemon['gateway']}/v1")
    if daemon["engine"]:
        say(styled("engine   ", "bold"), f"{daemon['engine']}/v1")
    for name, target in daemon["notify"].items():
        if target["last_error"] or target["dropped"]:
            say(styled("notify   ", "bold yellow"), f"{name}: {in_words(target)}")
    if values["paused"]:
        say(styled("paused   ", "bold yellow"), values["paused"]["reason"] or "`tuneloop resume` goes on")
    for name, task in values["tasks"].items():
        say()
        say(styled(f"task {name}", "bold"))
        show(table(["", " "], _lines(app, state, name, task), free=[" "], header=False))
        show(_classes(task))


def _lines(app: App, state: LoopState, name: str, task: dict[str, Any]) -> list[tuple[object, object]]:
    records, queue, champion = task["records"], task["queue"], task["champion"]
    found: list[tuple[object, object]] = [
        ("serves", f"{champion['answerer']} ({champion['kind']})" if champion["answerer"] else "nothing yet"),
        ("baseline", task["baseline"] or "not chosen yet"),
        ("records", f"{records['total']}: {records['train']} to learn from, {records['exam']} for the exam"),
        ("labels", f"{task['train_labels']} to learn from, {task['exam_size']} in the exam"),
        ("queue", f"{queue['open']} open" + _in_words(queue["by_reason"])),
    ]
    if task["quarantined"]:
        found.append(("quarantine", f"{task['quarantined']} lines could not be read: see .tuneloop/quarantine"))
    if task["step"] is not None:
        since = ago(datetime.fromisoformat(task["step"]["since"]), now())
        doing = (
            describe(state.task(name), app.workspace.paths.runs)
            or f"{task['step']['adapter']}: {task['step']['phase']}"
        )
        found.append(("step", f"{doing}, since {since.removesuffix(' ago')}"))
    found += [("waits for", clause) for clause in task["waits"]]
    if task["last_verdict"]:
        last = task["last_verdict"]
        found.append(("last verdict", f"{last['candidate']}: {last['verdict']}. {last['summary']}"))
    return found


def _in_words(counts: dict[str, int]) -> str:
    return ": " + ", ".join(f"{count} {name}" for name, count in counts.items()) if counts else ""


def _classes(task: dict[str, Any]) -> Any:
    train, exam = task["labels"]["train"], task["labels"]["exam"]
    total = sum(train.values()) or 1
    return table(
        ["label", "to learn from", "share", "in the exam"],
        [(label, train[label], percent(train[label] / total, 0), exam.get(label, 0)) for label in train],
        right=["to learn from", "share", "in the exam"],
    )
