"""From "this answerer is champion" to production getting its answers: engine, probe, pointer.

Used by the daemon at every tick and by `promote` and `rollback` at once; whoever comes first moves the pointer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from adapters.specs import BaseModelRef
from adapters.web_server import TOKEN_VARIABLE, read_token
from loop import evaluations, production
from loop.answerers import BASE_MODEL, baseline_prompt, training_prompt, upstream
from loop.bootstrap import App
from loop.lease import Lease
from loop.services import Services, read_endpoints
from loop.settings import TaskSettings
from loop.state import TaskState
from loop.steps import MODULES
from store.errors import ModelError
from store.kill_points import reached

log = logging.getLogger("tuneloop.serving")

PROBES = 5  # exam items that a newly loaded adapter answers before it serves


def base_ref(app: App) -> BaseModelRef:
    """The base model as it is trained on and served, brought in first where it is missing.

    Raises:
        ModelError: it is not there and cannot be brought in.
    """
    from adapters import base_model

    rules = app.settings.model
    return base_model.reference(base_model.ensure(rules.base, say=log.info), rules.quantisation, rules.compute)


def add_services(app: App, services: Services, modules: Mapping[str, str] = MODULES) -> None:
    """Register engine, gateway, the mirror to Weights & Biases and the notifier; `services.tend` starts them."""

    def engine(port_file: Path) -> list[str]:
        from adapters import base_model

        chosen = app.settings.model.base
        if not base_model.is_here(chosen):  # it may take long, and the loop goes on meanwhile
            log.info("bringing the base model in; the engine starts once it is here")
            return ["-m", "adapters.base_model", *([chosen] if chosen else [])]
        base = base_ref(app)
        busy = app.workspace.paths.home / "serving.busy"
        arguments = ["-m", modules["engine"], "--base", base.path, "--quantisation", base.quantisation]
        arguments += ["--compute", base.compute]
        arguments += ["--adapter-root", str(app.workspace.paths.artifacts), "--busy-file", str(busy)]
        return [*arguments, "--port-file", str(port_file), "--die-with-parent"]

    def gateway(port_file: Path) -> list[str]:
        arguments = ["-m", modules["gateway"], *gateway_arguments(app)]
        return [*arguments, "--port-file", str(port_file), "--die-with-parent"]

    services.add("engine", engine, keys=("HF_", "HUGGING"), guarded=True)
    services.add("gateway", gateway, host=app.settings.daemon.gateway_host, keys=("OPENAI_", TOKEN_VARIABLE))
    if app.settings.wandb.enabled and app.settings.wandb.mode != "disabled":
        mirror = ["-m", modules["tracking"], *_tracking(app)]
        services.add("tracking", lambda _: mirror, listens=False, keys=("WANDB_",))
    if app.settings.notify:
        arguments = ["-m", modules["notifier"], str(app.root), "--die-with-parent"]
        services.add("notifier", lambda _: arguments, listens=False, keys=("",))  # its targets name their own


def gateway_arguments(app: App) -> list[str]:
    """The gateway's arguments as the settings have them.

    Raises:
        SettingsError: it is to be reached from elsewhere and there is no token, or its file will not do.
    """
    rules = app.settings.daemon
    file = Path(app.root, rules.gateway_token_file) if rules.gateway_token_file else None
    read_token(rules.gateway_host, file)
    arguments = [str(app.root), "--host", rules.gateway_host, "--port", str(rules.gateway_port)]
    arguments += ["--rate", str(rules.gateway_rate), "--rate-all", str(rules.gateway_rate_all)]
    arguments += ["--token-file", str(file)] if file else []
    return arguments + [word for name in rules.gateway_names for word in ("--allow-host", name)]


def _tracking(app: App) -> list[str]:
    rules = app.settings.wandb
    arguments = [str(app.root), "--project", rules.project, "--mode", rules.mode]
    arguments += ["--entity", rules.entity] if rules.entity else []
    return [*arguments, *(["--send-text"] if rules.send_text else []), "--die-with-parent"]


def point_production(app: App, engine_url: str, lease: Lease | None = None) -> list[str]:
    """Bring each task's pointer file in line with the log; an adapter is loaded before it is pointed at.

    Args:
        app: the workspace.
        engine_url: the local engine; empty where it is not up yet (tasks that need it are left for later).
        lease: of the daemon; None for the command line.

    Returns:
        The tasks whose pointer moved.

    Raises:
        ModelError: the engine refuses an adapter; the pointer stays where it was.
        StaleEpoch: another daemon has taken over; the pointer stays where it is.
    """
    moved = []
    epoch = lease.epoch if lease else None
    for name, rules in app.settings.tasks.items():
        with app.workspace.rendering():
            if _point(app, rules, name, engine_url, epoch):
                moved.append(name)
    return moved


def _point(app: App, rules: TaskSettings, name: str, engine_url: str, epoch: int | None) -> bool:
    wanted = pointer_for(app, rules, app.state().task(name), epoch or 0)
    if wanted is None:
        return False
    current = production.read_pointer(app.workspace.paths.production, name)
    # the prompt changes under its name when an example is erased, the endpoint's address with the settings
    if current is not None and production.says(current, wanted):
        return False
    if wanted.kind == "adapter":
        if not engine_url:
            return False
        with _open_engine(app, engine_url) as engine:
            engine.load(wanted.answerer, Path(wanted.adapter))
        reached("production.adapter_loaded")
    with app.workspace.log.fenced(epoch):  # also: one mover at a time
        moved = production.move_pointer(app.workspace.paths.production, wanted)
    if not moved:
        return False
    reached("production.pointer_moved")
    log.info("%s is answered by %s", name, wanted.answerer)
    return True


def _open_engine(app: App, url: str) -> production.Engine:
    told = read_endpoints(app.workspace.paths.run)
    return production.Engine(url, token=told.engine_token if told.engine == url else "")


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
    with _open_engine(app, engine_url) as engine:
        engine.load(adapter, folder)
        if rules.free:
            _probe_words(app, rules, engine, adapter, evaluation)
            return
        for text, expected in evaluations.probe_items(app, evaluation, adapter, PROBES) if evaluation else []:
            served = engine.choose(adapter, prompt, text, rules.labels)
            if served != expected:
                engine.unload(adapter)
                raise ModelError(
                    f"the engine answers {served!r} as {adapter} where the evaluation saw {expected!r}",
                    hint="What is served is not what was judged; the champion goes on serving.",
                )


def _probe_words(app: App, rules: TaskSettings, engine: production.Engine, adapter: str, evaluation: str) -> None:
    """Compare served answers in free words with those that were judged.

    In bf16 a near tie of two tokens may fall either way with the size of the batch, and all that follows then differs
    (measured: 4 of 5 long answers). So half of the answers, of those that were worth most, must begin as judged.

    Raises:
        ModelError: too few are.
    """
    prompt = training_prompt(app, rules)
    probes = evaluations.probe_words(app, rules, evaluation, adapter, PROBES) if evaluation else []
    same = sum(one.begins(engine.choose(adapter, prompt, one.text, [])) for one in probes)
    if 2 * same < len(probes):
        engine.unload(adapter)
        raise ModelError(
            f"the engine begins {len(probes) - same} of {len(probes)} answers otherwise than the evaluation saw",
            hint="What is served is not what was judged; the champion goes on serving.",
        )
