import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.cli.output import console, table
from loop.cli.safe import json_text, plain, short

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
NASTY = (
    [chr(c) for c in range(0x20)]
    + ["\x7f"]
    + [chr(c) for c in range(0x80, 0xA0)]
    + list(BIDI)
    + ["\ud800", "\U000e0041"]
)
pieces = st.one_of(st.characters(), st.sampled_from(NASTY), st.sampled_from(["[red]", "[/]", ":boom:", "\x1b[2J"]))
texts = st.lists(pieces, max_size=30).map("".join)


def dangerous(character: str) -> bool:
    code = ord(character)
    return (
        code < 0x20
        or 0x7F <= code < 0xA0
        or character in BIDI
        or unicodedata.category(character) == "Cs"
        or code in (0x2028, 0x2029, 0xFEFF)
    )


@given(texts)
def test_no_control_reaches_the_terminal(text: str) -> None:
    assert not [c for c in plain(text) if dangerous(c)]
    assert not [c for c in plain(text, lines=True) if dangerous(c) and c != "\n"]
    plain(text).encode("utf-8")


@given(texts, st.integers(1, 60))
def test_short_keeps_its_limit(text: str, limit: int) -> None:
    assert len(short(text, limit)) <= limit


@given(st.recursive(texts | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(texts, inner)))
def test_json_is_safe_and_reads_back_the_same(value: object) -> None:
    encoded = json_text(value)
    assert not [c for c in encoded if dangerous(c) and c != "\n"]
    assert json.loads(encoded) == value


@given(texts)
def test_a_table_shows_the_text_as_it_is_and_nothing_more(text: str) -> None:
    screen = console(width=200, force_terminal=False)
    with screen.capture() as captured:
        screen.print(table(["text"], [[text]]))
    assert not [c for c in captured.get() if dangerous(c) and c != "\n"]


@pytest.mark.parametrize(
    "text", ["[bold]not markup[/bold]", ":warning:", "[/]", "\x1b]8;;http://evil\x07link", "[link=x]"]
)
def test_markup_is_shown_and_not_obeyed(text: str) -> None:
    screen = console(width=200, force_terminal=False)
    with screen.capture() as captured:
        screen.print(table(["text"], [[text]]))
    assert plain(text) in captured.get()


def test_line_breaks_stay_only_where_asked() -> None:
    assert plain("a\r\nb\tc\u2028d") == "a b c d"
    assert plain("a\r\nb\tc\u2028d", lines=True) == "a\nb c\nd"
