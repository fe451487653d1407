"""Bytes cut into numbered lines or CSV rows, with memory bounded by the longest line that is allowed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

CSV_ENDINGS = (".csv", ".tsv")
ENDINGS = (".jsonl", ".ndjson", ".json", ".log", ".txt", *CSV_ENDINGS)
_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 16
NOT_UTF8 = "not UTF-8: convert the file, for example with `iconv -f latin1 -t utf-8`"


class Numbered(msgspec.Struct, frozen=True, kw_only=True):
    """A line and its number, from 1. `value` is set for CSV rows; `problem` says why it cannot be read."""

    number: int
    raw: bytes
    end: int = 0  # offset of the next line
    value: dict[str, Any] | None = None
    problem: str = ""


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """A last line without its line end that is no JSON yet: its writer may not be done."""

    number: int
    raw: bytes
    end: int

    def as_line(self) -> Numbered:
        return Numbered(number=self.number, raw=self.raw, end=self.end, problem="the file ends within this line")


def raw_lines(
    lines: Iterable[bytes], longest: int, *, number: int = 0, offset: int = 0
) -> Iterator[Numbered | Unfinished]:
    """Lines of a binary file (or any iterable of bytes); of a line longer than `longest` bytes the beginning is kept.

    Args:
        lines: an open file is read in pieces, so that one endless line costs no memory.
        longest: bytes.
        number: lines that were read before.
        offset: where the first of them starts.
    """
    for raw, size, ended in _pieces(lines, longest):
        number += 1
        offset += size
        if number == 1 and raw.startswith(_BOM):
            raw = raw[len(_BOM) :]
        if size > longest + 2:
            yield Numbered(
                number=number, raw=raw, end=offset, problem=f"the line has {size} bytes, more than {longest}"
            )
        elif not ended and isinstance(lines, io.IOBase) and not _is_json(raw):
            yield Unfinished(number=number, raw=raw, end=offset)
        else:
            yield Numbered(number=number, raw=raw, end=offset)


def csv_lines(lines: Iterable[bytes], longest: int) -> Iterator[Numbered]:
    """Rows of a CSV (or tab-separated) file with a header; a row's number is that of its first line.

    Bytes that are no UTF-8 become lone surrogates, which `formats.read_record` refuses row by row; of a line longer
    than `longest` bytes the beginning is kept. What follows a quote that is never closed is one row with a problem.
    """
    decoded = (raw.decode("utf-8", "surrogateescape") for raw, _, _ in _pieces(lines, longest))
    header_line = next(decoded, "").removeprefix("\ufeff")
    delimiter = max((",", ";", "\t"), key=header_line.count)
    source = _Source(header_line, decoded)
    rows = csv.reader(source, delimiter=delimiter, strict=False)
    header: list[str] = []
    before = 0
    while True:
        source.taken.clear()
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            number, before = before + 1, rows.line_num
            problem = f"no CSV in lines {number} to {before} (a quote that is never closed?): {error}"
            yield Numbered(number=number, raw=source.bytes(), problem=problem)
            continue
        number, before = before + 1, rows.line_num
        if source.ended:  # the reader asked for more: it was within quotes
            opened = rows.line_num - len(row[-1].removesuffix("\n").split("\n")) + 1
            problem = f"a quote opened on line {opened} is never closed"
            yield Numbered(number=number, raw=source.bytes(), problem=problem)
            return
        if not header:
            header = [name.strip().casefold() for name in row]
            if "text" not in header and not {"id", "label"} <= set(header):
                raw = _csv_bytes(row, delimiter)
                yield Numbered(number=number, raw=raw, problem=_no_header(header))
                return
            continue
        if not any(field.strip() for field in row):  # an empty line, or one that was erased
            continue
        raw = _csv_bytes(row, delimiter)
        if len(row) > len(header):
            yield Numbered(number=number, raw=raw, problem=f"{len(row)} fields under {len(header)} names")
            continue
        value = {name: field for name, field in zip(header, row, strict=False) if field != ""}
        yield Numbered(number=number, raw=raw, value={"text": "", **value} if "text" in header else value)


def _pieces(lines: Iterable[bytes], longest: int) -> Iterator[tuple[bytes, int, bool]]:
    """(beginning of the line, its whole size in bytes, whether it had a line end)."""
    if not isinstance(lines, io.IOBase):
        for line in lines:
            yield line[: longest + 2], len(line), True
        return
    while piece := lines.readline(longest + 2):
        size, kept = len(piece), piece
        while not piece.endswith(b"\n") and (piece := lines.readline(_CHUNK)):
            size += len(piece)
            if len(kept) < longest:
                kept += piece[: longest - len(kept)]
        yield kept, size, piece.endswith(b"\n") or kept.endswith(b"\n")


def _is_json(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return not raw.strip()
    return True


class _Source:
    """The lines of a CSV, with those of the row that is being read, and whether the end came within it."""

    def __init__(self, first: str, rest: Iterator[str]) -> None:
        self.taken: list[str] = []
        self.ended = False
        self._first: str | None = first
        self._rest = rest

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line, self._first = self._first, None
        if line is None:
            line = next(self._rest, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.taken.append(line)
        return line

    def bytes(self) -> bytes:
        return "".join(self.taken).encode("utf-8", "surrogateescape")


def _no_header(names: Sequence[str]) -> str:
    """Why a header is none. It may be a ticket instead: only what looks like a name is quoted."""
    if any("\0" in name or not _is_utf8(name) for name in names):
        return NOT_UTF8
    known = [name for name in names if re.fullmatch(r"\w[\w.-]{0,30}", name)]
    found = ", ".join(known[:8]) + (" and others" if len(known) != len(names) or len(known) > 8 else "")
    return f"the header names no column 'text' (found {found.removeprefix(' and ') or 'nothing'})"


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _csv_bytes(row: list[str], delimiter: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerow(row)
    return out.getvalue().encode("utf-8", "surrogateescape")
