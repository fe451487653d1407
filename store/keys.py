"""Keys and tokens of the environment: who gets them, and how they are kept out of everything that is written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from urllib.parse import quote

_SECRET = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS|WEBHOOK(?:_URL)?)(?:_?\d+)?$",
    re.IGNORECASE,
)
_IN_URL = re.compile(r"(?<=://)[^\s/@'\"]+@")
_SHORTEST = 6  # characters; a shorter value would blot out ordinary words
HIDDEN = "***"
_declared: set[str] = set()


def declare(names: Iterable[str]) -> None:
    """Have these variables of the environment count as keys, whatever they are called."""
    _declared.update(name for name in names if name)


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a key: OPENAI_API_KEY, HF_TOKEN, TEAM_WEBHOOK, one that was declared."""
    return name in _declared or _SECRET.search(name) is not None


def hide(text: str, env: Mapping[str, str] | None = None) -> str:
    """`text` without the values of the environment's keys, and without user and password of URLs.

    A value is found as it is, as JSON and Python write it, and as a URL does.
    """
    values = {value.strip() for name, value in (os.environ if env is None else env).items() if is_secret(name)}
    forms = {form for value in values if len(value) >= _SHORTEST for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return _IN_URL.sub(f"{HIDDEN}@", text)


def _forms(value: str) -> Iterator[str]:
    yield value
    yield json.dumps(value)[1:-1]
    yield repr(value)[1:-1]
    yield quote(value, safe="")


def environment_for(needs: Collection[str], env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child process: of the keys only those whose names begin with one of `needs`."""
    values = os.environ if env is None else env
    return {name: value for name, value in values.items() if not is_secret(name) or name.startswith(tuple(needs))}
