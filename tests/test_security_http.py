"""Nothing that comes over HTTP breaks engine or gateway: both as real processes, fuzzed by their own documents with
schemathesis, and on bare sockets with requests that no library would send."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import pytest
from web_world import AUTHORISED, TOKEN, Served, Upstream, make_root, running_upstream

from adapters import openapi, web

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
FUZZ_SEED = int(os.environ.get("TUNELOOP_FUZZ_SEED", "1"))
NONE = ["--rate", "0", "--rate-all", "0"]  # fuzzing is faster than any client may be


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    Upstream.reset()
    with running_upstream() as upstream:
        root = make_root(tmp_path_factory.mktemp("workspace"), upstream)
        env = {"TUNELOOP_TOKEN": TOKEN}
        served = Served(["loop.gateway", str(root)], tmp_path_factory.mktemp("gateway"), *NONE, env=env)
        yield served
        served.stop()


@pytest.fixture(scope="module")
def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "adapters").mkdir()
    command = ["adapters.serve", "--base", str(tiny_model), "--quantisation", "fp32"]
    command += ["--adapter-root", str(folder / "adapters")]
    served = Served(command, folder, *NONE, env={"TUNELOOP_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"})
    yield served
    served.stop()


# ---------------------------------------------------------------- by the document


def fuzz(served: Served, document: dict[str, Any], models: list[str], folder: Path, examples: int) -> str:
    """What schemathesis says after the coverage and the fuzzing of a document whose models are named."""
    known = json.loads(json.dumps(document))
    known["components"]["schemas"]["Chat"]["properties"]["model"] = {"enum": models}
    file = folder / "openapi.json"
    file.write_text(json.dumps(known))
    command = [Path(sys.executable).with_name("st"), "run", file, "--url", f"http://127.0.0.1:{served.port}"]
    command += ["--checks", "all", "--phases", "coverage,fuzzing", "--continue-on-failure", "--warnings", "off"]
    command += ["-n", str(examples), "--seed", str(FUZZ_SEED), "-H", f"Authorization: Bearer {TOKEN}", "--no-color"]
    env = {**os.environ, "SCHEMATHESIS_HOOKS": HOOKS.stem, "PYTHONPATH": str(HOOKS.parent), "NO_PROXY": "*"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=env)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-20_000:]
    count = re.search(r"(\d+) generated, (\d+) passed", said)
    assert count and int(count[1]) > 100, said[-3000:]
    return said


def test_schemathesis_finds_nothing_in_the_gateway(gateway: Served, tmp_path: Path) -> None:
    Upstream.reset()
    before = len(Upstream.seen)
    fuzz(gateway, openapi.GATEWAY, ["tickets", "local"], tmp_path, 150)
    assert len(Upstream.seen) > before + 20, "no request came through to the answerer"
    healthy(gateway)


def test_schemathesis_finds_nothing_in_the_engine(engine: Served, tmp_path: Path) -> None:
    fuzz(engine, openapi.ENGINE, ["base"], tmp_path, 40)
    healthy(engine)


# ---------------------------------------------------------------- on a bare socket

HOST = b"Host: localhost\r\n"
BEARER = f"Authorization: Bearer {TOKEN}\r\n".encode()
CHAT = json.dumps({"model": "tickets", "messages": [{"role": "user", "content": "hello"}]}).encode()


def get(target: bytes, headers: bytes = HOST, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" " + version + b"\r\n" + headers + b"\r\n"


def post(headers: bytes, body: bytes = CHAT, target: bytes = b"/v1/chat/completions") -> bytes:
    return b"POST " + target + b" HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body


LENGTH = b"Content-Length: %d\r\n" % len(CHAT)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = get(b"/v1/models", HOST + BEARER)
TARGETS = [
    b"/../../../etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"/..%2f..%2fetc%2fpasswd", b"/health/../v1/models",
    b"/health%2f..%2fv1%2fmodels", b"/health%00", b"/health;/v1/models", b"/health?/v1/models", b"//v1/models",
    b"/V1/MODELS", b"/v1/models/", b"/v1//models", b"/v1/./models", b"/v1/models%20", b"/v1/models%0d%0aX-Evil:%201",
    b"/%c0%ae%c0%ae/", b"/%ff%fe", b"/\xff\xfe", b"/%", b"/%zz", b"*", b"localhost:80", b"http://evil.example/health",
    b"http://127.0.0.1/v1/models", b"//evil.example/%2f..", b"/" + b"a" * 9000, b"/?" + b"q" * 9000,
    b"/\\..\\..\\boot.ini",     b"/{{7*7}}", b"/${jndi:ldap://x}", b"/%25%32%66",
    b"/v1/chat/completions?model=tickets", b"/openapi.json/..",
]  # fmt: skip
HEADERS = [
    b"", b"Host: localhost\r\nHost: evil.example\r\n", b"Host:\r\n", b"Host: localhost:99999999\r\n",
    b"Host: [::1\r\n", b"Host: 127.0.0.1@evil.example\r\n", b"Host: evil.example#localhost\r\n",
    b"Host : localhost\r\n", b"Host: local\x00host\r\n", b"Host: \xff\xfe\r\n", HOST + b"X: a\r\n b\r\n",
    HOST + b"X: \x00\r\n",
    HOST + b"X\x00Y: 1\r\n", HOST + b": empty\r\n", HOST + b"no colon\r\n", HOST + b"X: a\rY: b\r\n",
    HOST + b"X: a\nY: b\r\n", HOST + b"\xe2\x80\xae: 1\r\n", HOST + b"A: 1\r\n" * 3000,
    HOST + b"A: " + b"x" * 40_000 + b"\r\n",
    HOST + b"Authorization: Bearer " + b"x" * 8000 + b"\r\n", HOST + b"Authorization: Bearer \xff\r\n",
    HOST + b"Authorization: Bearer x\r\n" + BEARER, HOST + BEARER + b"Authorization: Bearer x\r\n",
    HOST + b"Authorization: Bearer\r\n", HOST + b"Authorization: bearer\t" + TOKEN.encode() + b"x\r\n",
    HOST + BEARER + b"Origin: https://evil.example\r\n", HOST + BEARER + b"Origin: null\r\n",
    HOST + BEARER + b"Origin: http://localhost\r\nOrigin: https://evil.example\r\n",
    HOST + b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
    HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n",
    HOST + b"Connection: close, keep-alive, \x01\r\n", HOST + b"Expect: 100-continue\r\n",
    HOST + b"Expect: nonsense\r\n",
    HOST + b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: localhost\r\nForwarded: for=127.0.0.1\r\n",
    HOST + b"X-HTTP-Method-Override: POST\r\nX-Original-URL: /v1/models\r\n",
    HOST + b"Cookie: " + b"a=b; " * 900 + b"\r\n",
]  # fmt: skip
WHOLE = [
    b"\r\n\r\n\r\n" + get(b"/health"), b"GET /health\r\n\r\n", b"GET  /health  HTTP/1.1\r\n" + HOST + b"\r\n",
    b"get /health HTTP/1.1\r\n" + HOST + b"\r\n", get(b"/health", version=b"HTTP/0.9"),
    get(b"/health", version=b"HTTP/2.0"),
    get(b"/health", version=b"HTTP/1.1\x00"), get(b"/health", version=b"http/1.1"), get(b"/health", b"", b"HTTP/1.0"),
    get(b"/v1/models", HOST + BEARER, method=b"TRACE"), get(b"localhost:443", method=b"CONNECT"),
    get(b"/v1/models", HOST + BEARER, method=b"GE\x00T"), get(b"/v1/models", HOST + BEARER, method=b"X" * 5000),
    get(b"/health").replace(b"\r\n", b"\n"), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    b"\x00" * 100, b"\xff" * 100, b"GET", b"G" * 70_000, post(BEARER + b"Content-Length: -1\r\n"),
    post(BEARER + b"Content-Length: 1e3\r\n"), post(BEARER + b"Content-Length: 99999999999999999999\r\n"),
    post(BEARER + b"Content-Length: 5\r\nContent-Length: 6\r\n"), post(BEARER + b"Content-Length: 5, 6\r\n"),
    post(BEARER + b"Content-Length: 0x10\r\n"), post(BEARER + LENGTH + CHUNKED, b"0\r\n\r\n" + SMUGGLED),
    post(BEARER + CHUNKED + LENGTH, b"0\r\n\r\n" + SMUGGLED), post(BEARER + CHUNKED, b"zz\r\n"),
    post(BEARER + CHUNKED, b"FFFFFFFFFFFFFFFFFFFF\r\n"), post(BEARER + CHUNKED, b"-5\r\nhello\r\n"),
    post(BEARER + b"Transfer-Encoding: xchunked\r\n"), post(BEARER + b"Transfer-Encoding: gzip, chunked\r\n"),
    post(BEARER + b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"), post(BEARER + CHUNKED + CHUNKED, b"0\r\n\r\n"),
    post(BEARER + CHUNKED, b"5;x=\"" + b"y" * 20_000 + b"\"\r\nhello\r\n0\r\n\r\n"),
    post(BEARER + CHUNKED, b"0\r\nX-Trailer: 1\r\nAuthorization: Bearer x\r\n\r\n"),
    post(BEARER + b"Content-Encoding: gzip\r\n" + LENGTH), post(BEARER + b"Content-Type: text/html\r\n" + LENGTH),
    post(BEARER + b"Content-Length: 0\r\n", b""), post(LENGTH), post(BEARER + LENGTH, CHAT[:10]),
]  # fmt: skip
ODD = [get(target, HOST + BEARER) for target in TARGETS] + [get(b"/v1/models", one) for one in HEADERS] + WHOLE


def mutated(count: int) -> Iterator[bytes]:
    """Valid requests with bytes changed, cut, doubled or swapped; the same ones for the same seed."""
    chance = random.Random(FUZZ_SEED)  # noqa: S311
    sound = [
        get(b"/v1/models", HOST + BEARER),
        post(BEARER + LENGTH),
        get(b"/health"),
        post(BEARER + CHUNKED, b"0\r\n\r\n"),
    ]
    pieces = [
        b"\r\n",
        b"\n",
        b"\x00",
        b": ",
        b" ",
        b"\xff",
        b"HTTP/1.1",
        b"%00",
        b"Content-Length: 3\r\n",
        CHUNKED,
        b"\t",
        HOST,
    ]
    for _ in range(count):
        data = bytearray(chance.choice(sound))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(4):
                case 0:
                    data[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    data[at:at] = chance.choice(pieces)
                case 2:
                    del data[at : at + chance.randint(1, 20)]
                case _:
                    data[at:at] = data[at : at + chance.randint(1, 40)]
        yield bytes(data)


def exchange(port: int, content: bytes) -> bytes:
    """What comes back for a request that is followed by the end of what is sent."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass  # it hung up on us
    return received


def responses(content: bytes, raw: bytes) -> list[tuple[int, bytes]]:
    """Status and body of every response in what came back; they must be HTTP to the last byte."""
    found: list[tuple[int, bytes]] = []
    while raw:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(raw)
        client.receive_data(b"")
        body, status = b"", 0
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
                names = [name for name, _ in event.headers]
                assert b"x-evil" not in names and len(names) == len(set(names)), (content, names)
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, h11.InformationalResponse) and event.status_code == 100, (content, raw)
        found.append((status, body))
        raw = client.trailing_data[0]
    return found


def check_answers(content: bytes, raw: bytes) -> list[int]:
    """Every response is whole and in our form, none is a fault of ours, and none tells of our inside."""
    answered = responses(content, raw)
    for status, body in answered:
        assert status < 500 or status == 505, (content, status, body)
        assert b"Traceback" not in body and b"site-packages" not in body and TOKEN.encode() not in body, content
        if status >= 400 and body:
            error = json.loads(body)["error"]
            assert error["message"] and set(error) == {"message", "type", "param", "code"}, (content, body)
        if status == 200 and BEARER[:-2] not in content:
            assert json.loads(body).get("status") == "ok", f"answered without the token: {content!r}"
    return [status for status, _ in answered]


def healthy(served: Served) -> None:
    assert served.process.poll() is None
    assert served.http.get("/v1/models", headers=AUTHORISED).status_code == 200
    log = served.log.read_text()
    assert "Traceback" not in log and TOKEN not in log, log[-3000:]


@pytest.fixture(params=["gateway", "engine"])
def surface(request: pytest.FixtureRequest) -> Served:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_no_odd_request_breaks_a_surface_or_gets_an_answer_that_is_none(surface: Served) -> None:
    before = surface.log.stat().st_size
    silent = 0
    for content in [*ODD, *mutated(400)]:
        silent += not check_answers(content, exchange(surface.port, content))
    assert silent < 150, "hardly anything was answered: this tests nothing"
    healthy(surface)
    assert surface.log.stat().st_size - before < 2000, "strangers can fill the disk through the log"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:24].decode("latin-1"))
def test_no_spelling_of_a_path_gets_past_the_token(gateway: Served, target: bytes) -> None:
    for status, body in responses(target, exchange(gateway.port, get(target))):
        assert status != 200 or json.loads(body) == {"status": "ok", "engine": True}, (target, body)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (get(b"/v1/models", HOST + BEARER + b"Authorization: Bearer x\r\n"), 400),
        (get(b"/v1/models", HOST + BEARER + b"Origin: http://localhost\r\nOrigin: https://evil.example\r\n"), 400),
        (post(BEARER + LENGTH + CHUNKED, b"0\r\n\r\n" + SMUGGLED), 400),
        (post(BEARER + CHUNKED + LENGTH, b"0\r\n\r\n" + SMUGGLED), 400),
        (get(b"/v1/models", HOST + BEARER, b"HTTP/1.7"), 505),
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_refused_once(surface: Served, content: bytes, status: int) -> None:
    assert check_answers(content, exchange(surface.port, content)) == [status]


def test_a_body_that_never_ends_is_not_kept(gateway: Served) -> None:
    head = post(BEARER + b"Content-Length: 999999999999\r\n", b"")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(head)
        sent = 0
        try:
            while sent < 50 * web.BODY_LIMIT:
                sent += connection.send(b" " * 65536)
        except OSError:
            pass
        assert sent < 20 * web.BODY_LIMIT, "it goes on reading what it has refused"
    healthy(gateway)
