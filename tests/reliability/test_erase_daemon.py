"""An erasure that was killed is finished by the daemon, which may be killed at it as well."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import kill_world as world
import pytest

from loop.intake import external_record_id
from store.verify import sound, verify
from store.workspace import ERASING, Workspace


def killed(root: Path, point: str, *records: str) -> None:
    words = ["erase", *records, "--yes", "-w", str(root)]
    command = [sys.executable, "-m", "loop.cli.main", *words]
    done = subprocess.run(
        command, env=world.environment(point), cwd=root, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == -9, done.stderr.decode()


@pytest.mark.parametrize(
    ("first", "second"), [("erase.noted", "erase.texts_deleted"), ("erase.runs_swept", "erase.scrubbed")]
)
def test_the_daemon_finishes_what_was_noted(
    tmp_path: Path, first: str, second: str, measured: Callable[[str, str], None]
) -> None:
    root = world.make(tmp_path / "w")
    world.drop(root, "a.jsonl", world.seeds(8))  # too few for a training
    assert world.run(root) == 0, world.logs(root)
    gone = [f"s{number}" for number in range(3)]
    (root / ".tuneloop" / "logs" / "old.log").write_text(f"could not read {world.text(0)}\nfine\n")
    killed(root, first, *gone)
    assert world.run(root, second) == -9, world.logs(root)  # the daemon dies at the same work
    assert world.run(root) == 0, world.logs(root)
    with Workspace.open(root) as workspace:
        ids = [external_record_id(world.TASK, one) for one in gone]
        assert workspace.texts.many(ids) == {} and not (workspace.paths.home / ERASING).exists()
        erased = workspace.log.select("type = 'RecordErased'", [])
        assert sorted(one.stream for one in erased) == sorted(f"record/{one}" for one in ids)
        assert sound(verify(workspace))
    files = [path for path in root.rglob("*") if path.is_file()]
    for number in range(8):
        text = world.text(number).encode()
        assert any(text in path.read_bytes() for path in files) == (number >= 3), number
    measured(f"erase killed at {first}, the daemon at {second}", "nothing of 3 texts left, one event each")
