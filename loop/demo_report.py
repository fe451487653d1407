"""What the demo shows, read back from the log and the read tables; it computes nothing that they do not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loop.bootstrap import App
from loop.state import Cycle
from store import events as ev
from store import queries
from store.log import Recorded
from store.tables import EvaluationRow

SHOWN_ITEMS = 4  # of the queue
TEXT_WIDTH = 60
PHASES = {
    "frozen": "dataset frozen",
    "training": "training",
    "interrupted": "training was interrupted",
    "trained": "trained",
    "registered": "registered",
    "evaluating": "evaluating on the locked exam",
    "evaluated": "judging",
    "judged": "judged",
}


def print_prompts(app: App, task: str, console: Console) -> None:
    """The prompt versions that competed, and the adopted one."""
    app.workspace.projections.catch_up()
    row = next(row for row in queries.tasks(app.workspace.read) if row.task == task)
    for score in row.prompt_scores:
        mark = "→" if score["prompt"] == row.prompt else " "
        console.print(f" {mark} {score['prompt']:<22} {score['correct']:>3} of {score['n']} on validation examples")


def print_queue(app: App, task: str, console: Console) -> None:
    """How many records wait for a label, why, and the first few of them."""
    app.workspace.projections.catch_up()
    rows = queries.queue(app.workspace.read, task)
    reasons = Counter(reason["name"] for row in rows for reason in row.reasons)
    console.print(
        f"review queue: {len(rows)} records · " + " · ".join(f"{n} {name}" for name, n in reasons.most_common())
    )
    table = Table("reason", "production said", "ticket", box=None, header_style="dim")
    texts = app.workspace.texts.many([row.record_id for row in rows[:SHOWN_ITEMS]])
    for row in rows[:SHOWN_ITEMS]:
        why = "; ".join(f"{reason['name']}: {reason['detail']}" for reason in row.reasons)
        text = " ".join(texts.get(row.record_id, "").split())
        table.add_row(
            escape(why), escape(row.answer or "–"), escape(text[:TEXT_WIDTH]) + ("…" if text[TEXT_WIDTH:] else "")
        )
    console.print(table)


def print_event(recorded: Recorded, console: Console) -> None:
    """One line for the events that a spectator wants to see."""
    event = recorded.event
    line = ""
    match event:
        case ev.DatasetFrozen():
            counts = ", ".join(f"{count.step} {count.count}" for count in event.curation if count.count)
            line = f"froze {event.train} training and {event.valid} validation examples ({event.trigger}) · {counts}"
        case ev.TrainingStarted():
            line = f"started training {event.adapter} ({event.method}, {event.quantisation}) attempt {event.attempt}"
        case ev.TrainingSucceeded():
            line = (
                f"trained {event.steps} steps in {event.seconds:.0f} s, loss {event.train_loss:.3f}, "
                f"peak {event.peak_memory_mb:.0f} MB"
            )
        case ev.EvaluationStarted():
            line = f"look {event.look} at the exam: {event.exam} audit items, {event.hard_exam} hard ones"
        case ev.ForgettingMeasured():
            line = (
                f"general ability: {event.base_accuracy:.1%} → {event.accuracy:.1%} on {event.questions} questions, "
                f"bits per byte {event.bits_rise:+.1%}"
            )
        case ev.CandidateJudged():
            line = f"[bold]{event.candidate}: {event.verdict}[/] · {escape(event.summary)}"
        case ev.AdapterPromoted():
            line = f"[bold green]{event.answerer} answers production now[/] (before: {event.previous})"
        case ev.CandidateRejected():
            line = f"[bold yellow]{event.candidate} was rejected[/] · {escape(event.reason)}"
        case ev.TrainingFailed() | ev.EvaluationFailed():
            line = f"[red]{type(event).__name__}[/]: {escape(event.reason)}"
        case ev.StepInterrupted():
            line = f"[yellow]{event.kind} was interrupted[/]: {escape(event.reason)}"
        case ev.AdapterRolledBack():
            line = f"[bold yellow]rolled back to {event.answerer}[/] · {escape(event.reason)}"
    if line:
        console.print(f"  {line}")


def cycle_progress(app: App, cycle: Cycle) -> dict[str, Any]:
    """Fields of a progress bar for a cycle: what it does, and its steps while it trains."""
    what = f"{cycle.adapter}: {PHASES.get(cycle.phase, cycle.phase)}"
    if cycle.phase == "training" and cycle.of:
        return {"description": f"{what} (step {cycle.step} of {cycle.of})", "completed": cycle.step, "total": cycle.of}
    return {"description": what, "total": None}


def print_summary(app: App, task: str, console: Console, *, seconds: float, peak_mb: float, root: Path) -> None:
    """Everything at a glance: who is how good, what it cost, what was decided and why, what to try next."""
    app.workspace.projections.catch_up()
    looks = list(reversed(queries.evaluations(app.workspace.read, task)))
    finished = [look for look in looks if look.results]
    _print_accuracy(finished, console)
    _print_recall(app, task, finished, console)
    _print_forgetting(finished, console)
    _print_verdicts(finished, console)
    _print_costs(app, task, console, seconds=seconds, peak_mb=peak_mb)
    champion = app.state().task(task).champion.answerer
    console.print(f"\nproduction is answered by [bold]{champion}[/]; the daemon of the demo is stopped.")
    console.print("next:  " + "\n       ".join(_next_commands(root, champion, finished)))


def _print_accuracy(looks: Sequence[EvaluationRow], console: Console) -> None:
    """One line per answerer: its last result, each with the size of the exam it was measured on."""
    table = Table("answerer", "decoding", "exam", "accuracy", "95% interval", "calibration error", box=None)
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for look in looks:
        for result in look.results:
            last[result["answerer"], result["decoding"]] = result
    order = {"prompt": 0, "control": 1, "adapter": 2}
    for result in sorted(last.values(), key=lambda one: (order[one["kind"]], one["answerer"], one["decoding"])):
        name = {"prompt": "baseline", "control": "control", "adapter": "adapter"}[result["kind"]]
        ece = result.get("ece")
        table.add_row(
            f"{result['answerer']} ({name})" if name != result["answerer"] else f"{name} (TF-IDF + regression)",
            result["decoding"],
            str(result["n"]),
            f"{result['accuracy']:.1%}",
            f"{result['low']:.1%} – {result['high']:.1%}",
            "" if ece is None else f"{ece:.3f}",
        )
    console.print(table)


def _print_recall(app: App, task: str, looks: Sequence[EvaluationRow], console: Console) -> None:
    if not looks:
        return
    labels = app.settings.task(task).labels
    table = Table("recall", *labels, box=None)
    for result in looks[-1].results:
        if result["decoding"] in ("score", "classify"):
            recall = result.get("recall", {})
            cells = [f"{recall[label]:.0%}" if label in recall else "–" for label in labels]
            table.add_row(result["answerer"], *cells)
    console.print(table)


def _print_forgetting(looks: Sequence[EvaluationRow], console: Console) -> None:
    table = Table("general ability", "base", "adapter", "bits per byte", box=None)
    for look in looks:
        measured = look.forgetting
        if measured:
            table.add_row(
                look.candidate,
                f"{measured['base_accuracy']:.1%}",
                f"{measured['accuracy']:.1%}",
                f"{measured['base_bits_per_byte']:.3f} → {measured['bits_per_byte']:.3f}",
            )
    if table.row_count:
        console.print(table)


def _print_verdicts(looks: Sequence[EvaluationRow], console: Console) -> None:
    for look in looks:
        if not look.verdict:
            continue
        console.print(f"\n[bold]{look.candidate}, look {look.look}: {look.verdict}[/] · {escape(look.summary)}")
        for check in look.checks:
            console.print(f"  {check['outcome']:<6} {check['name']:<20} {escape(check['detail'])}")


def _print_costs(app: App, task: str, console: Console, *, seconds: float, peak_mb: float) -> None:
    state = app.state().task(task)
    table = Table("step", "seconds", box=None)
    for name, duration in _durations(app):
        table.add_row(name, f"{duration:.0f}")
    console.print()
    console.print(table)
    console.print(
        f"{state.records} records · {state.train_total} training labels · {state.exam_total} exam labels · "
        f"{seconds:.0f} s in all · peak memory of all processes {peak_mb:.0f} MB"
    )


def _durations(app: App) -> list[tuple[str, float]]:
    """(step, seconds) from the times of the events that open and close it."""
    opened: dict[str, datetime] = {}
    found: list[tuple[str, float]] = []

    def close(key: str, name: str, at: datetime) -> None:
        if key in opened:
            found.append((name, (at - opened.pop(key)).total_seconds()))

    for recorded in app.workspace.log.read():
        event, at = recorded.event, recorded.recorded_at
        match event:
            case ev.PromptAdopted():
                found.append(("comparing prompts", sum(score.seconds for score in event.scores)))
            case ev.TrainingStarted():
                opened[event.run_id] = at
            case ev.TrainingSucceeded():
                close(event.run_id, f"training {event.run_id}", at)
            case ev.EvaluationStarted():
                opened[event.evaluation_id] = at
            case ev.CandidateJudged():
                close(event.evaluation_id, f"evaluating {event.evaluation_id}", at)
    return found


def _next_commands(root: Path, champion: str, looks: Sequence[EvaluationRow]) -> list[str]:
    here = f"tuneloop -w {root}"
    commands = [f"{here} {verb}" for verb in ("status", "queue", "history", f"show {champion}")]
    if looks:
        commands.append(f"{here} compare {looks[-1].baseline} {looks[-1].candidate}")
    return [*commands, f"{here} run", f"{here} rollback"]
