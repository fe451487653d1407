"""Daemons whose clocks jump, and whose ticks are timed."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kill_world as world
import pytest
from timed_daemon import NOTE

HOUR = 3600.0
DAY = 24 * HOUR
YEAR = 365.25 * DAY
_OFFSETS = struct.Struct("=qqq")
_SOURCE = Path(__file__).with_name("clock.c")


def build_clock(folder: Path) -> Path:
    """The shim as a shared library; skips the test where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc): no clock can be set")
    library = folder / "clock.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return library


class Clock:
    """The clocks of all processes that were started with its environment."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._library = build_clock(folder)
        self.wall = self.monotonic = self.boot = 0.0
        self._write()

    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "TUNELOOP_CLOCK": str(self._file)}

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.wall += seconds
        self._write()

    def sleep(self, seconds: float) -> None:
        """The machine was suspended: Linux does not count that as monotonic time."""
        self.wall += seconds
        self.boot += seconds
        self._write()

    def pass_(self, seconds: float) -> None:
        """Time goes by for everybody, at once."""
        self.monotonic += seconds
        self.sleep(seconds)

    def _write(self) -> None:
        part = self._file.with_suffix(".part")
        data = _OFFSETS.pack(*(round(one * 1e9) for one in (self.wall, self.monotonic, self.boot)))
        if not self._file.exists():
            part.write_bytes(data)
            part.replace(self._file)
        with self._file.open("r+b", buffering=0) as file:  # in place: it is mapped
            file.write(data)


class Timed:
    """A running daemon, its children, and when it ticked."""

    def __init__(self, root: Path, ticks: Path, env: dict[str, str]) -> None:
        self.root = root
        self._ticks = ticks
        self.log = ticks.with_suffix(".log")
        self.child = subprocess.Popen(
            [sys.executable, str(world.HERE / "timed_daemon.py"), str(root), str(ticks)],
            stdout=self.log.open("ab"), stderr=subprocess.STDOUT, env={**world.environment(), **env}, cwd=root,
        )  # fmt: skip

    def ticks(self) -> list[tuple[float, float, float]]:
        """Begin, end and pure waiting of every tick that has ended, in seconds."""
        data = self._ticks.read_bytes() if self._ticks.exists() else b""
        return list(NOTE.iter_unpack(data[: len(data) - len(data) % NOTE.size]))

    def wait_for(self, ready: Callable[[], object], what: str, seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.child.poll() is None, f"it ended, waiting for {what}: {self.tail()}"
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}: {self.tail()}"
            time.sleep(0.01)

    def tail(self) -> str:
        return self.log.read_text()[-3000:] + world.logs(self.root)

    def processes(self) -> list[int]:
        return [self.child.pid] + [int(line.split()[0]) for line in world.processes(self.root)]

    def stop(self) -> None:
        """SIGSTOP for the daemon and all it has started."""
        for pid in self.processes():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGCONT)


@contextmanager
def timed(root: Path, ticks: Path, **env: str) -> Iterator[Timed]:
    """Run a daemon, and end it with everything it has started."""
    running = Timed(root, ticks, env)
    try:
        yield running
    finally:
        running.child.terminate()
        try:
            running.child.wait(30)
        finally:
            running.child.kill()
            running.child.wait()
    assert running.child.returncode == 0, running.tail()
    world.gone(root)
