"""Servers as they are met in the world: good, down, slow, hanging, dripping, failing, talking rubbish."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Manner = Literal["good", "slow", "hanging", "dripping", "failing", "busy", "garbage", "closing"]
SLOW_SECONDS = 0.3


class Receiver:
    """A real HTTP server on loopback whose manner can be changed while it runs. `down` closes its port."""

    def __init__(self, manner: Manner = "good", reply: Callable[[bytes], bytes] | None = None) -> None:
        """`reply` makes the answer of what was asked."""
        self.manner: Manner = manner
        self.reply = reply or (lambda _: b"ok")
        self.got: list[tuple[dict[str, str], bytes]] = []  # headers (small letters) and body of what it took
        self.asked = 0
        self.retry_after = "7"
        self._server: ThreadingHTTPServer | None = None
        self._ended = threading.Event()
        self.port = self._start(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/T0ken-hush"

    def _start(self, port: int) -> int:
        receiver = self
        self._ended.clear()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._answer(self)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: Any) -> None:
                pass  # clients that give up are what is tested

        self._server = Server(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return int(self._server.server_address[1])

    def down(self) -> None:
        """From now on connections are refused."""
        if self._server is not None:
            self._ended.set()
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def up(self, manner: Manner = "good") -> None:
        """Listen again, on the same port."""
        self.manner = manner
        if self._server is None:
            self._start(self.port)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked += 1
        manner = self.manner
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        if manner == "hanging":
            self._ended.wait(60)
            return
        if manner == "dripping":
            with contextlib.suppress(OSError):
                for letter in b"HTTP/1.1 200 OK\r\nx-very-long: " + b"a" * 600:
                    request.wfile.write(bytes([letter]))
                    time.sleep(0.1)
            return
        if manner == "garbage":
            request.wfile.write(b"\x00\xff this is no HTTP\r\n\r\n")
            request.close_connection = True
            return
        if manner == "closing":
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
            return
        if manner == "slow":
            time.sleep(SLOW_SECONDS)
        status = {"failing": 500, "busy": 429}.get(manner, 200)
        if status == 200:
            self.got.append(({name.lower(): value for name, value in request.headers.items()}, body))
        request.send_response(status)
        if status == 429:
            request.send_header("retry-after", self.retry_after)
        request.send_header("content-type", "application/json")
        answer = self.reply(body)
        request.send_header("content-length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)


@contextlib.contextmanager
def receiver(manner: Manner = "good", reply: Callable[[bytes], bytes] | None = None) -> Iterator[Receiver]:
    one = Receiver(manner, reply)
    try:
        yield one
    finally:
        one.down()


def completion(body: bytes) -> bytes:
    """As an OpenAI-compatible model answers that always sees the label in the ticket's first word."""
    asked = json.loads(body)
    said = asked["messages"][-1]["content"].split()[-1]
    message = {"role": "assistant", "content": said}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [choice]}
    ).encode()
