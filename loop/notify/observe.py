"""What is wrong right now: a look at the services, the mirror, the disk and what the log has told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import datetime

import httpx

from loop.bootstrap import App
from loop.health import mirror_lag
from loop.notify.messages import Teller
from loop.services import read_endpoints

PROBE_SECONDS = 3.0


def faults(app: App, teller: Teller, now: datetime) -> dict[str, str]:
    """Name -> one sentence of everything that is wrong, for `health.follow`."""
    return dict([*services(app), *_mirror(app, now), *_disk(app), *_told(teller, now)])


def services(app: App) -> Iterator[tuple[str, str]]:
    """Engine and gateway, where they are not up or do not answer."""
    places = read_endpoints(app.workspace.paths.run)
    for name, url, path in (("engine", places.engine, "/v1/models"), ("gateway", places.gateway, "/health")):
        if not url:
            yield name, f"The {name} is not up."
            continue
        try:
            status = httpx.get(f"{url.rstrip('/')}{path}", timeout=PROBE_SECONDS, trust_env=False).status_code
        except httpx.HTTPError:
            status = 0
        if not 0 < status < 500:
            yield name, f"The {name} does not answer."


def _mirror(app: App, now: datetime) -> Iterator[tuple[str, str]]:
    from adapters.tracking import resolve_mode

    rules = app.settings.wandb
    if not rules.enabled or resolve_mode(rules.mode, os.environ) == "disabled":
        return
    missing, oldest = mirror_lag(app)
    if oldest is not None and (now - oldest).total_seconds() > app.settings.alerts.wandb_behind_seconds:
        yield "weights-and-biases", f"{missing} events are not mirrored yet."


def _disk(app: App) -> Iterator[tuple[str, str]]:
    free = shutil.disk_usage(app.root).free >> 20
    if free < app.settings.alerts.disk_free_mb:
        yield "disk", f"{free} MiB are free."


def _told(teller: Teller, now: datetime) -> Iterator[tuple[str, str]]:
    for task, run in teller.parked.items():
        yield f"parked-{task}", f"{run} is parked; `tuneloop train` tries again."
    if teller.quarantine_grows(now):
        yield "quarantine", "Many lines could not be taken in within the last hour; see .tuneloop/quarantine."
