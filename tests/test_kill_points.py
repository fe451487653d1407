"""The table of kill points and the code agree: every point is reached somewhere, and every name is in the table."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from store.kill_points import POINTS

ROOT = Path(__file__).parents[1]


def named() -> Counter[str]:
    """Names given to `reached` in the four packages, each a literal."""
    found: Counter[str] = Counter()
    for path in (
        path for package in ("store", "prompts", "adapters", "loop") for path in (ROOT / package).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "reached":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: the trials need the name itself"
                found[name.value] += 1
    return found


def test_every_point_is_in_the_code_and_in_the_table() -> None:
    assert set(named()) == set(POINTS)


@pytest.mark.parametrize(("wanted", "code", "said"), [("log.written", -9, ""), ("log.written:3", -9, "once twice ")])
def test_a_process_dies_at_the_point_that_was_asked_for(wanted: str, code: int, said: str) -> None:
    script = """
from store.kill_points import reached
for word in ("once", "twice", "thrice"):
    reached("log.committed")
    reached("log.written")
    print(word, end=" ", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={"TUNELOOP_KILL_AT": wanted}, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (code, said)
    quiet = subprocess.run([sys.executable, "-c", script], env={}, cwd=ROOT, capture_output=True, text=True)
    assert (quiet.returncode, quiet.stdout) == (0, "once twice thrice ")
