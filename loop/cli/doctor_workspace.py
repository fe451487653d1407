"""The part of `doctor` that looks at the workspace: permissions, disk, database, base model, gates, clock."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loop.cli.doctor import Check
from loop.cli.output import span

if TYPE_CHECKING:
    from loop.bootstrap import App

FREE_FAIL, FREE_WARN = 200, 2000  # MiB
JUMP_SECONDS = 60.0  # smaller steps of the clock are what time servers do
LOOKED_AT = 10_000  # newest events


def permissions(app: App) -> Iterator[Check]:
    """Everything can be written, and only by us."""
    paths = app.workspace.paths
    barred = [str(folder) for folder in paths.folders() if not os.access(folder, os.R_OK | os.W_OK | os.X_OK)]
    if barred:
        yield Check("fail", "permissions", f"not writable: {', '.join(barred)}", "chown or chmod them for this user.")
        return
    open_ones = open_to_others(app)
    if open_ones:
        told = f"others may look into {open_ones[0]}" + (f" and {len(open_ones) - 1} more" if open_ones[1:] else "")
        advice = f"chmod -R go-rwx {paths.home}, or `tuneloop doctor --fix`."
        yield Check("warn", "permissions", f"{told}; customer text or keys may be there", advice)
    else:
        yield Check("ok", "permissions", "the workspace is ours to write, and nobody else's to read")


def open_to_others(app: App) -> list[Path]:
    """Files and folders that somebody else may read or write and that are nobody's business: all of .tuneloop, and
    the settings where an address, which may hold a key, stands in them."""
    paths = app.workspace.paths
    found = [paths.home] if _open(paths.home) else []
    for parent, folders, files in os.walk(paths.home):
        found += [path for name in (*folders, *files) if _open(path := Path(parent, name))]
    if any(target.url.get_secret_value() for target in app.settings.notify.values()) and _open(paths.settings):
        found.append(paths.settings)
    return found


def _open(path: Path) -> bool:
    try:
        return not path.is_symlink() and bool(path.stat().st_mode & 0o077)
    except OSError:
        return False  # it has gone meanwhile


def disk(app: App) -> Iterator[Check]:
    """Space for checkpoints and the log."""
    free = shutil.disk_usage(app.root).free >> 20
    level: Literal["ok", "warn", "fail"] = "fail" if free < FREE_FAIL else "warn" if free < FREE_WARN else "ok"
    advice = "" if level == "ok" else "A training writes some hundred MiB of checkpoints: free some space."
    yield Check(level, "disk", f"{free / 1024:.1f} GiB free", advice)


def pragmas(app: App) -> Iterator[Check]:
    """What SQLite really does on our own connections."""
    from store.database import JOURNAL_MODE, raw

    with app.workspace.database.writing() as connection:
        ask = raw(connection)
        journal, synchronous, deletes = (
            ask.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "secure_delete")
        )
    told = f"journal_mode {journal}, synchronous {synchronous}, secure_delete {deletes}"
    if journal == JOURNAL_MODE and synchronous == 2 and deletes == 1:
        yield Check("ok", "database", told)
    else:
        yield Check(
            "fail", "database", f"{told}: acknowledged events could be lost", "Is the file system a network one?"
        )


def model(app: App) -> Iterator[Check]:
    """The base model's files, without loading or fetching them."""
    from adapters import base_model

    chosen = app.settings.model.base
    named = Path(chosen).expanduser()
    if chosen and (named.exists() or chosen.startswith(("/", ".", "~"))):
        folder, complete = named, (named / "config.json").is_file() and any(named.glob("*.safetensors"))
        missing = Check(
            "fail",
            "base model",
            f"{folder} holds no base model",
            "Give a folder with config.json, safetensors and tokenizer as model.base, or leave it empty.",
        )
    else:
        folder = base_model.cache_folder() / (chosen.replace("/", "--") or base_model.NAME)
        complete = (folder / base_model.COMPLETE).is_file()
        missing = Check(
            "warn",
            "base model",
            f"{chosen or base_model.NAME} is not in {folder.parent} yet: it is brought in when it is first needed",
            f"Bring it in ahead of time: python -m adapters.base_model {chosen}".rstrip(),
        )
    if not complete:
        yield missing
        return
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) >> 20
    yield Check("ok", "base model", f"{folder} ({size} MiB), served as {app.settings.model.quantisation}")


def thresholds(app: App) -> Iterator[Check]:
    """A gate without thresholds promotes nothing."""
    for name, rules in app.settings.tasks.items():
        if rules.gate.quality_thresholds:
            yield Check("ok", f"gate of {name}", f"has thresholds; judges from {rules.gate.min_exam} exam labels on")
        else:
            yield Check(
                "warn",
                f"gate of {name}",
                "no threshold says how good a candidate has to be, so nothing is promoted",
                "Set better_than_baseline or not_worse_margin in tuneloop.toml.",
            )


def production(app: App) -> Iterator[Check]:
    """Whether production's pointers are as they were written, and say what the log says."""
    from loop.production import read_pointer

    state, folder = app.state(), app.workspace.paths.production
    for name in app.settings.tasks:
        champion, path = state.task(name).champion, folder / f"{name}.json"
        pointer = read_pointer(folder, name)
        advice = "A running daemon writes it anew at its next tick: `tuneloop run`."
        if pointer is None and path.exists():
            told = f"{path} is not what was written: nobody is answered"
            yield Check("fail", f"answers to {name}", told, f"{advice} Then look at the disk.")
        elif pointer is None:
            waits = bool(state.task(name).baseline)
            told = f"not by {champion.answerer} yet, which the log says" if waits else "no answerer is chosen yet"
            yield Check("warn" if waits else "ok", f"answers to {name}", told, advice if waits else "")
        elif (pointer.answerer, pointer.position) != (champion.answerer, champion.position):
            told = f"come from {pointer.answerer}, and the log says {champion.answerer or 'nobody'}"
            level: Literal["warn", "fail"] = "warn" if pointer.position < champion.position else "fail"
            yield Check(level, f"answers to {name}", told, advice)
        else:
            yield Check("ok", f"answers to {name}", f"come from {pointer.answerer}, as the log says")


def clock(app: App) -> Iterator[Check]:
    """The time zone, and whether the clock has jumped while the log was written."""
    zone = app.settings.resources.timezone or "the machine's"
    now = app.now()
    local = f"{now.astimezone():%Y-%m-%d %H:%M %Z}"
    told = f"{local} ({time.tzname[0]}); the window is in {zone}" if app.settings.resources.window else local
    last = next(iter(app.workspace.log.select("1", [], limit=1)), None)
    if last is not None and last.recorded_at > now + timedelta(seconds=JUMP_SECONDS):
        ahead = span((last.recorded_at - now).total_seconds())
        yield Check(
            "warn",
            "clock",
            f"{told}; the last event is from {ahead} ahead of it",
            "Is the time right, and a time server running? The loop goes on; only what is shown as 'ago' is wrong.",
        )
        return
    back = _set_back(app)
    if back:
        position, seconds = back[-1]
        what = f"set back {len(back)} times within the last {LOOKED_AT} events" if len(back) > 1 else "set back"
        yield Check(
            "warn",
            "clock",
            f"{told}; it was {what}, last by {span(seconds)} before event {position}",
            "Let a time server keep it. Events keep their order, whatever their times say.",
        )
    else:
        yield Check("ok", "clock", told)


def _set_back(app: App) -> list[tuple[int, float]]:
    """(position, seconds) of events that are older than the one before them, among the newest."""
    after = max(0, app.workspace.log.head().position - LOOKED_AT)
    query = """
        SELECT position, (julianday(before) - julianday(recorded_at)) * 86400 AS back FROM (
            SELECT position, recorded_at, lag(recorded_at) OVER (ORDER BY position) AS before
            FROM events WHERE position > ?)
        WHERE back > ? ORDER BY position"""
    with app.workspace.database.reading() as connection:
        rows = connection.exec_driver_sql(query, (after, JUMP_SECONDS)).all()
    return [(int(position), float(back)) for position, back in rows]


CHECKS = (permissions, disk, pragmas, model, production, thresholds, clock)
