"""What every verb shares: the options' types, opening the workspace, choosing the task, who is asking."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from store.errors import UsageError

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
TaskName = Annotated[str, typer.Option("--task", "-t", help="Name of the task; needed where there are several.")]
Annotator = Annotated[
    str, typer.Option("--as", envvar="TUNELOOP_ANNOTATOR", help="Your name in the log; empty: your login name.")
]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; it is kept in the log.")]


def open_app(ctx: typer.Context, *, caught_up: bool = True) -> App:
    """The workspace that -w names or the current folder lies in, with its read tables up to date.

    Raises:
        UsageError: there is none.
    """
    from loop import bootstrap

    app = bootstrap.open_app(ctx.obj)
    if caught_up:
        try:
            app.workspace.projections.catch_up()
        except BaseException:
            app.close()
            raise
    return app


def choose_task(settings: Settings, name: str) -> str:
    """The named task, or the only one.

    Raises:
        UsageError: there are several and none is named.
        SettingsError: there is no such task.
    """
    if name:
        settings.task(name)
        return name
    if len(settings.tasks) > 1:
        raise UsageError(
            "this workspace has several tasks", hint=f"Name one with --task: {', '.join(sorted(settings.tasks))}."
        )
    return next(iter(settings.tasks))


def annotator_name(given: str) -> str:
    """The name that labels are signed with."""
    import getpass

    if given.strip():
        return given.strip()
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


def workspace_of(ctx: typer.Context) -> Path | None:
    """The folder that -w named."""
    return ctx.obj if isinstance(ctx.obj, Path) else None
