"""A disposable copy of the folded state, so that a short command need not fold the whole log.

The copy carries a checksum and the fingerprint of the state's shape; when either does not fit, or the file is
gone, the log is folded from its beginning and nothing else changes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from loop.state import LoopState
from store.kill_points import reached

FILE = "state.snapshot"
_SHAPE = hashlib.sha256(msgspec.json.encode(msgspec.json.schema(LoopState))).digest()[:8]


def save(folder: Path, state: LoopState) -> None:
    """Write the copy atomically; it may be lost at any time, so it is not synced to disk."""
    _forget_interrupted(folder)
    body = msgspec.msgpack.encode(state)
    temporary = folder / f"{FILE}.{os.getpid()}"
    temporary.write_bytes(_SHAPE + hashlib.sha256(body).digest() + body)
    reached("snapshot.temporary_written")
    temporary.replace(folder / FILE)
    reached("snapshot.replaced")


def _forget_interrupted(folder: Path) -> None:
    """Remove what writers have left that were killed."""
    for path in folder.glob(f"{FILE}.*"):
        try:
            os.kill(int(path.suffix[1:]), 0)
        except (ProcessLookupError, ValueError):
            path.unlink(missing_ok=True)
        except PermissionError:  # another user's process lives
            continue


def load(folder: Path) -> LoopState:
    """The copy, or an empty state to fold from."""
    try:
        data = (folder / FILE).read_bytes()
    except OSError:
        return LoopState()
    shape, checksum, body = data[:8], data[8:40], data[40:]
    if shape != _SHAPE or checksum != hashlib.sha256(body).digest():
        return LoopState()
    try:
        return msgspec.msgpack.decode(body, type=LoopState)
    except msgspec.MsgspecError:
        return LoopState()
