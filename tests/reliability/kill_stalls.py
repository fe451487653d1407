"""A daemon that stops at a point of the table, is taken over, and wakes up again.

The functions here run in `forked.workers`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import forked
import kill_world as world
import stub_daemon

from loop import pulse
from loop.bootstrap import open_app
from store.database import Database

# the process that stops here holds the database: nobody else can write until it goes on
INSIDE = (
    "log.written", "projections.folded", "file.temporary_written", "train.spec_written", "evaluate.exam_written",
    "intake.file_done", "intake.file_deleted",
)  # fmt: skip


def stalled(source: Path, root: Path, point: str) -> tuple[dict[str, Any], int]:
    """Stop a daemon at `point`, let another take over and come to rest, and wake the first up while the other runs.

    Returns:
        The outcome, and how many requests the engines had answered.

    Raises:
        AssertionError: the one that woke up changed anything, asked an engine, or did not end by itself.
    """
    world.copy(source, root)
    started: list[int] = []
    try:
        first = _start(started, root, "first", point)
        assert forked.stopped(first, 30), f"{point} was not reached\n{world.logs(root)}"
        second = _start(started, root, "second")
        _wait_for_rest(root)
        before, calls = _everything(root), _calls(root)
        os.kill(first, signal.SIGCONT)
        code = _wait(started, first)
        ran = "running on" in (root / ".tuneloop" / "logs" / "first.log").read_text()
        assert code == (0 if ran else 1), f"{point}: exit code {code}\n{world.logs(root)}"
        changed = _differing(before, _everything(root))
        assert not changed, f"{point}: the stalled daemon changed {changed}\n{world.logs(root)}"
        assert _calls(root) == calls, f"{point}: the stalled daemon asked an engine\n{world.logs(root)}"
        beat = pulse.read(root / ".tuneloop" / "run")
        assert beat is not None and beat.pid == second, "status shows the stalled daemon"
        os.kill(second, signal.SIGTERM)
        assert _wait(started, second) == 0, world.logs(root)
        world.gone(root)
        return world.outcome(root), len(calls)
    finally:
        _end(started, root)


def refused(source: Path, root: Path, point: str) -> dict[str, Any]:
    """Stop a daemon where it holds the database: it cannot be taken over, and goes on unharmed."""
    world.copy(source, root)
    started: list[int] = []
    try:
        first = _start(started, root, "first", point)
        assert forked.stopped(first, 30), f"{point} was not reached\n{world.logs(root)}"
        second = _start(started, root, "second", impatient=True)
        assert _wait(started, second) == 1, f"{point}\n{world.logs(root)}"
        said = (root / ".tuneloop" / "logs" / "second.log").read_text()
        assert "locked" in said or "cannot be fenced off" in said, said
        os.kill(first, signal.SIGCONT)
        _wait_for_rest(root)
        os.kill(first, signal.SIGTERM)
        assert _wait(started, first) == 0, world.logs(root)
        world.gone(root)
        return world.outcome(root)
    finally:
        _end(started, root)


def _start(started: list[int], root: Path, name: str, point: str = "", *, impatient: bool = False) -> int:
    def serve() -> None:
        if impatient:  # half a minute is what people wait for
            Database.__init__ = functools.partialmethod(Database.__init__, busy_timeout_ms=500)  # type: ignore[method-assign]
        stub_daemon.serve(root, "run", take_over=name == "second")

    log = root / ".tuneloop" / "logs" / f"{name}.log"
    started.append(forked.start(serve, log, world.environment(point), stop=bool(point)))
    return started[-1]


def _wait(started: list[int], process: int) -> int:
    started.remove(process)
    return forked.wait(process, 30)


def _end(started: list[int], root: Path) -> None:
    """Leave nothing behind, whatever has failed."""
    for process in started:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    shutil.rmtree(root)


def _wait_for_rest(root: Path) -> None:
    """Wait until the loop has nothing left to do, and the daemon has noticed."""
    deadline = time.monotonic() + 60
    with open_app(root) as app:
        seen = -1
        while not (stub_daemon.rests(app) and app.state().position == seen):
            assert time.monotonic() < deadline, f"no rest\n{world.logs(root)}"
            seen = app.state().position
            time.sleep(0.3)  # a tick or two


def _everything(root: Path) -> dict[str, str]:
    """Digests of all files that a daemon might touch, and of all rows of the log, the lease and the texts."""
    home = root / ".tuneloop"
    found = {}
    for path in sorted(home.rglob("*")):
        if not path.is_file() or path.parent == home or path.parent.name == "logs":  # the database has its own lines
            continue
        # a port and a half-made artifact are their own process's, to be taken away; the other one's pulse goes on
        own = path.suffix == ".port" or ".tmp-" in str(path.relative_to(home))
        if own or path.name == pulse.FILE:
            continue
        with_time = f"{path.stat().st_mtime_ns} " if path.parent.name == "production" else ""
        found[str(path.relative_to(home))] = with_time + hashlib.sha256(path.read_bytes()).hexdigest()
    with open_app(root) as app, app.workspace.database.reading() as connection:
        for table in ("events", "lease", "texts"):
            rows = connection.exec_driver_sql(f"SELECT * FROM {table}").fetchall()  # noqa: S608
            found[table] = hashlib.sha256(repr([tuple(row) for row in rows]).encode()).hexdigest()
    return found


def _differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(name for name in {**before, **after} if before.get(name) != after.get(name))


def _calls(root: Path) -> list[str]:
    """What the engines have answered, health checks apart."""
    path = root / ".tuneloop" / "logs" / "engine.calls"
    return [line for line in path.read_text().splitlines() if "/v1/" in line] if path.exists() else []
