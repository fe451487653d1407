"""Copies of a workspace while it is in use, each complete, checked after it was written, and known to the log.

    database ▸ what it names, and what waits to be taken in ▸ `verify` of the copy ▸ manifest ▸ rename ▸ event

A folder has its final name only once everything in it is on disk and was read back. Whatever kills a backup, the
next one into the same folder removes what is unfinished and records what is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from sqlalchemy.engine import Connection

from store.copies import PROMPTS, Copy, Manifest, Progress, copies_in
from store.copying import Making, erased_texts, identity
from store.database import raw
from store.disk import make_folder, sync
from store.errors import StoreError, UsageError
from store.events import BackupCompleted, BackupRemoved
from store.kill_points import reached
from store.log import GENESIS, Draft, Head, step_id
from store.workspace import Workspace

STREAM = "backup"
LOCK = "backup.lock"
_UNFINISHED, _REMOVING = ".unfinished-", ".removing-"
_CHECK = "Check free space, limits and permissions there, then repeat it."


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one call has made and removed."""

    backup: str
    folder: str
    label: str
    position: int
    hash: str
    files: int
    bytes: int
    shared_bytes: int  # of files that are one with those of the backup before
    problems: list[str]
    removed: list[str] = []  # older backups


def backup(
    workspace: Workspace,
    folder: Path,
    *,
    label: str = "",
    keep: int | None = None,
    actor: str,
    now: datetime,
    progress: Progress = lambda *_: None,
) -> Report:
    """Copy the workspace into a new folder below `folder`; everybody else goes on meanwhile.

    Args:
        workspace: the open workspace.
        folder: made where it is missing, for its owner only.
        label: where that is, in words for the log; empty: the folder's name.
        keep: remove older backups of this workspace in `folder`, until this many sound ones are left. Nothing is
            removed when the new one has problems.
        actor: in the log.
        now: an aware time.
        progress: told how far it is.

    Raises:
        UsageError: the folder lies where backups do not belong.
        StoreError: another backup of this workspace is being made, disk full, not writable, the copy is not what was
            read, or records were erased meanwhile. Nothing is left of the copy.
    """
    folder = _place(workspace, folder)
    with _one_at_a_time(workspace):
        with _told(f"the backup into {folder} was given up", f"Nothing of it is left. {_CHECK}"):
            make_folder(folder)
            earlier = _tidy(workspace, folder, actor, now)
            manifest, shared = _make(workspace, folder, label or folder.name, earlier[:1], actor, now, progress)
        reached("backup.recorded")
        removed = []
        with _told(f"{manifest.backup} is complete, but an older one could not be removed", _CHECK):
            for copy in _superseded(earlier, keep - 1) if keep is not None and not manifest.problems else ():
                _remove(workspace, copy.path, copy.manifest.label, actor, now)
                removed.append(copy.manifest.backup)
        return Report(
            backup=manifest.backup, folder=str(folder / manifest.backup), label=manifest.label,
            position=manifest.position, hash=manifest.hash, files=len(manifest.files), bytes=manifest.bytes,
            shared_bytes=shared, problems=manifest.problems, removed=removed,
        )  # fmt: skip


def _make(
    workspace: Workspace,
    folder: Path,
    label: str,
    previous: Sequence[Copy],
    actor: str,
    now: datetime,
    progress: Progress,
) -> tuple[Manifest, int]:
    """A new copy under its final name, recorded; and how many of its bytes it shares with the one before."""
    name = f"tuneloop-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    temporary = folder / f"{_UNFINISHED}{identity(workspace)}-{secrets.token_hex(4)}"
    temporary.mkdir(mode=0o700)
    try:
        with workspace.rendering():  # an erasure waits for us, and goes on to name this backup
            making = Making(workspace, temporary, previous[0] if previous else None, progress)
            manifest = making.fill(name, label, now)
            temporary.rename(folder / name)
            sync(folder)
            reached("backup.renamed")
            _record(workspace, manifest, folder / name, actor, now)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest, making.shared


def _place(workspace: Workspace, folder: Path) -> Path:
    folder = folder.expanduser().resolve()
    paths = workspace.paths
    for taken in (paths.home, paths.inbox, paths.root / PROMPTS):
        if folder.is_relative_to(taken.resolve()):
            raise UsageError(f"{folder} lies in {taken}, which is backed up itself", hint="Name a folder elsewhere.")
    return folder


@contextlib.contextmanager
def _one_at_a_time(workspace: Workspace) -> Iterator[None]:
    with (workspace.paths.run / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                "another backup of this workspace is being made", hint="Wait for it; `tuneloop history` tells."
            ) from None
        yield


@contextlib.contextmanager
def _told(what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StoreError(f"{what}: {error.strerror or error}{where}", hint=hint) from error


# ---------------------------------------------------------------- the log, and what else lies in the folder


def _record(workspace: Workspace, manifest: Manifest, path: Path, actor: str, now: datetime) -> None:
    """Append BackupCompleted, unless records were erased since the snapshot: nobody would be told of this copy."""

    def check(connection: Connection) -> None:
        if erased_texts(raw(connection)) != manifest.erased:
            raise StoreError(
                "records were erased while the backup was made, and it holds them",
                hint="Nothing of it is left. Repeat it.",
            )

    event = BackupCompleted(
        backup=manifest.backup, label=manifest.label, position=manifest.position, hash=manifest.hash,
        bytes=manifest.bytes, problems=len(manifest.problems),
    )  # fmt: skip
    draft = Draft(event, STREAM, completed_id(manifest.backup))
    try:
        workspace.log.append([draft], actor=actor, now=now, within=check)
    except StoreError as error:
        if _erased_since(workspace, manifest):
            shutil.rmtree(path)
        raise error


def _erased_since(workspace: Workspace, manifest: Manifest) -> bool:
    with workspace.database.reading() as connection:
        return erased_texts(raw(connection)) != manifest.erased


def completed_id(name: str) -> str:
    """Event id of a backup's completion."""
    return step_id("backup", name)


def _tidy(workspace: Workspace, folder: Path, actor: str, now: datetime) -> list[Copy]:
    """Finish what killed backups have left in the folder. Returns the backups of this log, newest first.

    Copies of another life of the log (see `store.restore`) are left alone: nothing here knows what they are good for.
    """
    for path in folder.glob(f"{_UNFINISHED}{identity(workspace)}-*"):
        shutil.rmtree(path)
    for path in folder.glob(f"{_REMOVING}*"):
        known = workspace.log.get(completed_id(path.name.removeprefix(_REMOVING)))
        if known is not None and isinstance(known.event, BackupCompleted):
            _finish_removal(workspace, path, known.event.label, actor, now)
    ours: list[Copy] = []
    for copy in copies_in(folder):
        manifest = copy.manifest
        if manifest.workspace != identity(workspace) or not _in_log(workspace, manifest.head):
            continue
        if workspace.log.get(completed_id(manifest.backup)) is None:
            if _erased_since(workspace, manifest):  # an erasure has not been told of it
                shutil.rmtree(copy.path)
                continue
            _record(workspace, manifest, copy.path, actor, now)
        ours.append(copy)
    return ours


def _in_log(workspace: Workspace, head: Head) -> bool:
    if not head.position:
        return head.hash == GENESIS
    row = next(iter(next(workspace.log.pages(head.position - 1, 1, as_stored=True), [])), None)
    return row is not None and (row[0], row[13]) == (head.position, head.hash)


def _superseded(earlier: Iterable[Copy], sound: int) -> list[Copy]:
    """Those older than the newest `sound` ones without problems."""
    superseded = []
    for copy in earlier:
        if sound <= 0:
            superseded.append(copy)
        elif not copy.manifest.problems:
            sound -= 1
    return superseded


def _remove(workspace: Workspace, path: Path, label: str, actor: str, now: datetime) -> None:
    marked = path.with_name(f"{_REMOVING}{path.name}")
    path.rename(marked)  # from here on it is none any more
    sync(marked.parent)
    _finish_removal(workspace, marked, label, actor, now)


def _finish_removal(workspace: Workspace, marked: Path, label: str, actor: str, now: datetime) -> None:
    """Empty the folder; its name stays until the log knows."""
    for path in marked.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    sync(marked)
    reached("backup.old_removed")
    name = marked.name.removeprefix(_REMOVING)
    event = BackupRemoved(backup=name, label=label)
    workspace.log.append([Draft(event, STREAM, step_id("backup-removed", name))], actor=actor, now=now)
    marked.rmdir()
    sync(marked.parent)
