import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from prompts.client import KINDS, Answerer, kind_of
from store.errors import EndpointError, ModelError
from store.prompting import PromptSpec

LABELS = ["urgent", "billing", "technical"]
PROMPT = PromptSpec(name="zero-shot@1", digest="d", system="Classify.")
KEY = "sk-planted-0123456789"


def completion(content: object, logprobs: object = None) -> JSONResponse:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    return JSONResponse(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice | {"logprobs": logprobs}],
        }
    )


class Endpoint:
    """An OpenAI-compatible server that behaves as the model's name says."""

    def __init__(self) -> None:
        self.requests: list[dict[str, object]] = []
        self.failures_left = 0

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        text = body["messages"][-1]["content"]
        headers = dict(request.headers)
        match body["model"]:
            case "good":
                top = [
                    {"token": "bill", "logprob": -0.2231, "bytes": None},
                    {"token": " Urg", "logprob": -2.3026, "bytes": None},
                    {"token": "x", "logprob": -3.0, "bytes": None},
                ]
                return completion("Billing.", {"content": [top[0] | {"top_logprobs": top}], "refusal": None})
            case "echo":
                await asyncio.sleep(0.02 if text == "slower" else 0)
                return completion(text)
            case "slow":
                await asyncio.sleep(1)
                return completion("billing")
            case "broken":
                return JSONResponse({"error": {"message": "out of memory"}}, 500)
            case "recovers":
                self.failures_left -= 1
                return completion("urgent") if self.failures_left < 0 else PlainTextResponse("sorry", 503)
            case "some":
                return JSONResponse({"error": {"message": "too long"}}, 400) if text == "bad" else completion("urgent")
            case "limited":
                return JSONResponse({"error": {"message": "slow down"}}, 429, {"Retry-After": "7"})
            case "refusing":
                return JSONResponse({"error": {"message": f"Incorrect key: {headers['authorization']}"}}, 401)
            case "html":
                return Response("<html>welcome</html>", media_type="text/html")
            case "no-json":
                return Response('{"choices": [', media_type="application/json")
            case "empty":
                return JSONResponse({"choices": []})
            case "odd":
                return JSONResponse({"choices": [{"message": {"content": {"a": 1}}}]})
            case "silent":
                return completion(None)
            case "list":
                return JSONResponse([1, 2, 3])
        return JSONResponse({"error": {"message": "no such model"}}, 404)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[tuple[Endpoint, str]]:
    endpoint = Endpoint()
    app = Starlette(routes=[Route("/v1/chat/completions", endpoint.chat, methods=["POST"])])
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield endpoint, f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(timeout=10)
    listener.close()


def failure(url: str, model: str, *, timeout: float = 5.0, retries: int = 0) -> EndpointError:
    with (
        Answerer(url, KEY, model, timeout=timeout, retries=retries) as answerer,
        pytest.raises(EndpointError) as caught,
    ):
        answerer.answer(PROMPT, ["a", "b"], LABELS)
    assert isinstance(caught.value, ModelError)
    assert caught.value.hint
    assert KEY not in str(caught.value) + caught.value.hint
    assert caught.value.__cause__ is None
    return caught.value


def test_answers_with_confidence_and_margin(endpoint: tuple[Endpoint, str]) -> None:
    server, url = endpoint
    seen = []
    with Answerer(url, "", "good") as answerer:
        answers = answerer.answer(PROMPT, ["a"] * 6, LABELS, on_progress=lambda done, of: seen.append((done, of)))
    assert [answer.label for answer in answers] == ["billing"] * 6
    assert answers[0].raw == "Billing."
    assert answers[0].confidence == pytest.approx(0.8 / 0.9, abs=1e-3)
    assert answers[0].margin == pytest.approx(0.7 / 0.9, abs=1e-3)
    assert answers[0].latency_ms > 0
    assert seen == [(done, 6) for done in range(1, 7)]
    assert server.requests[-1]["messages"] == [
        {"role": "system", "content": "Classify."},
        {"role": "user", "content": "a"},
    ]
    assert "structured_outputs" not in server.requests[-1]


def test_structured_choice_is_asked_for(endpoint: tuple[Endpoint, str]) -> None:
    server, url = endpoint
    with Answerer(url, "", "good") as answerer:
        answerer.answer(PROMPT, ["a"], LABELS, structured=True)
    assert server.requests[-1]["structured_outputs"] == {"choice": LABELS}


def test_order_of_texts_is_kept_and_other_words_abstain(endpoint: tuple[Endpoint, str]) -> None:
    with Answerer(endpoint[1], "", "echo", concurrency=8) as answerer:
        answers = answerer.answer(PROMPT, ["slower", "urgent", "billing or urgent", "purple", "technical"], LABELS)
    assert [answer.label for answer in answers] == [None, "urgent", None, None, "technical"]
    assert [answer.error for answer in answers] == [""] * 5
    assert answers[1].confidence is None


def test_silence_is_an_abstention(endpoint: tuple[Endpoint, str]) -> None:
    with Answerer(endpoint[1], "", "silent") as answerer:
        assert answerer.answer(PROMPT, ["a"], LABELS)[0].label is None


def test_no_texts_need_no_endpoint() -> None:
    with Answerer("http://127.0.0.1:1/v1", "", "m") as answerer:
        assert answerer.answer(PROMPT, [], LABELS) == []


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("broken", "server", "out of memory"),
        ("refusing", "auth", "***"),
        ("html", "garbage", "chat completion"),
        ("no-json", "garbage", "chat completion"),
        ("empty", "garbage", "no choices"),
        ("odd", "garbage", "no text"),
        ("list", "garbage", "chat completion"),
        ("unheard-of", "not-found", "no such model"),
    ],
)
def test_misbehaviour_has_a_kind(endpoint: tuple[Endpoint, str], model: str, kind: str, words: str) -> None:
    error = failure(endpoint[1], model)
    assert error.kind == kind
    assert words in error.message


def test_a_slow_endpoint_times_out(endpoint: tuple[Endpoint, str]) -> None:
    start = time.monotonic()
    assert failure(endpoint[1], "slow", timeout=0.2).kind == "timeout"
    assert time.monotonic() - start < 3


def test_rate_limit_carries_the_wait(endpoint: tuple[Endpoint, str]) -> None:
    error = failure(endpoint[1], "limited")
    assert (error.kind, error.retry_after) == ("rate-limit", 7.0)


def test_a_dead_endpoint_is_down() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = failure(f"http://user:hidden@127.0.0.1:{port}/v1?key=hidden", "m")
    assert error.kind == "down"
    assert "hidden" not in error.message


def test_retries_outlast_a_short_outage(endpoint: tuple[Endpoint, str]) -> None:
    server, url = endpoint
    server.failures_left = 1
    with Answerer(url, "", "recovers", retries=2) as answerer:
        assert answerer.answer(PROMPT, ["a"], LABELS)[0].label == "urgent"


def test_one_refused_text_does_not_cost_the_others(endpoint: tuple[Endpoint, str]) -> None:
    with Answerer(endpoint[1], "", "some", retries=0) as answerer:
        answers = answerer.answer(PROMPT, ["fine", "bad", "fine"], LABELS)
    assert [answer.label for answer in answers] == ["urgent", None, "urgent"]
    assert "too long" in answers[1].error


def test_a_proxy_is_not_asked_for_this_machine(endpoint: tuple[Endpoint, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Answerer(endpoint[1], "", "good") as answerer:
        assert answerer.answer(PROMPT, ["a"], LABELS)[0].label == "billing"


def test_the_key_is_in_no_representation() -> None:
    with Answerer("http://127.0.0.1:1/v1", KEY, "m") as answerer:
        assert KEY not in repr(answerer)


def test_every_exception_of_openai_has_a_kind() -> None:
    import openai.lib._old_api
    import openai.lib.azure

    def below(kind: type[BaseException]) -> Iterator[type[BaseException]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    names = {kind.__name__ for kind in below(openai.OpenAIError) if kind.__module__.startswith("openai")}
    names |= {
        name
        for name, value in list(vars(openai).items())
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert names <= set(KINDS), "openai has exceptions that prompts.client does not know"
    assert kind_of(type("New", (openai.NotFoundError,), {}).__new__(openai.NotFoundError)) == "not-found"
