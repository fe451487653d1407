"""The engine: one base model and its adapters behind an OpenAI-compatible endpoint on loopback.

    python -m adapters.serve --base FOLDER --quantisation nf4 --port 0 --port-file FILE

Its surface is what vLLM offers, so that vLLM can take its place: `/v1/models`, `/v1/chat/completions` (with
`structured_outputs: {"choice": [...]}` answered by label scores), `/v1/load_lora_adapter`, `/v1/unload_lora_adapter`,
`/health`, and the bearer token of vLLM's `--api-key` (here TUNELOOP_TOKEN or `--token-file`). Adapters are loaded only
with a token, and only from the folders given as `--adapter-root`. The base model answers to "base". The model runs in
one thread; requests that wait together and share model and prompt are answered as one batch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from adapters import base_model, web_server
from adapters.bank import Bank, read
from adapters.chat import Answered, Asked, completion, log_share, logprob_entry, read_request
from adapters.child import OWNER_ONLY, die_with_parent, trim_memory
from adapters.openapi import ENGINE
from adapters.specs import BaseModelRef
from adapters.web import ERRORS, Guard, Refusal, Rules, error_response, read_json, shown
from store.artifacts import Artifacts, is_address
from store.errors import ArtifactError, ModelError, TuneloopError
from store.logs import log_to_stderr

if TYPE_CHECKING:
    from adapters.scoring import Scorer

log = logging.getLogger("tuneloop.engine")

BASE = "base"
WAITING_LIMIT = 256  # requests; more are told to come back
GATHER_SECONDS = 0.004  # a request waits this long for others to share its batch
BATCH = 16
IDLE_SECONDS = 2.0  # without a request, memory that batches have left behind is given back
WORKING_SECONDS = 10.0  # a training or evaluation that has shown itself since then is at work


class Engine:
    """Runs the model in a thread of its own; everything else hands it work and waits."""

    def __init__(self, bank: Bank, scorer: Scorer, *, busy_file: Path | None = None) -> None:
        self.bank = bank
        self._scorer = scorer
        self._busy_file = busy_file
        self._work: queue.Queue[tuple[Asked | Callable[[], Any], Future[Any]] | None] = queue.Queue(WAITING_LIMIT)
        self._names: list[str] = []
        self._threads = 0
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def names(self) -> list[str]:
        """Names of the loaded adapters."""
        return list(self._names)

    def submit(self, work: Asked | Callable[[], Any]) -> Future[Any]:
        """Queue a request or a change of the bank.

        Raises:
            Refusal: too many requests wait already.
        """
        future: Future[Any] = Future()
        try:
            self._work.put_nowait((work, future))
        except queue.Full:
            raise Refusal(429, "too many requests are waiting", "rate_limit_error", retry_after=1) from None
        return future

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter aside, then insert it between two batches.

        Raises:
            ArtifactError: it is damaged, belongs to another base, or its name is taken.
        """
        if name == BASE or name in self._names:
            raise ArtifactError(f"there is a model {name!r} already", hint="Load it under a new name.")
        loaded = read(folder, self.bank.ref)
        self.submit(lambda: self.bank.insert(name, loaded)).result()
        self._names = self.bank.names

    def unload(self, name: str) -> None:
        """Remove an adapter.

        Raises:
            ArtifactError: there is none of that name.
        """

        def drop() -> None:
            self.bank.unload(name)
            self._scorer.forget(name)

        self.submit(drop).result()
        self._names = self.bank.names

    def close(self) -> None:
        self._work.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        left: list[tuple[Asked | Callable[[], Any], Future[Any]]] = []
        used = False
        while True:
            if not left:
                try:
                    first = self._work.get(timeout=IDLE_SECONDS if used else None)
                except queue.Empty:
                    trim_memory()
                    used = False
                    continue
                used = True
                if first is None:
                    return
                left.append(first)
                time.sleep(GATHER_SECONDS)
            while True:
                try:
                    more = self._work.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    return
                left.append(more)
            left = self._serve(left)

    def _serve(
        self, waiting: list[tuple[Asked | Callable[[], Any], Future[Any]]]
    ) -> list[tuple[Asked | Callable[[], Any], Future[Any]]]:
        """Do the first piece of work, with all requests that can go with it; return the rest."""
        work, future = waiting[0]
        if not isinstance(work, Asked):
            _settle([future], lambda: [work()])
            return waiting[1:]
        group = work.group
        batch = [(one, its) for one, its in waiting if isinstance(one, Asked) and one.group == group][:BATCH]
        taken = {id(its) for _, its in batch}
        self._announce()
        _settle([its for _, its in batch], lambda: self._answer([one for one, _ in batch]))
        return [(one, its) for one, its in waiting if id(its) not in taken]

    def _announce(self) -> None:
        """Tell a training on this machine that production is being answered, and share the cores with it."""
        if self._busy_file is None:
            return
        with contextlib.suppress(OSError):  # a full disk must not stop the answers
            self._busy_file.touch()
        try:
            touched = self._busy_file.with_name("working.busy").stat().st_mtime
            at_work = abs(time.time() - touched) < WORKING_SECONDS  # clocks are set back
        except OSError:
            at_work = False
        import torch

        # two busy torch processes on two cores slow each other up to five times: one thread each then
        wanted = 1 if at_work else len(os.sched_getaffinity(0))
        if wanted != self._threads:
            torch.set_num_threads(wanted)
            self._threads = wanted

    def _answer(self, batch: Sequence[Asked]) -> list[Answered]:
        first = batch[0]
        adapter = "" if first.model == BASE else first.model
        if adapter and adapter not in self.bank.names:
            raise _no_model(first.model)
        texts = [one.text for one in batch]
        if first.choices:
            return self._choose(adapter, first, texts)
        said = self._scorer.generate(
            adapter,
            first.prompt,
            texts,
            max_tokens=first.max_tokens,
            temperatures=[one.temperature for one in batch],
            seed=first.seed,
            top=first.top,
            batch_size=BATCH,
        )
        return [
            Answered(
                text=words.text,
                finish="stop" if words.finished else "length",
                prompt_tokens=words.prompt_tokens,
                tokens=words.tokens,
                logprobs=[
                    logprob_entry(token.text, token.log_probability, token.top) for token in words.details
                ] if first.top else None,
            )
            for words in said
        ]  # fmt: skip

    def _choose(self, adapter: str, asked: Asked, texts: Sequence[str]) -> list[Answered]:
        from adapters.scoring import TOLERANCE

        card = self.bank.card(adapter) if adapter else None
        warmth, least = (card.temperature, card.abstain_below) if card is not None else (1.0, 0.0)
        answers = []
        for found in self._scorer.score(
            adapter, asked.prompt, texts, asked.choices, temperature=warmth, tolerance=TOLERANCE, batch_size=BATCH
        ):
            shares = found.probabilities(warmth)
            ranked = [(label, log_share(share)) for label, share in sorted(shares.items(), key=lambda item: -item[1])]
            entry = logprob_entry(found.label, log_share(shares[found.label]), ranked[: max(asked.top, 1)])
            answers.append(
                Answered(
                    text=found.answer(warmth, least) or "",
                    finish="stop",
                    prompt_tokens=found.prompt_tokens,
                    tokens=1,
                    logprobs=[entry] if asked.top else None,
                )
            )
        return answers


def _settle(futures: Sequence[Future[Any]], work: Callable[[], Sequence[Any]]) -> None:
    wanted = [future.set_running_or_notify_cancel() for future in futures]  # False: its client has gone
    if not any(wanted):
        return
    try:
        results = work()
    except Exception as error:
        for future in (one for one, still in zip(futures, wanted, strict=True) if still):
            future.set_exception(error)
        return
    for future, result, still in zip(futures, results, wanted, strict=True):
        if still:
            future.set_result(result)


# ---------------------------------------------------------------- the application


def make_app(engine: Engine, rules: Rules | None = None, roots: Sequence[Path] = ()) -> ASGIApp:
    """The HTTP side of an engine.

    Args:
        engine: what answers.
        rules: who may ask; None: anyone on this machine.
        roots: folders that adapters may be loaded from; with none, or without a token, none are loaded.
    """
    rules = rules or Rules()
    trusted = [root.resolve() for root in roots] if rules.token else []

    async def chat(request: Request) -> Response:
        asked = read_request(await read_json(request))
        if asked.model != BASE and asked.model not in engine.names:
            raise _no_model(asked.model)
        answered: Answered = await asyncio.wrap_future(engine.submit(asked))
        return JSONResponse(completion(asked, answered))

    async def models(_: Request) -> Response:
        data = [{"id": name, "object": "model", "owned_by": "tuneloop"} for name in (BASE, *engine.names)]
        return JSONResponse({"object": "list", "data": data})

    async def load(request: Request) -> Response:
        name, path = _strings(await read_json(request), "lora_name", "lora_path")
        await asyncio.to_thread(_load, engine, name, _trusted(Path(path), trusted))
        return JSONResponse({"status": "loaded", "model": name})

    async def unload(request: Request) -> Response:
        (name,) = _strings(await read_json(request), "lora_name")
        _may_change(trusted)
        await asyncio.to_thread(engine.unload, name)
        return JSONResponse({"status": "unloaded", "model": name})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "base": engine.bank.ref.digest})

    async def openapi(_: Request) -> Response:
        return JSONResponse(ENGINE)

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/load_lora_adapter", load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", unload, methods=["POST"]),
            Route("/health", health),
            Route("/openapi.json", openapi),
        ],
        exception_handlers={**ERRORS, TuneloopError: _ours},
        lifespan=_lifespan(engine),
    )
    app.router.redirect_slashes = False  # a redirect would repeat the client's own Host
    return Guard(app, rules)


def _lifespan(engine: Engine) -> Callable[[Starlette], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        engine.close()

    return lifespan


def _no_model(name: str) -> Refusal:
    return Refusal(404, f"the model {shown(name)} does not exist", "not_found_error", code="model_not_found")


def _may_change(trusted: Sequence[Path]) -> None:
    if not trusted:
        raise Refusal(403, "adapters are loaded only by an engine with a token and --adapter-root", "permission_error")


def _trusted(path: Path, trusted: Sequence[Path]) -> Path:
    """`path` without links, where that lies inside a trusted folder.

    Raises:
        Refusal: it does not; whether it exists is not said.
    """
    _may_change(trusted)
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that is too long
        real = Path("/")
    if not path.is_absolute() or not any(real != root and real.is_relative_to(root) for root in trusted):
        raise Refusal(403, "adapters are not loaded from that folder", "permission_error")
    return real


def _load(engine: Engine, name: str, folder: Path) -> None:
    """Load an adapter; one that lies under its content's address only when every byte of it is as it was stored."""
    if is_address(folder.name):
        Artifacts(folder.parent).path(folder.name, verify=True)
    engine.load(name, folder)


def _strings(body: Any, *names: str) -> list[str]:
    values = [body.get(name) if isinstance(body, dict) else None for name in names]
    if not all(isinstance(value, str) and 0 < len(value) < 4096 and "\0" not in value for value in values):
        raise Refusal(400, f"{' and '.join(names)} must be strings")
    return [str(value) for value in values]


async def _ours(_: Request, error: Exception) -> Response:
    missing = isinstance(error, ArtifactError) and str(error).startswith("there is no adapter")
    status = 404 if missing else 400 if isinstance(error, ArtifactError | ModelError) else 500
    return error_response(Refusal(status, str(error), "not_found_error" if missing else "invalid_request_error"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m adapters.serve", description=__doc__)
    parser.add_argument("--base", default="", help="folder or hub id; empty: the built-in model")
    parser.add_argument("--quantisation", choices=("nf4", "bf16", "fp32"), default="nf4")
    parser.add_argument("--compute", choices=("auto", "bf16", "fp32"), default="auto", help="precision of products")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--host", default="127.0.0.1", help="elsewhere than on loopback a token is required")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token-file", type=Path, help="holds the bearer token; without it TUNELOOP_TOKEN does")
    parser.add_argument("--allow-host", action="append", default=[], help="another name that clients may call it by")
    web_server.add_rates(parser)
    parser.add_argument("--adapter-root", type=Path, action="append", default=[], help="adapters are loaded from here")
    parser.add_argument("--port-file", type=Path, help="gets the port once the engine answers")
    parser.add_argument("--busy-file", type=Path, help="touched while answering; working.busy beside it is heeded")
    parser.add_argument("--lora", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--die-with-parent", action="store_true")
    options = parser.parse_args()
    os.umask(OWNER_ONLY)
    log_to_stderr("")
    if options.die_with_parent:
        die_with_parent()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _serve(options)
    except TuneloopError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code


def _serve(options: argparse.Namespace) -> int:
    rules = Rules(
        token=web_server.read_token(options.host, options.token_file),
        hosts=web_server.allowed_hosts(options.host, options.allow_host),
        rate=options.rate,
        rate_all=options.rate_all,
    )
    listener = web_server.listen(options.host, options.port)
    folder = base_model.ensure(options.base, say=log.info)
    ref: BaseModelRef = base_model.reference(folder, options.quantisation, options.compute)
    bank = Bank.open(ref, options.device)
    from adapters.scoring import Scorer

    engine = Engine(bank, Scorer(bank), busy_file=options.busy_file)
    for pair in options.lora:
        name, _, folder = pair.partition("=")
        engine.load(name, Path(folder))
    if options.port_file:
        temporary = options.port_file.with_suffix(".tmp")
        temporary.write_text(str(listener.getsockname()[1]))
        temporary.replace(options.port_file)
    log.info("serving %s on port %d", Path(ref.path).name, listener.getsockname()[1])
    web_server.serve(make_app(engine, rules, options.adapter_root), listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
