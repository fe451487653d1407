"""Production's door: an OpenAI-compatible endpoint whose model names are the tasks.

    production ──▶ gateway (model="tickets") ──▶ engine or endpoint (model="tickets-v2")

Which answerer stands behind a task is read from the pointer file at every request, so a promotion or a
rollback takes effect with the next one and nothing restarts. The reply's `model` names the answerer.
Runs as `python -m loop.gateway WORKSPACE`.
"""

from __future__ import annotations

import argparse
import os
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from adapters.child import die_with_parent
from loop.production import Pointer, read_pointer
from loop.services import read_endpoints

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BODY_LIMIT = 1_000_000  # bytes
TOP_LOGPROBS = 20


class Refusal(Exception):
    """A request that gets an OpenAI-style error."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


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
    if body.get("stream"):
        raise Refusal(400, "streaming is not offered: an answer is one label")
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user" and isinstance(message.get("content"), str):
            return task, message["content"]
    raise Refusal(400, "no user message with a text in 'messages'")


def upstream_request(pointer: Pointer, text: str) -> dict[str, Any]:
    """The request that the answerer behind the pointer gets: its own prompt, its own way of answering."""
    body: dict[str, Any] = {
        "messages": msgspec.to_builtins(pointer.prompt.messages(text)),
        "max_tokens": pointer.prompt.max_tokens,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": TOP_LOGPROBS,
    }
    if pointer.kind == "adapter":
        return {**body, "model": pointer.answerer, "structured_outputs": {"choice": pointer.labels}}
    return {**body, "model": pointer.model}


def make_app(root: Path) -> Starlette:
    """The gateway's application over one workspace's folder."""
    home = root / ".tuneloop"

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=120.0) as client:
            app.state.client = client
            yield

    async def answer(request: Request) -> Response:
        task, text = ticket_of(await _body(request))
        pointer = read_pointer(home / "production", task) if task.replace("-", "").replace("_", "").isalnum() else None
        if pointer is None:
            raise Refusal(404, f"no answerer for the task {task!r}", "not_found_error")
        reply = await _ask(request.app.state.client, home, pointer, text)
        return JSONResponse({**reply, "model": pointer.answerer})

    async def models(_: Request) -> Response:
        names = sorted(path.stem for path in (home / "production").glob("*.json"))
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "engine": bool(read_endpoints(home / "run").engine)})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", answer, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ],
        exception_handlers={Refusal: _refuse, Exception: _fault},
        lifespan=lifespan,
    )


async def _body(request: Request) -> Any:
    received = b""
    async for chunk in request.stream():
        received += chunk
        if len(received) > BODY_LIMIT:
            raise Refusal(413, f"the body is larger than {BODY_LIMIT} bytes")
    try:
        return msgspec.json.decode(received)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {error}") from None


async def _ask(client: httpx.AsyncClient, home: Path, pointer: Pointer, text: str) -> dict[str, Any]:
    base = pointer.upstream or read_endpoints(home / "run").engine
    if not base:
        raise Refusal(503, "the engine is not up; `tuneloop run` starts it", "unavailable_error")
    base = base.rstrip("/").removesuffix("/v1")
    key = os.environ.get("OPENAI_API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if pointer.upstream and key else {}
    body = upstream_request(pointer, text)
    reply = await _post(client, f"{base}/v1/chat/completions", body, headers)
    if reply.status_code == 404 and pointer.kind == "adapter":
        # a restarted engine has not been told of this adapter yet
        load = {"lora_name": pointer.answerer, "lora_path": pointer.adapter}
        await _post(client, f"{base}/v1/load_lora_adapter", load, headers)
        reply = await _post(client, f"{base}/v1/chat/completions", body, headers)
    if reply.status_code >= 400:
        raise Refusal(502, f"{pointer.answerer} gave HTTP {reply.status_code}", "upstream_error")
    try:
        value = reply.json()
    except ValueError:
        raise Refusal(502, f"{pointer.answerer} gave no JSON", "upstream_error") from None
    if not isinstance(value, dict):
        raise Refusal(502, f"{pointer.answerer} gave no JSON object", "upstream_error")
    return value


async def _post(client: httpx.AsyncClient, url: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    try:
        return await client.post(url, json=body, headers=headers)
    except httpx.HTTPError as error:
        raise Refusal(502, f"the answerer cannot be reached: {type(error).__name__}", "upstream_error") from None


async def _refuse(_: Request, error: Exception) -> Response:
    status, kind = (error.status, error.kind) if isinstance(error, Refusal) else (500, "server_error")
    return JSONResponse({"error": {"message": str(error), "type": kind, "code": None}}, status_code=status)


async def _fault(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": {"message": "internal error", "type": "server_error", "code": None}}, status_code=500)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loop.gateway", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path)
    parser.add_argument("--die-with-parent", action="store_true")
    options = parser.parse_args()
    if options.die_with_parent:
        die_with_parent()
    listener = socket.create_server((options.host, options.port))
    if options.port_file:
        options.port_file.write_text(str(listener.getsockname()[1]))
    config = uvicorn.Config(make_app(options.root), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
