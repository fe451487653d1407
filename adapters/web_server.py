"""How our HTTP surfaces listen: on loopback unless told otherwise, elsewhere only with a token.

uvicorn waits for ever for a request that does not come; here a connection has `HEADER_SECONDS` for its first line
and headers, and there are at most `CONNECTIONS` of them.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import socket
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from adapters.web import HEADER_LIMIT, LOCAL_NAMES
from store.errors import SettingsError
from store.logs import log_to_stderr

TOKEN_VARIABLE = "TUNELOOP_TOKEN"  # noqa: S105  the variable's name
SHORTEST_TOKEN = 16  # characters
HEADER_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 30
CONNECTIONS = 512
_HOW = "Put one into TUNELOOP_TOKEN, or into a file that only you can read (--token-file), e.g. `openssl rand -hex 32`."


def add_rates(parser: argparse.ArgumentParser) -> None:
    """The options `--rate` and `--rate-all`, with limits that no person and few programs reach."""
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second from one address; 0: no limit")
    parser.add_argument("--rate-all", type=float, default=2000.0, help="and from all together; 0: no limit")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host` (a name or an address)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allowed_hosts(host: str, more: Iterable[str] = ()) -> frozenset[str]:
    """Names for the Host header: on loopback its own and `more`; elsewhere only `more`, where there are any
    (the token keeps strangers out, and nobody knows by which names clients reach the machine)."""
    named = frozenset(name.lower() for name in more)
    if is_loopback(host):
        return LOCAL_NAMES | {host.lower()} | named
    return named and named | LOCAL_NAMES | {host.lower()}


def read_token(host: str, file: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """The bearer token of a surface at `host`: the file's, else TUNELOOP_TOKEN's; empty where there is none.

    Raises:
        SettingsError: the address can be reached from elsewhere and there is none; it is short, or no ASCII; or
            others can read the file.
    """
    token = _token_of(file) if file else (os.environ if env is None else env).get(TOKEN_VARIABLE, "").strip()
    if not token:
        if file:
            raise SettingsError(f"{file} holds no token", hint=_HOW)
        if not is_loopback(host):
            raise SettingsError(f"{host} can be reached from other machines: a token is required", hint=_HOW)
        return ""
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"the token must have at least {SHORTEST_TOKEN} ASCII characters, no space", hint=_HOW)
    return token


def _token_of(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or status.st_uid not in (os.geteuid(), 0):
                raise SettingsError(f"others can read {file}, which holds a token", hint=f"chmod 600 {file}")
            return opened.read(10_000).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the token file {file} cannot be read: {type(error).__name__}", hint=_HOW) from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        SettingsError: the address is not one of this machine's, or is taken.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(f"cannot listen on {host}, port {port}: {said}", hint="Choose another.") from None


def url_of(host: str, port: int | str) -> str:
    """The address under which this machine reaches a surface that listens on `host`."""
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{near}]:{port}" if ":" in near else f"http://{near}:{port}"


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer until SIGTERM or SIGINT. Our own faults are logged to stderr; of malformed requests nothing is, or
    strangers could fill the disk."""
    log_to_stderr("uvicorn", level=logging.ERROR)
    uvicorn.Server(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,  # or any client could name itself another
            server_header=False,
            h11_max_incomplete_event_size=HEADER_LIMIT,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=2,
        )
    ).run(sockets=[listener])


class Connection(H11Protocol):
    """One client's connection: it is closed when its headers are slow or too many are open, and errors are JSON."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an answer is on its way; nothing may be put into its middle
            return
        error = {"message": msg, "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        try:
            head = self.conn.send(h11.Response(status_code=400, reason=b"Bad Request", headers=headers))
            self.transport.write((head or b"") + (self.conn.send(h11.Data(data=body)) or b""))
        except h11.LocalProtocolError:
            pass
        self.transport.close()
