"""What `doctor` says about copies of the log: backups, Litestream, and what restores have left."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from loop.cli.doctor import Check
from loop.cli.output import ago, span
from store.database import JOURNAL_MODE
from store.events import BackupCompleted, BackupRemoved
from store.restore import replaced
from store.wording import counted
from store.workspace import RESTORING

if TYPE_CHECKING:
    from loop.bootstrap import App

OLD_DAYS = 7  # a backup older than this is worth a word
BEHIND_SECONDS = 60.0  # of a replica
CONFIG = "litestream.yml"
_KEYS = ("access-key-id", "secret-access-key", "account-key", "password", "secret-key")


def backups(app: App) -> Iterator[Check]:
    """How old the last sound backup of this very log is."""
    last: dict[str, tuple[datetime, BackupCompleted]] = {}
    for recorded in app.workspace.log.select("type IN ('BackupCompleted', 'BackupRemoved')", []):
        event = recorded.event
        if isinstance(event, BackupCompleted) and _in_log(app, event):
            last[event.backup] = recorded.recorded_at, event
        elif isinstance(event, BackupRemoved):
            last.pop(event.backup, None)
    head = app.workspace.log.head().position
    sound = [one for one in last.values() if not one[1].problems]
    if not sound:
        level, what = ("warn", "none is known to the log") if head else ("ok", "none yet, and nothing to copy")
        yield Check(level, "backup", what, "tuneloop backup DIR --keep 7" if head else "")  # type: ignore[arg-type]
    else:
        at, event = sound[-1]
        told = f"{ago(at, app.now())}: {event.backup} ({event.label}), {counted(head - event.position, 'event')} since"
        if (app.now() - at).days >= OLD_DAYS:
            yield Check("warn", "backup", told, "Make one every day: tuneloop backup DIR --keep 7")
        else:
            yield Check("ok", "backup", told)
    newest = list(last.values())[-1:] if last else []
    for _, event in newest:
        if event.problems:
            yield Check(
                "warn", "backup", f"{event.backup} has {counted(event.problems, 'problem')}", "Run `tuneloop verify`."
            )
    yield from _left_out(app)
    yield from _leftovers(app)


def _left_out(app: App) -> Iterator[Check]:
    """What a restore on another machine would lack."""
    from loop.named import named_elsewhere

    for one in named_elsewhere(app):
        if one.there:
            yield Check("ok", "not in backups", f"{one.path} ({one.key}): yours to keep")
        else:
            yield Check("warn", "not in backups", f"{one.path} ({one.key}) is missing", "Put it back, or name another.")


def _in_log(app: App, event: BackupCompleted) -> bool:
    """Whether it is a copy of this log, not of one that a restore has left behind."""
    if not event.position:
        return True
    with app.workspace.database.reading() as connection:
        row = connection.exec_driver_sql("SELECT hash FROM events WHERE position = ?", (event.position,)).first()
    return row is not None and row[0].hex() == event.hash


def _leftovers(app: App) -> Iterator[Check]:
    for folder in replaced(app.root):
        yield Check(
            "warn",
            "old workspace",
            f"{folder.name} was replaced by a restore and holds customer text, erased texts included",
            f"When you are sure that nothing of it is needed: rm -r {folder}",
        )
    if (app.root / RESTORING).exists():
        yield Check(
            "warn",
            "restore",
            f"{RESTORING} was left by a restore that was interrupted; it holds customer text",
            f"Repeat the restore, or: rm -r {app.root / RESTORING}",
        )


# ---------------------------------------------------------------- Litestream


def litestream(app: App) -> Iterator[Check]:
    """Whether a configuration of Litestream that names this log fits it, and how far the replica is."""
    config = find_config(app.root, os.environ)
    if config is None:
        yield Check("ok", "litestream", "not set up; ops/litestream says what it is for")
        return
    try:
        import yaml
    except ImportError:
        yield Check("warn", "litestream", f"{config} cannot be looked at here", "pip install pyyaml")
        return
    try:
        content: Any = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        words = str(error).replace("\n", " ")
        yield Check("fail", "litestream", f"{config} cannot be read: {words}", "Compare it with ops/litestream.")
        return
    entry = _entry(app, content)
    if entry is None:
        yield Check("ok", "litestream", f"{config} does not name this log")
        return
    faults = list(_faults(app, content, entry))
    yield from faults
    if not any(check.level == "fail" for check in faults):
        yield _progress(app, config, entry)


def find_config(root: Path, env: Mapping[str, str]) -> Path | None:
    """The configuration that Litestream would read, or one in the workspace; None where there is none."""
    named = env.get("LITESTREAM_CONFIG", "")
    places = [Path(named)] if named else [root / CONFIG, Path("/etc") / CONFIG]
    return next((path for path in places if path.is_file()), None)


def _entry(app: App, content: Any) -> dict[str, Any] | None:
    listed = content.get("dbs") if isinstance(content, dict) else None
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, dict) and _path(app, entry.get("path")) == app.workspace.paths.database.resolve():
            return entry
    return None


def _faults(app: App, content: dict[str, Any], entry: dict[str, Any]) -> Iterator[Check]:
    if JOURNAL_MODE != "wal":
        yield Check(
            "fail",
            "litestream",
            "it needs a write-ahead log, which this SQLite can corrupt",
            "pip install 'pysqlite3>=0.6.1', or stop Litestream.",
        )
    replicas = [one for one in (entry.get("replica"), *(entry.get("replicas") or [])) if isinstance(one, dict)]
    if not replicas:
        yield Check("fail", "litestream", "the log has no replica: nothing is copied", "Name one, see ops/litestream.")
    for replica in replicas:
        place = _path(app, replica.get("path")) if replica.get("type", "file") == "file" else None
        if place is not None and place.is_relative_to(app.root.resolve()):
            yield Check("fail", "litestream", f"the replica lies in the workspace: {place}", "Name another disk.")
    state = _path(app, entry.get("meta-path"))
    if "meta-path" not in entry or (state is not None and state.is_relative_to(app.workspace.paths.home.resolve())):
        yield Check(
            "warn",
            "litestream",
            "it keeps its state, customer text included, where `tuneloop erase` cannot clean it",
            "Set meta-path to a folder outside the workspace.",
        )
    if any(_plain_key(part) for part in (content, entry, *replicas)):
        yield Check(
            "warn", "litestream", "keys stand in its file", "Take them from the environment, as ops/litestream does."
        )


def _plain_key(part: Mapping[str, Any]) -> bool:
    return any(part.get(name) and "$" not in str(part[name]) for name in _KEYS)


def _progress(app: App, config: Path, entry: dict[str, Any]) -> Check:
    if "meta-path" in entry:
        state = _path(app, entry["meta-path"])
    else:
        database = app.workspace.paths.database
        state = database.with_name(f".{database.name}-litestream")
    if state is None:
        missing = f"{config} takes its folders from an environment that is not set here"
        return Check("warn", "litestream", missing, "Export it here, too, and doctor can say how far the replica is.")
    copied = max((path.stat().st_mtime for path in state.rglob("*.ltx")), default=0.0)
    if not copied:
        return Check("warn", "litestream", f"{config} fits, and it has copied nothing", "Start `litestream replicate`.")
    database = app.workspace.paths.database
    files = [path for path in (database, database.with_name(f"{database.name}-wal")) if path.exists()]
    behind = max(path.stat().st_mtime for path in files) - copied
    if behind > BEHIND_SECONDS:
        return Check("warn", "litestream", f"{span(behind)} behind the log", "Is `litestream replicate` running?")
    snapshot = entry.get("snapshot")
    kept = snapshot.get("retention") if isinstance(snapshot, dict) else None
    return Check("ok", "litestream", f"{config} fits; it keeps what is erased here for {kept or 'its default time'}")


def _path(app: App, given: object) -> Path | None:
    """A path of the configuration as Litestream would read it; None where it needs what is not set here."""
    if not isinstance(given, str) or not given:
        return None
    try:
        named = Template(given).substitute({"TUNELOOP_WORKSPACE": str(app.root), **os.environ})
    except (KeyError, ValueError):
        return None
    return Path(named).expanduser().resolve()
