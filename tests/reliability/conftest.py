"""How large the trials are, and where their figures go.

`TUNELOOP_SCALE` is ci (the default: minutes), full (`make reliability`) or soak (`make soak`: hours). Every trial
says what it has done and measured with `measured`; `ops/reliability.py` makes the table of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

Scale = Literal["ci", "full", "soak"]


class Trials:
    """Picks a number by the scale: `trials(40, full=40, soak=435)`."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale

    def __call__(self, ci: int, full: int | None = None, soak: int | None = None) -> int:
        sizes = {"ci": ci, "full": full or ci, "soak": soak or full or ci}
        return sizes[self.scale]


@pytest.fixture(scope="session")
def trials() -> Trials:
    scale = os.environ.get("TUNELOOP_SCALE", "ci")
    assert scale in ("ci", "full", "soak"), f"TUNELOOP_SCALE={scale}"
    return Trials(scale)  # type: ignore[arg-type]


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`measured("8 writers, 5,000 events each", "40,000 events gapless, p99 12 ms")`: a line of the table."""

    def note(done: str, held: str) -> None:
        line = {"test": request.node.nodeid, "done": done, "held": held}
        print(f"\n{done}: {held}")
        path = os.environ.get("TUNELOOP_REPORT")
        if path:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    return note
