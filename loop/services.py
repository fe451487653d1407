"""The two long-lived helpers of a daemon: the engine (models) and the gateway (production's door).

They run as processes of their own, so that a busy or restarting daemon never keeps production waiting, and
are started again when they die, with growing pauses. Their addresses stand in `services.json`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from adapters.child import PARENT
from adapters.specs import write_json
from loop.steps import MODEL_ENVIRONMENT
from store.errors import TuneloopError
from store.keys import environment_for
from store.kill_points import reached

log = logging.getLogger("tuneloop.services")
FILE = "services.json"
START_SECONDS = 120.0
LONGEST_PAUSE = 60.0


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Base URLs (with /v1 left out); empty where nothing runs. The engine's token is its own for each start."""

    engine: str = ""
    engine_token: str = ""
    gateway: str = ""
    pids: dict[str, int] = {}


def read_endpoints(folder: Path) -> Endpoints:
    """The addresses that the daemon wrote into `folder`; empty ones where there are none."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Endpoints)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return Endpoints()


class Service:
    """One process that writes its port into a file once it listens."""

    def __init__(
        self,
        name: str,
        folder: Path,
        command: Callable[[Path], list[str]],
        *,
        listens: bool = True,
        host: str = "127.0.0.1",
        keys: Sequence[str] = (),
        guarded: bool = False,
    ) -> None:
        """Args:
        name: for logs and files.
        folder: of locks and ports.
        command: `command(port_file)` gives the argument list after the interpreter; one without the port file
            prepares what the service needs, and is followed by it.
        listens: one that does not writes no port file.
        host: where it listens.
        keys: beginnings of the names of those keys in the environment that it gets.
        guarded: it gets a fresh token at every start, and answers only those who have it.
        """
        self.name = name
        self.listens = listens
        self.url = ""
        self.token = ""
        self._host = host
        self._keys = keys
        self._guarded = guarded
        self._folder = folder
        self._log = folder.parent / "logs" / f"{name}.log"
        # of this process alone: a daemon that was taken over may still be ending when the next one starts
        self._port_file = folder / f"{name}.{os.getpid()}.port"
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._not_before = 0.0
        self._started = 0.0
        self._prepares = False  # the process does what has to be done before the service can start

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def tend(self) -> bool:
        """Start the process when it is down and its pause is over. Returns whether it is up.

        Call it from a thread that lives as long as the daemon: the child dies with the thread that started it.
        """
        if self._process is not None and self._process.poll() is None:
            if not self.listens:
                return True
            if not self.url and self._port_file.exists():
                port = self._port_file.read_text().strip()
                from adapters.web_server import url_of  # it imports a whole web server

                self.url = url_of(self._host, port) if port else ""
                self._failures = 0 if self.url else self._failures
            elif not (self.url or self._prepares) and time.monotonic() - self._started > START_SECONDS:
                log.error("the %s did not come up within %.0f s and is started again", self.name, START_SECONDS)
                self._process.kill()
            return bool(self.url)
        now = time.monotonic()
        if self._process is not None and self._prepares and self._process.returncode == 0:
            self._process = None  # and the service itself is next
        elif self._process is not None:
            self._failures += 1
            pause = min(LONGEST_PAUSE, 2.0**self._failures)
            log.error("the %s ended with code %s; next try in %.0f s", self.name, self._process.returncode, pause)
            self._process, self.url, self._not_before = None, "", now + pause
        if now < self._not_before:
            return False
        try:
            command = self._command(self._port_file)
        except TuneloopError as error:
            self._failures += 1
            self._not_before = now + min(LONGEST_PAUSE, 2.0**self._failures)
            log.error("the %s cannot start: %s", self.name, error.line)
            with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as output:  # where people look
                output.write(f"cannot start: {error.line}\n")
            return False
        self._prepares = self.listens and str(self._port_file) not in command
        self._port_file.unlink(missing_ok=True)
        environment = {**environment_for(self._keys), **MODEL_ENVIRONMENT, PARENT: str(os.getpid())}
        if self._guarded:
            from adapters.web_server import TOKEN_VARIABLE

            self.token = environment[TOKEN_VARIABLE] = secrets.token_urlsafe(32)
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        reached("services.started")
        self._started = now
        return False

    def stop(self) -> None:
        """End the process: SIGTERM first, SIGKILL after five seconds."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process, self.url = None, ""
        with contextlib.suppress(FileNotFoundError):
            self._port_file.unlink()


class Services:
    """All services of a daemon, and the file that tells others where they are."""

    def __init__(
        self, folder: Path, fence: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    ) -> None:
        """`fence` is entered while the addresses are told; it refuses who may tell them no longer."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._fence = fence
        for leftover in folder.glob("*.port"):
            if not _runs(leftover.suffixes[0].removeprefix(".")):
                leftover.unlink(missing_ok=True)
        self._services: dict[str, Service] = {}
        self._written = Endpoints()

    def add(
        self,
        name: str,
        command: Callable[[Path], list[str]],
        *,
        listens: bool = True,
        host: str = "127.0.0.1",
        keys: Sequence[str] = (),
        guarded: bool = False,
    ) -> None:
        """Register a service (arguments as in `Service`); `tend` starts it."""
        self._services[name] = Service(
            name, self.folder, command, listens=listens, host=host, keys=keys, guarded=guarded
        )

    def tend(self) -> Endpoints:
        """Keep every service up and write their addresses when they have changed."""
        for service in self._services.values():
            if not service.runs:
                with self._fence():  # a daemon that was taken over starts nothing
                    pass
            service.tend()
        current = Endpoints(
            engine=self._url("engine"),
            engine_token=self._services["engine"].token if self._url("engine") else "",
            gateway=self._url("gateway"),
            pids={name: service.pid for name, service in self._services.items() if service.pid},
        )
        if current != self._written:
            with self._fence():
                write_json(self.folder / FILE, current)
            reached("services.told")
            self._written = current
        return current

    def stop(self) -> None:
        """End all services."""
        for service in reversed(self._services.values()):
            service.stop()
        with contextlib.suppress(TuneloopError), self._fence():
            if read_endpoints(self.folder) == self._written:  # else a daemon that took over has written its own
                (self.folder / FILE).unlink(missing_ok=True)

    def end_former(self) -> None:
        """Kill the services of the daemon that was taken over: they hold production's port and the model's memory."""
        for name, pid in read_endpoints(self.folder).pids.items():
            if _is_ours(pid, self.folder):
                log.info("ending the %s of the daemon that was taken over (pid %d)", name, pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _url(self, name: str) -> str:
        return self._services[name].url if name in self._services else ""


def _runs(pid: str) -> bool:
    return pid.isdigit() and Path("/proc", pid).exists()


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether a process id still belongs to a service of this workspace: ids are given out again."""
    try:
        arguments = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    root = os.fsencode(folder.parent.parent)
    return b"--die-with-parent" in arguments and any(
        argument == root or argument.startswith(root + b"/") for argument in arguments
    )
