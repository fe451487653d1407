"""The part of `doctor` that looks outside the workspace: endpoint, services, Weights & Biases, those who are told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from loop.cli.doctor import Check
from loop.cli.output import span
from store.wording import counted

if TYPE_CHECKING:
    from loop.bootstrap import App

TIMEOUT = 3.0  # seconds that an endpoint gets to answer


def endpoint(app: App) -> Iterator[Check]:
    """Where prompts are answered."""
    import httpx

    from loop.answerers import upstream

    where = upstream(app.settings)
    if not where.url:
        yield Check("ok", "endpoint", "prompts are answered by the local engine (no URL and no key is set)")
        return
    key = os.environ.get("OPENAI_API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.get(f"{where.url.rstrip('/')}/models", headers=headers, timeout=TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield Check(
            "fail",
            "endpoint",
            f"{where.url} does not answer: {type(error).__name__}",
            "Check endpoint.url in tuneloop.toml, OPENAI_BASE_URL and the network.",
        )
        return
    if reply.status_code in (401, 403):
        yield Check(
            "fail", "endpoint", f"{where.url} refuses the key (HTTP {reply.status_code})", "Set OPENAI_API_KEY."
        )
    elif reply.status_code >= 500:
        yield Check("fail", "endpoint", f"{where.url} gives HTTP {reply.status_code}", "Is it still starting?")
    elif reply.status_code >= 400:
        yield Check(
            "warn", "endpoint", f"{where.url}/models gives HTTP {reply.status_code}", "Is the path right (…/v1)?"
        )
    else:
        yield Check("ok", "endpoint", f"{where.url} answers")


def services(app: App) -> Iterator[Check]:
    """The daemon, its engine and its gateway."""
    import httpx

    from loop.lease import holder
    from loop.services import read_endpoints

    running = holder(app.workspace.paths.run)
    yield Check("ok", "daemon", f"running ({running})" if running else "not running; `tuneloop run` starts it")
    places = read_endpoints(app.workspace.paths.run)
    for name, url in (("engine", places.engine), ("gateway", places.gateway)):
        if not url:
            continue
        logs = app.workspace.paths.logs / f"{name}.log"
        try:
            httpx.get(f"{url.rstrip('/')}/health", timeout=TIMEOUT, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            yield Check("fail", name, f"{url} does not answer: {type(error).__name__}", f"Look at {logs}.")
        else:
            yield Check("ok", name, f"{url} answers")


def notifications(app: App) -> Iterator[Check]:
    """Who is told what happens, and whether it arrives."""
    from loop.cli.notify import in_words, target_status

    for name, target in app.settings.notify.items():
        values = target_status(app, name)
        missing = [one for one in (target.url_env, target.secret_env) if one and not os.environ.get(one)]
        if missing:
            yield Check(
                "warn", f"notify {name}", f"{missing[0]} is not set here", "The daemon needs it: export it there."
            )
        elif values["last_error"] or values["dropped"]:
            yield Check("warn", f"notify {name}", in_words(values), f"Try it: tuneloop notify test {name}")
        else:
            yield Check("ok", f"notify {name}", in_words(values))


def weights_and_biases(app: App) -> Iterator[Check]:
    """The mirror: its mode, whether there is a key (which is never shown), and how far it is behind."""
    from adapters.tracking import resolve_mode
    from loop.health import mirror_lag

    rules = app.settings.wandb
    mode = resolve_mode(rules.mode, os.environ)
    if not rules.enabled or mode == "disabled":
        yield Check("ok", "wandb", "turned off")
        return
    try:
        metadata.version("wandb")
    except metadata.PackageNotFoundError:
        yield Check(
            "warn", "wandb", "not installed: nothing is mirrored", "pip install wandb, or turn it off: [wandb]."
        )
        return
    without_mode = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    has_key = resolve_mode("auto", without_mode) == "online"
    told = f"{mode}, {'a key is set' if has_key else 'no key is set'}"
    missing, oldest = mirror_lag(app)
    waiting = len(list(app.workspace.paths.wandb.glob("**/offline-run-*")))
    told += f", {counted(missing, 'event')} behind" if missing else ", up to date"
    told += f", {counted(waiting, 'offline run')} kept" if waiting else ""
    age = (app.now() - oldest).total_seconds() if oldest else 0.0
    if mode == "online" and not has_key:
        yield Check("warn", "wandb", told, "Export WANDB_API_KEY for the daemon, or `wandb login`.")
    elif age > app.settings.alerts.wandb_behind_seconds:
        advice = "Does the daemon run? Else .tuneloop/logs/tracking.log says why."
        yield Check("warn", "wandb", f"{told}, the oldest {span(age)} old", advice)
    else:
        advice = f"Upload them with: wandb sync {app.workspace.paths.wandb}/wandb/offline-run-*" if waiting else ""
        yield Check("ok", "wandb", told, advice)


CHECKS = (endpoint, services, weights_and_biases, notifications)
