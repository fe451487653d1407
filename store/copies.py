"""The folder of a backup: what lies in it, and whether it still is what was written.

    NAME/manifest.json      what it is a copy of, and sha256 and size of every file; written last
    NAME/manifest.sha256    of manifest.json, as `sha256sum -c` reads it
    NAME/workspace/...      tuneloop.toml, prompts/ and inbox/, as they lie in a workspace
    NAME/state/...          what lies in its .tuneloop: tuneloop.sqlite, secret, artifacts/, production/, ...

The names are others than a workspace's, so that no command takes a backup for a workspace and changes it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from store.artifacts import FileEntry, inside
from store.disk import create_whole, sha256_of
from store.errors import Corrupt, InputError
from store.log import Head
from store.workspace import DATABASE, SECRET, SETTINGS

MANIFEST = "manifest.json"
MANIFEST_SUM = "manifest.sha256"
WORKSPACE, STATE = "workspace", "state"
PROMPTS, INBOX = "prompts", "inbox"
DATABASE_FILE = f"{STATE}/{DATABASE}"
SECRET_FILE = f"{STATE}/{SECRET}"
REQUIRED = {f"{WORKSPACE}/{SETTINGS}", DATABASE_FILE, SECRET_FILE}
# what a backup may hold: nothing else is ever put back, whatever a manifest says
_FILES = {*REQUIRED, f"{STATE}/.gitignore", f"{STATE}/wandb/cursor.json"}
_FOLDERS = {
    f"{WORKSPACE}/{PROMPTS}", f"{WORKSPACE}/{INBOX}", f"{STATE}/artifacts", f"{STATE}/production", f"{STATE}/claimed",
    f"{STATE}/quarantine",
}  # fmt: skip
_LARGEST_MANIFEST = 1 << 30  # bytes

Progress = Callable[[str, int, int], object]  # what is done, bytes so far, of


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backup is a copy of."""

    format: Literal[1] = 1
    backup: str  # its name
    label: str
    workspace: str  # the same for all backups of one workspace, and tells nothing about it
    made_at: datetime
    position: int  # of the last event in it
    hash: str  # of that event, hex: the chain's anchor
    epoch: int
    erased: int  # records whose text was gone by then
    problems: list[str]  # what `verify` found wrong with the copy, and what could not be copied
    files: dict[str, FileEntry]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())

    @property
    def head(self) -> Head:
        return Head(self.position, bytes.fromhex(self.hash))


class Copy(msgspec.Struct, frozen=True):
    """A complete backup."""

    path: Path
    manifest: Manifest
    digest: str  # of its manifest, hex


def read_copy(folder: Path) -> Copy:
    """The backup in `folder`, with a sound manifest; its files are not looked at.

    Raises:
        InputError: it is no backup.
        Corrupt: the manifest was changed, or names what no backup holds.
    """
    folder = folder.resolve()
    file = folder / MANIFEST
    try:
        if not stat.S_ISREG(file.lstat().st_mode) or file.stat().st_size > _LARGEST_MANIFEST:
            raise _damaged(file, "is no manifest")
        content = file.read_bytes()
        noted = (folder / MANIFEST_SUM).read_bytes()
    except OSError as error:
        if file.exists():
            raise _damaged(folder / MANIFEST_SUM, f"cannot be read: {error.strerror}") from error
        raise InputError(f"{folder} is no backup: it has no {MANIFEST}", hint=_nearby(folder)) from error
    digest = hashlib.sha256(content).hexdigest()
    if noted != _sum_line(digest):
        raise _damaged(file, f"was changed (it does not fit {MANIFEST_SUM})")
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
        _ = manifest.head
    except (msgspec.MsgspecError, ValueError) as error:
        raise _damaged(file, f"cannot be used by this tuneloop: {error}") from error
    for name in manifest.files:
        if not _belongs(name):
            raise _damaged(file, f"names a file that no backup holds: {name!r}")
    for name in REQUIRED - manifest.files.keys():
        raise _damaged(file, f"names no {name}")
    return Copy(folder, manifest, digest)


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Write the manifest and its checksum, durably; returns the checksum.

    Raises:
        OSError: disk full, not writable.
    """
    content = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1)
    digest = hashlib.sha256(content).hexdigest()
    create_whole(folder / MANIFEST_SUM, _sum_line(digest))
    create_whole(folder / MANIFEST, content)
    return digest


def damage(copy: Copy, progress: Progress = lambda *_: None) -> Iterator[str]:
    """What differs from the manifest, each naming its file; nothing where every byte is as it was written."""
    files, done, of = copy.manifest.files, 0, copy.manifest.bytes
    for name, plain in present(copy.path):
        if not plain:
            yield f"{name} is a link or special file"
        elif name not in files and name not in (MANIFEST, MANIFEST_SUM):
            yield f"{name} does not belong to it"
    for name, entry in files.items():
        file = copy.path / name
        try:
            status = file.lstat()
            if not stat.S_ISREG(status.st_mode):
                continue  # named above
            if status.st_size != entry.bytes:
                yield f"{name} has {status.st_size} bytes instead of {entry.bytes}"
            elif sha256_of(file) != entry.sha256:
                yield f"{name} was changed (sha256 differs)"
        except (FileNotFoundError, NotADirectoryError):
            yield f"{name} is missing"
        except OSError as error:
            yield f"{name} cannot be read: {error.strerror}"
        done += entry.bytes
        progress("checking", done, of)


def present(folder: Path) -> Iterator[tuple[str, bool]]:
    """Everything below a folder that is no folder: relative name, and whether it is a plain file (else a link, ...)."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted((*folders, *names)):
            path = Path(parent, name)
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # it has just been taken in, or moved on
                continue
            if not stat.S_ISDIR(mode):
                yield path.relative_to(folder).as_posix(), stat.S_ISREG(mode)


def copies_in(folder: Path) -> list[Copy]:
    """The backups in a folder, the newest state first; what is no backup, or has a damaged manifest, is left out."""
    found: list[Copy] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        try:
            found.append(read_copy(path))
        except (InputError, Corrupt):
            continue
    return sorted(found, key=lambda copy: (copy.manifest.position, copy.manifest.made_at), reverse=True)


def _belongs(name: str) -> bool:
    path = PurePosixPath(name)
    if not inside(name) or path.as_posix() != name or "\0" in name:
        return False
    return name in _FILES or (len(path.parts) > 2 and "/".join(path.parts[:2]) in _FOLDERS)


def _sum_line(digest: str) -> bytes:
    return f"{digest}  {MANIFEST}\n".encode()


def _damaged(file: Path, what: str) -> Corrupt:
    return Corrupt(f"{file} {what}", hint="Take another backup; nothing was changed.")


def _nearby(folder: Path) -> str:
    found = copies_in(folder)
    return f"Name one of those in it, for example {found[0].path}." if found else "`tuneloop backup DIR` makes one."
