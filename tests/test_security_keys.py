"""Keys are told from other variables, kept from processes that need none, and blotted out of text in every spelling."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import keys

SECRETS = ["OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD_PASSWORD", "TEAM_WEBHOOK",
           "SLACK_WEBHOOK_URL", "MY_APIKEY", "GITHUB_TOKEN_2", "TOKEN", "openai_api_key", "DB_PASSPHRASE"]  # fmt: skip
OTHERS = ["PATH", "HOME", "MONKEY", "TOKENIZERS_PARALLELISM", "OPENAI_BASE_URL", "KEYBOARD", "SECRETARY", "HF_HOME"]
VALUE = "s3cret/Value+with=odd \"marks' äöü"


@pytest.mark.parametrize(("names", "secret"), [(SECRETS, True), (OTHERS, False)])
def test_keys_are_known_by_their_names(names: list[str], secret: bool) -> None:
    assert {name: keys.is_secret(name) for name in names} == dict.fromkeys(names, secret)


def test_names_that_the_settings_declare_count_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_declared", set())
    env = {"TEAM_HOOK": "https://hooks.example/T0ken-hush"}
    assert "hush" in keys.hide(f"posting to {env['TEAM_HOOK']}", env)
    keys.declare(["TEAM_HOOK", ""])
    assert keys.hide(f"posting to {env['TEAM_HOOK']}", env) == "posting to ***"
    assert keys.environment_for((), env) == {}


def test_a_child_gets_the_keys_that_it_needs_and_no_other() -> None:
    env = dict.fromkeys((*SECRETS, *OTHERS), "x" * 9)
    assert keys.environment_for((), env).keys() == set(OTHERS)
    assert keys.environment_for(("HF_",), env).keys() == {*OTHERS, "HF_TOKEN"}
    assert keys.environment_for(("",), env) == env


@pytest.mark.parametrize(
    "spelled", [str, repr, json.dumps, lambda value: quote(value, safe=""), lambda value: f"Bearer {value}\n"]
)
def test_a_key_is_hidden_however_it_is_spelled(spelled: object) -> None:
    words = f"before {spelled(VALUE)} after"  # type: ignore[operator]
    hidden = keys.hide(words, {"A_KEY": f"{VALUE}\n", "OTHER": "before"})
    assert "s3cret" not in hidden and hidden.startswith("before ") and hidden.rstrip().endswith("after")


def test_user_and_password_of_a_url_are_hidden() -> None:
    assert keys.hide("at https://me:word@host/v1 now", {}) == "at https://***@host/v1 now"


def test_short_values_do_not_blot_out_words() -> None:
    assert keys.hide("the cat sat", {"A_KEY": "cat"}) == "the cat sat"


@given(st.text(max_size=60), st.text(min_size=6, max_size=30).filter(lambda text: len(text.strip()) >= 6))
def test_whatever_stands_around_a_key_it_is_gone(around: str, value: str) -> None:
    if value.strip() in keys.HIDDEN or value.strip() in around:
        return
    hidden = keys.hide(f"{around}{value}{around}", {"A_TOKEN": value})
    assert value.strip() not in hidden.replace(keys.HIDDEN, "\0")


def test_an_endpoint_s_long_words_are_cut_only_after_the_key_is_gone() -> None:
    from prompts.client import Answerer

    answerer = Answerer("http://127.0.0.1:9/v1", "sk-planted-0123456789", "m")
    for length in range(150, 210):
        told = answerer._error(ValueError("x" * length + " sk-planted-0123456789")).message
        assert "sk-pla" not in told, told
    answerer.close()
