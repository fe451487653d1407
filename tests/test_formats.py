import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.formats import BadLine, Line, decode, read_correction, read_record
from loop.sources import Numbered, Unfinished, csv_lines, raw_lines

LABELS = ["urgent", "billing", "technical"]


def read(value: dict[str, Any], **more: Any) -> Line:
    return read_record(value, LABELS, max_chars=1000, **more)


def reason(value: dict[str, Any]) -> str:
    with pytest.raises(BadLine) as caught:
        read(value)
    return str(caught.value)


def test_our_own_record() -> None:
    line = read(
        {
            "id": 17,
            "text": "hello",
            "answer": "Billing.",
            "answered_by": "few-shot@1",
            "confidence": 0.75,
            "margin": 0.5,
            "customer": "c1",
        }
    )
    assert line == Line(
        text="hello",
        external_id="17",
        answered=True,
        answer="billing",
        answered_by="few-shot@1",
        confidence=0.75,
        margin=0.5,
        customer="c1",
    )


def test_an_answer_that_is_no_label_is_an_abstention() -> None:
    assert read({"text": "x", "answer": "I would say purple"}).answer is None
    assert read({"text": "x", "answer": None, "answered_by": "p@1"}).answered
    assert not read({"text": "x"}).answered


def test_labelled_examples() -> None:
    assert read({"text": "x", "label": " URGENT "}).label == "urgent"
    assert "unknown label 'angry'" in reason({"text": "x", "label": "angry"})
    assert "unknown label" in reason({"text": "x", "label": 3})
    assert "Jane" not in reason({"text": "x", "label": "my name is Jane Roe"})  # columns were shifted


def test_openai_chat() -> None:
    turns = [
        {"role": "system", "content": "Classify."},
        {"role": "user", "content": [{"type": "text", "text": "paid"}, {"type": "text", "text": "twice"}]},
        {"role": "assistant", "content": "billing"},
    ]
    line = read({"messages": turns})
    assert (line.text, line.label) == ("paid\ntwice", "billing")
    assert read({"messages": turns[:2]}).label is None
    assert "none of the labels" in reason({"messages": [*turns[:2], {"role": "assistant", "content": "maybe"}]})
    assert "no user turn" in reason({"messages": turns[:1]})
    assert "no list" in reason({"messages": "hi"})


def test_request_logs() -> None:
    request = {"model": "gpt-x", "messages": [{"role": "user", "content": "it crashed"}]}
    response = {
        "id": "chatcmpl-1",
        "model": "gpt-x-2026",
        "choices": [{"message": {"role": "assistant", "content": "technical"}}],
    }
    log = {
        "timestamp": 1700000000,
        "workload_id": "tickets",
        "client_id": "acme",
        "request": request,
        "response": response,
    }
    line = read(log)
    assert (line.text, line.answer, line.answered_by) == ("it crashed", "technical", "gpt-x-2026")
    assert (line.external_id, line.customer, line.task, line.at) == ("chatcmpl-1", "acme", "tickets", "1700000000")
    assert read({**log, "request": json.dumps(request), "response": json.dumps(response)}) == line
    assert read({**log, "response": {"error": "down"}}).answered is False


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"text": "  "}, "empty"),
        ({"text": "a\0b"}, "NUL"),
        ({"text": "\ud800"}, "surrogate"),
        ({"text": "x" * 1001}, "1001 characters"),
        ({"text": 3}, "no string"),
        ({"txt": "a"}, "'text' is missing"),
        ({"text": "a", "id": {"b": 1}}, "'id'"),
        ({"text": "a", "id": True}, "'id'"),
        ({"text": "a", "id": "x" * 300}, "'id'"),
        ({"text": "a", "confidence": 1.5}, "between 0 and 1"),
        ({"text": "a", "margin": "much"}, "no number"),
        ({"text": "a", "confidence": float("nan")}, "between 0 and 1"),
    ],
)
def test_bad_records(value: dict[str, Any], words: str) -> None:
    assert words in reason(value)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a"\0: 1}', "NUL"),
        (b"{", "no JSON"),
        (b"[1]", "object"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_bad_lines(raw: bytes, words: str) -> None:
    with pytest.raises(BadLine, match=words):
        decode(raw)


def test_corrections() -> None:
    correction = read_correction({"id": 5, "label": "Urgent"}, LABELS)
    assert (correction.record, correction.label) == ("5", "urgent")
    for value in ({"label": "urgent"}, {"id": "5"}, {"id": "5", "label": "angry"}):
        with pytest.raises(BadLine):
            read_correction(value, LABELS)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_a_reason(raw: bytes) -> None:
    try:
        line = read(decode(raw))
    except BadLine as error:
        assert str(error)
    else:
        assert line.text.strip()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["text", "label", "id", "messages", "request", "response", "answer", "customer", "margin", "task"]
)


@given(st.dictionaries(KEYS, json_values, max_size=6))
def test_any_object_is_a_record_or_a_reason(value: dict[str, Any]) -> None:
    for parse in (lambda: read(value), lambda: read_correction(value, LABELS)):
        try:
            parse()
        except BadLine as error:
            assert str(error)


@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=10), st.booleans())
def test_lines_keep_their_offsets(lines: list[bytes], ended: bool) -> None:
    content = b"\n".join(lines) + (b"\n" if ended else b"")
    found = list(raw_lines(io.BytesIO(content), 1000))
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    if found:
        assert found[-1].end == len(content)
        middle = found[len(found) // 2]
        rest = list(raw_lines(io.BytesIO(content[middle.end :]), 1000, number=middle.number, offset=middle.end))
        assert [(one.number, one.end) for one in rest] == [(one.number, one.end) for one in found[middle.number :]]


def test_an_endless_line_is_read_in_pieces() -> None:
    content = b"x" * 5_000_000 + b'\n{"text": "next"}\n'
    found = list(raw_lines(io.BytesIO(content), 1000))
    assert isinstance(found[0], Numbered)
    assert "5000001 bytes" in found[0].problem
    assert len(found[0].raw) <= 1100
    assert found[1].raw == b'{"text": "next"}\n'


def test_a_torn_last_line() -> None:
    assert isinstance(list(raw_lines(io.BytesIO(b'{"text": "a"}\n{"te'), 100))[-1], Unfinished)
    assert isinstance(list(raw_lines(io.BytesIO(b'{"text": "a"}\n{"text": "b"}'), 100))[-1], Numbered)


def test_csv() -> None:
    content = (
        '\ufeffID;Text;Label\r\n1;"two\nlines; and ""quotes""";urgent\r\n2;plain;\r\n\r\n3;too;many;fields\r\n'.encode()
    )
    rows = list(csv_lines(io.BytesIO(content), 10_000))
    assert rows[0].value == {"id": "1", "text": 'two\nlines; and "quotes"', "label": "urgent"}
    assert rows[1].value == {"id": "2", "text": "plain"}
    assert "4 fields under 3 names" in rows[2].problem
    assert [row.number for row in rows] == [2, 4, 6]
    assert "no column 'text'" in next(iter(csv_lines(io.BytesIO(b"a,b\n1,2\n"), 100))).problem


def test_csv_goes_on_after_a_broken_row() -> None:
    content = b'text,label\n"never closed,urgent\n' + b"x" * 200_000 + b'"\nfine,urgent\n'
    rows = list(csv_lines(io.BytesIO(content), 1_000_000))
    assert "quote" in rows[0].problem
    assert rows[-1].value == {"text": "fine", "label": "urgent"}
