"""The engine as a process of its own, asked over HTTP by the real openai client."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("torch")

from adapter_world import make_adapter, put_card

from adapters import base_model, chat, serve, web
from adapters.bank import Bank
from adapters.scoring import Scorer
from store.prompting import Message, PromptSpec

LABELS = ["urgent", "billing", "technical", "general"]
SYSTEM = "Classify the ticket. Reply with the label only."
TOKEN = "a-token-for-tests-0123456789"
TEXTS = ["charged twice", "the app crashes", "opening hours?", "émigré 🙂", "", "help " * 40, "a", "b"]


class Running:
    def __init__(self, tiny_model: Path, folder: Path, *more: str) -> None:
        self.port_file = folder / "engine.port"
        self.busy = folder / "serving.busy"
        self.log = folder / "engine.log"
        command = [sys.executable, "-m", "adapters.serve", "--base", str(tiny_model), "--quantisation", "fp32"]
        command += ["--port-file", str(self.port_file), "--busy-file", str(self.busy), *more]
        with self.log.open("wb") as output:
            environment = {**os.environ, "TUNELOOP_TOKEN": TOKEN}
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        deadline = time.monotonic() + 90
        while not self.port_file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.url = f"http://127.0.0.1:{self.port_file.read_text()}"
        authorized = {"Authorization": f"Bearer {TOKEN}"}
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False, headers=authorized)

    def client(self) -> Any:
        import openai

        http = openai.DefaultHttpxClient(trust_env=False)
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=TOKEN, max_retries=0, http_client=http)

    def load(self, name: str, folder: Path) -> httpx.Response:
        return self.http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_adapter(tiny_model, tmp_path_factory.mktemp("adapters") / "v1", 5)
    return put_card(folder, tiny_model, temperature=2.5)


@pytest.fixture(scope="module")
def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Iterator[Running]:
    options = ["--lora", f"tickets-v1={adapter}", "--die-with-parent"]
    options += ["--adapter-root", str(tmp_path_factory.getbasetemp())]
    running = Running(tiny_model, tmp_path_factory.mktemp("engine"), *options)
    yield running
    running.stop()


def ask(client: Any, model: str, text: str, **more: Any) -> Any:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, temperature=0, **more)


def choose(client: Any, model: str, text: str) -> Any:
    extra = {"structured_outputs": {"choice": LABELS}}
    return ask(client, model, text, logprobs=True, top_logprobs=20, extra_body=extra)


def expected_scores(tiny_model: Path, adapter: Path | None, texts: list[str]) -> list[Any]:
    bank = Bank.open(base_model.reference(tiny_model, "fp32"), "cpu")
    if adapter:
        bank.load("v", adapter)
    prompt = PromptSpec(name="", digest="", system=SYSTEM)
    return Scorer(bank).score("v" if adapter else "", prompt, texts, LABELS)


def test_it_lists_its_models_and_says_that_it_is_well(engine: Running) -> None:
    assert [model.id for model in engine.client().models.list()][:2] == ["base", "tickets-v1"]
    health = engine.http.get("/health").json()
    assert health["status"] == "ok" and health["base"].startswith("sha256-")


def test_choices_are_scored_and_come_back_with_calibrated_probabilities(
    engine: Running, tiny_model: Path, adapter: Path
) -> None:
    for model, folder, temperature in (("base", None, 1.0), ("tickets-v1", adapter, 2.5)):
        for text, wanted in zip(TEXTS, expected_scores(tiny_model, folder, TEXTS), strict=True):
            answer = choose(engine.client(), model, text)
            assert answer.choices[0].message.content == wanted.label and answer.model == model
            (token,) = answer.choices[0].logprobs.content
            shares = {entry.token: math.exp(entry.logprob) for entry in token.top_logprobs}
            assert shares == pytest.approx(wanted.probabilities(temperature), abs=1e-4)
            assert token.token == wanted.label == token.top_logprobs[0].token


def test_an_adapter_whose_best_label_is_below_its_threshold_says_nothing(
    engine: Running, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make_adapter(tiny_model, tmp_path_factory.mktemp("unsure") / "v1", 5)
    scored = expected_scores(tiny_model, put_card(folder, tiny_model), TEXTS)
    shares = sorted(max(one.probabilities().values()) for one in scored)
    limit = (shares[0] + shares[-1]) / 2
    put_card(folder, tiny_model, abstain_below=limit)
    assert engine.load("unsure-v1", folder).status_code == 200
    said = [choose(engine.client(), "unsure-v1", text).choices[0].message.content for text in TEXTS]
    assert said == [one.answer(1.0, limit) or "" for one in scored]
    assert "" in said and any(said)
    engine.http.post("/v1/unload_lora_adapter", json={"lora_name": "unsure-v1"})


def test_vllm_s_older_spelling_of_choices_is_understood(engine: Running) -> None:
    answer = ask(engine.client(), "base", "charged twice", extra_body={"guided_choice": LABELS})
    assert answer.choices[0].message.content in LABELS and answer.choices[0].logprobs is None


def test_free_answers_are_those_of_the_library(engine: Running, tiny_model: Path) -> None:
    import torch

    from adapters.encode import encode

    model, tokenizer = base_model.load(base_model.reference(tiny_model, "fp32"), "cpu")
    for text in TEXTS[:3]:
        answer = ask(engine.client(), "base", text, max_tokens=7, logprobs=True, top_logprobs=3)
        tokens = encode(tokenizer, [Message("system", SYSTEM), Message("user", text)]).tokens
        with torch.no_grad():
            written = model.generate(torch.tensor([tokens]), max_new_tokens=7, do_sample=False, pad_token_id=2)
        new = written[0, len(tokens) :].tolist()
        assert answer.choices[0].message.content == tokenizer.decode(new, skip_special_tokens=True)
        assert answer.usage.completion_tokens == len(new) and answer.usage.prompt_tokens == len(tokens)
        assert answer.choices[0].finish_reason == ("stop" if new[-1] == 2 else "length")
        assert len(answer.choices[0].logprobs.content) == len(new)
        assert all(len(token.top_logprobs) == 3 for token in answer.choices[0].logprobs.content)


def test_concurrent_requests_get_each_their_own_answer(engine: Running, tiny_model: Path, adapter: Path) -> None:
    """Two models and several prompts at once: whatever shares a batch, no answer goes astray."""
    client = engine.client()
    base = [one.label for one in expected_scores(tiny_model, None, TEXTS)]
    tuned = [one.label for one in expected_scores(tiny_model, adapter, TEXTS)]
    assert base != tuned
    asked = [(model, index) for _ in range(4) for index in range(len(TEXTS)) for model in ("base", "tickets-v1")]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: choose(client, one[0], TEXTS[one[1]]).choices[0].message.content, asked))
    for (model, index), answer in zip(asked, answers, strict=True):
        assert answer == (base if model == "base" else tuned)[index]


def test_answering_touches_the_busy_file(engine: Running) -> None:
    os.utime(engine.busy, (0, 0)) if engine.busy.exists() else None
    choose(engine.client(), "base", "charged twice")
    assert time.time() - engine.busy.stat().st_mtime < 10


def test_adapters_come_and_go_while_it_answers(engine: Running, tiny_model: Path, tmp_path: Path) -> None:
    import openai

    folder = put_card(make_adapter(tiny_model, tmp_path / "v2", 9), tiny_model)
    client = engine.client()
    with ThreadPoolExecutor(2) as pool:
        steady = [pool.submit(lambda: choose(client, "tickets-v1", "charged twice")) for _ in range(20)]
        assert engine.load("tickets-v2", folder).status_code == 200
        answers = {one.result().choices[0].message.content for one in steady}
    assert len(answers) == 1
    wanted = expected_scores(tiny_model, folder, TEXTS[:4])
    assert [choose(client, "tickets-v2", t).choices[0].message.content for t in TEXTS[:4]] == [w.label for w in wanted]
    again = engine.load("tickets-v2", folder)
    assert again.status_code == 400 and "already" in again.json()["error"]["message"]
    assert engine.http.post("/v1/unload_lora_adapter", json={"lora_name": "tickets-v2"}).status_code == 200
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        choose(client, "tickets-v2", "x")
    gone = engine.http.post("/v1/unload_lora_adapter", json={"lora_name": "tickets-v2"})
    assert gone.status_code == 404


def test_a_bad_adapter_is_refused_with_the_reason_and_the_others_stay(
    engine: Running, tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    before = choose(engine.client(), "tickets-v1", "charged twice").choices[0].message.content

    def copy(name: str) -> Path:
        shutil.copytree(adapter, tmp_path / name)
        return tmp_path / name

    torn = copy("torn")
    weights = torn / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    pickled = copy("pickled")
    (pickled / "optimizer.pt").write_bytes(b"\x80\x04.")
    foreign = put_card(copy("foreign"), tiny_model, quantisation="nf4")
    cases = {tmp_path / "missing": "folder", torn: "damaged", pickled: "pickle", foreign: "nf4"}
    for folder, reason in cases.items():
        reply = engine.load("bad", folder)
        assert reply.status_code == 400 and reason in reply.json()["error"]["message"], reply.text
        assert "Traceback" not in reply.text
    reply = engine.load("base", adapter)
    assert reply.status_code == 400
    assert "bad" not in [model["id"] for model in engine.http.get("/v1/models").json()["data"]]
    assert choose(engine.client(), "tickets-v1", "charged twice").choices[0].message.content == before


@pytest.mark.parametrize(
    "change",
    [
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"model": 3},
        {"stream": True},
        {"n": 2},
        {"temperature": 3},
        {"temperature": "hot"},
        {"temperature": math.nan},
        {"max_tokens": 0},
        {"max_tokens": 10**9},
        {"logprobs": True, "top_logprobs": 21},
        {"structured_outputs": {"choice": []}},
        {"structured_outputs": {"choice": ["a", "a"]}},
        {"structured_outputs": {"choice": ["a", 1]}},
        {"guided_choice": "urgent"},
    ],
)
def test_a_malformed_request_gets_an_openai_error(engine: Running, change: dict[str, Any]) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "x"}]} | change
    reply = engine.http.post("/v1/chat/completions", content=json.dumps(body))
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["message"] and error["type"] == "invalid_request_error"


def test_other_refusals(engine: Running) -> None:
    post = engine.http.post
    assert post("/v1/chat/completions", content=b"{not json").status_code == 400
    assert post("/v1/chat/completions", content=b"[" * 5000).status_code == 400
    assert post("/v1/chat/completions", content=b"x" * (web.BODY_LIMIT + 1)).status_code == 413
    unknown = post("/v1/chat/completions", json={"model": "gpt-9", "messages": [{"role": "user", "content": "x"}]})
    assert unknown.status_code == 404 and unknown.json()["error"]["type"] == "not_found_error"
    assert post("/v1/load_lora_adapter", json={"lora_name": "x"}).status_code == 400
    assert engine.http.get("/nowhere").status_code == 404
    assert engine.http.get("/health").status_code == 200


def test_a_ticket_that_is_far_too_long_is_answered(engine: Running) -> None:
    answer = choose(engine.client(), "base", "word " * 5000)
    assert answer.choices[0].message.content in LABELS
    assert answer.usage.prompt_tokens <= 1024


def test_a_client_that_hangs_up_does_not_stop_the_engine(engine: Running) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "x"}], "max_tokens": 200}
    for _ in range(3):
        with pytest.raises(httpx.TimeoutException):
            engine.http.post("/v1/chat/completions", json=body, timeout=0.01)
    assert choose(engine.client(), "base", "charged twice").choices[0].message.content in LABELS


def test_cancelled_and_failing_work_leaves_the_model_s_thread_alive(tiny_model: Path) -> None:
    bank = Bank.open(base_model.reference(tiny_model, "fp32"), "cpu")
    engine = serve.Engine(bank, Scorer(bank))
    try:
        engine.submit(lambda: time.sleep(0.3))
        cancelled = engine.submit(lambda: 1)
        assert cancelled.cancel()
        broken = engine.submit(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            broken.result(timeout=20)
        assert engine.submit(lambda: 7).result(timeout=20) == 7
    finally:
        engine.close()


def test_too_many_waiting_requests_are_told_to_come_back(tiny_model: Path) -> None:
    bank = Bank.open(base_model.reference(tiny_model, "fp32"), "cpu")
    engine = serve.Engine(bank, Scorer(bank))
    try:
        engine.submit(lambda: time.sleep(1.0))
        time.sleep(0.1)
        with pytest.raises(chat.Refusal) as refused:
            for _ in range(serve.WAITING_LIMIT + 2):
                engine.submit(lambda: None)
        assert refused.value.status == 429
    finally:
        engine.close()


def test_a_missing_base_model_ends_with_one_line_and_a_hint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "adapters.serve", "--base", str(tmp_path), "--port-file", str(tmp_path / "port")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 7 and not (tmp_path / "port").exists()
    assert "error: " in done.stderr and "hint: " in done.stderr and "Traceback" not in done.stderr


def test_it_dies_with_its_parent(tiny_model: Path, tmp_path: Path) -> None:
    parent = tmp_path / "parent.py"
    command = ["-m", "adapters.serve", "--base", str(tiny_model), "--quantisation", "fp32", "--die-with-parent"]
    command += ["--port-file", str(tmp_path / "port")]
    parent.write_text(
        "import subprocess, sys, time\n"
        f"print(subprocess.Popen([sys.executable, *{command!r}]).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    mother = subprocess.Popen([sys.executable, str(parent)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    assert mother.stdout is not None
    child = int(mother.stdout.readline())
    deadline = time.monotonic() + 90
    while not (tmp_path / "port").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    mother.send_signal(signal.SIGKILL)
    mother.wait()
    mother.stdout.close()
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the engine outlived its parent"
        time.sleep(0.05)
