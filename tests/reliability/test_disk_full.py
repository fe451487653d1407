"""The disk is full, or a file may grow no further, in the middle of each step: nothing acknowledged is lost, people are
told why, and the loop goes on by itself when there is space again."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import kill_world as world
import pytest
from conftest import Trials
from stub_daemon import rests

from loop.bootstrap import open_app
from loop.intake import external_record_id
from store.verify import sound, verify
from store.workspace import Workspace

How = Literal["full", "limit"]
HOOK = Path(__file__).with_name("disk_hook")
DISK_MB = 24
SECONDS = 90.0  # to come to rest once there is space
# where a step is when the disk fills up, and where a daemon's own log then says so
POINTS = {
    "intake": "intake.file_claimed",
    "intake of a bad line": "intake.line_kept",
    "prompt": "prompt.chosen",
    "harvest": "harvest.chosen",
    "freeze": "freeze.dataset_written",
    "train: its folder": "train.spec_written",
    "train": "train.step_done",
    "train: the adapter": "train.trained",
    "register": "train.adapter_kept",
    "evaluate: its folder": "evaluate.exam_written",
    "evaluate": "evaluate.answered",
    "judge": "judge.decided",
    "promote": "promote.probed",
    "pointer": "promote.recorded",
    "roll back": "rollback.decided",
}
CLEAR = re.compile(r"(no space left|could not be (read or written|stored)|File too large|full).*", re.IGNORECASE)
ACKNOWLEDGED = re.compile(r" (\d+) ([A-Z]\w+) (\S+)$")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system of its own; skips where none may be mounted."""
    folder = tmp_path_factory.mktemp("disk")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0700", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = world.make(tmp_path_factory.mktemp("full") / "template")
    world.fill(root)
    return root


@pytest.fixture(scope="module")
def unharmed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = world.copy(template, tmp_path_factory.mktemp("unharmed") / "w")
    assert world.run(root) == 0
    return world.outcome(root)


class Daemon:
    """A daemon whose output is read as it comes: a log on a full disk would say nothing."""

    def __init__(self, root: Path, point: str, how: How, folder: Path) -> None:
        env = world.environment(TUNELOOP_FILL=f"{point}={how}:{folder}")
        env["PYTHONPATH"] = os.pathsep.join([str(HOOK), env["PYTHONPATH"]])
        self.root = root
        self.lines: list[str] = []
        self.child = subprocess.Popen(
            [sys.executable, str(world.HERE / "stub_daemon.py"), str(root), "run"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, cwd=root, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.lines.append(line.rstrip())

    def says(self, pattern: re.Pattern[str]) -> str:
        return next((line for line in list(self.lines) if pattern.search(line)), "")

    def acknowledged(self) -> dict[int, tuple[str, str]]:
        """Position -> type and stream of what this daemon was told to be in the log."""
        found = [ACKNOWLEDGED.search(line) for line in list(self.lines)]
        return {int(one[1]): (one[2], one[3]) for one in found if one}

    def rest(self) -> None:
        """Wait until nothing is left to do."""
        deadline = time.monotonic() + SECONDS
        with open_app(self.root, env={}) as app:
            while not rests(app):
                told = "\n".join(self.lines[-60:])
                assert self.child.poll() is None, f"it ended: {told}"
                assert time.monotonic() < deadline, f"no rest: {told}{world.logs(self.root)}"
                time.sleep(0.05)

    def end(self) -> None:
        """End it; nothing that it started is left."""
        self.child.terminate()
        try:
            self.child.wait(30)
        finally:
            self.child.kill()
            self.child.wait()
            self._reader.join(5)
        world.gone(self.root)


def make_room(folder: Path) -> None:
    """Space again, and no limit."""
    (folder / "ballast").unlink(missing_ok=True)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (process / "environ").read_bytes():
                limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                resource.prlimit(int(process.name), resource.RLIMIT_FSIZE, limits)


def wait_for(ready: Callable[[], object], what: str, daemon: Daemon) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert daemon.child.poll() is None, f"it ended, waiting for {what}\n" + "\n".join(daemon.lines[-40:])
        assert time.monotonic() < deadline, f"waited for {what}\n" + "\n".join(daemon.lines[-40:])
        time.sleep(0.05)


@contextmanager
def workspace_on(folder: Path, template: Path) -> Iterator[Path]:
    for leftover in folder.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    yield world.copy(template, folder / "w")


@pytest.mark.parametrize("step", POINTS)
def test_a_step_that_finds_no_space(step: str, disk: Path, template: Path, unharmed: dict[str, Any], note: Any) -> None:
    if not note.ways(step):
        pytest.skip("in CI one place of each step is enough")
    for how in note.ways(step):
        with workspace_on(disk, template) as root:
            note.seconds.append(_one(root, disk, POINTS[step], how, unharmed, f"{step}, {how}"))
            note.steps.append(f"{step}: {how}")


def _one(root: Path, folder: Path, point: str, how: How, unharmed: dict[str, Any], what: str) -> float:
    """Let the disk fill up at a point, wait until that is told, make room; seconds from then to rest."""
    daemon = Daemon(root, point, how, folder)
    try:
        wait_for((folder / "mark").exists, f"{what}: the point to be reached", daemon)
        wait_for(lambda: daemon.says(CLEAR), f"{what}: a clear error", daemon)
        time.sleep(0.5)
        make_room(folder)
        since = time.monotonic()
        daemon.rest()
        seconds = time.monotonic() - since
    finally:
        make_room(folder)
        daemon.end()
    assert not daemon.says(re.compile("Traceback")), "\n".join(daemon.lines)
    told = daemon.acknowledged()
    with Workspace.open(root) as workspace:
        here = {one.position: (one.type, one.stream) for one in workspace.log.read()}
    assert {position: here.get(position) for position in told} == told, what
    world.same(unharmed, world.outcome(root), what)
    return seconds


class Note:
    def __init__(self, trials: Trials) -> None:
        self.steps: list[str] = []
        self.seconds: list[float] = []
        self._all = trials(0, full=1) > 0

    def ways(self, step: str) -> list[How]:
        """Both ways for every place; in CI a full disk in each step, and a limit in some."""
        if self._all or step in ("intake", "train"):
            return ["full", "limit"]
        return ["full"] if step in ("freeze", "evaluate", "promote", "pointer") else []


@pytest.fixture(scope="module")
def note(trials: Trials) -> Note:
    return Note(trials)


def test_what_came_of_it(note: Note, measured: Callable[[str, str], None]) -> None:
    if not note.steps:
        pytest.skip("no small disk was to be had")
    measured(
        f"disk full or file-size limit at {len(note.steps)} places: {', '.join(note.steps)}",
        f"told each time, nothing acknowledged lost, the same end as unharmed, at most {max(note.seconds):.0f} s later",
    )


@pytest.mark.parametrize(
    ("verb", "point", "recorded"),
    [("label", "action.record_checked", "LabelGiven"), ("backup", "backup.database_copied", "BackupCompleted")],
)
def test_a_command_is_refused_and_done_when_there_is_space(
    verb: str, point: str, recorded: str, disk: Path, template: Path, measured: Callable[[str, str], None]
) -> None:
    with workspace_on(disk, template) as root:
        assert world.run(root) == 0
        words = {"label": [external_record_id(world.TASK, "p100"), "fruit", "--as", "kim"], "backup": [disk / "copies"]}
        command = [sys.executable, "-m", "loop.cli.main", "-w", str(root), verb, *map(str, words[verb])]
        for how in ("full", "limit"):
            (disk / "mark").unlink(missing_ok=True)
            env = world.environment(TUNELOOP_FILL=f"{point}={how}:{disk}")
            env["PYTHONPATH"] = os.pathsep.join([str(HOOK), env["PYTHONPATH"]])
            before = _events(root)
            refused = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
            assert (disk / "mark").exists()
            assert refused.returncode in (5, 6), refused
            assert CLEAR.search(refused.stderr), refused.stderr
            assert "Traceback" not in refused.stderr
            make_room(disk)
            assert _events(root) == before
        taken = subprocess.run(command, env=world.environment(), capture_output=True, text=True, timeout=60)
        assert taken.returncode == 0, taken
        assert [kind for kind, _ in _events(root)[len(before) :]] == [recorded]
        with Workspace.open(root) as workspace:
            assert sound(verify(workspace))
    measured(f"`tuneloop {verb}` on a full disk and under a file-size limit", "refused in plain words, then done")


def _events(root: Path) -> list[tuple[str, str]]:
    with Workspace.open(root) as workspace:
        return [(one.type, one.stream) for one in workspace.log.read()]
