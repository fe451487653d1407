"""Sealed history: the payloads of old events, packed into artifacts and read as if they still stood in their rows.

    payloads.jsonl.gz    one line per event, in order; a gzip member for every BLOCK lines, so that one can be read
                         without the others, and `zcat` reads all

A segment is an artifact of kind `log-segment`; its manifest's meta holds the positions, the chain's hashes before and
at its end, and the offset of each member. Which positions lie where stands in the table `segments`, whose rows come
with the event `Archived`.
"""

from __future__ import annotations

import bisect
import gzip
import shutil
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from store.artifacts import Artifacts
from store.errors import ArtifactError, Corrupt

KIND = "log-segment"
FILE = "payloads.jsonl.gz"
BLOCK = 512  # events of one member: what one look-up unpacks
KEPT_BLOCKS = 32  # unpacked, some MB


class Segment(msgspec.Struct, frozen=True):
    """The events `first` to `last` have their payloads in `artifact`."""

    first: int
    last: int
    artifact: str


class _Pack(msgspec.Struct, frozen=True):
    file: Path
    offsets: list[int]  # of the members


def seal(
    artifacts: Artifacts, scratch: Path, first: int, payloads: Sequence[str], *, prev_hash: bytes, last_hash: bytes
) -> str:
    """Write payloads of consecutive events as an artifact and return its address; the same payloads, the same address.

    Args:
        artifacts: where it is kept.
        scratch: a folder that is made for it and removed.
        first: position of the first payload.
        payloads: JSON without line breaks, as the log stores it.
        prev_hash: of the event before.
        last_hash: of the last event.

    Raises:
        Corrupt: a payload that is no single line.
        ArtifactError: disk full, not writable.
    """
    offsets: list[int] = []
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(mode=0o700, parents=True)
        with (scratch / FILE).open("wb") as file:
            for start in range(0, len(payloads), BLOCK):
                block = payloads[start : start + BLOCK]
                for number, payload in enumerate(block, first + start):
                    if not payload or "\n" in payload:
                        raise Corrupt(f"event {number} has a payload that was not written by tuneloop")
                offsets.append(file.tell())
                file.write(gzip.compress("".join(f"{line}\n" for line in block).encode(), mtime=0))
        meta = {
            "first": first,
            "last": first + len(payloads) - 1,
            "prev_hash": prev_hash.hex(),
            "last_hash": last_hash.hex(),
            "block": BLOCK,
            "offsets": offsets,
        }
        return artifacts.put(scratch, KIND, meta)
    except OSError as error:
        raise ArtifactError(
            f"a segment could not be written: {error.strerror or error}", hint="Check disk space; nothing was changed."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class Segments:
    """Reads payloads out of segments; safe to use from several threads."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._lock = threading.Lock()
        self._known: list[Segment] = []
        self._packs: dict[str, _Pack] = {}
        self._blocks: OrderedDict[int, list[str]] = OrderedDict()  # first position -> payloads
        self._last: tuple[int, list[str]] = (0, [])  # most reads go on where the one before ended

    def payload(self, connection: Any, position: int) -> str:
        """The payload of an archived event.

        Args:
            connection: the driver's, for the table of segments.
            position: of the event.

        Raises:
            Corrupt: no segment holds it, or the segment is missing or damaged.
        """
        first, lines = self._last
        if 0 <= position - first < len(lines):
            return lines[position - first]
        with self._lock:
            first, lines = self._block(self._find(connection, position), position)
            self._last = first, lines
        return lines[position - first]

    def _find(self, connection: Any, position: int) -> Segment:
        found = _covering(self._known, position)
        if found is None:
            self._known = known_segments(connection)
            found = _covering(self._known, position)
        if found is None:
            raise Corrupt(
                f"event {position} has no payload, and no segment holds it",
                hint="The row was changed: put the last backup in its place: `tuneloop restore BACKUP`.",
            )
        return found

    def _block(self, segment: Segment, position: int) -> tuple[int, list[str]]:
        number = (position - segment.first) // BLOCK
        first = segment.first + number * BLOCK
        lines = self._blocks.get(first)
        if lines is None:
            lines = self._unpack(segment, number, min(BLOCK, segment.last - first + 1))
            self._blocks[first] = lines
            if len(self._blocks) > KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        else:
            self._blocks.move_to_end(first)
        return first, lines

    def _unpack(self, segment: Segment, number: int, count: int) -> list[str]:
        try:
            pack = self._packs.get(segment.artifact)
            if pack is None:
                folder = self._artifacts.path(segment.artifact)
                meta = self._artifacts.manifest(segment.artifact).meta
                pack = self._packs[segment.artifact] = _Pack(folder / FILE, list(meta["offsets"]))
            offsets = pack.offsets
            with pack.file.open("rb") as file:
                file.seek(offsets[number])
                packed = file.read(offsets[number + 1] - offsets[number] if number + 1 < len(offsets) else -1)
            lines = gzip.decompress(packed).decode().split("\n")[:-1]
            if len(lines) != count:
                raise ValueError(f"{len(lines)} payloads instead of {count}")
        except ArtifactError as error:
            raise unreadable(segment, error.message) from error
        except (OSError, EOFError, ValueError, LookupError, zlib.error) as error:
            raise unreadable(segment, getattr(error, "strerror", None) or str(error)) from error
        return lines


def known_segments(connection: Any) -> list[Segment]:
    """All segments by position; `connection` is the driver's."""
    rows = connection.execute("SELECT first, last, artifact FROM segments ORDER BY first").fetchall()
    return [Segment(*row) for row in rows]


def unreadable(segment: Segment, why: str) -> Corrupt:
    return Corrupt(
        f"events {segment.first} to {segment.last} lie in segment {segment.artifact[:19]}, which cannot be read: {why}",
        hint="Put its folder back under .tuneloop/artifacts, for example from a backup; nothing else is missing.",
    )


def _covering(segments: list[Segment], position: int) -> Segment | None:
    at = bisect.bisect_right(segments, position, key=lambda segment: segment.first) - 1
    return segments[at] if at >= 0 and position <= segments[at].last else None
