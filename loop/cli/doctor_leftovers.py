"""The part of `doctor` that looks for what killed processes have left, and the safe repairs of `doctor --fix`."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from loop.cli.doctor import Check
from loop.cli.output import ago
from store.wording import counted

if TYPE_CHECKING:
    from loop.bootstrap import App

OLD_SECONDS = 3600.0  # a temporary file that is older belongs to nobody
STOP_SECONDS = 5.0


class Leftover(msgspec.Struct, frozen=True):
    """A process of this workspace whose starter has gone."""

    pid: int
    module: str


# ---------------------------------------------------------------- processes


def processes(app: App) -> Iterator[Check]:
    """Services and steps that nobody looks after: they hold memory, ports and locks."""
    found = left_over(app)
    for one in found:
        yield Check(
            "warn",
            "processes",
            f"{one.module} (pid {one.pid}) runs, but who started it has gone",
            f"`tuneloop doctor --fix` ends it, or: kill {one.pid}",
        )
    if not found:
        yield Check("ok", "processes", "none is left of a daemon that has gone")


def left_over(app: App) -> list[Leftover]:
    """Such processes, by id; empty where there is no /proc."""
    from loop.steps import MODULES

    modules = {os.fsencode(module) for module in MODULES.values()}
    root = os.fsencode(app.root)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            module = next((after for word, after in itertools.pairwise(words) if word == b"-m"), b"")
            ours = any(word == root or word.startswith(root + b"/") for word in words)
            if module in modules and ours and _orphaned(folder):
                found.append(Leftover(int(folder.name), module.decode()))
        except OSError:
            continue  # it has ended meanwhile, or is somebody else's
    return sorted(found, key=lambda one: one.pid)


def _orphaned(folder: Path) -> bool:
    """Whether a process has another parent than the one that started it."""
    from adapters.child import PARENT

    parent = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    told = dict(entry.split(b"=", 1) for entry in (folder / "environ").read_bytes().split(b"\0") if b"=" in entry)
    starter = told.get(PARENT.encode(), b"")
    return parent != int(starter) if starter.isdigit() else parent == 1


# ---------------------------------------------------------------- files


def files(app: App) -> Iterator[Check]:
    """What interrupted writes and daemons have left on the disk."""
    stale, unfinished = stale_files(app), unfinished_checkpoints(app)
    if stale:
        told = f"{stale[0].relative_to(app.root)}" + (f" and {len(stale) - 1} more" if stale[1:] else "")
        yield Check("warn", "stale files", f"{told}: nobody uses them", "`tuneloop doctor --fix` removes them.")
    else:
        yield Check("ok", "stale files", "none")
    for folder in unfinished:
        yield Check(
            "warn",
            "checkpoints",
            f"{folder.relative_to(app.root)} was not finished",
            "Training goes on from the one before it; `tuneloop doctor --fix` removes this one.",
        )


def sweeps(app: App) -> Iterator[Check]:
    """What a killed sweep has left: examples with their texts, and adapters that nobody will compare."""
    from loop.sweep import leftovers

    found = leftovers(app)
    if found:
        told = (
            f"{counted(len(found), 'folder')} of a sweep that was killed, {found[0].relative_to(app.root)} among them"
        )
        advice = "`tuneloop doctor --fix` removes them, the next sweep as well."
        yield Check("warn", "sweeps", f"{told}; customer text is in them", advice)
    else:
        yield Check("ok", "sweeps", "none has left anything")


def stale_files(app: App) -> list[Path]:
    """Ports and addresses of processes that have gone, and temporary files that nobody will rename any more."""
    from loop.health import alive
    from loop.lease import holder
    from loop.services import FILE

    paths = app.workspace.paths
    found = []
    for path in paths.run.glob("*.port"):
        pid = path.suffixes[0].removeprefix(".") if path.suffixes else ""
        if not (pid.isdigit() and alive(int(pid))):
            found.append(path)
    if not holder(paths.run) and (paths.run / FILE).exists():
        found.append(paths.run / FILE)
    for folder in (paths.run, paths.production, paths.notify, paths.wandb):
        found += [path for path in folder.glob("*.tmp") if path.is_file() and _old(path)]
    return sorted(found)


def _old(path: Path) -> bool:
    try:
        return abs(time.time() - path.stat().st_mtime) > OLD_SECONDS  # clocks are set back
    except OSError:
        return False


def unfinished_checkpoints(app: App) -> list[Path]:
    """Checkpoints that a kill has cut short, in run folders where nobody works."""
    from adapters.checkpoints import COMPLETE
    from loop.progress import lock_holders
    from loop.steps import LOCK

    found: list[Path] = []
    locked = lock_holders()
    for checkpoints in sorted(app.workspace.paths.runs.glob("*/checkpoints")):
        lock = checkpoints.parent / LOCK
        if lock.exists() and lock.stat().st_ino in locked:
            continue
        found += [
            folder
            for folder in sorted(checkpoints.iterdir())
            if folder.is_dir() and folder.name.startswith(("checkpoint-", "best-")) and not (folder / COMPLETE).exists()
        ]
    return found


def erasure(app: App) -> Iterator[Check]:
    """What was to be forgotten and is still there."""
    from loop.erasing import pending
    from store.workspace import ERASING

    found, path = pending(app), app.workspace.paths.home / ERASING
    if found is None:
        yield Check("ok", "erasing", "none was interrupted")
    elif found.problem:
        advice = "Delete it, then erase the same records or customer again."
        yield Check(
            "fail", "erasing", f"{path}, which says what is being erased, cannot be read: {found.problem}", advice
        )
    elif found.at_work:
        yield Check("ok", "erasing", f"{counted(found.records, 'record')} at this moment")
    else:
        told = f"of {counted(found.records, 'record')} was interrupted {ago(found.since, app.now())}: texts may be left"
        yield Check("warn", "erasing", told, "`tuneloop doctor --fix` finishes it, the daemon's next tick as well.")


# ---------------------------------------------------------------- repairs


def mend(app: App) -> list[str]:
    """Do what is safe: nothing that cannot be made again is lost. Returns what was done, each a sentence."""
    done: list[str] = []
    for repair in (_end_processes, _make_private, _finish_erasing, _remove_files, _remove_artifacts, _rebuild):
        done += repair(app)
    return done


def _end_processes(app: App) -> Iterator[str]:
    for one in left_over(app):
        os.kill(one.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while _runs(one.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        if _runs(one.pid):
            os.kill(one.pid, signal.SIGKILL)
        yield f"ended {one.module} (pid {one.pid}), which nobody looked after"


def _runs(pid: int) -> bool:
    from loop.health import alive

    return alive(pid)


def _make_private(app: App) -> Iterator[str]:
    from loop.cli.doctor_workspace import open_to_others

    found = open_to_others(app)
    for path in found:
        path.chmod(path.stat().st_mode & 0o7700)
    if found:
        yield f"closed {len(found)} files and folders to others, {found[0]} among them"


def _finish_erasing(app: App) -> Iterator[str]:
    """What a person has ordered already; a note that cannot be read is left to them."""
    from loop.erasing import pending, resume

    found = pending(app)
    if found is not None and not found.problem and not found.at_work and resume(app, wait=False) is not None:
        yield f"finished an erasure of {counted(found.records, 'record')} that was interrupted"


def _remove_files(app: App) -> Iterator[str]:
    for path in stale_files(app):
        path.unlink(missing_ok=True)
        yield f"removed {path.relative_to(app.root)}, which nobody used"
    from loop.sweep import leftovers, remove_leftovers

    for folder in remove_leftovers(app) if leftovers(app) else ():
        yield f"removed {folder.relative_to(app.root)}, which a killed sweep had left"
    for folder in unfinished_checkpoints(app):
        shutil.rmtree(folder, ignore_errors=True)
        yield f"removed {folder.relative_to(app.root)}, which was not finished"


def _remove_artifacts(app: App) -> Iterator[str]:
    for path in app.workspace.artifacts.leftovers():
        shutil.rmtree(path, ignore_errors=True)
        yield f"removed {path.relative_to(app.root)}, which an interrupted write had left"


def _rebuild(app: App) -> Iterator[str]:
    from store.verify import verify

    if any(one.check == "read tables" and one.level != "ok" for one in verify(app.workspace)):
        folded = app.workspace.projections.rebuild()
        yield f"built the read tables anew from {folded} events"


CHECKS = (processes, files, sweeps, erasure)
