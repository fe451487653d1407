"""What is left in a database file beside its content: pages that are free, and how to be rid of them."""

from __future__ import annotations

import mmap
from pathlib import Path

from store.database import Database

_HEADER = 100  # bytes
_PAGE_SIZE, _FIRST_TRUNK = 16, 32  # offsets in the header (SQLite's file format, sections 1.3 and 1.5)


def free_pages_are_empty(path: Path) -> bool:
    """Whether every page of the file's free list is zero, as `secure_delete` leaves them.

    Another program that deleted without it leaves old content there until the page is used again.
    """
    with path.open("rb") as file:
        if len(file.read(_HEADER)) < _HEADER:
            return True
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            size = int.from_bytes(data[_PAGE_SIZE : _PAGE_SIZE + 2], "big")
            size = 65536 if size == 1 else size
            trunk = int.from_bytes(data[_FIRST_TRUNK : _FIRST_TRUNK + 4], "big")
            empty, seen = bytes(size), set[int]()
            while trunk and trunk not in seen and trunk * size <= len(data):
                seen.add(trunk)
                page = data[(trunk - 1) * size : trunk * size]
                count = int.from_bytes(page[4:8], "big")
                leaves = [int.from_bytes(page[8 + 4 * n : 12 + 4 * n], "big") for n in range(min(count, size // 4 - 2))]
                if page[8 + 4 * count :].strip(b"\0"):
                    return False
                if any(data[(leaf - 1) * size : leaf * size] != empty for leaf in leaves if leaf * size <= len(data)):
                    return False
                trunk = int.from_bytes(page[:4], "big")
    return True


def compact(database: Database) -> None:
    """Write the database anew without free pages (VACUUM); writers wait meanwhile. Needs as much space as it is large.

    Raises:
        StoreError: disk full, or locked for longer than the busy timeout; nothing was changed.
    """
    with database.errors():
        pooled = database.write.raw_connection()
        try:
            pooled.cursor().execute("VACUUM")
        finally:
            pooled.close()
