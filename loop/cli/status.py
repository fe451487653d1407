"""`status` and `state`: where everything stands, at a glance."""

from __future__ import annotations

import signal
import sys
from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop.cli import collect_as_usual
from loop.cli.context import AsJson, open_app
from loop.cli.output import ago, builtins, console, emit, now, percent, show, span, styled, table, when
from loop.cli.safe import json_text
from store.wording import counted

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.state import LoopState, TaskState

WATCH_SECONDS = 2.0
SNAPSHOT_EVENTS = 2000  # a log longer than this is worth a copy of the state


def status(
    ctx: typer.Context,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds, until Ctrl-C.")] = False,
) -> None:
    """Show who serves, what is labelled, what the loop is doing and waits for, and how each of its parts is.

    In the JSON only the part "daemon" tells of the moment; all else follows from the log. With --watch it is one
    document a line.
    """
    with open_app(ctx) as app:
        if watch:
            collect_as_usual()
            stop = _stop_at_ctrl_c()
            _watch_json(app, stop) if as_json else _watch(app, stop)
        elif as_json:
            emit(gather(app))
        else:
            show(*_screen(app))


def _watch_json(app: App, stop: Event) -> None:
    while True:
        sys.stdout.write(json_text(gather(app), indent=None) + "\n")
        _until_next(app, stop)


def _watch(app: App, stop: Event) -> None:
    """On a terminal a screen of its own, which comes and goes without touching what was there before."""
    from rich.console import Group

    if not sys.stdout.isatty():
        while True:
            show(styled(f"{when(now())}", "dim"), *_screen(app), "")
            _until_next(app, stop)
    from rich.live import Live

    with Live(Group(*_screen(app)), console=console(), screen=True, auto_refresh=False) as live:
        while True:
            _until_next(app, stop)
            live.update(Group(*_screen(app)), refresh=True)


def _stop_at_ctrl_c() -> Event:
    """Set by Ctrl-C. An exception could come inside a callback of the database's driver, which swallows it."""
    stop = Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    return stop


def _until_next(app: App, stop: Event) -> None:
    """Wait until it is time to look again.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    sys.stdout.flush()
    if stop.wait(WATCH_SECONDS):
        raise KeyboardInterrupt
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
    from loop import health, progress, pulse
    from loop.cli.notify import target_status
    from loop.lease import holder
    from loop.services import read_endpoints

    state = folded(app)
    run = app.workspace.paths.run
    endpoints, running, beat, moment = read_endpoints(run), holder(run), pulse.read(run), app.now()
    return {
        "workspace": str(app.root),
        "position": state.position,
        "paused": {"reason": state.pause_reason, "since": builtins(state.paused_at)} if state.paused else None,
        "tasks": {name: task_status(app, state, name) for name in app.settings.tasks},
        "daemon": {
            "running": bool(running),
            "holder": running,
            "engine": endpoints.engine,
            "gateway": endpoints.gateway,
            "notify": {name: target_status(app, name) for name in sorted(app.settings.notify)},
            "parts": builtins(health.parts(app, moment)),
            "doing": builtins(progress.doing(app, state, moment)) if running else [],
            "held": builtins(beat.held) if running and beat else [],
            "seconds_since_tick": round(pulse.age(beat), 1) if running and beat else None,
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
        "last_label_at": _last_label(app, name),
        "last_verdict": verdict
        and {name: verdict[name] for name in ("candidate", "champion", "verdict", "summary", "look", "evaluation_id")},
    }


SIDES = ("train", "exam", "none")


def _last_label(app: App, task: str) -> str | None:
    """When the newest standing label was given."""
    newest = "SELECT labelled_at FROM records WHERE task = ? AND side = ? ORDER BY label_position DESC LIMIT 1"
    with app.workspace.database.reading() as connection:
        found = [connection.exec_driver_sql(newest, (task, side)).scalar() for side in SIDES]
    return max((one for one in found if one), default=None)


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
        "verdict": cycle.verdict,
        "since": builtins(cycle.phase_since),
        "attempt": cycle.attempt,
        "step": cycle.step,
        "of": cycle.of,
        "reason": cycle.reason,
    }


# ---------------------------------------------------------------- for people


PART_STYLES = {"ok": "green", "off": "dim", "warn": "yellow", "down": "red"}


def _screen(app: App) -> list[Any]:
    """What `status` shows, as rich objects from top to bottom."""
    from loop.cli.notify import in_words

    values = gather(app)
    shown: list[Any] = []
    if values["paused"]:
        since = _lasting(values["paused"]["since"])
        reason = values["paused"]["reason"] or "`tuneloop resume` goes on"
        shown.append(styled(f"paused: {reason}{since}", "bold yellow"))
    for name, task in values["tasks"].items():
        shown += [
            styled(f"task {name}", "bold"),
            table(["", " "], _lines(values, name, task), free=[" "], header=False),
        ]
        shown += [_classes(task), ""]
    rows = [
        (one["name"], styled(one["state"], PART_STYLES[one["state"]]), one["detail"] + _lasting(one["since"]))
        for one in values["daemon"]["parts"]
    ]
    rows += [
        (f"notify {name}", styled("warn", PART_STYLES["warn"]), in_words(target))
        for name, target in values["daemon"]["notify"].items()
        if target["last_error"] or target["dropped"]
    ]
    return [*shown, table(["part", "", "how it is"], rows, free=["how it is"], header=False)]


def _lines(values: dict[str, Any], name: str, task: dict[str, Any]) -> list[tuple[object, object]]:
    records, queue, champion = task["records"], task["queue"], task["champion"]
    found: list[tuple[object, object]] = [
        ("serves", f"{champion['answerer']} ({champion['kind']})" if champion["answerer"] else "nothing yet"),
        ("baseline", task["baseline"] or "not chosen yet"),
        ("records", f"{records['total']}: {records['train']} to learn from, {records['exam']} for the exam"),
        ("labels", f"{task['train_labels']} to learn from, {task['exam_size']} in the exam" + _last(task)),
        ("queue", f"{queue['open']} open" + _in_words(queue["by_reason"])),
    ]
    if task["quarantined"]:
        why = "`tuneloop history --type RecordQuarantined` says why"
        found.append(("quarantine", f"{counted(task['quarantined'], 'line')} could not be read: {why}"))
    works = [one for one in values["daemon"]["doing"] if one["task"] == name]
    found += [("doing", _doing(one)) for one in works]
    step = task["step"]
    if step is not None and not any(one["seconds_spent"] for one in works):
        reason = f" ({step['reason']})" if step["phase"] in ("interrupted", "parked") and step["reason"] else ""
        phase = f"judged {step['verdict']}" if step["phase"] == "judged" else step["phase"]
        found.append(("run", f"{step['adapter']}: {phase}{reason}{_lasting(step['since'])}"))
    found += [("waits for", clause) for clause in task["waits"]]
    found += [
        ("tries again", f"{one['what'].removeprefix(name).strip()}: {one['error']} (in {one['seconds']:.0f} s)")
        for one in values["daemon"]["held"]
        if one["what"].startswith(f"{name} ")
    ]
    if task["last_verdict"]:
        last = task["last_verdict"]
        found.append(("last verdict", f"{last['candidate']}: {last['verdict']}. {last['summary']}"))
    return found


def _doing(one: dict[str, Any]) -> str:
    words = str(one["what"])
    if one["of"]:
        words += f", {one['phase'] + ' ' if one['phase'] else ''}{one['done']} of {one['of']}"
    if one["seconds_spent"]:
        words += _for(one["seconds_spent"])
        left = one["seconds_left"]
        words += "; nothing says yet how long it takes" if left is None else f"; about {span(left)} left"
    return words


def _since(moment: str) -> str:
    return ago(datetime.fromisoformat(moment), now()).removesuffix(" ago")


def _last(task: dict[str, Any]) -> str:
    return f", the last one {_since(task['last_label_at'])} ago" if task["last_label_at"] else ""


def _lasting(moment: str | None) -> str:
    return _for((now() - datetime.fromisoformat(moment)).total_seconds()) if moment else ""


def _for(seconds: float) -> str:
    """ ", since 5 min"; nothing for what has only just begun."""
    return f", since {span(seconds)}" if seconds >= 1 else ""


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
