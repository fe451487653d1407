"""What every HTTP surface of ours shares: who may ask, how much, how often, and how a refusal looks. No torch.

    connection ──▶ Guard (host, rate, token) ──▶ routes ──▶ read_json (size, time, depth) ──▶ answer

Refusals are OpenAI-style errors, whatever goes wrong: a client never sees a traceback.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_LIMIT = 1_000_000  # bytes
HEADER_LIMIT = 16_384  # bytes of names and values
BODY_SECONDS = 30.0  # a request's whole body has to be here by then
DEPTH_LIMIT = 32  # of nested lists and objects
CLIENTS = 10_000  # whose rate is remembered
SHOWN = 100  # characters of a client's own words in an error
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = frozenset({"/health"})  # answered without a token, for probes
_ONCE = frozenset({b"host", b"authorization", b"origin", b"content-length", b"transfer-encoding"})
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


class Refusal(Exception):
    """A request that gets an OpenAI-style error. `retry_after` (seconds) tells the client when to come back."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        code: str | None = None,
        retry_after: float = 0.0,
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.retry_after = retry_after
        self.closes = closes or status in (408, 413, 431, 505)  # what follows on the connection is not read


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Who may ask a surface, and how often."""

    token: str = ""  # bearer token; empty: anyone who reaches the address
    hosts: frozenset[str] = LOCAL_NAMES  # names that the Host header may give; empty: any
    rate: float = 0.0  # requests a second from one address; 0: no limit
    rate_all: float = 0.0  # and from all together


class Buckets:
    """Token buckets by key: each takes `rate` requests a second, twice as many at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = max(1.0, 2 * rate)
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> (tokens, when)

    def take(self, key: str) -> float:
        """Seconds until this key may ask again; 0.0: it may now, and has."""
        if not self._rate:
            return 0.0
        now = self._clock()
        tokens, since = self._left.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        allowed = tokens >= 1
        self._left[key] = (tokens - 1 if allowed else tokens, now)
        if len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._rate


class Guard:
    """ASGI middleware in front of an application: refuses what `Rules` do not allow, and sets security headers."""

    def __init__(self, app: ASGIApp, rules: Rules, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._rules = rules
        self._each = Buckets(rules.rate, clock)
        self._all = Buckets(rules.rate_all, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._check(scope)
        except Refusal as refusal:
            await error_response(refusal)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def _check(self, scope: Scope) -> None:
        if scope["http_version"] not in ("1.0", "1.1"):
            raise Refusal(505, "HTTP/1.1 is spoken here")
        if sum(len(name) + len(value) for name, value in scope["headers"]) + len(scope["raw_path"]) > HEADER_LIMIT:
            raise Refusal(431, f"the headers are larger than {HEADER_LIMIT} bytes")
        headers = _unambiguous(scope["headers"])
        if self._rules.hosts:
            _check_origin(headers, self._rules.hosts)
        wait = max(self._each.take(_client(scope)), self._all.take(""))
        if wait:
            raise Refusal(429, "too many requests", "rate_limit_error", code="rate_limit_exceeded", retry_after=wait)
        if self._rules.token and scope["path"] not in OPEN_PATHS and not self._authorised(headers):
            raise Refusal(401, "a valid bearer token is needed", "authentication_error", code="invalid_api_key")

    def _authorised(self, headers: Mapping[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        return hmac.compare_digest(given.strip(), self._rules.token.encode()) and scheme.lower() == b"bearer"


def _unambiguous(given: Iterable[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """The headers by name. What a proxy before us may read in another way than we do is refused: it could check one
    request, or one token, and pass on another."""
    headers: dict[bytes, bytes] = {}
    for name, value in given:
        if name in headers and name in _ONCE:
            raise Refusal(400, f"the header {name.decode()} stands twice")
        headers[name] = value
    if b"transfer-encoding" in headers and b"content-length" in headers:
        raise Refusal(400, "a body has a length or comes in chunks, not both", closes=True)
    return headers


def _check_origin(headers: Mapping[bytes, bytes], hosts: frozenset[str]) -> None:
    """Refuse a page of another site: one whose name was made to lead here (DNS rebinding), or that posts here."""
    if _host_of("//" + headers.get(b"host", b"").decode("latin-1")) not in hosts:
        raise Refusal(421, "this server does not answer for that Host", code="unknown_host")
    origin = headers.get(b"origin")
    if origin is not None and _host_of(origin.decode("latin-1")) not in hosts:
        raise Refusal(403, "requests from other sites are not answered", code="foreign_origin")


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _client(scope: Scope) -> str:
    """The client's address; of IPv6 its /64, which one client has to itself."""
    host = (scope.get("client") or ("", 0))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


# ---------------------------------------------------------------- bodies and errors


async def read_json(request: Request, *, limit: int = BODY_LIMIT) -> Any:
    """The request's body as JSON.

    Raises:
        Refusal: it is larger than `limit` bytes (whatever its headers say), slow, no JSON, or nested too deep.
    """
    received = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                received += chunk
                if len(received) > limit:
                    raise Refusal(413, f"the body is larger than {limit} bytes")
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None
    except ClientDisconnect:
        raise Refusal(400, "the connection ended within the body") from None
    try:
        value = msgspec.json.decode(received)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Refusal(400, f"the body is no JSON: {str(error)[:SHOWN]}") from None
    except RecursionError:
        raise Refusal(400, f"the body is nested deeper than {DEPTH_LIMIT} levels") from None
    if not _shallow(value):
        raise Refusal(400, f"the body is nested deeper than {DEPTH_LIMIT} levels")
    return value


def _shallow(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_LIMIT + 1):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return True
    return False


def shown(words: str) -> str:
    """A client's own words for an error message: quoted, escaped and short."""
    return ascii(words if len(words) <= SHOWN else words[:SHOWN] + "...")


def error_response(refusal: Refusal) -> Response:
    """The OpenAI-style error of a refusal."""
    headers = {}
    if refusal.retry_after:
        headers["Retry-After"] = str(math.ceil(refusal.retry_after))
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.closes:
        headers["Connection"] = "close"
    body = {"error": {"message": str(refusal), "type": refusal.kind, "param": None, "code": refusal.code}}
    return JSONResponse(body, status_code=refusal.status, headers=headers)


async def _refuse(_: Request, error: Refusal) -> Response:
    return error_response(error)


async def _no_route(_: Request, error: HTTPException) -> Response:
    words = {404: "there is no such path", 405: "this path does not take that method"}
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    response = error_response(Refusal(error.status_code, words.get(error.status_code, str(error.detail)), kind))
    response.headers.update(error.headers or {})
    return response


async def _fault(_: Request, __: Exception) -> Response:
    return error_response(Refusal(500, "internal error; the log has it", "server_error"))


ERRORS: Mapping[Any, Any] = {Refusal: _refuse, HTTPException: _no_route, Exception: _fault}
"""Exception handlers that every application of ours starts with."""
