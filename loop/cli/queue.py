"""`queue`: what waits for a label; also where the review screen gets its items from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop.cli.context import AsJson, TaskName, choose_task, open_app
from loop.cli.output import brief, emit, percent, say, show, table
from loop.cli.safe import short
from store.errors import UsageError

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.review import Item

SIDES = ("train", "exam")
TEXT_WIDTH = 70  # characters of a ticket in the list


def queue(
    ctx: typer.Context,
    task: TaskName = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many.")] = 20,
    side: Annotated[str, typer.Option("--side", help="Only records of this side: train or exam.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the records that wait for a label, the most urgent first, each with the reasons why it was chosen."""
    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        found = items(app, name, side=side, limit=limit)
        open_reviews = waiting(app, name, side=side)
    if as_json:
        emit({"task": name, "open": open_reviews, "items": [_as_json(item) for item in found]})
        return
    if not found:
        say("the queue is empty: nothing waits for a label")
        return
    show(
        table(
            ["record", "why", "production said", "sure", "text"],
            [
                (
                    brief(item.name),
                    ", ".join(reason.name for reason in item.reasons),
                    short(item.answer, TEXT_WIDTH) if item.answer else "–",
                    percent(item.confidence, 0),
                    short(item.text, TEXT_WIDTH),
                )
                for item in found
            ],
            right=["sure"],
            free=["text"],
            least=["sure", "why"],
        )
    )
    say(f"{len(found)} of {open_reviews} open; `tuneloop review` labels them one by one")


def items(app: App, task: str, *, side: str = "", limit: int) -> list[Item]:
    """The front of the queue with its texts; what was erased is left out.

    Raises:
        UsageError: there is no such side.
    """
    from loop.review import Item
    from store import queries
    from store.events import ReviewReason

    _check_side(side)
    rows = queries.queue(app.workspace.read, task, side=side or None, limit=limit)
    texts = {one.record_id: one for one in app.workspace.texts.stored([row.record_id for row in rows])}
    return [
        Item(
            record_id=row.record_id,
            text=texts[row.record_id].text,
            external_id=str(texts[row.record_id].meta.get("id", "")),
            reasons=[ReviewReason(**reason) for reason in row.reasons],
            answer=texts[row.record_id].said.get(row.answer or "", row.answer),
            answered_by=row.answered_by,
            confidence=row.confidence,
            margin=row.margin,
            feedback=texts[row.record_id].said.get(row.feedback or "", row.feedback),
            audit=row.audit,
        )
        for row in rows
        if row.record_id in texts
    ]


def waiting(app: App, task: str, *, side: str = "") -> int:
    """How many records wait for a label."""
    from store.counts import counts, total

    _check_side(side)
    found = counts(app.workspace.read, task)
    return found.get("queue", {}).get(side, 0) if side else total(found, "queue")


def _check_side(side: str) -> None:
    if side and side not in SIDES:
        raise UsageError(f"there is no side {side!r}", hint=f"Sides: {', '.join(SIDES)}.")


def _as_json(item: Item) -> dict[str, Any]:
    from loop.cli.output import builtins

    return {
        "record_id": item.record_id,
        "external_id": item.external_id,
        "text": item.text,
        "reasons": [{"name": one.name, "detail": one.detail, "score": one.score} for one in item.reasons],
        "answer": item.answer,
        "answered_by": item.answered_by,
        "confidence": builtins(item.confidence),
        "margin": item.margin,
        "feedback": item.feedback,
        "audit": item.audit,
    }
