"""Where a text stands in the bytes of a file, and blanking it without moving what stands beside it. Pure.

A file may hold a text as it is, as JSON writes it (once or twice escaped), as CSV or Python quote it, or in base64.
What is found is overwritten with spaces of the same length: offsets, line numbers and JSON around it stay as they were,
and a process that is reading or appending to the file is not disturbed.

A text of fewer than `SEARCHED` bytes ("thanks") stands in other people's words as well: it is looked for as a whole
field only, never as a part of something.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

SEARCHED = 12  # bytes; shorter texts are compared with whole fields
WINDOW = 24  # characters of a fragment: a quoted stretch of one and a half windows is found
FEW = 32  # needles that are looked for one by one
Span = tuple[int, int]  # start and end, in bytes
Line = Literal["about", "another", "no matter"]
_BLOCK = 1 << 22  # bytes that many needles are looked for in at once
_KEY = 8  # bytes by which they are told apart first
_TELLING = ("text", "messages", "request", "target")  # keys under which a line holds words
_LONGEST_NAME = 200  # characters of a customer's name that intake keeps


class Victim(msgspec.Struct, frozen=True, kw_only=True):
    """A record that is being erased, with what must be found to erase it."""

    record_id: str
    task: str
    text: str
    customer: str = ""
    external_id: str = ""  # production's own


def searched(text: str) -> bool:
    """Whether the text is long enough to be looked for anywhere."""
    return len(text.strip().encode("utf-8", "surrogatepass")) >= SEARCHED


def forms(text: str) -> tuple[bytes, ...]:
    """The byte strings under which a text may stand in a file, the longest first."""
    found: set[bytes] = set()
    for inner in {text, text.strip()}:
        escaped = json.dumps(inner)[1:-1]
        kept = json.dumps(inner, ensure_ascii=False)[1:-1]
        written = {inner, escaped, kept, _upper(escaped), inner.replace('"', '""'), repr(inner)[1:-1]}
        written |= {json.dumps(form)[1:-1] for form in (escaped, kept)}
        written |= {json.dumps(kept, ensure_ascii=False)[1:-1]}
        found |= {form.encode("utf-8", "surrogatepass") for form in written}
        found |= set(_base64(inner.encode("utf-8", "surrogatepass")))
    return tuple(sorted((form for form in found if len(form) >= SEARCHED), key=len, reverse=True))


def fragments(text: str) -> tuple[bytes, ...]:
    """Pieces by which a quotation of a part of the text is recognised, in a log for example."""
    stripped = text.strip()
    starts = range(0, max(1, len(stripped) - WINDOW + 1), WINDOW // 2)
    found: set[bytes] = set()
    for piece in {stripped[start : start + WINDOW] for start in starts}:
        if len(piece.encode("utf-8", "surrogatepass")) >= SEARCHED:
            written = (piece, json.dumps(piece)[1:-1], json.dumps(piece, ensure_ascii=False)[1:-1], repr(piece)[1:-1])
            found |= {form.encode("utf-8", "surrogatepass") for form in written}
    return tuple(found)


def spans(data: bytes, needles: Iterable[bytes]) -> list[Span]:
    """Every place where one of the needles stands; each has `SEARCHED` bytes or more."""
    different = {needle for needle in needles if len(needle) >= SEARCHED}
    if len(different) > FEW:
        return _spans_of_many(data, different)
    found: list[Span] = []
    for needle in different:
        start = data.find(needle)
        while start >= 0:
            found.append((start, start + len(needle)))
            start = data.find(needle, start + 1)
    return sorted(found)


def _spans_of_many(data: bytes, needles: Iterable[bytes]) -> list[Span]:
    """The same in one pass, whatever their number: eight bytes at every offset are compared with the needles' first
    eight, through a table of their hashes (the filter of Rabin and Karp 1987, without the rolling)."""
    import numpy as np

    by_key: dict[int, list[bytes]] = {}
    for needle in needles:
        by_key.setdefault(int.from_bytes(needle[:_KEY], "little"), []).append(needle)
    keys = np.array(sorted(by_key), dtype="<u8")

    def hashed(values: Any) -> Any:
        return (values * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(44)

    known = np.zeros(1 << 20, dtype=bool)
    known[hashed(keys)] = True
    found: list[Span] = []
    for base in range(0, len(data) - _KEY + 1, _BLOCK):
        count = min(_BLOCK, len(data) - _KEY + 1 - base)
        windows = np.ndarray((count,), dtype="<u8", buffer=data, offset=base, strides=(1,))
        places = np.flatnonzero(known[hashed(windows)])
        for place in places[np.isin(windows[places], keys)]:
            start = base + int(place)
            for needle in by_key[int.from_bytes(data[start : start + _KEY], "little")]:
                if data.startswith(needle, start):
                    found.append((start, start + len(needle)))
    return found


def blanked(data: bytes, places: Iterable[Span], word: bytes = b"") -> bytes:
    """The same bytes with spaces at the places (and `word` at their start, where it fits); line ends stay."""
    result = bytearray(data)
    for start, end in places:
        hidden = bytes(byte if byte in b"\r\n" else 32 for byte in result[start:end])
        fits = bool(word) and b"\n" not in hidden[: len(word)] and len(hidden) > len(word)
        result[start:end] = word + hidden[len(word) :] if fits else hidden
    return bytes(result)


def quoting_lines(data: bytes, needles: Sequence[bytes]) -> list[Span]:
    """The lines that hold one of the needles, without their line ends."""
    places = spans(data, needles)
    lines = {(data.rfind(b"\n", 0, start) + 1, _line_end(data, end)) for start, end in places}
    return sorted(lines)


def entries(data: bytes, *, table: bool) -> Iterator[tuple[Span, Mapping[str, Any] | None]]:
    """The lines of a file, or the rows under a CSV header: where each stands, and its value where it can be read."""
    if table:
        return _rows(data, list(_spans_of_lines(data)))
    return ((line, _object(data[slice(*line)])) for line in _spans_of_lines(data))


def _spans_of_lines(data: bytes) -> Iterator[Span]:
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield start, end
        start = end


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What lines are compared with, made once by `wanted`."""

    texts: frozenset[str]  # without the space around them
    ids: frozenset[tuple[str, str]]  # (task, production's id)
    tasks: frozenset[str]  # that there are
    needles: tuple[bytes, ...]
    names: tuple[bytes, ...]  # the customer's, as JSON has it
    customer: str


def wanted(victims: Sequence[Victim], tasks: Iterable[str], customer: str = "") -> Wanted:
    """`tasks`: the names that there are; `customer`: lines that name them are wanted, whatever they say."""
    long = {victim.text for victim in victims if searched(victim.text)}
    name = customer[:_LONGEST_NAME]
    return Wanted(
        texts=frozenset(victim.text.strip() for victim in victims if victim.text.strip()),
        ids=frozenset((victim.task, victim.external_id) for victim in victims if victim.external_id),
        tasks=frozenset(tasks),
        needles=tuple({form for text in long for form in forms(text)}),
        names=tuple({json.dumps(name).encode(), json.dumps(name, ensure_ascii=False).encode()}) if name else (),
        customer=name,
    )


def judged(line: bytes, value: Mapping[str, Any] | None, sought: Wanted, *, task: str, quoted: bool) -> Line:
    """What a line of the spool has to do with what is sought. "another": the same words under somebody else's id.

    Args:
        line: its bytes.
        value: its object; None where it cannot be read.
        sought: from `wanted`.
        task: whose lines the file holds, where the line does not say; empty: unknown.
        quoted: whether one of the needles stands in it.
    """
    if value is None:
        return "about" if quoted or any(name in line for name in sought.names) else _judged_cells(line, sought)
    if sought.customer and sought.customer in (_name(value, "customer"), _name(value, "client_id")):
        return "about"
    own = _identity(value)
    if own and _belongs(value, own, sought, task):
        return "about" if any(key in value for key in _TELLING) else "no matter"
    if not quoted and not any(found.strip() in sought.texts for found in _strings(value)):
        return "no matter"
    return "another" if own else "about"


def _judged_cells(line: bytes, sought: Wanted) -> Line:
    """A row that was put aside without its header."""
    text = line.decode("utf-8", "surrogateescape")
    cells: set[str] = set()
    for delimiter in (",", ";", "\t"):
        with contextlib.suppress(csv.Error):
            cells |= {cell.strip() for row in csv.reader([text], delimiter=delimiter) for cell in row}
    if sought.customer in cells - {""}:
        return "about"
    if not cells & sought.texts:
        return "no matter"
    ids = {identity for _, identity in sought.ids}
    return "about" if not ids or cells & ids else "another"


def _belongs(value: Mapping[str, Any], own: str, sought: Wanted, task: str) -> bool:
    """Whether the line is about one of the records, by production's id; ids of different tasks may be the same."""
    named = (value.get("task"), value.get("workload_id"))
    task = next((one for one in named if isinstance(one, str) and one in sought.tasks), task)
    return any(own == identity and task in ("", its_task) for its_task, identity in sought.ids)


def _name(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return str(found)[:_LONGEST_NAME] if isinstance(found, str | int | float) else ""


def _identity(value: Mapping[str, Any]) -> str:
    response = value.get("response")
    if isinstance(response, str):
        response = _object(response.encode("utf-8", "surrogatepass"))
    inner = response.get("id") if isinstance(response, Mapping) else None
    return next((str(found) for found in (value.get("id"), value.get("request_id"), inner) if found), "")


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, those inside JSON texts included (many logs keep bodies as strings), and the parts
    of a turn joined as intake joins them."""
    if isinstance(value, str):
        yield value
        if value[:1] in ("{", "["):
            try:
                yield from _strings(msgspec.json.decode(value))
            except (msgspec.DecodeError, RecursionError):
                return
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        parts = [one["text"] for one in value if isinstance(one, Mapping) and isinstance(one.get("text"), str)]
        if len(parts) > 1:
            yield "\n".join(parts)
        for one in value:
            yield from _strings(one)


def _object(line: bytes) -> Mapping[str, Any] | None:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return value if isinstance(value, dict) else None


def _rows(data: bytes, lines: Sequence[Span]) -> Iterator[tuple[Span, Mapping[str, Any] | None]]:
    """Rows under the header; a row may have several lines."""
    decoded = [data[slice(*line)].decode("utf-8", "surrogateescape") for line in lines]
    if not decoded:
        return
    delimiter = max((",", ";", "\t"), key=decoded[0].count)
    reader = csv.reader(io.StringIO("".join(decoded), newline=""), delimiter=delimiter)
    header: list[str] = []
    before = 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = []
        first, before = before, min(reader.line_num, len(lines))
        if first >= before:
            return
        if not header:
            header = [name.strip().casefold() for name in row]
            continue
        yield (lines[first][0], lines[before - 1][1]), dict(zip(header, row, strict=False))


def _line_end(data: bytes, start: int) -> int:
    end = data.find(b"\n", start)
    return len(data) if end < 0 else end


def _upper(escaped: str) -> str:
    """JSON escapes with capital hexadecimal digits, as some writers have them."""
    parts = escaped.split("\\u")
    return "\\u".join([parts[0], *(part[:4].upper() + part[4:] for part in parts[1:])])


def _base64(data: bytes) -> Iterator[bytes]:
    """What of the text's base64 is the same whatever stands before and after it, at its three alignments."""
    for offset, lost in ((0, 0), (1, 2), (2, 3)):
        whole, rest = divmod(offset + len(data), 3)
        kept = base64.b64encode(bytes(offset) + data)[lost : whole * 4 + rest]
        yield from (kept, kept.translate(bytes.maketrans(b"+/", b"-_")))
