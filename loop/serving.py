"""From "this answerer is champion" to production getting its answers: engine, probe, pointer.

Used by the daemon at every tick and by `promote` and `rollback` at once; whoever comes first moves the pointer.
"""

from __future__ import annotations

import logging
from pathlib import Path

from adapters.specs import BaseModelRef
from loop import evaluations, production
from loop.answerers import BASE_MODEL, baseline_prompt, training_prompt, upstream
from loop.bootstrap import App
from loop.services import Services
from loop.settings import TaskSettings
from loop.state import TaskState
from store.errors import ModelError

log = logging.getLogger("tuneloop.serving")

PROBES = 5  # exam items that a newly loaded adapter answers before it serves


def base_ref(app: App) -> BaseModelRef:
    """The base model as it is trained on and served, brought in first where it is missing.

    Raises:
        ModelError: it is not there and cannot be brought in.
    """
    from adapters import base_model

    rules = app.settings.model
    return base_model.reference(base_model.ensure(rules.base, say=log.info), rules.quantisation)


def add_services(app: App, services: Services) -> None:
    """Register engine, gateway and the mirror to Weights & Biases; `services.tend` starts them."""

    def engine(port_file: Path) -> list[str]:
        base = base_ref(app)
        busy = app.workspace.paths.home / "serving.busy"
        arguments = ["-m", "adapters.serve", "--base", base.path, "--quantisation", base.quantisation]
        return [*arguments, "--port-file", str(port_file), "--busy-file", str(busy), "--die-with-parent"]

    def gateway(port_file: Path) -> list[str]:
        port = str(app.settings.daemon.gateway_port)
        arguments = ["-m", "loop.gateway", str(app.root), "--port", port]
        return [*arguments, "--port-file", str(port_file), "--die-with-parent"]

    services.add("engine", engine)
    services.add("gateway", gateway)
    if app.settings.wandb.enabled and app.settings.wandb.mode != "disabled":
        services.add("tracking", lambda _: _tracking(app), listens=False)


def _tracking(app: App) -> list[str]:
    rules = app.settings.wandb
    arguments = ["-m", "adapters.tracking", str(app.root), "--project", rules.project, "--mode", rules.mode]
    arguments += ["--entity", rules.entity] if rules.entity else []
    return [*arguments, *(["--send-text"] if rules.send_text else []), "--die-with-parent"]


def point_production(app: App, engine_url: str, epoch: int = 0) -> list[str]:
    """Bring each task's pointer file in line with the log; an adapter is loaded before it is pointed at.

    Args:
        app: the workspace.
        engine_url: the local engine; empty where it is not up yet (tasks that need it are left for later).
        epoch: of the daemon; 0 for the command line.

    Returns:
        The tasks whose pointer moved.

    Raises:
        ModelError: the engine refuses an adapter; the pointer stays where it was.
    """
    moved = []
    for name, rules in app.settings.tasks.items():
        wanted = pointer_for(app, rules, app.state().task(name), epoch)
        if wanted is None:
            continue
        current = production.read_pointer(app.workspace.paths.production, name)
        if current is not None and (current.answerer, current.position) == (wanted.answerer, wanted.position):
            continue
        if wanted.kind == "adapter":
            if not engine_url:
                continue
            with production.Engine(engine_url) as engine:
                engine.load(wanted.answerer, Path(wanted.adapter))
        if production.move_pointer(app.workspace.paths.production, wanted):
            log.info("%s is answered by %s", name, wanted.answerer)
            moved.append(name)
    return moved


def pointer_for(app: App, rules: TaskSettings, task: TaskState, epoch: int = 0) -> production.Pointer | None:
    """What the pointer file should say; None while no prompt was adopted."""
    champion = task.champion
    if not task.baseline:
        return None
    if champion.kind == "adapter":
        return production.Pointer(
            task=task.task,
            answerer=champion.answerer,
            kind="adapter",
            labels=rules.labels,
            prompt=training_prompt(app, rules),
            adapter=str(app.workspace.artifacts.path(champion.artifact)),
            position=champion.position,
            epoch=epoch,
        )
    where = upstream(app.settings)
    return production.Pointer(
        task=task.task,
        answerer=champion.answerer,
        kind="prompt",
        labels=rules.labels,
        prompt=baseline_prompt(app, rules, task),
        position=champion.position,
        epoch=epoch,
        upstream=where.url,
        model=where.model or BASE_MODEL,
    )


def load_and_probe(
    app: App, rules: TaskSettings, *, adapter: str, artifact: str, evaluation: str, engine_url: str
) -> None:
    """Load an adapter and compare its served answers with those it was judged by.

    Args:
        app: the workspace.
        rules: the task's settings.
        adapter: the name it is served under.
        artifact: its address.
        evaluation: address of the predictions it was judged by; empty: nothing to compare with.
        engine_url: the local engine.

    Raises:
        ModelError: the engine refuses it or answers otherwise (a hot swap can fail silently: peft #3581).
    """
    folder = app.workspace.artifacts.path(artifact, verify=True)
    prompt = training_prompt(app, rules)
    with production.Engine(engine_url) as engine:
        engine.load(adapter, folder)
        for text, expected in evaluations.probe_items(app, evaluation, adapter, PROBES) if evaluation else []:
            served = engine.choose(adapter, prompt, text, rules.labels)
            if served != expected:
                engine.unload(adapter)
                raise ModelError(
                    f"the engine answers {served!r} as {adapter} where the evaluation saw {expected!r}",
                    hint="What is served is not what was judged; the champion goes on serving.",
                )
