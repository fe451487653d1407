"""Where a record has been that erasing cannot reach: adapters that saw it, backups, W&B's server, people's files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from adapters.specs import ExamItem, read_lines
from adapters.tracking_mirror import Cursor
from adapters.tracking_view import training_run_id
from loop import traces
from loop.blanking import read
from loop.bootstrap import App
from loop.sweeping import datasets, members
from loop.traces import Victim
from store import events as ev
from store.lives import holds_texts
from store.restore import replaced
from store.workspace import HOME

ASIDE = "the workspace before a restore"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter and how records came to it: "train", "valid" or "exam" -> their ids."""

    adapter: str
    task: str
    run_id: str
    status: str  # as in the table of adapters; empty: it is not registered
    records: dict[str, list[str]]


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that still holds what was erased after it was made."""

    backup: str
    label: str
    at: datetime


def adapters_that_saw(app: App, record_ids: Collection[str]) -> list[Seen]:
    """The adapters that were trained, steered or examined on any of the records, in order of their runs.

    Raises:
        StepError: the items of an exam cannot be read.
    """
    wanted = set(record_ids)
    log, artifacts = app.workspace.log, app.workspace.artifacts
    parts: dict[str, dict[str, list[str]]] = {}
    for address, run_id in datasets(app).items():
        for record_id, part in members(artifacts.root / address).items():
            if record_id in wanted:
                parts.setdefault(run_id, {}).setdefault(part, []).append(record_id)
    for recorded in log.select("type = ?", [ev.EvaluationSucceeded.__name__]):
        event = recorded.event
        if isinstance(event, ev.EvaluationSucceeded):
            for item in _exam(artifacts.root / event.artifact / "exam.jsonl"):
                known = parts.get(event.run_id, {}).get("exam", [])
                if item.id in wanted and item.id not in known:
                    parts.setdefault(event.run_id, {}).setdefault("exam", []).append(item.id)
    with app.workspace.database.reading() as connection:
        rows = connection.exec_driver_sql(
            "SELECT r.run_id, r.task, coalesce(a.name, r.adapter) AS name, coalesce(a.status, '') AS status "
            "FROM runs r LEFT JOIN adapters a ON a.run_id = r.run_id ORDER BY r.position"
        ).all()
    return [
        Seen(adapter=name, task=task, run_id=run_id, status=status, records=parts[run_id])
        for run_id, task, name, status in rows
        if run_id in parts and name
    ]


def _exam(path: Path) -> list[ExamItem]:
    try:
        return read_lines(path, ExamItem)
    except OSError:  # `verify` names artifacts that are gone
        return []


def backups_with(app: App, record_ids: Collection[str]) -> list[Copied]:
    """Backups that were made after the first of the records came in, as far as the log knows them, and workspaces that
    restores have moved aside."""
    with app.workspace.database.reading() as connection:
        rows = [
            connection.exec_driver_sql("SELECT position FROM records WHERE record_id = ?", (one,)).first()
            for one in record_ids
        ]
    first = min((int(row[0]) for row in rows if row is not None), default=0)
    found: dict[tuple[str, str], Copied] = {}
    for recorded in app.workspace.log.select(
        "type IN (?, ?)", [ev.BackupCompleted.__name__, ev.BackupRemoved.__name__]
    ):
        event = recorded.event
        if isinstance(event, ev.BackupCompleted) and first and event.position >= first:
            found[event.backup, event.label] = Copied(backup=event.backup, label=event.label, at=recorded.recorded_at)
        elif isinstance(event, ev.BackupRemoved):
            found.pop((event.backup, event.label), None)
    aside = [
        Copied(backup=folder.name, label=ASIDE, at=datetime.fromtimestamp(folder.stat().st_mtime, UTC))
        for folder in replaced(app.root)
        if holds_texts(folder / HOME, record_ids)
    ]
    return [*found.values(), *aside]


def uploaded(app: App, record_ids: Collection[str], sessions: Sequence[str]) -> list[str]:
    """Runs of Weights & Biases that may show the texts to whoever may see them there.

    Args:
        app: the workspace.
        record_ids: of the records.
        sessions: folders of W&B in which one of the texts was found.
    """
    home = app.workspace.paths.wandb
    queued = {name for name in sessions if name.startswith("offline-run-") and not any((home / name).glob("*.synced"))}
    found = {_run_of(name) for name in sessions if name not in queued}
    if app.settings.wandb.send_text:  # what was sent, or found too late: its folder may have been cleaned up
        try:
            cursor = msgspec.json.decode((home / "cursor.json").read_bytes(), type=Cursor)
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
            cursor = Cursor()
        sampled = {training_run_id(cursor.workspace, run_id) for run_id in _sampled(app, set(record_ids))}
        found |= (sampled & cursor.runs.keys()) - {_run_of(name) for name in queued}
    return sorted(found)


def _run_of(session: str) -> str:
    """`run-20260105_090000-tickets-run-1-abcd` names the run `tickets-run-1-abcd`."""
    return session.removeprefix("offline-").split("-", 2)[-1]


def _sampled(app: App, wanted: set[str]) -> Iterator[str]:
    """Runs whose sample outputs are about one of the records."""
    for recorded in app.workspace.log.select("type = ?", [ev.TrainingSucceeded.__name__]):
        event = recorded.event
        if isinstance(event, ev.TrainingSucceeded) and any(sample.get("id") in wanted for sample in event.samples):
            yield event.run_id


def peoples_files(app: App, victims: Sequence[Victim]) -> list[str]:
    """Files beside tuneloop's own that hold one of the texts: at the workspace's top, its prompts, the general
    examples. They are people's, so erasing leaves them alone."""
    named = {rules.training.general_file for rules in app.settings.tasks.values()} - {""}
    paths = [*app.root.iterdir(), *_listed(app.root / "prompts"), *(app.root / name for name in named)]
    needles = [form for victim in victims if traces.searched(victim.text) for form in traces.forms(victim.text)]
    found = {path for path in paths if path.is_file() and traces.spans(read(path, []), needles)}
    return sorted(str(path.relative_to(app.root)) if path.is_relative_to(app.root) else str(path) for path in found)


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
