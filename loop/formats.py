"""Lines that people already have, read as records. Pure: bytes in, records or reasons out.

    {"id", "text", "answer", "answered_by", "confidence", "margin", "customer"}      production's own record
    {"text", "label"}                                                                a labelled example
    {"text", "target"}                                      the same where answers are free words, or JSON
    {"messages": [...]}                        OpenAI chat; a last assistant turn is the label
    {"timestamp", "workload_id", "client_id", "request", "response"}                 a request log
    {"id", "label"} or {"id", "target"}                                              feedback

CSV has the same names in its header. What an answer says is reduced to a label by `store.labels.parse_label`, so
nothing in a text or an answer can be anything but a label or an abstention. In free-form tasks answers are words, which
`placing` seals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from adapters.fields import NotAsked
from loop.sources import NOT_UTF8
from store.labels import parse_label

if TYPE_CHECKING:
    from loop.targets import Targets

Format = Literal["auto", "chat", "records", "csv", "log"]
_LONGEST_ID = 200


class BadLine(Exception):
    """A line that cannot be taken in; its message says why, without quoting the text."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One record as its line says it. `answered` tells an abstention from a record that was never answered."""

    text: str
    label: str | None = None
    external_id: str = ""
    answered: bool = False
    answer: str | None = None
    answered_by: str = ""
    confidence: float | None = None
    margin: float | None = None
    customer: str = ""
    task: str = ""
    at: str = ""
    no_label: str = ""  # what to say of an answer that is no label


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """A line of feedback: the right label of a record, named by production's id or by ours."""

    record: str
    label: str
    task: str = ""


def decode(raw: bytes) -> dict[str, Any]:
    """A line's JSON object.

    Raises:
        BadLine: no UTF-8, a NUL, no JSON, or not an object.
    """
    if b"\0" in raw:
        raise BadLine("the line holds a NUL byte")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLine(f"byte {error.start} is {NOT_UTF8}") from None
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadLine(f"no JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadLine("a JSON object is needed")
    return value


def read_record(
    value: Mapping[str, Any],
    labels: Sequence[str],
    *,
    max_chars: int,
    form: Format = "auto",
    targets: Targets | None = None,
) -> Line:
    """A record from an object in any of the known forms.

    Args:
        value: from `decode`, or a CSV row (empty strings mean nothing there).
        labels: the task's labels.
        max_chars: a longer text is refused.
        form: "auto" looks at the keys.
        targets: of a free-form task, whose labels and answers are words.

    Raises:
        BadLine: no form fits, the text is empty or too long, the label is unknown, or a value is of the wrong kind.
    """
    if form == "chat" or (form == "auto" and "messages" in value):
        line = _chat(value, labels, targets)
    elif form == "log" or (form == "auto" and "request" in value and "response" in value):
        line = _log(value, labels, targets)
    else:
        line = _own(value, labels, targets)
    if not line.text.strip():
        raise BadLine("the text is empty")
    if "\0" in line.text:
        raise BadLine("the text holds a NUL character")
    if not _encodable(line.text):
        raise BadLine(f"the text holds a lone surrogate, it is {NOT_UTF8}")
    if len(line.text) > max_chars:
        raise BadLine(f"the text has {len(line.text)} characters, more than {max_chars}")
    return line


def read_correction(value: Mapping[str, Any], labels: Sequence[str], *, targets: Targets | None = None) -> Correction:
    """A line of feedback.

    Raises:
        BadLine: id or label is missing, or the label is unknown.
    """
    record = _identity(value.get("id") if value.get("id") not in (None, "") else value.get("record_id"))
    if not record:
        raise BadLine("'id' is missing")
    label = _given(value, labels, targets)
    if label is None:
        raise BadLine("'label' is missing" if targets is None else "'target' is missing")
    return Correction(record=record, label=label, task=_text(value, "task"))


def _given(value: Mapping[str, Any], labels: Sequence[str], targets: Targets | None) -> str | None:
    """The right answer of a line, where it holds one."""
    if targets is None:
        return _label(value.get("label"), labels)
    target = value.get("target")
    return None if target is None or target == "" else _right(target, targets)


def _right(target: Any, targets: Targets) -> str:
    try:
        return targets.right(target)
    except NotAsked as error:
        raise BadLine(f"the target is not as the task has it: {error}") from None


def _answer(words: str | None, labels: Sequence[str], targets: Targets | None) -> tuple[str | None, str]:
    """(what production answered, what to say of an answer that is no label)."""
    if not words:
        return None, ""
    if targets is not None:
        try:
            return targets.said(words) or None, ""
        except NotAsked as error:
            raise BadLine(f"the answer cannot be kept: {error}") from None
    known = parse_label(words, labels)
    return known, "" if known is not None else _as_class(words)


def _own(value: Mapping[str, Any], labels: Sequence[str], targets: Targets | None) -> Line:
    if "text" not in value:
        raise BadLine(f"'text' is missing (found {', '.join(sorted(map(str, value))[:6]) or 'nothing'})")
    text = value["text"]
    if not isinstance(text, str):
        raise BadLine("'text' is no string")
    answer = value.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise BadLine("'answer' is no string")
    known, no_label = _answer(answer, labels, targets)
    return Line(
        text=text,
        label=_given(value, labels, targets),
        external_id=_identity(value.get("id")),
        answered=bool(answer) or ("answer" in value and "answered_by" in value and bool(value["answered_by"])),
        answer=known,
        no_label=no_label,
        answered_by=_text(value, "answered_by"),
        confidence=_share(value, "confidence"),
        margin=_share(value, "margin"),
        customer=_text(value, "customer"),
        task=_text(value, "task"),
        at=_text(value, "timestamp"),
    )


def _chat(value: Mapping[str, Any], labels: Sequence[str], targets: Targets | None) -> Line:
    text, last = _turns(value.get("messages"))
    label = None
    if last is not None and targets is not None:
        label = _right(last, targets)
    elif last is not None:
        label = parse_label(last, labels)
        if label is None:
            raise BadLine("the last assistant turn is none of the labels")
    return Line(text=text, label=label, external_id=_identity(value.get("id")), task=_text(value, "task"))


def _log(value: Mapping[str, Any], labels: Sequence[str], targets: Targets | None) -> Line:
    request, response = _object(value.get("request"), "request"), _object(value.get("response"), "response")
    if "messages" in request:
        text, _ = _turns(request["messages"])
    else:
        text = next((request[key] for key in ("input", "prompt", "text") if isinstance(request.get(key), str)), "")
    content = _completion(response)
    known, no_label = _answer(content, labels, targets)
    model = response.get("model") or request.get("model")
    given = next((value[key] for key in ("id", "request_id") if value.get(key)), response.get("id"))
    return Line(
        text=text,
        external_id=_identity(given),
        answered=content is not None,
        answer=known,
        no_label=no_label,
        answered_by=model[:_LONGEST_ID] if isinstance(model, str) else "",
        customer=_text(value, "client_id"),
        task=_text(value, "task") or _text(value, "workload_id"),
        at=_text(value, "timestamp"),
    )


def _turns(messages: Any) -> tuple[str, str | None]:
    """(last user text, assistant text after it or None)."""
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise BadLine("'messages' is no list of turns")
    last: str | None = None
    for turn in reversed(messages):
        content = _content(turn.get("content"))
        if turn.get("role") == "user":
            if content is None:
                raise BadLine("the last user turn holds no text")
            return content, last
        if turn.get("role") == "assistant" and last is None:
            last = content
    raise BadLine("'messages' holds no user turn")


def _content(content: Any) -> str | None:
    """A turn's text; text parts are joined."""
    if isinstance(content, list):
        parts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return "\n".join(parts) if parts else None
    return content if isinstance(content, str) else None


def _completion(response: Mapping[str, Any]) -> str | None:
    choices = response.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        message = choices[0].get("message")
        return _content(message.get("content")) if isinstance(message, dict) else _content(choices[0].get("text"))
    return next((response[key] for key in ("output", "text", "content") if isinstance(response.get(key), str)), None)


def _object(value: Any, name: str) -> dict[str, Any]:
    """An object, or a JSON text of one: many logs keep the bodies as strings."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            return {"text": value}
    if not isinstance(value, dict):
        raise BadLine(f"'{name}' is no object")
    return value


def _label(value: Any, labels: Sequence[str]) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        wanted = value.strip().casefold()
        for label in labels:
            if label.casefold() == wanted:
                return label
    # the reason goes into an event: where columns are shifted, the value is a text
    named = (
        repr(value) if isinstance(value, str) and len(value) <= 40 and len(value.split()) == 1 else "of another form"
    )
    raise BadLine(f"unknown label {named}; the labels are {', '.join(labels)}")


def _as_class(answer: str) -> str:
    """An answer for a report, quoted if it can be the name of a class; longer ones may hold a ticket."""
    short = answer.strip()
    is_name = short.isprintable() and len(short) <= 30 and len(short.split()) <= 3
    return repr(short) if is_name else "one of another form"


def _identity(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadLine("'id' is neither a string nor a whole number")
    text = str(value)
    if len(text) > _LONGEST_ID or not text.isprintable():
        raise BadLine(f"'id' is longer than {_LONGEST_ID} characters or not printable")
    return text


def _text(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    if found is None:
        return ""
    if not isinstance(found, str | int | float):
        raise BadLine(f"'{key}' is no string")
    text = str(found)[:_LONGEST_ID]
    if not _encodable(text):
        raise BadLine(f"'{key}' is no valid text")
    return text


def _share(value: Mapping[str, Any], key: str) -> float | None:
    found = value.get(key)
    if found is None or found == "":
        return None
    try:
        number = float(found)
    except (TypeError, ValueError):
        raise BadLine(f"'{key}' is no number") from None
    if not (math.isfinite(number) and -1e-6 <= number <= 1 + 1e-6):
        raise BadLine(f"'{key}' is not between 0 and 1")
    return min(1.0, max(0.0, number))


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
