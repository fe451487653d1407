"""Reading what Weights & Biases wrote to disk: the `.wandb` file of a run folder.

Such a file is a LevelDB log of protobuf records: seven bytes of header, then blocks of 32 KiB holding chunks
(crc32, length, kind); a record that does not fit into its block goes on in the next. wandb's writer fills whole
blocks, so after a kill the tail of a file is missing, never wrong: reading stops there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
_FILE_HEADER = 7
_CHUNK_HEADER = 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def file_of(folder: Path) -> Path | None:
    """The `.wandb` file of a run's folder; None where there is none."""
    return next(iter(sorted(folder.glob("run-*.wandb"))), None)


def payloads(path: Path) -> Iterator[bytes]:
    """The records of a file, as far as they are whole."""
    with path.open("rb") as file:
        if not file.read(_FILE_HEADER).startswith(b":W&B"):
            return
        at, parts = _FILE_HEADER, list[bytes]()
        while True:
            left = BLOCK - at % BLOCK
            if left < _CHUNK_HEADER:  # too small for another chunk: padded
                at += len(file.read(left))
                continue
            header = file.read(_CHUNK_HEADER)
            if len(header) < _CHUNK_HEADER or not _FULL <= header[6] <= _LAST:
                return
            length, kind = int.from_bytes(header[4:6], "little"), header[6]
            content = file.read(length)
            if len(content) < length:
                return
            at += _CHUNK_HEADER + length
            parts = [content] if kind in (_FULL, _FIRST) else [*parts, content]
            if kind in (_FULL, _LAST):
                yield b"".join(parts)


def records(path: Path) -> Iterator[Any]:
    """The records of a file as wandb's own protobuf messages (`wandb_internal_pb2.Record`)."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto import wandb_internal_pb2

    for payload in payloads(path):
        record = wandb_internal_pb2.Record()
        try:
            record.ParseFromString(payload)
        except DecodeError:
            return
        yield record


def last_step(folder: Path) -> int:
    """Step of the last history row in a run's folder; -1 where it holds none."""
    path = file_of(folder)
    steps = (one.history.step.num for one in records(path) if one.HasField("history")) if path else iter(())
    return max(steps, default=-1)


def wait_until_closed(folder: Path, seconds: float) -> bool:
    """Wait until no process holds the folder's file open (Linux): wandb's writer outlives a killed parent a little."""
    path = file_of(folder)
    deadline = time.monotonic() + seconds
    while path is not None and _is_open(path.resolve()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _is_open(path: Path) -> bool:
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == path:
                return True
        except OSError:  # another user's process, or one that has just ended
            continue
    return False
