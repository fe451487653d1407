"""What survives the power going: a name is sure only once the folder that holds it was synced."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from store.errors import StoreError

_BLOCK = 1 << 20
_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def sync(path: Path) -> None:
    """Write a file's content, or a folder's names, through to the disk.

    Raises:
        OSError: it is not there, or the disk failed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for their owner only and durably."""
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync(folder.parent)


def create_whole(path: Path, content: bytes) -> bool:
    """Write a file, for its owner only, that is not there yet; whole or not at all. Returns whether this call did it.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return True


def copy_whole(
    source: Path, target: Path, *, follow: bool = False, each: Callable[[int], object] = lambda _: None
) -> tuple[str, int]:
    """Copy a file durably, for its owner only, to where none is; sha256 (hex) and size of what was written.

    Args:
        source: a link is refused, unless `follow` is set.
        target: in a folder that is there.
        follow: read the file that a link leads to.
        each: called with the bytes of every block.

    Raises:
        OSError: it cannot be read or written, or the target is there. A part of the target may be left.
    """
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    with (
        os.fdopen(descriptor, "rb") as reader,
        os.fdopen(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as writer,
    ):
        while block := reader.read(_BLOCK):
            digest.update(block)
            size += len(block)
            writer.write(block)
            each(len(block))
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest(), size


def sha256_of(path: Path) -> str:
    """Of a file's content, hex.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_trouble(error: BaseException) -> StoreError | None:
    """What a failed read or write of a file means to a person; None where the disk is not to blame."""
    if not isinstance(error, OSError) or error.errno not in _TROUBLE:
        return None
    return StoreError(
        f"{error.strerror}{f': {error.filename}' if error.filename else ''}",
        hint="Check the disk, its free space, quotas and file-size limits; everything goes on by itself then.",
    )


def has_room(folder: Path, least: int = 1 << 20, most: int = 128 << 20) -> bool:
    """Whether `least` bytes, and as much again as the folder's files take, up to `most`, could be written there now."""
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    size = least
    for path in files:
        with contextlib.suppress(OSError):  # it may just have been removed
            size += path.stat().st_size
    probe = folder / ".room"
    try:
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, min(size, most))
    except OSError as error:
        return error.errno not in _TROUBLE
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return True
