"""Content-addressed folders: adapters, datasets, predictions. Complete or absent, and checkable at any time.

    <root>/sha256-<hex>/manifest.json     {"kind", "meta", "files": {path: {"sha256", "bytes"}}}
    <root>/sha256-<hex>/...               the files

The address is the sha256 of the manifest, which holds the sha256 of every file: whoever knows the address can
check all of it. A folder is written beside its place, synced, and renamed; nothing in it is ever unpickled. Files that
had to be erased are gone for good; redacted.json names them, and an event says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from store.disk import copy_whole, make_folder, sha256_of, sync
from store.errors import ArtifactError
from store.kill_points import reached

MANIFEST = "manifest.json"
REDACTED = "redacted.json"
Problems = list[str]
_ADDRESS = re.compile(r"sha256-[0-9a-f]{64}")
_TEMPORARY = ".tmp-"
_DAMAGED = ".damaged-"


class FileEntry(msgspec.Struct, frozen=True):
    sha256: str
    bytes: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    meta: dict[str, Any]
    files: dict[str, FileEntry]


class ArtifactInfo(msgspec.Struct, frozen=True):
    address: str
    kind: str
    meta: dict[str, Any]
    files: int
    bytes: int


Listing = list[ArtifactInfo]


class Artifacts:
    """The artifacts under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, folder: Path, kind: str, meta: Mapping[str, Any]) -> str:
        """Copy a folder in and return its address. Durable when it returns; the same folder again changes nothing.

        A copy that is there but damaged is set aside and replaced.

        Args:
            meta: JSON values; part of the content, so part of the address.

        Raises:
            ArtifactError: no folder, empty, or with links, special files or a manifest.json of its own; disk full.
        """
        try:
            sources = sorted(_walk(folder))
            if not sources:
                raise ArtifactError(f"{folder} holds no file", hint="Nothing was stored; look at the step's log.")
            make_folder(self.root)
            temporary = self.root / f"{_TEMPORARY}{secrets.token_hex(8)}"
            temporary.mkdir(mode=0o700)
            lock = os.open(temporary, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)  # marks the folder as in work, see `leftovers`
                return self._fill(temporary, folder, sources, kind, meta)
            finally:
                os.close(lock)
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            raise ArtifactError(
                f"{folder} could not be stored: {error.strerror or error}", hint="Check disk space and permissions."
            ) from error

    def _fill(self, temporary: Path, folder: Path, sources: list[str], kind: str, meta: Mapping[str, Any]) -> str:
        files = {name: _copy(folder / name, temporary / name) for name in sources}
        reached("artifacts.files_copied")
        content = msgspec.json.encode(Manifest(kind=kind, meta=dict(meta), files=files), order="sorted")
        _write(temporary / MANIFEST, content)
        for parent, _, _ in os.walk(temporary):
            sync(Path(parent))
        reached("artifacts.manifest_written")
        address = _address(content)
        final = self.root / address
        if final.exists():
            if not self.verify(address):
                return address
            final.rename(self.root / f"{_DAMAGED}{address}-{secrets.token_hex(4)}")
        try:
            temporary.rename(final)
        except OSError:
            if not final.exists() or self.verify(address):  # another process may have stored the same content
                raise
        reached("artifacts.renamed")
        sync(self.root)
        return address

    def path(self, address: str, *, verify: bool = False) -> Path:
        """The folder of an address. Manifest, names and sizes are always checked, every byte with `verify`.

        Raises:
            ArtifactError: not an address, not here, or damaged.
        """
        problems = self._problems(address, contents=verify)
        if problems:
            raise ArtifactError(
                f"artifact {address[:19]}: {problems[0]}", hint="Run `tuneloop verify`; restore it from a backup."
            )
        return self.root / address

    def verify(self, address: str) -> Problems:
        """What is wrong with an artifact, each naming its file; empty when every byte is as it was stored."""
        return self._problems(address, contents=True)

    def manifest(self, address: str) -> Manifest:
        """The manifest, checked against the address.

        Raises:
            ArtifactError: missing or damaged.
        """
        if not _ADDRESS.fullmatch(address):
            raise ArtifactError(f"{address!r} is no artifact's address", hint="Addresses look like sha256-….")
        try:
            content = (self.root / address / MANIFEST).read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"artifact {address[:19]} is not here", hint="Restore it from a backup; `tuneloop verify` lists others."
            ) from error
        if _address(content) != address:
            raise ArtifactError(
                f"artifact {address[:19]}: {MANIFEST} was changed", hint="Restore the folder from a backup."
            )
        try:
            return msgspec.json.decode(content, type=Manifest)
        except msgspec.MsgspecError as error:
            raise ArtifactError(f"artifact {address[:19]}: {MANIFEST}: {error}", hint="Restore it.") from error

    def _problems(self, address: str, *, contents: bool) -> Problems:
        try:
            manifest = self.manifest(address)
        except ArtifactError as error:
            return [error.message]
        folder = self.root / address
        problems: Problems = []
        redacted = self.redacted(address)
        for name, entry in manifest.files.items():
            if name in redacted:
                continue
            file = folder / name
            if not inside(name) or file.is_symlink() or not file.is_file():
                problems.append(f"{name} is missing or no plain file")
            elif file.stat().st_size != entry.bytes:
                problems.append(f"{name} has {file.stat().st_size} bytes instead of {entry.bytes}")
            elif contents and sha256_of(file) != entry.sha256:
                problems.append(f"{name} was changed (sha256 differs)")
        try:
            extra = set(_walk(folder)) - manifest.files.keys() - {MANIFEST, REDACTED}
            problems += [f"{name} does not belong to it" for name in sorted(extra)]
        except ArtifactError as error:
            problems.append(error.message)
        return problems

    def redact(self, address: str, names: Iterable[str]) -> None:
        """Delete files of an artifact for good and note their names in it. Repeating it is harmless.

        Raises:
            ArtifactError: not an address, not here, or it has no such file.
        """
        folder, gone = self.root / address, {*names, *self.redacted(address)}
        if unknown := gone - self.manifest(address).files.keys():
            raise ArtifactError(f"artifact {address[:19]} has no {min(unknown)}", hint="Nothing was deleted.")
        note = folder / f"{REDACTED}.part"
        note.unlink(missing_ok=True)
        _write(note, msgspec.json.encode(sorted(gone)))
        note.rename(folder / REDACTED)
        sync(folder)
        reached("artifacts.redaction_noted")
        for name in gone:
            (folder / name).unlink(missing_ok=True)
        for parent in {(folder / name).parent for name in gone}:
            sync(parent)

    def redacted(self, address: str) -> frozenset[str]:
        """Names of the files that were erased from an artifact."""
        try:
            return frozenset(msgspec.json.decode((self.root / address / REDACTED).read_bytes(), type=tuple[str, ...]))
        except (OSError, msgspec.MsgspecError):
            return frozenset()

    def list(self) -> Listing:
        """All artifacts with a sound manifest, by address."""
        found: Listing = []
        for address in self.addresses():
            try:
                manifest = self.manifest(address)
            except ArtifactError:
                continue
            size = sum(entry.bytes for entry in manifest.files.values())
            found.append(ArtifactInfo(address, manifest.kind, manifest.meta, len(manifest.files), size))
        return found

    def addresses(self) -> tuple[str, ...]:
        """Addresses of all folders here, sound or not."""
        if not self.root.is_dir():
            return ()
        return tuple(sorted(entry.name for entry in self.root.iterdir() if _ADDRESS.fullmatch(entry.name)))

    def leftovers(self) -> tuple[Path, ...]:
        """Folders that an interrupted `put` left, and damaged ones set aside: safe to delete."""
        if not self.root.is_dir():
            return ()
        names = sorted(self.root.iterdir())
        return tuple(
            path
            for path in names
            if path.name.startswith(_DAMAGED) or (path.name.startswith(_TEMPORARY) and not _in_work(path))
        )


def is_address(name: str) -> bool:
    """Whether a folder of this name is to hold an artifact's very content."""
    return _ADDRESS.fullmatch(name) is not None


def _walk(folder: Path) -> Iterator[str]:
    """Relative names of the plain files below a folder.

    Raises:
        ArtifactError: it is no folder, or holds a link or special file.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder", hint="An artifact is a folder of plain files.")
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ArtifactError(f"{path} is a link or special file", hint="Only plain files are stored.")
        for name in files:
            relative = Path(parent, name).relative_to(folder).as_posix()
            yield relative


def inside(name: str) -> bool:
    """Whether a relative name of a file, with slashes, stays below the folder that it is joined to."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and bool(path.parts)


def _copy(source: Path, target: Path) -> FileEntry:
    """Copy one file durably; what is hashed is what was written."""
    if target.name == MANIFEST and target.parent.name.startswith(_TEMPORARY):
        raise ArtifactError(f"{source} would hide the artifact's own manifest", hint="Rename the file.")
    if not target.parent.exists():
        target.parent.mkdir(mode=0o700, parents=True)  # parents' own mode does not matter: the root is 0700
    digest, size = copy_whole(source, target)
    return FileEntry(sha256=digest, bytes=size)


def _create(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")


def _write(path: Path, content: bytes) -> None:
    with _create(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _address(manifest: bytes) -> str:
    return f"sha256-{hashlib.sha256(manifest).hexdigest()}"


def _in_work(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
