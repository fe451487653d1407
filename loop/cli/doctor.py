"""What `doctor` looks at. Each check is a function that gives its lines; one that breaks is itself a finding."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from store.errors import TuneloopError
from store.keys import hide

if TYPE_CHECKING:
    from loop.bootstrap import App

PACKAGES = ("loop", "store", "adapters", "prompts")
CORE = (
    "apscheduler", "httpx", "msgspec", "openai", "pydantic-settings", "rich", "scikit-learn", "sqlmodel", "starlette",
    "typer", "uvicorn", "watchdog",
)  # fmt: skip
TRAINING = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "safetensors", "wandb")
MIN_PYTHON = (3, 11)
FREE_FAIL, FREE_WARN = 200, 2000  # MiB
MEMORY_WARN = 4096  # MiB
TIMEOUT = 3.0  # seconds that an endpoint gets to answer


class Check(msgspec.Struct, frozen=True):
    level: Literal["ok", "warn", "fail"]
    name: str
    detail: str
    advice: str = ""


def examine(start: Path | None) -> list[Check]:
    """All checks; those of the workspace only where there is one."""
    from loop import bootstrap
    from loop.cli.doctor_copies import backups, litestream
    from loop.cli.doctor_stored import stored

    found: list[Check] = []
    for check in (python, packages, layout, sqlite, machine):
        found += _run(check.__name__, check)
    try:
        app = bootstrap.open_app(start)
    except TuneloopError as error:
        found.append(Check("warn" if error.exit_code == 2 else "fail", "workspace", error.message, error.hint))
        return found
    with app:
        found.append(Check("ok", "workspace", f"{app.root}, tasks: {', '.join(app.settings.tasks)}"))
        copies = (backups, litestream)
        for look in (permissions, disk, pragmas, model, thresholds, endpoint, services, notifications, stored, *copies):
            found += _run(look.__name__, lambda look=look: look(app))  # type: ignore[misc]
    return found


def _run(name: str, check: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(check())
    except TuneloopError as error:
        return [Check("fail", name, error.message, error.hint)]
    except Exception as error:
        return [Check("fail", name, hide(f"this could not be looked at: {type(error).__name__}: {error}"))]


# ---------------------------------------------------------------- the machine


def python() -> Iterator[Check]:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= MIN_PYTHON:
        yield Check("ok", "python", f"{version} ({sys.executable})")
    else:
        yield Check("fail", "python", version, f"tuneloop needs Python {'.'.join(map(str, MIN_PYTHON))} or newer.")


def packages() -> Iterator[Check]:
    """What is installed, without importing any of it."""
    missing = [name for name in CORE if _version(name) is None]
    if missing:
        yield Check("fail", "packages", f"missing: {', '.join(missing)}", "pip install tuneloop, or `make install`.")
    else:
        yield Check("ok", "packages", f"all {len(CORE)} for the loop itself")
    missing = [name for name in TRAINING if _version(name) is None]
    if missing:
        yield Check(
            "warn",
            "training stack",
            f"missing: {', '.join(missing)}",
            "Labelling works without it. To train and serve here: pip install 'tuneloop[train]'.",
        )
    else:
        shown = ", ".join(f"{name} {_version(name)}" for name in TRAINING[:5])
        yield Check("ok", "training stack", shown)


def layout() -> Iterator[Check]:
    """Our four packages have generic names: all must come from one place."""
    places: dict[str, str] = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            yield Check("fail", "layout", f"the package {name!r} cannot be found", "Install tuneloop anew.")
            return
        places[name] = str(Path(spec.origin).resolve().parent.parent)
    if len(set(places.values())) == 1:
        yield Check("ok", "layout", f"{', '.join(PACKAGES)} come from {places['loop']}")
    else:
        told = ", ".join(f"{name} from {place}" for name, place in places.items())
        yield Check(
            "fail", "layout", told, "Another package hides one of ours: give tuneloop an environment of its own."
        )


def sqlite() -> Iterator[Check]:
    """The SQLite that is linked, and whether its write-ahead log is safe."""
    from store import database

    told = f"{database.driver.sqlite_version} by {database.driver.__name__.split('.')[0]}"  # type: ignore[attr-defined]
    if database.WAL_IS_SAFE:
        yield Check("ok", "sqlite", f"{told}, write-ahead log")
    else:
        yield Check(
            "warn",
            "sqlite",
            f"{told}: before 3.51.3 its write-ahead log can be corrupted, so the slower rollback journal is used",
            "pip install 'pysqlite3>=0.6.1'",
        )


def machine() -> Iterator[Check]:
    """Cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = f"{cores} cores, {memory / 1024:.1f} GiB of memory"
    if memory < MEMORY_WARN:
        yield Check("warn", "machine", told, f"The built-in model wants {MEMORY_WARN // 1024} GiB while it trains.")
    else:
        yield Check("ok", "machine", told)


# ---------------------------------------------------------------- the workspace


def permissions(app: App) -> Iterator[Check]:
    """Everything can be written, and only by us."""
    paths = app.workspace.paths
    barred = [str(folder) for folder in paths.folders() if not os.access(folder, os.R_OK | os.W_OK | os.X_OK)]
    if barred:
        yield Check("fail", "permissions", f"not writable: {', '.join(barred)}", "chown or chmod them for this user.")
        return
    if paths.home.stat().st_mode & 0o077:
        yield Check(
            "warn",
            "permissions",
            f"others may look into {paths.home}, which holds customer text",
            f"chmod 700 {paths.home}",
        )
    else:
        yield Check("ok", "permissions", "the workspace is ours to write, and nobody else's to read")


def disk(app: App) -> Iterator[Check]:
    """Space for checkpoints and the log."""
    free = shutil.disk_usage(app.root).free >> 20
    level: Literal["ok", "warn", "fail"] = "fail" if free < FREE_FAIL else "warn" if free < FREE_WARN else "ok"
    advice = "" if level == "ok" else "A training writes some hundred MiB of checkpoints: free some space."
    yield Check(level, "disk", f"{free / 1024:.1f} GiB free", advice)


def pragmas(app: App) -> Iterator[Check]:
    """What SQLite really does on our own connections."""
    from store.database import JOURNAL_MODE, raw

    with app.workspace.database.writing() as connection:
        ask = raw(connection)
        journal, synchronous, deletes = (
            ask.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "secure_delete")
        )
    told = f"journal_mode {journal}, synchronous {synchronous}, secure_delete {deletes}"
    if journal == JOURNAL_MODE and synchronous == 2 and deletes == 1:
        yield Check("ok", "database", told)
    else:
        yield Check(
            "fail", "database", f"{told}: acknowledged events could be lost", "Is the file system a network one?"
        )


def model(app: App) -> Iterator[Check]:
    """The base model's files, without loading or fetching them."""
    from adapters import base_model

    chosen = app.settings.model.base
    named = Path(chosen).expanduser()
    if chosen and (named.exists() or chosen.startswith(("/", ".", "~"))):
        folder, complete = named, (named / "config.json").is_file() and any(named.glob("*.safetensors"))
        missing = Check(
            "fail",
            "base model",
            f"{folder} holds no base model",
            "Give a folder with config.json, safetensors and tokenizer as model.base, or leave it empty.",
        )
    else:
        folder = base_model.cache_folder() / (chosen.replace("/", "--") or base_model.NAME)
        complete = (folder / base_model.COMPLETE).is_file()
        missing = Check(
            "warn",
            "base model",
            f"{chosen or base_model.NAME} is not in {folder.parent} yet: it is brought in when it is first needed",
            f"Bring it in ahead of time: python -m adapters.base_model {chosen}".rstrip(),
        )
    if not complete:
        yield missing
        return
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) >> 20
    yield Check("ok", "base model", f"{folder} ({size} MiB), served as {app.settings.model.quantisation}")


def thresholds(app: App) -> Iterator[Check]:
    """A gate without thresholds promotes nothing."""
    for name, rules in app.settings.tasks.items():
        if rules.gate.quality_thresholds:
            yield Check("ok", f"gate of {name}", f"has thresholds; judges from {rules.gate.min_exam} exam labels on")
        else:
            yield Check(
                "warn",
                f"gate of {name}",
                "no threshold says how good a candidate has to be, so nothing is promoted",
                "Set better_than_baseline or not_worse_margin in tuneloop.toml.",
            )


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


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
