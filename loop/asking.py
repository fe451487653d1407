"""The step that asks a model's endpoint: `python -m loop.asking RUN_FOLDER`, so that no tick waits for an endpoint.

    spec.json           AskSpec: ids and labels, no text; written by the daemon
    answers.jsonl       one Part a line, appended as the answers come; a later attempt asks only for what is missing
    result.json         AskResult, written last
    error.json          StepFailure

The texts, the prompts and the endpoint are those of the workspace that the folder lies in.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from adapters.child import Stopping, run
from adapters.specs import read_json, read_lines, write_json, write_lines
from loop.answerers import baseline_prompt, open_answerer, render, upstream
from loop.bootstrap import App, open_app
from loop.services import read_endpoints
from loop.settings import schema_of
from prompts import templates
from store.errors import EndpointError, ModelError, StepError
from store.kill_points import reached
from store.prompting import PromptSpec

if TYPE_CHECKING:
    from prompts.client import Answerer

ANSWERS = "answers.jsonl"
ROUNDS_A_PART = 4  # requests of each of the endpoint's slots between two writes
TOLERATED = 0.1  # share of requests that may fail for good before the answers mean nothing


class AskItem(msgspec.Struct, frozen=True):
    id: str
    label: str


class AskSpec(msgspec.Struct, frozen=True, kw_only=True):
    task: str
    key: str  # of the settings that it was written under, see `key`
    prompts: list[str]  # name@version
    items: list[AskItem]
    shots: list[str] = []  # record ids of the examples that prompts show
    baseline: bool = False  # the one prompt is the adopted one, as it is deployed


class Given(msgspec.Struct, frozen=True):
    """An answer without a word of what was said: it may echo the ticket. Only free words, which the exam scores, are
    kept, until the look is over."""

    id: str
    label: str | None = None  # None: no label
    latency_ms: float = 0.0
    raw: str = ""  # where there are no labels


class Part(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str
    seconds: float
    given: list[Given]


class AskResult(msgspec.Struct, frozen=True, kw_only=True):
    unanswered: int = 0  # requests that failed for good, at most `TOLERATED` of a prompt's


def key(app: App, task: str, prompt: str = "") -> str:
    """The same for the same question: endpoint, labels, prompt versions. Folders under another key are stale.

    Args:
        app: the workspace.
        task: its name.
        prompt: the one version that is asked; empty: all that compete.
    """
    rules, where = app.settings.task(task), upstream(app.settings)
    own = app.root / "prompts"
    names = [prompt] if prompt else templates.resolve(rules.prompts, own)
    words = [where.url, where.model, rules.labels, rules.description, rules.label_descriptions, rules.shots]
    if rules.free:
        schema = schema_of(app.root, rules)
        words += [schema.text if schema else "", rules.answer_tokens]
    files = [(name, templates.read(name, own)) for name in names]
    return hashlib.sha256(msgspec.json.encode([words, files])).hexdigest()


def given(folder: Path, prompt: str) -> tuple[dict[str, Given], float]:
    """What was answered under a prompt, by record id, and in how many seconds."""
    parts = [part for part in read_lines(folder / ANSWERS, Part) if part.prompt == prompt]
    return {one.id: one for part in parts for one in part.given}, sum(part.seconds for part in parts)


def ask(folder: Path, _: Stopping) -> None:
    """Ask for all answers that `folder` lacks.

    Raises:
        ModelError: the endpoint is down, refuses, or fails too often; what it has answered is kept.
        StepError: the settings are no longer those of the spec.
    """
    # what is answered is on disk: nothing is worth waiting for, least of all a request that hangs
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    spec = read_json(folder / "spec.json", AskSpec)
    with open_app(folder) as app:
        if key(app, spec.task, spec.prompts[0] if spec.baseline else "") != spec.key:
            raise StepError("the settings changed while an endpoint was asked", hint="Restart `tuneloop run`.")
        # a killed writer leaves a torn last line, to which nothing may be appended
        write_lines(folder / "answers.part", read_lines(folder / ANSWERS, Part))
        (folder / "answers.part").replace(folder / ANSWERS)
        rules = app.settings.task(spec.task)
        texts = app.workspace.texts.many([item.id for item in spec.items])
        local = read_endpoints(app.workspace.paths.run)
        with open_answerer(app.settings, local.engine, engine_token=local.engine_token) as answerer:
            unanswered = 0
            for name in spec.prompts:
                if spec.baseline:
                    prompt = baseline_prompt(app, rules, app.state().task(spec.task))
                else:
                    prompt = render(app, rules, name, spec.shots)
                unanswered += _ask_one(folder, name, prompt, answerer, rules.labels, texts)
    write_json(folder / "result.json", AskResult(unanswered=unanswered))
    reached("ask.done")


def _ask_one(
    folder: Path, name: str, prompt: PromptSpec, answerer: Answerer, labels: Sequence[str], texts: dict[str, str]
) -> int:
    """Ask under one prompt; what failed is asked once more in the end. Returns how many stay without an answer."""

    def missing() -> list[str]:
        known, _ = given(folder, name)
        return [one for one in texts if one not in known]

    few = int(TOLERATED * len(texts))
    try:
        for _ in range(2):
            _ask_parts(folder, name, missing(), lambda ids: _answers(answerer, prompt, ids, labels, texts), answerer)
    except EndpointError as error:
        left = missing()
        # a few texts that an endpoint never answers must not hold up everything; an outage is another matter
        if len(left) > few or error.kind not in ("timeout", "server", "garbage", "request"):
            raise
    left = missing()
    if len(left) > few:
        raise ModelError(
            f"{len(left)} of {len(texts)} requests under {name} failed", hint="Check the endpoint: tuneloop doctor"
        )
    return len(left)


def _ask_parts(
    folder: Path, name: str, ids: Sequence[str], answers: Callable[[Sequence[str]], list[Given]], answerer: Answerer
) -> None:
    size = ROUNDS_A_PART * answerer.concurrency
    for first in range(0, len(ids), size):
        started = time.monotonic()
        found = answers(ids[first : first + size])
        part = Part(prompt=name, seconds=round(time.monotonic() - started, 3), given=found)
        with (folder / ANSWERS).open("ab") as file:
            file.write(msgspec.json.encode(part) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        reached("ask.part_kept")


def _answers(
    answerer: Answerer, prompt: PromptSpec, ids: Sequence[str], labels: Sequence[str], texts: dict[str, str]
) -> list[Given]:
    answered = answerer.answer(prompt, [texts[one] for one in ids], labels)
    return [
        Given(record, one.label, round(one.latency_ms, 3), "" if labels else one.raw)
        for record, one in zip(ids, answered, strict=True)
        if not one.error
    ]


if __name__ == "__main__":
    sys.exit(run(ask, sys.argv[1:]))
