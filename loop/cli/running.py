"""`run`, `tick`, `pause`, `resume` and `serve`: the loop itself."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from loop.cli import collect_as_usual
from loop.cli.context import AsJson, Reason, open_app
from loop.cli.output import brief, emit, say
from loop.logs import LogFormat, configure
from store.logs import VARIABLE


def run(
    ctx: typer.Context,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Fence off a daemon that hangs and run in its place.")
    ] = False,
    log_format: Annotated[
        LogFormat | None, typer.Option("--log-format", help="human, or json for a log collector. Without it, as set.")
    ] = None,
) -> None:
    """Run the daemon: it takes in the inbox, asks for reviews, trains, judges, promotes and serves.

    SIGTERM and Ctrl-C end it cleanly: a running training saves a checkpoint and is resumed by the next run.
    """
    from loop.daemon import Daemon

    collect_as_usual()
    configure(log_format or "")
    with open_app(ctx) as app:
        if not log_format and VARIABLE not in os.environ:
            configure(app.settings.daemon.log_format)
        Daemon(app, take_over=take_over).run()


def tick(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Do once what is due now, and say what the loop waits for.

    A training or an evaluation that starts here is seen through to its end. Suited to cron.
    """
    from loop.cli.driving import tick_until

    configure(level=logging.WARNING)
    with open_app(ctx) as app:
        reports = tick_until(app, lambda _: True)
    commands = [command for report in reports for command in report.commands]
    events = [recorded for report in reports for recorded in report.events]
    waiting = reports[-1].waiting
    if as_json:
        emit(
            {
                "commands": commands,
                "events": [{"position": one.position, "type": one.type, "stream": one.stream} for one in events],
                "waiting": waiting,
            }
        )
        return
    for one in events:
        say(f"{one.position:>6}  {one.type:<22} {brief(one.stream)}")
    if not events:
        say("nothing was due")
    for task, clauses in waiting.items():
        for clause in clauses:
            say(f"{task} waits for: {clause}" if not clause.startswith("paused") else f"{task}: {clause}")


def pause(ctx: typer.Context, reason: Reason = "") -> None:
    """Start nothing new until `tuneloop resume`. A running step goes on to its end."""
    from loop import actions

    with open_app(ctx) as app:
        say("paused" if actions.pause(app, reason) else "it was paused already")


def resume(ctx: typer.Context, reason: Reason = "") -> None:
    """Let the loop go on after `tuneloop pause`."""
    from loop import actions

    with open_app(ctx) as app:
        say("going on" if actions.resume(app, reason) else "it was not paused")


def serve(
    ctx: typer.Context,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 8080,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; off loopback a token is required. Without it, as set.")
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="Holds the bearer token; without it TUNELOOP_TOKEN does.")
    ] = None,
) -> None:
    """Answer production over HTTP with each task's champion, without the daemon.

    OpenAI-compatible: POST /v1/chat/completions with the task as model. The engine is started when none runs.
    """
    from loop.cli.serving import serve_here

    collect_as_usual()
    configure()
    with open_app(ctx) as app:
        serve_here(app, port=port, host=host, token_file=token_file)
