"""Our HTTP surfaces as processes of their own, and an endpoint behind them whose behaviour can be set."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx

from adapters.specs import write_json
from loop.production import Pointer, write_pointer
from loop.services import Endpoints
from store.prompting import PromptSpec

TOKEN = "a-token-for-tests-0123456789"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
COMPLETION = {"id": "x", "choices": [{"message": {"role": "assistant", "content": "billing"}}]}


class Upstream(BaseHTTPRequestHandler):
    """An endpoint whose behaviour stands in the class."""

    status: ClassVar[int] = 200
    content: ClassVar[bytes] = b""
    seen: ClassVar[list[dict[str, str]]] = []

    @classmethod
    def reset(cls) -> None:
        cls.status, cls.content = 200, json.dumps(COMPLETION).encode()
        cls.seen.clear()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        Upstream.seen.append(dict(self.headers))
        content = Upstream.content.replace(b"AUTHORIZATION", self.headers.get("Authorization", "").encode())
        self.send_response(Upstream.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running_upstream() -> Iterator[str]:
    """The address of an `Upstream` that listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def make_root(root: Path, upstream: str) -> Path:
    """What the gateway reads of a workspace: a pointer to an endpoint, one to the engine, the engine's address."""
    home = root / ".tuneloop"
    (home / "production").mkdir(parents=True)
    (home / "run").mkdir()
    prompt = PromptSpec(name="p@1", digest="", system="Classify.")
    for task, kind, where in (("tickets", "prompt", upstream), ("local", "adapter", "")):
        pointer = Pointer(
            task=task,
            answerer=f"{task}-1",
            kind=kind,
            labels=["billing", "general"],
            prompt=prompt,
            upstream=where,  # type: ignore[arg-type]
        )
        write_pointer(home / "production", pointer)
    write_json(home / "run" / "services.json", Endpoints(engine=upstream, engine_token="engine-token-0123456789"))
    return root


class Served:
    """A module that serves, as its own process; `command` is what stands behind `python -m`."""

    def __init__(self, command: Sequence[str], folder: Path, *more: str, env: dict[str, str] | None = None) -> None:
        port_file = folder / "port"
        self.log = folder / "log"
        words = [sys.executable, "-m", *command, "--port-file", str(port_file), *more]
        clean = {name: value for name, value in os.environ.items() if name != "TUNELOOP_TOKEN"}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(words, stdout=output, stderr=output, env={**clean, **(env or {})})
        deadline = time.monotonic() + 120
        while not (port_file.exists() and port_file.read_text()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.port = int(port_file.read_text())
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)

    def raw(self, content: bytes, seconds: float = 30.0) -> bytes:
        """Everything that comes back for bytes on a bare socket, until the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(content)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        return received

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.wait(timeout=20)
