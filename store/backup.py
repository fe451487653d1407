"""Copies of a workspace while it is in use, each complete, checked after it was written, and known to the log.

    database ▸ what it names, and what waits to be taken in ▸ `verify` of the copy ▸ manifest ▸ rename ▸ event

The database's snapshot is taken at a moment when nobody may append, claim a file of the inbox or move production's
pointers; those small files are set aside in the same moment. Artifacts never change, so they can be copied at leisure.
A folder has its final name only once everything in it is on disk and was read back. Whatever kills a backup, the
next one into the same folder removes what is unfinished and records what is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from store.artifacts import FileEntry
from store.copies import (
    DATABASE_FILE,
    INBOX,
    PROMPTS,
    REQUIRED,
    SECRET_FILE,
    STATE,
    WORKSPACE,
    Copy,
    Manifest,
    Progress,
    copies_in,
    damage,
    present,
    write_manifest,
)
from store.database import DRIVER, raw
from store.disk import copy_whole, make_folder, sha256_of, sync
from store.errors import StoreError, TuneloopError, UsageError
from store.events import BackupCompleted, BackupRemoved
from store.kill_points import reached
from store.log import GENESIS, Draft, Head, step_id
from store.verify import artifacts_of, verify
from store.workspace import HOME, SETTINGS, Workspace

STREAM = "backup"
LOCK = "backup.lock"
_UNFINISHED, _REMOVING = ".unfinished-", ".removing-"
_PAGES = 2048  # of the database, between two reports of progress


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


class _Item(msgspec.Struct, frozen=True):
    """A file to be copied: from, to (as in a manifest), its size by now, its sha256 where that is known."""

    source: Path
    name: str
    bytes: int
    follow: bool = False
    sha256: str = ""


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
    with _one_at_a_time(workspace), _told(folder):
        make_folder(folder)
        earlier = _tidy(workspace, folder, actor, now)
        name = f"tuneloop-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        temporary = folder / f"{_UNFINISHED}{_identity(workspace)}-{secrets.token_hex(4)}"
        temporary.mkdir(mode=0o700)
        try:
            with workspace.rendering():  # an erasure waits for us, and goes on to name this backup
                made = _Making(workspace, temporary, earlier[0] if earlier else None, progress)
                manifest = made.fill(name, label or folder.name, now)
                temporary.rename(folder / name)
                sync(folder)
                reached("backup.renamed")
                _record(workspace, manifest, folder / name, actor, now)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        reached("backup.recorded")
        removed = []
        if keep is not None and not manifest.problems:
            for copy in _superseded(earlier, keep - 1):
                _remove(workspace, copy.path, copy.manifest.label, actor, now)
                removed.append(copy.manifest.backup)
        return Report(
            backup=name, folder=str(folder / name), label=manifest.label, position=manifest.position,
            hash=manifest.hash, files=len(manifest.files), bytes=manifest.bytes, shared_bytes=made.shared,
            problems=manifest.problems, removed=removed,
        )  # fmt: skip


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
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the backup into {folder} was given up: {error.strerror or error}"
            + (f" ({error.filename})" if error.filename else ""),
            hint="Nothing of it is left. Check free space, limits and permissions there, then repeat it.",
        ) from error


def _identity(workspace: Workspace) -> str:
    return workspace.texts.keyed("workspace")[:16]


# ---------------------------------------------------------------- one copy


class _Making:
    """One backup in the making, in a temporary folder."""

    def __init__(self, workspace: Workspace, folder: Path, previous: Copy | None, progress: Progress) -> None:
        self._workspace = workspace
        self._folder = folder
        self._root = folder / WORKSPACE  # laid out as a workspace until it was checked
        self._previous = previous
        self._progress = progress
        self._files: dict[str, FileEntry] = {}
        self._problems: list[str] = []
        self._done = self._of = 0
        self.shared = 0  # bytes

    def fill(self, name: str, label: str, now: datetime) -> Manifest:
        make_folder(self._root / HOME)
        aside = self._workspace.paths.cache / "backup"
        shutil.rmtree(aside, ignore_errors=True)  # a killed backup has left it
        try:
            head, epoch, erased, items = self._snapshot(aside)
            reached("backup.database_copied")
            self._copy(items)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        for parent, _, _ in os.walk(self._folder):
            sync(Path(parent))
        reached("backup.files_copied")
        self._check(head)
        manifest = Manifest(
            backup=name, label=label, workspace=_identity(self._workspace), made_at=now.astimezone(UTC),
            position=head.position, hash=head.hash.hex(), epoch=epoch, erased=erased, problems=self._problems,
            files=self._files,
        )  # fmt: skip
        digest = write_manifest(self._folder, manifest)
        sync(self._folder)
        for problem in damage(Copy(self._folder, manifest, digest), self._progress):
            raise StoreError(
                f"the backup is not what was read: {problem}",
                hint="Nothing of it is left. Check the disk there, then repeat it.",
            )
        reached("backup.manifest_written")
        return manifest

    # ------------------------------------------------------------ copying

    def _snapshot(self, aside: Path) -> tuple[Head, int, int, list[_Item]]:
        """Copy the database as it stands at one moment; what else belongs to that moment is set aside first."""
        workspace = self._workspace
        with contextlib.ExitStack() as held:
            with workspace.database.writing():
                reader = raw(held.enter_context(workspace.database.reading()))
                row = reader.execute("SELECT position, hash FROM events ORDER BY position DESC LIMIT 1").fetchone()
                self._set_aside(aside)
            head = Head(*row) if row else Head(0, GENESIS)
            epoch = reader.execute("SELECT epoch FROM lease").fetchone()[0]
            erased = _erased(reader)
            items = [*self._small_files(aside), *self._artifacts(head)]
            size = workspace.database.path.stat().st_size
            self._of = size + sum(item.bytes for item in items)
            self._need(size + sum(item.bytes for item in items if not self._twin(item)))
            self._copy_database(reader)
        return head, epoch, erased, items

    def _set_aside(self, aside: Path) -> None:
        """Second names, or copies, for files that the daemon renames and deletes: nobody is in the way of that now."""
        paths = self._workspace.paths
        for source, name in ((paths.inbox, INBOX), (paths.claimed, "claimed"), (paths.production, "production")):
            for relative, plain in present(source):
                if not plain:
                    continue
                target = aside / name / relative
                make_folder(target.parent)
                try:
                    os.link(source / relative, target, follow_symlinks=False)
                except OSError:  # another file system, or another user's file
                    with self._readable(source / relative, f"{name}/{relative}"):
                        copy_whole(source / relative, target)

    def _small_files(self, aside: Path) -> Iterator[_Item]:
        paths = self._workspace.paths
        yield from self._item(paths.settings, f"{WORKSPACE}/{SETTINGS}", follow=True)
        for relative, _ in present(paths.root / PROMPTS):  # people's own files: they may well be links
            yield from self._item(paths.root / PROMPTS / relative, f"{WORKSPACE}/{PROMPTS}/{relative}", follow=True)
        yield from self._item(paths.secret, SECRET_FILE)
        for relative, plain in present(aside):
            if plain:
                place = WORKSPACE if relative.startswith(f"{INBOX}/") else STATE
                yield from self._item(aside / relative, f"{place}/{relative}")
        for relative, plain in present(paths.quarantine):
            if plain:
                yield from self._item(paths.quarantine / relative, f"{STATE}/quarantine/{relative}")
        for optional in (".gitignore", "wandb/cursor.json"):
            yield from self._item(paths.home / optional, f"{STATE}/{optional}")

    def _artifacts(self, head: Head) -> Iterator[_Item]:
        """The files of exactly the artifacts that events up to the snapshot name."""
        artifacts = self._workspace.artifacts
        for address in self._named(head):
            try:
                known = artifacts.manifest(address).files
            except TuneloopError:  # `verify` of the copy says so
                known = {}
            for relative, plain in present(artifacts.root / address):
                if plain:
                    sha256 = known[relative].sha256 if relative in known else ""
                    path = artifacts.root / address / relative
                    yield from self._item(path, f"{STATE}/artifacts/{address}/{relative}", sha256=sha256)

    def _named(self, head: Head) -> Iterable[str]:
        named: dict[str, None] = {}
        try:
            for recorded in self._workspace.log.read(limit=head.position):
                named.update(dict.fromkeys(artifacts_of(recorded.event)))
        except TuneloopError:  # an event that cannot be read may name any of them
            return self._workspace.artifacts.addresses()
        return named

    def _item(self, source: Path, name: str, *, follow: bool = False, sha256: str = "") -> Iterator[_Item]:
        try:
            name.encode()
            yield _Item(source, name, source.stat().st_size, follow, sha256)
        except UnicodeEncodeError:
            self._problems.append(f"{name!r} was left out: its name is no UTF-8")
        except FileNotFoundError:
            pass

    def _need(self, size: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if size > free:
            raise StoreError(
                f"the backup needs {size >> 20} MiB, {self._folder.parent} has {free >> 20}",
                hint="Free some space there, or name another folder; nothing was written.",
            )

    def _copy_database(self, reader: Any) -> None:
        target = self._root / HOME / Path(DATABASE_FILE).name
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        size = self._workspace.database.path.stat().st_size

        def tell(_: int, remaining: int, total: int) -> None:
            self._progress("copying", size * (total - remaining) // max(total, 1), self._of)

        try:
            connection = DRIVER.connect(str(target))
            try:
                reader.backup(connection, pages=_PAGES, progress=tell)
            finally:
                connection.close()
        except DRIVER.Error as error:
            raise StoreError(
                f"the database could not be copied to {self._folder.parent}: {error}",
                hint="Nothing of the backup is left. Check free space and limits there, then repeat it.",
            ) from error
        sync(target)
        self._files[DATABASE_FILE] = FileEntry(sha256=sha256_of(target), bytes=target.stat().st_size)
        self._done = size

    def _copy(self, items: Iterable[_Item]) -> None:
        for item in items:
            target = self._target(item.name)
            make_folder(target.parent)
            twin = self._twin(item)
            if twin is not None and self._share(twin, target, item.sha256):
                size = target.stat().st_size
                self._files[item.name] = FileEntry(sha256=item.sha256, bytes=size)
                self.shared += size
                self._advance(size)
                continue
            with self._readable(item.source, item.name):
                digest, size = copy_whole(item.source, target, follow=item.follow, each=self._advance)
                self._files[item.name] = FileEntry(sha256=digest, bytes=size)
        for name in REQUIRED - self._files.keys():
            raise StoreError(f"{name.partition('/')[2]} cannot be read", hint="Run `tuneloop doctor`.")

    @contextlib.contextmanager
    def _readable(self, source: Path, name: str) -> Iterator[None]:
        """What cannot be read is told and left out; what cannot be written ends the backup."""
        try:
            yield
        except (FileNotFoundError, PermissionError) as error:
            if error.filename != str(source):
                raise
            if isinstance(error, PermissionError):  # else it has just been replaced or moved on
                self._problems.append(f"{name} was left out: {error.strerror}")

    def _advance(self, size: int) -> None:
        self._done += size
        self._progress("copying", self._done, self._of)

    def _twin(self, item: _Item) -> Path | None:
        """The same file in the backup before."""
        if self._previous is None or not item.sha256:
            return None
        known = self._previous.manifest.files.get(item.name)
        return self._previous.path / item.name if known and known.sha256 == item.sha256 else None

    def _share(self, twin: Path, target: Path, sha256: str) -> bool:
        """Make one file of both, where the older one is still what it was and the file system can."""
        with contextlib.suppress(OSError):
            os.link(twin, target, follow_symlinks=False)
            if target.is_file() and not target.is_symlink() and sha256_of(target) == sha256:
                return True
        target.unlink(missing_ok=True)
        return False

    def _target(self, name: str) -> Path:
        place, _, rest = name.partition("/")
        return self._root / (HOME if place == STATE else "") / rest

    # ------------------------------------------------------------ checking

    def _check(self, head: Head) -> None:
        """Open the copy as a workspace and check everything in it; then give it the names of a backup."""
        for name in self._files:
            _forget_cached(self._target(name))
        self._progress("checking", 0, self._of)
        with Workspace(self._root) as copy:
            self._problems += [each.message for each in verify(copy, anchor=head) if each.level == "fail"]
            database, folders = copy.paths.database, copy.paths.folders()
        for ending in ("-wal", "-shm"):  # nothing was written: they are empty
            database.with_name(database.name + ending).unlink(missing_ok=True)
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        (self._root / HOME).rename(self._folder / STATE)


def _forget_cached(path: Path) -> None:
    """Have the file read from the disk, not from memory, where the system lets us ask."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _erased(connection: Any) -> int:
    """How many records have lost their text: the number only grows. `connection` is the driver's."""
    return int(connection.execute("SELECT count(*) FROM texts WHERE text IS NULL").fetchone()[0])


# ---------------------------------------------------------------- the log, and what else lies in the folder


def _record(workspace: Workspace, manifest: Manifest, path: Path, actor: str, now: datetime) -> None:
    """Append BackupCompleted, unless records were erased since the snapshot: nobody would be told of this copy."""

    def check(connection: Connection) -> None:
        if _erased(raw(connection)) != manifest.erased:
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
        return _erased(raw(connection)) != manifest.erased


def completed_id(name: str) -> str:
    """Event id of a backup's completion."""
    return step_id("backup", name)


def _tidy(workspace: Workspace, folder: Path, actor: str, now: datetime) -> list[Copy]:
    """Finish what killed backups have left in the folder. Returns the backups of this log, newest first.

    Copies of another life of the log (see `store.restore`) are left alone: nothing here knows what they are good for.
    """
    for path in folder.glob(f"{_UNFINISHED}{_identity(workspace)}-*"):
        shutil.rmtree(path)
    for path in folder.glob(f"{_REMOVING}*"):
        known = workspace.log.get(completed_id(path.name.removeprefix(_REMOVING)))
        if known is not None and isinstance(known.event, BackupCompleted):
            _finish_removal(workspace, path, known.event.label, actor, now)
    ours: list[Copy] = []
    for copy in copies_in(folder):
        manifest = copy.manifest
        if manifest.workspace != _identity(workspace) or not _in_log(workspace, manifest.head):
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
