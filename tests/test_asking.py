"""Asking an endpoint apart from the tick: real child processes, a real HTTP server that fails in every way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from notify_world import Receiver, completion, receiver

from loop import asking, questions
from loop.asking import AskItem, AskSpec
from loop.bootstrap import App, open_app
from loop.first_settings import default_toml
from loop.intake import ingest_lines
from loop.steps import Steps
from store.errors import ModelError
from store.workspace import Workspace

NAMES = ["zero-shot@1", "zero-shot@2"]


@pytest.fixture
def endpoint() -> Iterator[Receiver]:
    with receiver(reply=completion) as one:
        yield one


@pytest.fixture
def app(tmp_path: Path, endpoint: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """Forty labelled records whose last word is their label, and an endpoint that reads it."""
    root = tmp_path / "w"
    root.mkdir()
    url = f"http://127.0.0.1:{endpoint.port}/v1"
    overrides: dict[str, dict[str, Any]] = {
        "endpoint": {"url": url, "timeout_seconds": 1.0, "retries": 0, "concurrency": 2},
        "task": {"prompts": NAMES},
    }
    (root / "tuneloop.toml").write_text(default_toml(["apple", "iron"], task="t", overrides=overrides))
    Workspace.create(root).close()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with open_app(root) as opened:
        lines = []
        for n in range(40):
            label = ("apple", "iron")[n % 2]
            noise = " ".join(f"{(n * 7919 + i * 104729) % 99991:x}" for i in range(6))
            lines.append(json.dumps({"id": f"r{n}", "text": f"{noise} {label}", "label": label}).encode())
        ingest_lines(opened, "t", lines, source="examples")
        opened.workspace.projections.catch_up()
        yield opened


@pytest.fixture
def steps(app: App) -> Iterator[Steps]:
    children = Steps(app.workspace.paths.logs)
    yield children
    children.stop_all(5)


def until(ready: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_prompt_versions_are_compared_by_a_child_that_leaves_no_words(app: App, steps: Steps) -> None:
    assert questions.compared(app, steps, "t") is None  # at once: a child asks
    event = until(lambda: questions.compared(app, steps, "t"))
    assert [one.prompt for one in event.scores] == NAMES
    assert {(one.correct, one.n, one.abstained) for one in event.scores} == {(event.scores[0].n,) * 2 + (0,)}
    folder = app.workspace.paths.runs / "t-prompts"
    words = b"".join(file.read_bytes() for file in folder.iterdir())
    for text in app.workspace.texts.many([item.id for item in spec_of(folder).items]).values():
        assert text.encode() not in words


def spec_of(folder: Path) -> AskSpec:
    return msgspec.json.decode((folder / "spec.json").read_bytes(), type=AskSpec)


def test_an_outage_is_told_and_what_was_answered_is_not_asked_again(app: App, steps: Steps, endpoint: Receiver) -> None:
    endpoint.reply = lambda body: _until_then(endpoint, completion(body), 11)
    with pytest.raises(ModelError):
        until(lambda: questions.compared(app, steps, "t"))
    folder = app.workspace.paths.runs / "t-prompts"
    before, _ = asking.given(folder, NAMES[0])
    assert before
    endpoint.up()
    endpoint.reply = completion
    endpoint.got.clear()
    event = until(lambda: questions.compared(app, steps, "t"))
    n = event.scores[0].n
    assert [(one.prompt, one.correct, one.n) for one in event.scores] == [(name, n, n) for name in NAMES]
    assert len(endpoint.got) == 2 * n - len(before)


def _until_then(endpoint: Receiver, answer: bytes, asked: int) -> bytes:
    if endpoint.asked >= asked:
        endpoint.manner = "failing"
    return answer


def test_a_torn_answer_is_dropped_and_a_text_that_always_fails_holds_nobody_up(app: App, endpoint: Receiver) -> None:
    folder = app.workspace.paths.runs / "t-prompts"
    folder.mkdir()
    rows = list(app.workspace.texts.many(_ids(app)))
    spec = AskSpec(
        task="t", key=asking.key(app, "t"), prompts=NAMES[:1], items=[AskItem(one, "apple") for one in rows]
    )  # fmt: skip
    (folder / "spec.json").write_bytes(msgspec.json.encode(spec))
    (folder / "answers.jsonl").write_bytes(b'{"prompt":"zero-shot@1","seconds":1,"given":[["torn')
    poison = app.workspace.texts.many(rows[:1])[rows[0]].encode()

    def reply(body: bytes) -> bytes:
        return b"no completion" if poison in body else completion(body)

    endpoint.reply = reply
    done = subprocess.run([sys.executable, "-m", "loop.asking", str(folder)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers, _ = asking.given(folder, NAMES[0])
    assert set(answers) == set(rows[1:])
    assert json.loads((folder / "result.json").read_bytes()) == {"unanswered": 1}
    changed = msgspec.structs.replace(spec, key="another")
    (folder / "result.json").unlink()
    (folder / "spec.json").write_bytes(msgspec.json.encode(changed))
    done = subprocess.run([sys.executable, "-m", "loop.asking", str(folder)], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"settings changed" in (folder / "error.json").read_bytes()


def _ids(app: App) -> list[str]:
    from store import queries

    return [row.record_id for row in queries.labelled(app.workspace.read, "t", side="train")]


def test_a_hanging_endpoint_keeps_nobody_from_ending(app: App, steps: Steps, endpoint: Receiver) -> None:
    endpoint.manner = "hanging"
    assert questions.compared(app, steps, "t") is None
    steps.stop_all(20)  # before it has begun
    folder = app.workspace.paths.runs / "t-prompts"
    child = subprocess.Popen([sys.executable, "-m", "loop.asking", str(folder)], stdout=subprocess.DEVNULL)
    until(lambda: endpoint.asked)
    child.terminate()
    assert child.wait(timeout=30) == 0  # by itself: a kill would be -9
