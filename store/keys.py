"""Keys and tokens of the environment: who gets them, and how they are kept out of everything that is written."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping

_SECRET = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)[^\s/@'\"]+@")
_SHORTEST = 6  # characters; a shorter value would blot out ordinary words
HIDDEN = "***"


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a key: OPENAI_API_KEY, HF_TOKEN, ..."""
    return _SECRET.search(name) is not None


def hide(text: str, env: Mapping[str, str] | None = None) -> str:
    """`text` without the values of the environment's keys, and without user and password of URLs."""
    values = {value for name, value in (os.environ if env is None else env).items() if is_secret(name)}
    for value in sorted((one for one in values if len(one) >= _SHORTEST), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return _IN_URL.sub(f"{HIDDEN}@", text)


def environment_for(needs: Collection[str], env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child process: of the keys only those whose names begin with one of `needs`."""
    values = os.environ if env is None else env
    return {name: value for name, value in values.items() if not is_secret(name) or name.startswith(tuple(needs))}
