"""What somebody meets who tries the command line for the first time, or after something was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_world import lived_in, make

from loop.cli import main as cli


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def tuneloop(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str | Path) -> Outcome:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_lost_database_is_no_empty_workspace(left: str, tmp_path: Path, tuneloop: Any) -> None:
    root = lived_in(tmp_path / "w")
    home = root / ".tuneloop"
    for file in home.glob("tuneloop.sqlite*"):
        file.unlink()
    if left == "an empty file":
        (home / "tuneloop.sqlite").touch()
    for verb in ("status", "verify", "history"):
        told = tuneloop(verb, "-w", root)
        assert told.code == 5, verb
        assert "artifacts" in told.err and "tuneloop restore BACKUP" in told.err
    told = tuneloop("doctor", "-w", root)
    assert told.code == 1 and "tuneloop restore BACKUP" in " ".join(told.out.split())
    assert sum(file.stat().st_size for file in home.glob("tuneloop.sqlite*")) == 0, "reading made a log"


def test_a_damaged_database_names_the_way_back(tmp_path: Path, tuneloop: Any) -> None:
    root = make(tmp_path / "w")
    (root / ".tuneloop" / "tuneloop.sqlite").write_bytes(b"no database at all" * 500)
    for file in (root / ".tuneloop").glob("tuneloop.sqlite-*"):
        file.unlink()
    told = tuneloop("verify", "-w", root)
    assert told.code == 5 and "tuneloop restore BACKUP" in told.err and "tuneloop verify" not in told.err
