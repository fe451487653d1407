"""A backup put in a workspace's place: checked in full before anything is touched, and the old one moved aside.

    check ▸ copy beside the target ▸ `verify` against the manifest's anchor ▸ a new life begins in the copy
      ▸ old workspace aside ▸ copy in its place ▸ `verify` there

The new life begins with `Restored` and an epoch above every one that was ever handed out, so no process that worked on
the old log can write into this one. It knows what the old life knew of erased records and of other backups.
Whatever kills it, the old workspace is whole, in its place or aside; repeating the command brings it to its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from store.backup import STREAM, completed_id
from store.copies import DATABASE_FILE, PROMPTS, SECRET_FILE, STATE, Copy, Progress, damage, read_copy
from store.database import raw
from store.disk import copy_whole, create_whole, make_folder, sync
from store.errors import Corrupt, StoreError, UsageError
from store.events import BackupCompleted, LeaseAcquired, Restored
from store.kill_points import reached
from store.lives import Against, OldLife, alone_with_life, look_at_life
from store.log import Draft
from store.swap import READY, Ready, Report, begun, finish, is_there, no_daemon, read_ready, refuse_unsound
from store.verify import verify
from store.workspace import HOME, RESTORING, SETTINGS, Workspace

REPLACED = ".tuneloop.replaced-"
BLIND = 1_000_000  # epochs to jump where the old log cannot be read: no workspace has had as many daemons

Again = Callable[[Workspace, Sequence[str]], object]


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore would do; nothing was changed to find out."""

    copy: Copy
    root: Path
    old: OldLife | None  # of the workspace that is there
    finishing: bool = False  # an interrupted restore of this backup has begun to move things


class Hooks(msgspec.Struct, frozen=True, kw_only=True):
    """What the floors above know of. Each is called with the copy, which lies beside its target.

    also_erased: more records that the old workspace (its folder) was about to forget.
    erase: forget records of the copy, files and events included.
    settle: (the copy's folder, the workspace it is to become, the old one's .tuneloop or None)
    """

    also_erased: Callable[[Path], Sequence[str]] = lambda _: ()
    erase: Again = lambda workspace, ids: None
    settle: Callable[[Path, Path, Path | None], object] = lambda *_: None


def look(backup: Path, root: Path, progress: Progress = lambda *_: None) -> Outlook:
    """Check every byte of a backup, and what it would replace.

    Args:
        backup: its folder.
        root: the workspace's folder; it need not be there.
        progress: told how far it is.

    Raises:
        InputError: it is no backup.
        Corrupt: it is damaged; names the file.
        UsageError: one of the two lies in the other.
    """
    copy = read_copy(backup)
    root = root.expanduser().resolve()
    if root.is_relative_to(copy.path) or copy.path.is_relative_to(root / HOME):
        raise UsageError(f"{copy.path} and {root} lie in each other", hint="Name another folder to restore into.")
    for problem in damage(copy, progress):
        raise Corrupt(f"the backup is damaged: {copy.path}: {problem}", hint="Take another one; nothing was changed.")
    ready = read_ready(root)
    if ready is not None and begun(root):
        return Outlook(copy=copy, root=root, old=None, finishing=ready.digest == copy.digest)
    return Outlook(copy=copy, root=root, old=look_at_life(root / HOME, _against(copy)))


def restore(
    outlook: Outlook,
    *,
    actor: str,
    now: datetime,
    hooks: Hooks = Hooks(),
    progress: Progress = lambda *_: None,
) -> Report:
    """Do what was looked at.

    Args:
        outlook: from `look`.
        actor: in the log.
        now: an aware time.
        hooks: see there.
        progress: told how far it is.

    Raises:
        DaemonRunning: a daemon runs on the workspace.
        StoreError: another command uses it, or restores into it; disk full; the copy is not sound.
        Corrupt: the backup has changed meanwhile.
    """
    root, copy = outlook.root, outlook.copy
    with _told(root), contextlib.ExitStack() as held:
        make_folder(root)
        held.enter_context(_one_at_a_time(root))
        held.enter_context(no_daemon(root / HOME))
        ready = read_ready(root)
        if ready is not None and begun(root):
            report = finish(root, ready, held, progress)
            if ready.digest == copy.digest:
                return report
            raise StoreError(
                f"an interrupted restore of {ready.report.backup} was finished first",
                hint=f"Repeat the command to replace it by {copy.manifest.backup}.",
            )
        shutil.rmtree(root / RESTORING, ignore_errors=True)
        # looked at once more: nobody writes any more, so it has told all that it has to tell
        old = held.enter_context(alone_with_life(root / HOME, _against(copy)))
        try:
            ready = _begin(outlook, old, actor, now, hooks, progress)
        except BaseException:
            shutil.rmtree(root / RESTORING, ignore_errors=True)
            raise
        reached("restore.recorded")
        return finish(root, ready, held, progress)


def replaced(root: Path) -> list[Path]:
    """Workspaces that restores have moved aside in `root`, oldest first; they hold customer text."""
    return sorted(path for path in root.glob(f"{REPLACED}*") if path.is_dir())


def _against(copy: Copy) -> Against:
    return Against(copy.path / DATABASE_FILE, copy.path / SECRET_FILE, copy.manifest.head)


# ---------------------------------------------------------------- who else is there


@contextlib.contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreError(f"another command restores into {root}", hint="Wait for it.") from None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _told(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the restore into {root} stopped: {error.strerror or error}"
            + (f" ({error.filename})" if error.filename else ""),
            hint="Check free space, limits and permissions there, then repeat it; the old workspace is whole.",
        ) from error


# ---------------------------------------------------------------- the copy and its new life


def _begin(outlook: Outlook, old: OldLife | None, actor: str, now: datetime, hooks: Hooks, progress: Progress) -> Ready:
    """Copy the backup beside its target and let its new life begin there; the target is not touched."""
    root, manifest = outlook.root, outlook.copy.manifest
    staging = root / RESTORING
    _copy(outlook.copy, staging, progress)
    reached("restore.files_copied")
    progress("checking the copy", 0, manifest.bytes)
    home = root / HOME if old is not None else None
    with Workspace(staging) as workspace:
        refuse_unsound(verify(workspace, anchor=manifest.head), manifest.problems)
        workspace.projections.catch_up()
        erased = list(old.erased) if old is not None else []
        erased += hooks.also_erased(home) if home is not None else []
        again = _with_text(workspace, erased)
        epoch = _begin_life(workspace, outlook, old, len(again), actor, now)
        if old is not None:
            _mark_erased(workspace, old)
        if again:
            hooks.erase(workspace, again)
        workspace.projections.catch_up()
        workspace.database.checkpoint()
    if home is not None:
        _bring_claimed(home, staging / HOME)
    hooks.settle(staging, root, home)
    names = [name for name in (SETTINGS, PROMPTS) if (staging / name).exists()]
    there = any(is_there(root / name) for name in (HOME, SETTINGS, PROMPTS))
    aside = f"{REPLACED}{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}" if there else ""
    report = Report(
        backup=manifest.backup, root=str(root), position=manifest.position, epoch=epoch,
        left_behind=old.left_behind if old is not None else 0, erased_again=len(again),
        old=str(root / aside) if aside else "", old_readable=old is None or old.readable, problems=manifest.problems,
    )  # fmt: skip
    ready = Ready(digest=outlook.copy.digest, names=names, aside=aside, report=report)
    for parent, _, _ in os.walk(staging):
        sync(Path(parent))
    create_whole(staging / READY, msgspec.json.encode(ready))
    sync(root)
    return ready


def _copy(copy: Copy, staging: Path, progress: Progress) -> None:
    manifest, done = copy.manifest, 0
    free = shutil.disk_usage(staging.parent).free
    if manifest.bytes > free:
        raise StoreError(
            f"restoring needs {manifest.bytes >> 20} MiB, {staging.parent} has {free >> 20}",
            hint="Free some space there; nothing was changed.",
        )
    make_folder(staging / HOME)
    for name, entry in manifest.files.items():
        place, _, rest = name.partition("/")
        target = staging / (HOME if place == STATE else "") / rest
        make_folder(target.parent)
        digest, size = copy_whole(copy.path / name, target)
        if (digest, size) != (entry.sha256, entry.bytes):
            raise Corrupt(f"the backup has changed meanwhile: {name}", hint="Nothing was changed; look at its disk.")
        done += size
        progress("copying", done, manifest.bytes)


def _begin_life(
    workspace: Workspace, outlook: Outlook, old: OldLife | None, again: int, actor: str, now: datetime
) -> int:
    """Append Restored, the new epoch, and the backups that this log does not know of; returns the epoch."""
    manifest, log = outlook.copy.manifest, workspace.log
    known = max(log.epoch(), old.epoch if old is not None else 0)
    epoch = known + (BLIND if old is not None and not old.readable else 1)
    restored = Restored(
        backup=manifest.backup, position=manifest.position, hash=manifest.hash,
        left_behind=old.left_behind if old is not None else 0, erased_again=again,
    )  # fmt: skip
    this = BackupCompleted(
        backup=manifest.backup, label=manifest.label, position=manifest.position, hash=manifest.hash,
        bytes=manifest.bytes, problems=len(manifest.problems),
    )  # fmt: skip
    copies = {this.backup: this, **({one.backup: one for one in old.backups} if old is not None else {})}
    drafts = [
        Draft(restored, STREAM),
        Draft(LeaseAcquired(holder=f"restore on {socket.gethostname()}", new_epoch=epoch), "loop"),
        *(Draft(one, STREAM, completed_id(name)) for name, one in copies.items() if not log.get(completed_id(name))),
    ]
    log.append(drafts, actor=actor, now=now)
    return epoch


def _with_text(workspace: Workspace, record_ids: Sequence[str]) -> list[str]:
    return sorted(stored.record_id for stored in workspace.texts.stored(sorted(set(record_ids))))


def _mark_erased(workspace: Workspace, old: OldLife) -> None:
    """Keep the old life's marks of erased records that the backup never knew: their text must not come in again."""
    rows = [(record_id, task, digest) for record_id, (task, digest) in old.erased.items()]
    with workspace.database.writing() as connection:
        raw(connection).executemany(
            "INSERT OR IGNORE INTO texts (record_id, task, digest, customer, meta) VALUES (?, ?, ?, '', '{}')", rows
        )


def _bring_claimed(old: Path, new: Path) -> None:
    """Files that were being read when the old life ended came in after the backup: the new life reads them again."""
    for path in sorted((old / "claimed").glob("*")):
        target = new / "claimed" / path.name
        if path.suffix != ".progress" and path.is_file() and not path.is_symlink() and not target.exists():
            copy_whole(path, target)
