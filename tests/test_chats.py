"""OpenAI chat JSONL: what is written is read back, and written again it is the same bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop import chats
from loop.chats import Chat
from loop.formats import BadLine
from store.prompting import Message, PromptSpec

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
spoken = words.filter(lambda text: text.strip() != "")
PROMPTS = [
    PromptSpec(name="p@1", digest="", system="Classify: billing or general."),
    PromptSpec(name="p@2", digest="", system="", user="Ticket: {text}\nLabel?"),
    PromptSpec(name="p@3", digest="", system="Classify.", user='"{text}"'),
]
finished = st.builds(
    lambda system, turns, last, identity: Chat(
        messages=[
            *([Message("system", system)] if system is not None else []),
            *(Message(role, text) for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)),
            Message("user", last[0]),
            Message("assistant", last[1]),
        ],
        id=identity,
    ),
    st.none() | words,
    st.lists(st.tuples(words, words), max_size=2),
    st.tuples(words, spoken),
    st.just("") | spoken,
)


@given(finished)
def test_a_written_line_is_read_back_and_written_the_same(chat: Chat) -> None:
    line = chats.write(chat)
    assert chats.read(line) == chat
    assert chats.write(chats.read(line)) == line
    assert line.endswith(b"\n") and len(line.decode().splitlines()) == 1  # for every reader there is
    assert json.loads(line)["messages"] == [{"role": one.role, "content": one.content} for one in chat.messages]
    assert all(character >= " " and not "\x7f" <= character <= "\x9f" for character in line.decode()[:-1])


def test_the_form_is_the_one_that_guides_show() -> None:
    messages = [
        Message("system", "You classify."),
        Message("user", 'It\'s "überfällig" 😀'),
        Message("assistant", "billing"),
    ]
    assert chats.write(Chat(messages=messages)).decode() == (
        '{"messages": [{"role": "system", "content": "You classify."}, '
        '{"role": "user", "content": "It\'s \\"überfällig\\" 😀"}, {"role": "assistant", "content": "billing"}]}\n'
    )


@given(st.sampled_from(PROMPTS), spoken, st.sampled_from(["billing", "general"]))
def test_what_the_prompt_puts_around_a_text_comes_off_again(prompt: PromptSpec, text: str, label: str) -> None:
    chat = Chat(messages=prompt.messages(text, label))
    assert chats.as_deployed(prompt, chat)
    assert chats.unwrapped(prompt, chat.turns[1]) == text
    other = Chat(messages=[Message("system", "something else"), *chat.messages[-2:]])
    assert not chats.as_deployed(prompt, other)


def test_other_forms_of_the_same_are_understood() -> None:
    value = {
        "messages": [
            {"role": "developer", "content": "Classify."},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "billing", "weight": 1},
        ],
        "id": 7,
    }
    chat = chats.read(json.dumps(value, indent=None).encode())
    assert chat.turns == ("Classify.", "one\ntwo", "billing") and chat.id == "7" and not chat.longer


USER, ANSWER = {"role": "user", "content": "x"}, {"role": "assistant", "content": "billing"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "no JSON"),
        (b"[]", "object is needed"),
        (b"\xff{}", "not UTF-8"),
        ({"text": "x"}, "'messages' is missing"),
        ({"messages": []}, "'messages' is missing"),
        ({"messages": [USER]}, "the last turn is not the assistant's"),
        ({"messages": [ANSWER]}, "no turn is the user's"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "the last turn is empty"),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "calls tools"),
        ({"messages": [{"role": "tool", "content": "x"}, USER, ANSWER]}, "role is none of"),
        ({"messages": [{"role": [], "content": "x"}, USER, ANSWER]}, "role is none of"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWER]}, "holds no text"),
        ({"messages": [{"role": "user", "content": "\ud800"}, ANSWER]}, "no JSON"),
        ({"messages": ["x", USER, ANSWER]}, "a turn is no object"),
        ({"messages": [USER, ANSWER], "id": True}, "'id' is neither"),
    ],
)
def test_what_is_no_example_says_why(line: object, reason: str) -> None:
    with pytest.raises(BadLine, match=reason):
        chats.read(line if isinstance(line, bytes) else json.dumps(line).encode())
