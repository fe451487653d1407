"""Prompts answered by an OpenAI-compatible endpoint. The only module that imports `openai`.

Everything that `openai` can raise becomes an `EndpointError` (a ModelError) with a kind:

    down          nobody listens there, or the connection broke
    timeout       no answer in time
    auth          the key is missing or refused
    rate-limit    too many requests; `retry_after` holds the seconds the endpoint asked for
    not-found     no such URL or model
    request       the endpoint refuses this request (too long, filtered)
    server        the endpoint failed (5xx)
    garbage       it answered, but not with a chat completion

`openai` itself retries what may pass (connection, timeout, 429, 5xx), with growing pauses and heeding Retry-After.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from prompts.parse import parse_answer
from store.errors import EndpointError, EndpointFailure
from store.keys import HIDDEN, hide
from store.prompting import PromptSpec

if TYPE_CHECKING:
    import openai

# openai's exception -> kind. A test fails when openai gains a class that is not here.
KINDS: Mapping[str, EndpointFailure] = {
    "APIConnectionError": "down",
    "APITimeoutError": "timeout",
    "AuthenticationError": "auth",
    "OAuthError": "auth",
    "PermissionDeniedError": "auth",
    "SubjectTokenProviderError": "auth",
    "MutuallyExclusiveAuthError": "auth",
    "RateLimitError": "rate-limit",
    "NotFoundError": "not-found",
    "BadRequestError": "request",
    "ConflictError": "request",
    "UnprocessableEntityError": "request",
    "ContentFilterFinishReasonError": "request",
    "LengthFinishReasonError": "request",
    "InternalServerError": "server",
    "APIStatusError": "server",
    "APIResponseValidationError": "garbage",
    "APIError": "garbage",
    "OpenAIError": "garbage",
    "WebSocketConnectionClosedError": "down",
    "WebSocketQueueFullError": "down",
    "StreamAlreadyConsumed": "garbage",
    "InvalidWebhookSignatureError": "garbage",
    "APIRemovedInV1": "garbage",
    "_AmbiguousModuleClientUsageError": "garbage",
}
_HINTS: Mapping[EndpointFailure, str] = {
    "down": "Check `endpoint.url` in tuneloop.toml and that the server runs.",
    "timeout": "Raise `endpoint.timeout_seconds`, or lower `endpoint.concurrency`.",
    "auth": "Set OPENAI_API_KEY to a key that this endpoint takes.",
    "rate-limit": "Lower `endpoint.concurrency`, or wait.",
    "not-found": "Check `endpoint.url` (it ends in /v1) and `endpoint.model` in tuneloop.toml.",
    "request": "Look at what the endpoint says; the text may be too long for its model.",
    "server": "Look at the endpoint's own log; the loop tries again.",
    "garbage": "Is `endpoint.url` an OpenAI-compatible URL that ends in /v1?",
}
# these hold for every text: the first one ends the batch
_FATAL: frozenset[EndpointFailure] = frozenset({"down", "auth", "not-found", "rate-limit"})
_SHORT = 200  # characters of foreign messages that are passed on


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One text's answer. `error` is empty unless this one request failed; then `label` is None."""

    label: str | None
    raw: str = ""
    confidence: float | None = None  # probability of the answer, 0..1; None where the endpoint gives none
    margin: float | None = None  # first minus second label's probability, 0..1
    answered_by: str = ""  # the model that the endpoint says it was
    latency_ms: float = 0.0
    error: str = ""


class Answerer:
    """Answers texts under a prompt at one endpoint. Safe to share between threads; close it in the end."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        model: str,
        *,
        timeout: float = 60.0,
        retries: int = 2,
        concurrency: int = 4,
    ) -> None:
        """Args:
        base_url: an OpenAI-compatible URL, usually ending in /v1.
        api_key: may be empty for endpoints that want none.
        model: the model's name at that endpoint.
        timeout: seconds one attempt may wait for the endpoint.
        retries: attempts after the first.
        concurrency: requests in flight at once.
        """
        import openai

        self.base_url = base_url
        self.model = model
        self.concurrency = max(1, concurrency)
        self._key = api_key
        # a proxy from the environment must not come between us and an engine on this machine
        own = openai.DefaultHttpxClient(trust_env=False) if _is_loopback(base_url) else None
        self._client = openai.OpenAI(
            base_url=base_url, api_key=api_key or "none", timeout=timeout, max_retries=retries, http_client=own
        )

    def __repr__(self) -> str:
        return f"Answerer({self.base_url!r}, model={self.model!r})"

    def __enter__(self) -> Answerer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def answer(
        self,
        prompt: PromptSpec,
        texts: Sequence[str],
        labels: Sequence[str],
        on_progress: Callable[[int, int], None] | None = None,
        *,
        structured: bool = False,
    ) -> list[Answer]:
        """One answer per text, in the order of the texts.

        Args:
            prompt: rendered prompt version.
            texts: what to classify.
            labels: what may be answered.
            on_progress: called with (done, of) after each answer, from one thread at a time.
            structured: let the endpoint score the labels and answer with one of them (vLLM's structured outputs)
                instead of generating freely.

        Raises:
            EndpointError: the endpoint is down, refuses the key, lacks the model or limits the rate; or every
                request failed. A single failed request is an Answer with its `error`.
        """
        stop = threading.Event()
        lock = threading.Lock()
        done = 0
        failures: list[EndpointError] = []

        def one(text: str) -> Answer:
            nonlocal done
            if stop.is_set():
                return Answer(label=None, error="not asked: an earlier request failed for good")
            start = time.monotonic()
            try:
                given = self._ask(prompt, text, labels, structured, start)
            except EndpointError as error:
                if error.kind in _FATAL:
                    stop.set()
                with lock:
                    failures.append(error)
                given = Answer(label=None, error=error.message, latency_ms=_since(start))
            with lock:
                done += 1
                if on_progress is not None:
                    on_progress(done, len(texts))
            return given

        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="answer") as pool:
            answers = list(pool.map(one, texts))
        fatal = next((error for error in failures if error.kind in _FATAL), None)
        if fatal is not None:
            raise fatal
        if failures and len(failures) == len(texts):
            raise failures[0]
        return answers

    def _ask(self, prompt: PromptSpec, text: str, labels: Sequence[str], structured: bool, start: float) -> Answer:
        import openai

        messages: Any = msgspec.to_builtins(prompt.messages(text))
        extra = {"structured_outputs": {"choice": list(labels)}} if structured else None
        try:
            completion = self._client.chat.completions.create(
                model=self.model,
                messages=messages,
                temperature=0.0,
                max_tokens=prompt.max_tokens,
                logprobs=True,
                top_logprobs=20,
                extra_body=extra,
            )
            raw, tokens = _read(completion)
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            # not chained: the original may quote the key
            raise self._error(error) from None
        label = parse_answer(raw, prompt, labels)
        confidence, margin = (None, None) if prompt.reasoning else _certainty(label, labels, tokens)
        return Answer(
            label=label,
            raw=raw,
            confidence=confidence,
            margin=margin,
            answered_by=str(getattr(completion, "model", "") or ""),
            latency_ms=_since(start),
        )

    def _error(self, error: Exception) -> EndpointError:
        kind = kind_of(error)
        said = " ".join(str(error).split())
        if self._key:  # before it is cut: a part of a key is one as well
            said = said.replace(self._key, HIDDEN)
        said = hide(said)[:_SHORT]
        where = f"{_without_secrets(self.base_url)} ({self.model})"
        text = {
            "down": f"nothing answers at {where}: {said}",
            "timeout": f"{where} did not answer in time",
            "auth": f"{where} refuses the key: {said}",
            "garbage": f"{where} did not answer with a chat completion: {said}",
        }.get(kind, f"{where} says: {said}")
        return EndpointError(text, hint=_HINTS[kind], kind=kind, retry_after=_retry_after(error))


def kind_of(error: Exception) -> EndpointFailure:
    """The kind of failure behind an exception: of its class, or of the nearest base that has one."""
    for kind in type(error).__mro__:
        if kind.__name__ in KINDS:
            return KINDS[kind.__name__]
    return "garbage"


def _read(completion: openai.types.chat.ChatCompletion) -> tuple[str, list[dict[str, float]]]:
    """The text and, per generated token, the likeliest tokens with their log-probabilities.

    `openai` does not check what an endpoint sends, so nothing is taken for granted here; ValueError if there is
    no text.
    """
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise ValueError("no choices in the answer")
    content = getattr(getattr(choices[0], "message", None), "content", None)
    if content is None:
        content = ""  # a model may say nothing; that is an abstention
    if not isinstance(content, str):
        raise ValueError("the answer's content is no text")
    tokens: list[dict[str, float]] = []
    entries = getattr(getattr(choices[0], "logprobs", None), "content", None)
    for entry in entries if isinstance(entries, list) else ():
        alternatives: dict[str, float] = {}
        for candidate in [*(getattr(entry, "top_logprobs", None) or []), entry]:
            word, value = getattr(candidate, "token", None), getattr(candidate, "logprob", None)
            if isinstance(word, str) and isinstance(value, int | float) and math.isfinite(value):
                alternatives[word] = max(float(value), alternatives.get(word, -math.inf))
        tokens.append(alternatives)
    return content, tokens


def _certainty(
    label: str | None, labels: Sequence[str], tokens: Sequence[Mapping[str, float]]
) -> tuple[float | None, float | None]:
    """(confidence, margin) from the first token's alternatives, each of which counts for the label it begins.

    The shares of the labels are normalised to 1. Where two labels begin alike and more than a hundredth falls on
    their common beginning, the first token cannot tell them apart and nothing is claimed: (None, None).
    """
    if label is None or not tokens:
        return None, None
    shares = dict.fromkeys(labels, 0.0)
    shared_by_several = 0.0
    for word, value in tokens[0].items():
        begun = word.strip(" \t\n▁Ġ\"'`*").casefold()
        if not begun:
            continue
        meant = [known for known in labels if known.casefold().startswith(begun)]
        if len(meant) > 1:
            shared_by_several += math.exp(min(value, 0.0))
        elif meant:
            shares[meant[0]] += math.exp(min(value, 0.0))
    total = sum(shares.values())
    if shared_by_several > 0.01 or shares[label] == 0.0:
        return None, None
    ordered = sorted(shares.values(), reverse=True)
    return shares[label] / total, (ordered[0] - ordered[1]) / total


def _retry_after(error: Exception) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None)
    try:
        return max(0.0, float(headers["retry-after"])) if headers is not None else None
    except (KeyError, ValueError):
        return None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_secrets(url: str) -> str:
    """The URL without user, password and query, which may hold keys."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _since(start: float) -> float:
    return (time.monotonic() - start) * 1000
