"""The composition root: settings, store and clock, put together once and handed to whoever acts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from loop import settings as settings_module
from loop import snapshot
from loop.settings import Settings
from loop.state import LoopState, evolve
from store import keys
from store.errors import UsageError
from store.workspace import Workspace


def utc_now() -> datetime:
    """The wall clock, aware, in UTC."""
    return datetime.now(UTC)


class App:
    """An open workspace with its settings and folded state."""

    def __init__(
        self, root: Path, settings: Settings, workspace: Workspace, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.root = root
        self.settings = settings
        self.workspace = workspace
        self.now = clock
        self._state = self._start()

    def _start(self) -> LoopState:
        state = snapshot.load(self.workspace.paths.run)
        # a database put back from a backup may be older than the copy
        return state if state.position <= self.workspace.log.head().position else LoopState()

    def state(self) -> LoopState:
        """The state after the log's last event; costs as much as there are new events."""
        state = self._state
        for recorded in self.workspace.log.read(after=state.position):
            state = evolve(state, recorded)
        self._state = state
        return state

    def save_snapshot(self) -> None:
        """Keep a disposable copy of the state for the next start."""
        snapshot.save(self.workspace.paths.run, self._state)

    def close(self) -> None:
        self.workspace.close()

    def __enter__(self) -> App:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_root(start: Path | None = None) -> Path:
    """The nearest folder, from `start` upwards, that holds a tuneloop.toml.

    Raises:
        UsageError: there is none.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / settings_module.FILE_NAME).is_file():
            return folder
    raise UsageError(f"{here} is in no workspace", hint="Make one with `tuneloop init`, or name it with -w DIR.")


def open_app(
    start: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> App:
    """Open the workspace that `start` lies in.

    Raises:
        UsageError: there is no workspace.
        SettingsError: its settings cannot be read.
        StoreError: its database cannot be opened.
    """
    root = find_root(start)
    settings = settings_module.load(root, env)
    keys.declare(name for target in settings.notify.values() for name in (target.url_env, target.secret_env))
    return App(root, settings, Workspace.open(root), clock)
