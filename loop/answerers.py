"""Prompts as they are deployed, and where they are answered."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from loop.bootstrap import App
from loop.settings import Settings, TaskSettings, schema_of, secret_in
from loop.state import TaskState
from prompts import templates
from store.errors import ModelError, SettingsError
from store.prompting import PromptSpec

if TYPE_CHECKING:
    from prompts.client import Answerer
    from store.queries import Labelled

OPENAI_URL = "https://api.openai.com/v1"


class Upstream(msgspec.Struct, frozen=True, kw_only=True):
    """Where prompts are answered. An empty URL is the local engine."""

    url: str = ""
    model: str = ""


def upstream(settings: Settings, env: Mapping[str, str] | None = None) -> Upstream:
    """The endpoint of the prompting baseline: the settings', else OPENAI_BASE_URL, else OpenAI's own when a
    key is set, else the local engine.

    Raises:
        SettingsError: OPENAI_BASE_URL holds a key or password.
    """
    values = os.environ if env is None else env
    url = settings.endpoint.url or values.get("OPENAI_BASE_URL", "")
    if problem := secret_in(url):
        raise SettingsError(f"OPENAI_BASE_URL {problem}", hint="Put the key into OPENAI_API_KEY.")
    if not url and values.get("OPENAI_API_KEY"):
        url = OPENAI_URL
    return Upstream(url=url, model=settings.endpoint.model)


def open_answerer(settings: Settings, engine_url: str, model: str = "", *, engine_token: str = "") -> Answerer:
    """A client of the baseline's endpoint; the caller closes it.

    Args:
        settings: for timeout, retries and concurrency.
        engine_url: the local engine, used where no other endpoint is set.
        model: a model's name there; empty: the configured one, or the engine's base model.
        engine_token: the local engine's bearer token.

    Raises:
        ModelError: the local engine is meant and it is not up.
    """
    from prompts.client import Answerer

    where = upstream(settings)
    if not where.url and not engine_url:
        raise ModelError("the engine is not up yet", hint="`tuneloop run` starts it.")
    rules = settings.endpoint
    url = where.url or f"{engine_url.rstrip('/')}/v1"
    return Answerer(
        url,
        os.environ.get("OPENAI_API_KEY", "") if where.url else engine_token,
        model or where.model or BASE_MODEL,
        timeout=rules.timeout_seconds,
        retries=rules.retries,
        concurrency=rules.concurrency,
    )


BASE_MODEL = "base"  # the engine's name for the model without an adapter


def render(app: App, rules: TaskSettings, name: str, shots: Sequence[str] = ()) -> PromptSpec:
    """A prompt version rendered for a task; `shots` are ids of labelled records (erased ones are left out).

    Raises:
        SettingsError: there is no such prompt, or it needs examples and there are none.
    """
    from store import queries  # SQLModel is slow to import, and `status` only wants to know the endpoint

    template = templates.read(name, app.root / "prompts")
    texts = app.workspace.texts.many(list(shots))
    rows = [queries.record(app.workspace.read, one) for one in shots]
    examples = [
        templates.Shot(text=texts[row.record_id], label=row.label, id=row.record_id)
        for row in rows
        if row is not None and row.label and row.record_id in texts
    ]
    schema = schema_of(app.root, rules)
    prompt = templates.render(
        template,
        rules.labels,
        about=rules.description,
        definitions=rules.label_descriptions,
        shots=examples,
        schema=schema.text if schema else "",
    )
    return msgspec.structs.replace(prompt, max_tokens=rules.answer_tokens) if rules.free else prompt


def baseline_prompt(app: App, rules: TaskSettings, task: TaskState) -> PromptSpec:
    """The adopted prompt as it is deployed; where all of its examples were erased, others stand in for them."""
    from store import queries

    shots = list(app.workspace.texts.many(task.baseline_shots))
    if task.baseline_shots and not shots:
        shots = choose_shot_records(app, rules, queries.labelled(app.workspace.read, task.task, side="train"))
    else:
        shots = [one for one in task.baseline_shots if one in shots]
    return render(app, rules, task.baseline, shots)


def training_prompt(app: App, rules: TaskSettings) -> PromptSpec:
    """The prompt that adapters are trained and served with: the first of the task's that needs neither
    examples nor reasoning, because its label follows at once and its prefix is short."""
    own = app.root / "prompts"
    for name in templates.resolve(rules.prompts, own):
        template = templates.read(name, own)
        if not template.shots and not template.reasoning:
            return render(app, rules, name)
    return render(app, rules, "zero-shot@1")


def choose_shot_records(app: App, rules: TaskSettings, rows: Sequence[Labelled]) -> list[str]:
    """Ids of the examples that few-shot prompts show, drawn from labelled training-side records."""
    texts = app.workspace.texts.many([row.record_id for row in rows])
    by_text = {texts[row.record_id]: row.record_id for row in rows if row.record_id in texts}
    shots = [templates.Shot(text=texts[row.record_id], label=row.label) for row in rows if row.record_id in texts]
    chosen = templates.choose_shots(shots, rules.labels, rules.shots)
    return [by_text[shot.text] for shot in chosen]
