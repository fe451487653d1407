"""Files that hold erased texts: found, read, and written again without moving what stands beside the texts.

A file that vanishes meanwhile was moved on or deleted by its owner, who comes to it elsewhere: it is passed over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from loop import traces
from store.disk import sync

# weights and arrays: no text is written into them
OPAQUE = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".lock")
LARGEST = 1 << 30  # bytes of a file that is searched
BESIDE = ".erasing"  # ends the name of a file that is being written anew


def files(folder: Path) -> Iterator[Path]:
    """All plain files below a folder, in order; what vanishes meanwhile is left out."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if not path.is_symlink() and path.is_file() and not name.endswith(OPAQUE):
                yield path


def read(path: Path, unread: list[str]) -> bytes:
    """The file's bytes; none of one that cannot be searched (too large, not readable), which `unread` then names."""
    try:
        if path.stat().st_size <= LARGEST:
            return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError:
        pass
    if str(path) not in unread:
        unread.append(str(path))
    return b""


def overwrite(path: Path, data: bytes, hits: Sequence[traces.Span], word: bytes = b"") -> None:
    """Blank places of a file where it lies: others may have it open, to read on or to append.

    Args:
        path: of the file.
        data: what it holds.
        hits: the places.
        word: stands at the beginning of each place that has room for it.
    """
    after = traces.blanked(data, hits, word)
    with contextlib.suppress(FileNotFoundError), _writable(path), path.open("r+b") as file:
        for start, end in hits:
            os.pwrite(file.fileno(), after[start:end], start)
        os.fsync(file.fileno())


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    """wandb keeps files that nobody may write; we take the right back afterwards."""
    mode = path.stat().st_mode
    path.chmod(mode | 0o200)
    try:
        yield
    finally:
        path.chmod(mode)


def replace(path: Path, content: bytes) -> None:
    """Write a file anew, whole or not at all, with the rights it had."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
        beside = path.with_name(path.name + BESIDE)
        with os.fdopen(os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(mode)
        beside.replace(path)
        sync(path.parent)
