"""How each part of a running loop is, from what lies in the workspace and a quick look at what listens.

Used by `tuneloop status` and the gateway's metrics. Nothing here folds the log or takes a lock that others need.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec

from adapters.specs import write_json
from loop import pulse
from loop.lease import holder
from loop.services import Endpoints, read_endpoints
from store.errors import SettingsError, StepError
from store.wording import counted
from store.workspace import ERASING

if TYPE_CHECKING:
    from loop.bootstrap import App
    from store.verify import Finding

State = Literal["ok", "off", "warn", "down"]
HUNG_SECONDS = 60.0  # beyond the longest wait between two ticks: a handler may load a model
CONNECT_SECONDS = 0.5
VERIFIED = "verified.json"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the loop. `since`: from when on it has not been well, where that is known."""

    name: str
    state: State
    detail: str
    since: datetime | None = None


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The last time that somebody checked the whole workspace."""

    at: datetime
    position: int  # of the log's head then
    problems: int


class _Cursor(msgspec.Struct):
    position: int = 0


class _Episode(msgspec.Struct):
    since: datetime


class _Faults(msgspec.Struct):
    episodes: dict[str, _Episode] = {}


def parts(app: App, now: datetime) -> list[Part]:
    """Daemon, engine, gateway, mirror, notifier, endpoint, disk, log, and an erasure that is not done.

    Takes a second at most where all is well."""
    run = app.workspace.paths.run
    running = holder(run)
    places = read_endpoints(run)
    since = _since(app.workspace.paths.notify)
    found = [_daemon(app, running)]
    found += _services(app, places, bool(running), since)
    found += [_mirror(app, places, bool(running), now, since), _notifier(app, places, bool(running))]
    return [*found, _endpoint(app), _disk(app, since), _log(app), *_erasing(app, bool(running))]


# ---------------------------------------------------------------- processes


def _daemon(app: App, running: str) -> Part:
    if not running:
        return Part(name="daemon", state="off", detail="not running: `tuneloop run`")
    beat = pulse.read(app.workspace.paths.run)
    told = f"running ({running})"
    if beat is None:
        return Part(name="daemon", state="ok", detail=told)
    age = pulse.age(beat)
    if age > beat.longest_wait + HUNG_SECONDS:
        return Part(name="daemon", state="down", detail=f"{told}, but has not ticked for {age:.0f} s", since=beat.at)
    if beat.held:
        worst = max(beat.held, key=lambda one: one.failures)
        failing = f"{worst.what} failed {worst.failures} times: {worst.error}"
        return Part(name="daemon", state="warn", detail=f"{told}; {failing}")
    return Part(name="daemon", state="ok", detail=told)


def _services(app: App, places: Endpoints, running: bool, since: dict[str, datetime]) -> list[Part]:
    addresses = {"engine": places.engine, "gateway": places.gateway}
    if not running:
        return [Part(name=name, state="off", detail="the daemon starts it") for name in addresses]
    from loop.notify.observe import services  # imports httpx, which costs more than all the rest

    faults = dict(services(app))
    return [
        Part(name=name, state="down", detail=faults[name], since=since.get(name))
        if name in faults
        else Part(name=name, state="ok", detail=f"{url}/v1")
        for name, url in addresses.items()
    ]


def _mirror(app: App, places: Endpoints, running: bool, now: datetime, since: dict[str, datetime]) -> Part:
    rules = app.settings.wandb
    mode = os.environ.get("WANDB_MODE", "") if rules.mode == "auto" else rules.mode
    if not rules.enabled or mode == "disabled":
        return Part(name="mirror", state="off", detail="Weights & Biases is turned off")
    missing, oldest = mirror_lag(app)
    told = f"{counted(missing, 'event')} behind" if missing else "up to date"
    if not running:
        return Part(name="mirror", state="off", detail=f"{told}; the daemon starts it")
    late = oldest is not None and (now - oldest).total_seconds() > app.settings.alerts.wandb_behind_seconds
    if late or not alive(places.pids.get("tracking", 0)):
        detail = f"{told}; .tuneloop/logs/tracking.log says why"
        return Part(name="mirror", state="warn", detail=detail, since=since.get("weights-and-biases", oldest))
    return Part(name="mirror", state="ok", detail=told)


def _notifier(app: App, places: Endpoints, running: bool) -> Part:
    targets = sorted(app.settings.notify)
    if not targets:
        return Part(name="notifier", state="off", detail="nobody is to be told: see [notify] in tuneloop.toml")
    from loop.notify.outbox import read_box

    waiting, failing = 0, []
    for name in targets:
        try:
            box = read_box(app.workspace.paths.notify / f"{name}.json")
        except StepError:
            failing.append(name)
            continue
        waiting += len(box.waiting)
        if box.last_error:
            failing.append(name)
    if failing:
        return Part(name="notifier", state="warn", detail=f"{', '.join(failing)} cannot be told; {waiting} waiting")
    if not running:
        return Part(name="notifier", state="off", detail=f"{waiting} waiting; the daemon starts it")
    if not alive(places.pids.get("notifier", 0)):
        return Part(name="notifier", state="down", detail="its process is not there; see .tuneloop/logs/notifier.log")
    return Part(name="notifier", state="ok", detail=f"{', '.join(targets)}; {waiting} waiting")


def alive(pid: int) -> bool:
    """Whether there is a process with this id that has not ended."""
    try:
        status = Path("/proc", str(pid), "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return pid > 0 and status.rpartition(")")[2].split()[0] != "Z"


# ---------------------------------------------------------------- the rest


def mirror_lag(app: App) -> tuple[int, datetime | None]:
    """(events that the mirror to Weights & Biases still lacks, time of the oldest of them)."""
    after = 0
    with contextlib.suppress(OSError, UnicodeDecodeError, msgspec.MsgspecError):
        after = msgspec.json.decode((app.workspace.paths.wandb / "cursor.json").read_bytes(), type=_Cursor).position
    oldest = next(app.workspace.log.read(after, 1), None)
    if oldest is None:
        return 0, None
    return app.workspace.log.head().position - after, oldest.recorded_at


def _endpoint(app: App) -> Part:
    """Whether anybody listens where prompts are answered; the key is not sent (`tuneloop doctor` asks properly)."""
    import socket

    from loop.answerers import upstream

    try:
        url = upstream(app.settings).url
    except SettingsError as error:
        return Part(name="endpoint", state="down", detail=error.message)
    if not url:
        return Part(name="endpoint", state="off", detail="prompts are answered by the engine")
    parsed = urlsplit(url)
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        socket.create_connection((parsed.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        detail = f"{url} cannot be reached: {error.strerror or type(error).__name__}"
        return Part(name="endpoint", state="down", detail=detail)
    return Part(name="endpoint", state="ok", detail=f"{url} listens")


def _disk(app: App, since: dict[str, datetime]) -> Part:
    free = shutil.disk_usage(app.root).free >> 20
    short = free < app.settings.alerts.disk_free_mb
    detail = f"{free / 1024:.1f} GiB free"
    return Part(name="disk", state="warn" if short else "ok", detail=detail, since=since.get("disk") if short else None)


def _log(app: App) -> Part:
    head = app.workspace.log.head().position
    seen = read_verified(app)
    told = counted(head, "event")
    lost = app.workspace.log.lost()
    if lost is not None:
        return Part(name="log", state="down", detail=f"{lost}: `tuneloop doctor` says what to do")
    if seen is None:
        return Part(name="log", state="ok", detail=f"{told}, never verified here: `tuneloop verify`")
    if seen.problems:
        return Part(
            name="log", state="down", detail=f"{told}, {counted(seen.problems, 'problem')} found", since=seen.at
        )
    return Part(
        name="log", state="ok", detail=f"{told}, verified up to {seen.position} at {seen.at:%Y-%m-%d %H:%M} UTC"
    )


def _erasing(app: App, running: bool) -> list[Part]:
    """What was promised to be forgotten and is not; nothing where nothing is."""
    if not (app.workspace.paths.home / ERASING).exists():
        return []
    from loop.erasing import pending

    found = pending(app)
    if found is None:  # done meanwhile
        return []
    if found.problem:
        detail = f".tuneloop/{ERASING} cannot be read: `tuneloop doctor` says what to do"
        return [Part(name="erasing", state="down", detail=detail, since=found.since)]
    told = counted(found.records, "record")
    if found.at_work:
        return [Part(name="erasing", state="ok", detail=f"{told} at this moment", since=found.since)]
    who = "the daemon's next tick finishes it" if running else "`tuneloop doctor --fix` or the daemon finishes it"
    return [Part(name="erasing", state="warn", detail=f"of {told} was interrupted; {who}", since=found.since)]


def note_verified(app: App, findings: Iterable[Finding]) -> None:
    """Keep what a verification found, for `read_verified`; a disk that is full keeps the note before."""
    problems = sum(one.level == "fail" for one in findings)
    seen = Verified(at=app.now(), position=app.workspace.log.head().position, problems=problems)
    with contextlib.suppress(OSError):
        write_json(app.workspace.paths.run / VERIFIED, seen)


def read_verified(app: App) -> Verified | None:
    """What the last verification found; None where there was none."""
    try:
        return msgspec.json.decode((app.workspace.paths.run / VERIFIED).read_bytes(), type=Verified)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return None


def _since(folder: Path) -> dict[str, datetime]:
    """Since when the notifier has seen each fault; it looks only where somebody is to be told."""
    try:
        told = msgspec.json.decode((folder / "_faults.json").read_bytes(), type=_Faults).episodes
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return {}
    return {name: one.since for name, one in told.items()}
