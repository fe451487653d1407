"""`notify`: who is told what happens, whether it arrives, and a message to try it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop.cli.context import AsJson, open_app
from loop.cli.output import ago, builtins, emit, now, say, show, table
from store.errors import UsageError

if TYPE_CHECKING:
    from loop.bootstrap import App

ACTIONS = ("status", "test")
FAILED = 1  # exit code: a test message was not taken


def notify(
    ctx: typer.Context,
    action: Annotated[str, typer.Argument(metavar="status|test", help="What to do.")] = "status",
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One target; without it, all of them.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show who is told what happens and whether it arrives, or send each a test message.

    Targets are the sections [notify.NAME] of tuneloop.toml. `test` sends at once and keeps nothing.
    """
    if action not in ACTIONS:
        raise UsageError(f"{action!r} is neither status nor test", hint="tuneloop notify test [NAME]")
    with open_app(ctx, caught_up=False) as app:
        names = _names(app, name)
        found = {one: target_status(app, one) if action == "status" else _test(app, one) for one in names}
    if as_json:
        emit(found)
    elif not found:
        say("nobody is told: tuneloop.toml has no section [notify.NAME]")
    elif action == "status":
        rows = [(one, values["kind"], in_words(values), ", ".join(values["events"])) for one, values in found.items()]
        show(table(["target", "kind", "state", "is told"], rows, free=["state", "is told"]))
    else:
        for one, values in found.items():
            say(f"{one}: {values['error'] or 'has taken the test message'}")
    if action == "test" and any(values["error"] for values in found.values()):
        raise typer.Exit(FAILED)


def target_status(app: App, name: str) -> dict[str, Any]:
    """How a target stands, as JSON values, without its address.

    Raises:
        StepError: its file cannot be read.
    """
    from loop.notifier import box_path
    from loop.notify.outbox import read_box

    target = app.settings.notify[name]
    box = read_box(box_path(app.workspace.paths.notify, name))
    return {
        "kind": target.kind,
        "events": list(target.events),
        "position": box.position,
        "waiting": len(box.waiting),
        "failing_since": builtins(box.failing_since),
        "next_try": builtins(box.next_try),
        "last_error": box.last_error,
        "delivered": box.delivered,
        "delivered_at": builtins(box.delivered_at),
        "dropped": box.dropped,
        "dropped_reason": box.dropped_reason,
    }


def in_words(values: dict[str, Any]) -> str:
    """A target's status in a few words."""
    from datetime import datetime

    def since(name: str) -> str:
        return ago(datetime.fromisoformat(values[name]), now())

    words = []
    if values["last_error"]:
        words.append(f"{values['waiting']} waiting: {values['last_error']}")
        if values["failing_since"]:
            words.append(f"failing since {since('failing_since').removesuffix(' ago')}")
    elif values["waiting"]:
        words.append(f"{values['waiting']} waiting")
    if values["dropped"]:
        words.append(f"{values['dropped']} given up ({values['dropped_reason']})")
    if values["delivered"]:
        words.append(f"{values['delivered']} delivered, the last {since('delivered_at')}")
    return "; ".join(words) or "nothing was sent yet"


def _names(app: App, name: str) -> list[str]:
    known = sorted(app.settings.notify)
    if name and name not in known:
        raise UsageError(
            f"there is no target {name!r}", hint=f"Known: {', '.join(known) or 'none'}; see [notify] in tuneloop.toml."
        )
    return [name] if name else known


def _test(app: App, name: str) -> dict[str, Any]:
    from loop.notify.messages import Message
    from loop.notify.targets import Undelivered, deliver

    moment = app.now()
    message = Message(
        key=f"test-{name}-{moment:%Y%m%dT%H%M%S%f}",
        event="test",
        at=moment,
        title=f"test message for {name}",
        text="tuneloop reaches you.",
    )
    try:
        deliver(app.settings.notify[name], message, os.environ, moment)
    except Undelivered as error:
        return {"error": str(error)}
    return {"error": ""}
