"""Files that tuneloop.toml names and no backup takes along: they are people's own to keep."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from loop.bootstrap import App


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A file or folder, and the key that names it."""

    key: str
    path: str
    there: bool


def named_elsewhere(app: App) -> list[Named]:
    """All of them, in the order of the settings. A base model that is named by its hub id is none."""
    return [
        Named(key=key, path=str(path), there=path.exists())
        for key, path in _paths(app)
        if not path.is_relative_to(app.root / "prompts")  # the folder that is in every backup
    ]


def _paths(app: App) -> Iterator[tuple[str, Path]]:
    """Read as those who use them read them: from the workspace's folder, the base model as it stands."""
    settings = app.settings
    base = Path(settings.model.base).expanduser()
    if settings.model.base and (base.exists() or settings.model.base.startswith(("/", ".", "~"))):
        yield "model.base", base
    if settings.daemon.gateway_token_file:
        yield "daemon.gateway_token_file", app.root / settings.daemon.gateway_token_file
    for kind, backend in settings.backends.items():
        yield f"backends.{kind}.python", Path(backend.python)
    for name, target in settings.notify.items():
        if target.command and os.sep in target.command[0]:
            yield f"notify.{name}.command", app.root / target.command[0]
    for name, task in settings.tasks.items():
        if task.training.general_file:
            yield f"tasks.{name}.training.general_file", app.root / task.training.general_file
