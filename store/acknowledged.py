"""The last event that was acknowledged, noted beside the database: a log that ends before it has lost some.

After a crash SQLite reads its write-ahead log up to the first frame whose checksum does not fit, and says nothing of
what comes after it: one flipped bit takes away every commit from there on, and the rest is a sound database. So each
append notes position and hash of its last event in a file of its own, once the commit is on the disk. The note itself
is not synced: it is never ahead of what the disk owes us, and an older one only sees less.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import msgspec

from store.disk import create_whole
from store.errors import StoreError

NOTE, LOST = "-head", "-lost"  # after the database's name
_BODY = struct.Struct(">Q32s")  # position and hash, before 16 bytes of their digest


class Head(msgspec.Struct, frozen=True):
    """An event's position and hash: what is anchored outside the database."""

    position: int
    hash: bytes


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Events that were acknowledged and are not in the log."""

    acknowledged: int  # the last position that was noted
    head: int  # the log's last position when that was found
    file: str = ""  # that keeps this; empty as long as nobody has written to the log since

    def __str__(self) -> str:
        if self.head >= self.acknowledged:
            return f"event {self.acknowledged} is not the one that was acknowledged"
        first = f"events {self.head + 1} to" if self.acknowledged > self.head + 1 else "event"
        return f"{first} {self.acknowledged} had been acknowledged and are gone: the write-ahead log was damaged"


def missing(cursor: Any, noted: Head | None, head: Head) -> Loss | None:
    """What of the noted event is not in the log that ends at `head`; None where it is there."""
    if noted is None or noted == head:
        return None
    if noted.position <= head.position:
        row = cursor.execute("SELECT hash FROM events WHERE position = ?", (noted.position,)).fetchone()
        if row is not None and row[0] == noted.hash:
            return None
    return Loss(acknowledged=noted.position, head=head.position)


class Acknowledged:
    """The note beside one database. Any number of processes may write it: it is one write of one sector."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + NOTE)
        self._lost = database.with_name(database.name + LOST)
        self._descriptor = -1

    def note(self, head: Head) -> None:
        """After a commit. A disk that takes no more leaves the note before."""
        body = _BODY.pack(head.position, head.hash)
        with contextlib.suppress(OSError):
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._descriptor, body + _digest(body), 0)

    def read(self) -> Head | None:
        """What was noted; None where nothing was, or not in one piece."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return None
        body = content[: _BODY.size]
        if content[_BODY.size :] != _digest(body) or len(body) != _BODY.size:
            return None
        return Head(*_BODY.unpack(body))

    def keep(self, loss: Loss) -> None:
        """Keep a loss until people have seen to it: the next append writes over the note.

        Raises:
            StoreError: it cannot be written, so the log must not be either.
        """
        try:
            create_whole(self._lost, msgspec.json.encode(loss))
        except OSError as error:
            raise StoreError(
                f"{loss}, and {self._lost} cannot be written: {error.strerror or error}",
                hint="Free disk space, then look at `tuneloop verify`.",
            ) from error

    def kept(self) -> Loss | None:
        """The first loss that nobody has seen to; None where there is none."""
        try:
            loss = msgspec.json.decode(self._lost.read_bytes(), type=Loss)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
            loss = Loss(acknowledged=0, head=0)
        return msgspec.structs.replace(loss, file=str(self._lost))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:16]
