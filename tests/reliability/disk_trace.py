"""What a disk may hold after the power went: made from the calls that real processes made.

`trace_io.c` writes the calls down. `Disk` replays them; at any moment `lose_power` gives one of the many states that
the file system may be in when the machine comes back, by the rules that POSIX leaves to everybody:

- What a file held at its last fsync is there. Of what was written since, any part may be there or not, whatever the
  order: whole writes, or only some of their 512-byte sectors; the file may also have grown and hold zeros.
- A name is sure once the folder that holds it was synced. Names made, moved or removed since may be as before or after,
  each by itself. An fsync of a file says nothing of its name.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

SECTOR = 512
_HEADER = struct.Struct("=IIIIQq")
_SOURCE = Path(__file__).with_name("trace_io.c")


class Call(msgspec.Struct, frozen=True):
    """`kind`: C file made, D folder made, W write, T truncate, S sync, R rename, L link, U unlink or rmdir."""

    kind: str
    inode: int
    offset: int
    one: str  # names, below the traced folder
    two: str
    data: bytes


def build_tracer(folder: Path) -> Path:
    """The tracer as a shared library; skips the test where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc): the calls of a writer cannot be traced")
    library = folder / "trace_io.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return library


def read_trace(path: Path, root: Path) -> list[Call]:
    """All calls in order; their names relative to `root`."""
    data, at, calls = path.read_bytes(), 0, []

    def name(part: bytes) -> str:
        return Path(part.decode()).relative_to(root).as_posix() if part else ""

    while at < len(data):
        kind, first, second, _, inode, offset = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        one, two = data[at : at + first], data[at + first : at + first + second]
        at += first + second
        if chr(kind) in "RLCDU":
            calls.append(Call(chr(kind), inode, offset, name(one), name(two), b""))
        else:
            calls.append(Call(chr(kind), inode, offset, "", "", two))
    return calls


class _File:
    def __init__(self) -> None:
        self.synced = bytearray()
        self.pending: list[tuple[str, int, bytes]] = []  # W or T, offset or size, data

    def sync(self) -> None:
        for kind, offset, data in self.pending:
            _apply(self.synced, kind, offset, data)
        self.pending.clear()


class _Folder:
    def __init__(self) -> None:
        self.live: dict[str, _Entry] = {}
        self.synced: dict[str, _Entry] = {}


_Entry = _File | _Folder
# what one call changes, all of it or nothing: folder, name, and what the name stands for from then on
_Change = list[tuple[_Folder, str, _Entry | None]]


class Disk:
    """The files below one folder, as processes see them and as the disk holds them."""

    def __init__(self) -> None:
        self.root = _Folder()
        self._inodes: dict[int, _Entry] = {}
        self._changes: list[_Change] = []  # of names, not synced yet

    def replay(self, call: Call) -> None:
        """Take in one call."""
        if call.kind in "WTS":
            entry = self._inodes.get(call.inode)
            if isinstance(entry, _File) and call.kind == "S":
                entry.sync()
            elif isinstance(entry, _File):
                entry.pending.append((call.kind, call.offset, call.data))
            elif call.kind == "S":
                self._sync_folder(entry or self.root)
        elif call.kind in "CD":
            made = self._inodes[call.inode] = _File() if call.kind == "C" else _Folder()
            self._change([(*self._place(call.one), made)])
        elif call.kind == "U":
            self._change([(*self._place(call.one), None)])
        else:
            folder, name = self._place(call.one)
            change: _Change = [(*self._place(call.two), folder.live[name])]
            self._change(change if call.kind == "L" else [(folder, name, None), *change])

    def _place(self, path: str) -> tuple[_Folder, str]:
        folder = self.root
        *parents, name = path.split("/")
        for parent in parents:
            inside = folder.live[parent]
            assert isinstance(inside, _Folder), path
            folder = inside
        return folder, name

    def _change(self, change: _Change) -> None:
        for folder, name, entry in change:
            _set(folder.live, name, entry)
        self._changes.append(change)

    def _sync_folder(self, folder: _Entry) -> None:
        left = []
        for change in self._changes:
            if any(where is folder for where, _, _ in change):
                for where, name, entry in change:
                    _set(where.synced, name, entry)
            else:
                left.append(change)
        self._changes = left

    def files(self) -> dict[str, bytes]:
        """What processes read now, by name."""
        return {name: _content(file, None) for name, file in _walk(self.root, {}, live=True)}

    def lose_power(self, target: Path, random_: random.Random) -> None:
        """Write one of the possible states below `target`."""
        names: dict[int, dict[str, _Entry]] = {}
        share = random_.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for change in self._changes:
            if random_.random() < share:
                for folder, name, entry in change:
                    _set(names.setdefault(id(folder), dict(folder.synced)), name, entry)
        luck = _Luck(random_, random_.choice((0.0, 0.1, 0.5, 0.9, 1.0)), random_.choice((0.0, 0.3)))
        target.mkdir(parents=True, exist_ok=True)
        for name, file in _walk(self.root, names, live=False, folders=target):
            (target / name).write_bytes(_content(file, luck))


class _Luck(msgspec.Struct, frozen=True):
    random: random.Random
    kept: float  # share of writes that are there
    torn: float  # share of these that are there in part

    def parts(self, offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        """What is there of a write."""
        if self.random.random() >= self.kept:
            return
        if self.random.random() >= self.torn:
            yield offset, data
            return
        at = offset
        while at < offset + len(data):
            end = min((at // SECTOR + 1) * SECTOR, offset + len(data))
            if self.random.random() < 0.5:
                yield at, data[at - offset : end - offset]
            at = end


def _content(file: _File, luck: _Luck | None) -> bytes:
    """A file's bytes: all that was written, or what luck left of it."""
    if luck is None or not file.pending:
        content = bytearray(file.synced)
        for kind, offset, data in file.pending:
            _apply(content, kind, offset, data)
        return bytes(content)
    content = bytearray(file.synced)
    grown = len(content)
    for kind, offset, data in file.pending:
        if kind == "T":
            if luck.random.random() < luck.kept:
                _apply(content, kind, offset, data)
            continue
        grown = max(grown, offset + len(data))
        for at, part in luck.parts(offset, data):
            _apply(content, kind, at, part)
    if len(content) < grown and luck.random.random() < 0.2:
        content.extend(bytes(grown - len(content)))
    return bytes(content)


def _apply(content: bytearray, kind: str, offset: int, data: bytes) -> None:
    if kind == "T":
        del content[offset:]
        content.extend(bytes(max(0, offset - len(content))))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _set(names: dict[str, _Entry], name: str, entry: _Entry | None) -> None:
    if entry is None:
        names.pop(name, None)
    else:
        names[name] = entry


def _walk(
    folder: _Folder, names: dict[int, dict[str, _Entry]], *, live: bool, folders: Path | None = None, before: str = ""
) -> Iterator[tuple[str, _File]]:
    """Files below a folder by name; the folders themselves are made below `folders`."""
    for name, entry in (folder.live if live else names.get(id(folder), folder.synced)).items():
        if isinstance(entry, _File):
            yield before + name, entry
            continue
        if folders is not None:
            (folders / before / name).mkdir(exist_ok=True)
        yield from _walk(entry, names, live=live, folders=folders, before=f"{before}{name}/")
