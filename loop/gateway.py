"""Production's door: an OpenAI-compatible endpoint whose model names are the tasks.

    production ──▶ gateway (model="tickets") ──▶ engine or endpoint (model="tickets-v2")

Which answerer stands behind a task is read from the pointer file at every request, so a promotion or a
rollback takes effect with the next one and nothing restarts. The reply's `model` names the answerer.
Runs as `python -m loop.gateway WORKSPACE`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from adapters import web_server
from adapters.chat import check_whole, content_text
from adapters.child import OWNER_ONLY, die_with_parent
from adapters.openapi import GATEWAY
from adapters.web import ERRORS, Guard, Refusal, Rules, read_json, shown
from loop.exposition import CONTENT_TYPE
from loop.metering import Metrics
from loop.production import Pointer, read_pointer
from loop.services import read_endpoints
from loop.traffic import Counted, Traffic
from store.errors import TuneloopError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOP_LOGPROBS = 20
ANSWER_SECONDS = 120.0  # for the whole answer, however it drips
REPLY_LIMIT = 10_000_000  # bytes


def ticket_of(body: Any) -> tuple[str, str]:
    """Task and ticket text of a chat request: the model's name and the last user message.

    Raises:
        Refusal: the body is not such a request.
    """
    if not isinstance(body, dict):
        raise Refusal(400, "the body must be a JSON object")
    task, messages = body.get("model"), body.get("messages")
    if not isinstance(task, str) or not isinstance(messages, list):
        raise Refusal(400, "'model' (the task's name) and 'messages' are needed")
    check_whole(body)
    texts: list[str] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal(400, "every message needs a role")
        if message["role"] == "user":
            text = content_text(message.get("content"))
            if text is None:  # an earlier message must not be answered in place of this one
                raise Refusal(400, "a user message's content must be a text")
            texts.append(text)
    if not texts:
        raise Refusal(400, "no user message in 'messages'")
    return task, texts[-1]


def upstream_request(pointer: Pointer, text: str) -> dict[str, Any]:
    """The request that the answerer behind the pointer gets: its own prompt, its own way of answering."""
    body: dict[str, Any] = {
        "messages": msgspec.to_builtins(pointer.prompt.messages(text)),
        "max_tokens": pointer.prompt.max_tokens,
        "temperature": 0,
        "model": pointer.answerer if pointer.kind == "adapter" else pointer.model,
    }
    if not pointer.labels:  # answers are free words
        return body
    body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return {**body, "structured_outputs": {"choice": pointer.labels}} if pointer.kind == "adapter" else body


def make_app(root: Path, rules: Rules | None = None) -> ASGIApp:
    """The gateway's application over one workspace's folder; `rules` None: anyone on this machine may ask."""
    home = root / ".tuneloop"
    traffic = Traffic()
    metrics = Metrics(root, traffic)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS) as client:
            app.state.client = client
            yield
        metrics.close()

    async def answer(request: Request) -> Response:
        task, text = ticket_of(await read_json(request))
        pointer = read_pointer(home / "production", task) if _is_name(task) else None
        if pointer is None and _is_name(task) and os.path.exists(home / "production" / f"{task}.json"):  # noqa: PTH110
            # what the disk made of it is no answerer that anybody has chosen
            raise Refusal(503, f"the pointer of {shown(task)} is damaged", "unavailable_error", retry_after=5)
        if pointer is None:
            raise Refusal(404, f"no answerer for the task {shown(task)}", "not_found_error", code="model_not_found")
        started, status = time.monotonic(), 500
        try:
            reply = await _ask(request.app.state.client, home, pointer, text)
            status = 200
        except Refusal as refusal:
            status = refusal.status
            raise
        finally:
            traffic.answered(task, pointer.answerer, status, time.monotonic() - started)
        return JSONResponse({**reply, "model": pointer.answerer})

    async def models(_: Request) -> Response:
        names = sorted(path.stem for path in (home / "production").glob("*.json"))
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "engine": bool(read_endpoints(home / "run").engine)})

    async def openapi(_: Request) -> Response:
        return JSONResponse(GATEWAY)

    async def measured(_: Request) -> Response:
        return Response(await metrics.page(), media_type=CONTENT_TYPE)

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", answer, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/openapi.json", openapi),
            Route("/metrics", measured),
        ],
        exception_handlers=ERRORS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would repeat the client's own Host
    return Counted(Guard(app, rules or Rules()), traffic)


def _is_name(task: str) -> bool:
    """Whether it can be a task's name, and so a file's."""
    return task.replace("-", "").replace("_", "").isalnum()


async def _ask(client: httpx.AsyncClient, home: Path, pointer: Pointer, text: str) -> dict[str, Any]:
    local = read_endpoints(home / "run")
    base = pointer.upstream or local.engine
    if not base and local.pids.get("engine"):
        raise Refusal(503, "the engine is loading its model, try again", "unavailable_error", retry_after=5)
    if not base:
        raise Refusal(503, "the engine is not up; `tuneloop run` starts it", "unavailable_error", retry_after=5)
    base = base.rstrip("/").removesuffix("/v1")
    key = os.environ.get("OPENAI_API_KEY", "") if pointer.upstream else local.engine_token
    body = upstream_request(pointer, text)
    status, content = await _post(client, f"{base}/v1/chat/completions", body, key)
    if status == 404 and pointer.kind == "adapter":
        # a restarted engine has not been told of this adapter yet
        load = {"lora_name": pointer.answerer, "lora_path": pointer.adapter}
        await _post(client, f"{base}/v1/load_lora_adapter", load, key)
        status, content = await _post(client, f"{base}/v1/chat/completions", body, key)
    if status >= 400:
        raise Refusal(502, f"{pointer.answerer} gave HTTP {status}", "upstream_error")
    if key:
        content = content.replace(key.encode(), b"***")  # an endpoint may repeat what it was sent
    try:
        value = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Refusal(502, f"{pointer.answerer} gave no JSON", "upstream_error") from None
    if not _is_completion(value):
        raise Refusal(502, f"{pointer.answerer} gave no chat completion", "upstream_error")
    return {**value, "object": "chat.completion"}


def _is_completion(value: Any) -> bool:
    try:
        content = value["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return False
    return isinstance(value, dict) and (content is None or isinstance(content, str))


async def _post(client: httpx.AsyncClient, url: str, body: dict[str, Any], key: str) -> tuple[int, bytes]:
    """Status and content of the reply to `body`.

    Raises:
        Refusal: nobody answers, not in time, or with too much.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    content = b""
    try:
        async with (
            asyncio.timeout(ANSWER_SECONDS),
            client.stream("POST", url, json=body, headers=headers) as reply,
        ):
            async for chunk in reply.aiter_bytes():
                content += chunk
                if len(content) > REPLY_LIMIT:
                    raise Refusal(502, "the answerer's reply is too large", "upstream_error")
            return reply.status_code, content
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        raise Refusal(502, f"the answerer cannot be reached: {type(error).__name__}", "upstream_error") from None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loop.gateway", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--host", default="127.0.0.1", help="elsewhere than on loopback a token is required")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path)
    parser.add_argument("--token-file", type=Path, help="holds the bearer token; without it TUNELOOP_TOKEN does")
    parser.add_argument("--allow-host", action="append", default=[], help="another name that clients may call it by")
    web_server.add_rates(parser)
    parser.add_argument("--die-with-parent", action="store_true")
    options = parser.parse_args()
    os.umask(OWNER_ONLY)
    if options.die_with_parent:
        die_with_parent()
    try:
        rules = Rules(
            token=web_server.read_token(options.host, options.token_file),
            hosts=web_server.allowed_hosts(options.host, options.allow_host),
            rate=options.rate,
            rate_all=options.rate_all,
        )
        listener = web_server.listen(options.host, options.port)
    except TuneloopError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    if options.port_file:
        options.port_file.write_text(str(listener.getsockname()[1]))
    web_server.serve(make_app(options.root, rules), listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
