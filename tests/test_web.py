"""The gateway's HTTP surface over a real socket, and what every surface of ours shares: guard, limits, tokens."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from web_world import AUTHORISED, TOKEN, Served, Upstream, make_root, running_upstream

from adapters import web, web_server
from adapters.specs import write_json
from adapters.web import Buckets, Guard, Rules
from loop.gateway import make_app
from loop.services import Endpoints
from store.errors import SettingsError

SECURITY_HEADERS = ("x-content-type-options", "cache-control", "content-security-policy")


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with running_upstream() as url:
        yield url


@pytest.fixture(autouse=True)
def _ready() -> None:
    Upstream.reset()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, upstream: str) -> Path:
    return make_root(tmp_path_factory.mktemp("workspace"), upstream)


def serve(root: Path, folder: Path, *more: str, env: dict[str, str] | None = None) -> Served:
    return Served(["loop.gateway", str(root)], folder, *more, env=env)


@pytest.fixture(scope="module")
def gateway(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    env = {"TUNELOOP_TOKEN": TOKEN, "OPENAI_API_KEY": "sk-planted-0123456789"}
    served = serve(root, tmp_path_factory.mktemp("served"), env=env)
    yield served
    served.stop()


BODY = {"model": "tickets", "messages": [{"role": "user", "content": "charged twice"}]}


def ask(gateway: Served, body: Any = None, **headers: str) -> httpx.Response:
    return gateway.http.post("/v1/chat/completions", json=body or BODY, headers={**AUTHORISED, **headers})


def error_of(reply: httpx.Response) -> dict[str, Any]:
    value = reply.json()["error"]
    assert set(value) == {"message", "type", "param", "code"} and value["message"]
    assert "Traceback" not in reply.text and "/work" not in reply.text
    return dict(value)


def test_it_answers_with_the_token_and_not_without(gateway: Served) -> None:
    reply = ask(gateway)
    assert reply.status_code == 200 and reply.json()["model"] == "tickets-1", reply.text
    for given_ in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
        refused = ask(gateway, Authorization=given_)
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert error_of(refused)["code"] == "invalid_api_key" and TOKEN not in refused.text
    assert gateway.http.get("/v1/models").status_code == 401
    assert gateway.http.get("/health").status_code == 200
    assert all(name in ask(gateway).headers for name in SECURITY_HEADERS)


def test_the_engine_gets_its_own_token_and_an_endpoint_its_key(gateway: Served) -> None:
    ask(gateway)
    ask(gateway, {**BODY, "model": "local"})
    assert [seen["Authorization"] for seen in Upstream.seen] == [
        "Bearer sk-planted-0123456789",
        "Bearer engine-token-0123456789",
    ]


def test_an_engine_that_loads_asks_for_patience_and_a_missing_one_for_a_start(gateway: Served, root: Path) -> None:
    told = root / ".tuneloop" / "run" / "services.json"
    before = told.read_bytes()
    try:
        for pids, words in (({"engine": 4711}, "loading its model, try again"), ({}, "tuneloop run")):
            write_json(told, Endpoints(pids=pids))
            reply = ask(gateway, {**BODY, "model": "local"})
            assert reply.status_code == 503 and int(reply.headers["Retry-After"]) > 0
            assert words in error_of(reply)["message"]
    finally:
        told.write_bytes(before)


def test_a_key_that_an_endpoint_repeats_goes_no_further(gateway: Served) -> None:
    for status in (200, 401, 500):
        Upstream.status = status
        Upstream.content = json.dumps(
            {"choices": [{"message": {"content": "you sent AUTHORIZATION"}}], "error": "AUTHORIZATION"}
        ).encode()
        reply = ask(gateway)
        assert reply.status_code == (200 if status == 200 else 502)
        assert "sk-planted" not in reply.text + str(reply.headers)


@pytest.mark.parametrize(
    "content",
    [b"", b"no json", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": 1}}]}', b"[" * 9000,
     b"\xff\xfe", b'{"choices": [{"message": "billing"}]}', b'{"choices": "abc"}'],
)  # fmt: skip
def test_nonsense_from_the_answerer_is_a_bad_gateway(gateway: Served, content: bytes) -> None:
    Upstream.content = content
    reply = ask(gateway)
    assert reply.status_code == 502 and error_of(reply)["type"] == "upstream_error"


def test_a_page_of_another_site_gets_no_answer(gateway: Served) -> None:
    for host in ("evil.example", f"evil.example:{gateway.port}", "localhost.evil.example", "127.0.0.1.evil.example"):
        assert error_of(ask(gateway, Host=host))["code"] == "unknown_host"  # DNS rebinding
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        assert ask(gateway, Origin=origin).status_code == 403
    for host in ("localhost", f"127.0.0.1:{gateway.port}", "[::1]:80", "LOCALHOST"):
        assert ask(gateway, Host=host).status_code == 200
    assert ask(gateway, Origin=f"http://127.0.0.1:{gateway.port}").status_code == 200


def test_unknown_paths_and_methods_are_errors_in_json(gateway: Served) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404), ("GET", "/v1/models/", 404), ("GET", "/v1/chat/completions", 405),
        ("POST", "/health", 405), ("DELETE", "/v1/models", 405), ("OPTIONS", "/v1/models", 405),
        ("GET", "/../../etc/passwd", 404), ("BREW", "/health", 405),
    ):  # fmt: skip
        reply = gateway.http.request(method, path, headers=AUTHORISED)
        assert reply.status_code == status, (method, path, reply.text)
        assert error_of(reply) and ("allow" in reply.headers) == (status == 405)
    for task in ("../../run/services", "tickets/../tickets", "a" * 5000, "", "tickets\0", "ticketş", "\u202e"):
        assert ask(gateway, {**BODY, "model": task}).status_code == 404


def test_bodies_are_limited_in_size_and_depth(gateway: Served) -> None:
    post = gateway.http.post
    deep = b"[" * 200 + b"]" * 200
    for content, status in (
        (b"x" * (web.BODY_LIMIT + 1), 413), (b"{", 400), (b"", 400), (b"\xff", 400), (deep, 400), (b"[" * 100_000, 400),
        (b'{"model": NaN}', 400), (b'{"model": 1e999}', 400), (b'"' + rb"\ud800" + b'"', 400),
    ):  # fmt: skip
        reply = post("/v1/chat/completions", content=content, headers=AUTHORISED)
        assert reply.status_code == status, content[:20]
        assert error_of(reply)

    def chunks() -> Iterator[bytes]:
        for _ in range(web.BODY_LIMIT // 10_000 + 2):
            yield b" " * 10_000

    reply = post("/v1/chat/completions", content=chunks(), headers=AUTHORISED)  # without a content-length
    assert reply.status_code == 413


def test_broken_and_huge_headers_are_errors_in_json(gateway: Served) -> None:
    long = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (2 * web.HEADER_LIMIT) + b"\r\n\r\n"
    for content in (b"nonsense\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n", long, b"GET / HTTP/9.9\r\nHost: x\r\n\r\n"):
        head, _, body = gateway.raw(content).partition(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505")), content[:30]
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_a_client_that_is_slow_with_its_headers_is_cut_off(root: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from adapters import web, web_server; web_server.HEADER_SECONDS = 0.5; web.BODY_SECONDS = 0.5;"
        "from loop import gateway; sys.exit(gateway.main())"
    )
    port_file = tmp_path / "port"
    command = [sys.executable, "-c", program, str(root), "--port-file", str(port_file)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        port = int(port_file.read_text())

        def until_cut(first: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(first)
                received = b""
                while chunk := connection.recv(4096):
                    received += chunk
                return received

        for first in (b"", b"GET /health HTTP/1.1\r\nHost: loc", b"G"):
            with contextlib.suppress(ConnectionResetError):
                assert until_cut(first) == b""
        whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with contextlib.suppress(ConnectionResetError):
            assert until_cut(whole + b"GET /hea").count(b"HTTP/1.1") == 1
        slow = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
        assert until_cut(slow).startswith(b"HTTP/1.1 408")
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_the_rate_is_limited_per_client_and_in_all(root: Path, tmp_path: Path) -> None:
    served = serve(root, tmp_path, "--rate", "0.01", "--rate-all", "1000")
    try:
        replies = [served.http.get("/health") for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 429, 429]
        assert int(replies[1].headers["retry-after"]) > 10 and error_of(replies[1])["code"] == "rate_limit_exceeded"
    finally:
        served.stop()


@given(steps=st.lists(st.floats(0.0, 2.0), max_size=200), rate=st.floats(0.5, 20.0))
def test_no_client_ever_gets_more_than_its_rate_and_burst(steps: list[float], rate: float) -> None:
    now = [0.0]
    buckets = Buckets(rate, lambda: now[0])
    taken = 0
    for step in steps:
        now[0] += step
        wait = buckets.take("a")
        taken += wait == 0.0
        assert wait == 0.0 or buckets.take("a") > 0.0
        assert taken <= max(1.0, 2 * rate) + rate * now[0] + 1e-6
    now[0] += 1.01 / rate
    assert buckets.take("a") == 0.0


def test_forgotten_clients_take_no_memory() -> None:
    buckets = Buckets(1.0, lambda: 0.0)
    for number in range(web.CLIENTS + 50):
        buckets.take(str(number))
    assert len(buckets._left) == web.CLIENTS


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),  # noqa: S104
     ("192.168.1.2", False), ("example.com", False), ("127.0.0.1.example.com", False)],
)  # fmt: skip
def test_off_loopback_a_token_is_required(host: str, loopback: bool, tmp_path: Path) -> None:
    assert web_server.read_token(host, None, {"TUNELOOP_TOKEN": TOKEN}) == TOKEN
    if loopback:
        assert web_server.read_token(host, None, {}) == ""
        return
    with pytest.raises(SettingsError, match="token is required"):
        web_server.read_token(host, None, {})
    done = subprocess.run(
        [sys.executable, "-m", "loop.gateway", str(tmp_path), "--host", host],
        capture_output=True, text=True, timeout=60, env={**os.environ, "TUNELOOP_TOKEN": ""},
    )  # fmt: skip
    assert done.returncode == 3 and "token is required" in done.stderr and "Traceback" not in done.stderr


def test_a_token_file_must_be_its_owner_s_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    assert web_server.read_token("0.0.0.0", file, {"TUNELOOP_TOKEN": "another-token-0123"}) == TOKEN  # noqa: S104
    for mode in (0o640, 0o604, 0o620, 0o666):
        file.chmod(mode)
        with pytest.raises(SettingsError, match="others can read"):
            web_server.read_token("127.0.0.1", file, {})
    file.chmod(0o600)
    for content in (b"", b"\xff\xfe" * 20, b"two words of a token", b"short"):
        file.write_bytes(content)
        with pytest.raises(SettingsError) as caught:
            web_server.read_token("127.0.0.1", file, {})
        assert not content or content.decode("latin-1") not in caught.value.message
    with pytest.raises(SettingsError):
        web_server.read_token("127.0.0.1", tmp_path / "missing", {})


def test_an_application_that_fails_tells_a_client_nothing(root: Path) -> None:
    from starlette.testclient import TestClient

    class Broken(Guard):
        def _check(self, scope: Any) -> None:
            scope["app_fails"] = True

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("secret words")

    from starlette.applications import Starlette
    from starlette.routing import Route

    async def broken(_: Any) -> None:
        raise RuntimeError("secret words")

    app = Guard(Starlette(routes=[Route("/", broken)], exception_handlers=dict(web.ERRORS)), Rules(hosts=frozenset()))
    reply = TestClient(app, raise_server_exceptions=False).get("/")
    assert reply.status_code == 500 and "secret" not in reply.text and reply.json()["error"]["type"] == "server_error"
    assert make_app(root) is not None
