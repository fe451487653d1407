"""One consistent copy of a workspace that is in use, checked after it was written. `store.backup` says what it is for.

The database's snapshot is taken at a moment when nobody may append, claim a file of the inbox or move production's
pointers; those small files are set aside in the same moment. Artifacts never change, so they can be copied at leisure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

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
    damage,
    present,
    write_manifest,
)
from store.database import DRIVER, raw
from store.disk import copy_whole, make_folder, sha256_of, sync
from store.errors import StoreError, TuneloopError
from store.kill_points import reached
from store.log import GENESIS, Head
from store.verify import artifacts_of, verify
from store.workspace import HOME, SETTINGS, Workspace

_PAGES = 2048  # of the database, between two reports of progress


class _Item(msgspec.Struct, frozen=True):
    """A file to be copied: from, to (as in a manifest), its size by now, its sha256 where that is known."""

    source: Path
    name: str
    bytes: int
    follow: bool = False
    sha256: str = ""


class Making:
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
        """Write the copy and its manifest; everything is on disk and was read back when this returns.

        Raises:
            StoreError: disk full, or the copy is not what was read.
            OSError: it cannot be written.
        """
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
            backup=name, label=label, workspace=identity(self._workspace), made_at=now.astimezone(UTC),
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
            erased = erased_texts(reader)
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


def erased_texts(connection: Any) -> int:
    """How many records have lost their text: the number only grows. `connection` is the driver's."""
    return int(connection.execute("SELECT count(*) FROM texts WHERE text IS NULL").fetchone()[0])


def identity(workspace: Workspace) -> str:
    """The same for all copies of one workspace, and tells nothing about it."""
    return workspace.texts.keyed("workspace")[:16]
