"""Where a text stands in the bytes of a file, and blanking it without moving what stands beside it. Pure.

A file may hold a text as it is, as JSON writes it (once or twice escaped), as CSV or Python quote it, or in base64.
What is found is overwritten with spaces of the same length: offsets, line numbers and JSON around it stay as they were,
and a process that is reading or appending to the file is not disturbed.

A text of fewer than `SEARCHED` bytes ("thanks") stands in other people's words as well: it is looked for as a whole
field only, never as a part of something.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

SEARCHED = 12  # bytes; shorter texts are compared with whole fields
WINDOW = 24  # characters of a fragment: a quoted stretch of one and a half windows is found
Span = tuple[int, int]  # start and end, in bytes


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
    """Every place where one of the needles stands."""
    found: list[Span] = []
    for needle in needles:
        start = data.find(needle)
        while start >= 0:
            found.append((start, start + len(needle)))
            start = data.find(needle, start + 1)
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


def entries(data: bytes, *, table: bool) -> list[tuple[Span, Mapping[str, Any] | None]]:
    """The lines of a file, or the rows under a CSV header: where each stands, and its value where it can be read."""
    ends = [index + 1 for index, byte in enumerate(data) if byte == 10]
    starts = [0, *ends]
    lines = [(start, end) for start, end in zip(starts, [*ends, len(data)], strict=True) if start < end]
    if not table:
        return [(line, _object(data[slice(*line)])) for line in lines]
    return list(_rows(data, lines))


def concerns(value: Mapping[str, Any], victims: Sequence[Victim]) -> bool:
    """Whether a readable line holds one of the texts as a field, or is about one of the records by production's id."""
    texts = {victim.text.strip() for victim in victims}
    if any(found.strip() in texts for found in _strings(value)):
        return True
    ids = {victim.external_id for victim in victims if victim.external_id}
    return bool(ids) and _identity(value) in ids and any(key in value for key in ("text", "messages", "request"))


def of_customer(value: Mapping[str, Any], customer: str) -> bool:
    """Whether a line names the customer in a field of its own."""
    return bool(customer) and customer in (str(value.get("customer", "")), str(value.get("client_id", "")))


def of_another(value: Mapping[str, Any] | None, victims: Sequence[Victim]) -> bool:
    """Whether a line carries an id that is none of the erased records': the same words by somebody else."""
    own = _identity(value) if value is not None else ""
    return bool(own) and own not in {victim.external_id for victim in victims}


def _identity(value: Mapping[str, Any]) -> str:
    response = value.get("response")
    inner = response.get("id") if isinstance(response, dict) else None
    return next((str(found) for found in (value.get("id"), value.get("request_id"), inner) if found), "")


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, those inside JSON texts included: many logs keep bodies as strings."""
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
