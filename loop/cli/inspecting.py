"""`history`, `runs` and `adapters`: lists of what was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop.cli.context import AsJson, TaskName, open_app
from loop.cli.output import brief, builtins, emit, emit_stream, percent, say, show, styled, table, when
from store.errors import UsageError

if TYPE_CHECKING:
    from loop.bootstrap import App
    from store.log import Log, Recorded

SHOWN = 40  # events in a table, when nothing else is said
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
STATUS_STYLES = {"production": "green", "rejected": "red", "retired": "red"}


def history(
    ctx: typer.Context,
    task: Annotated[str, typer.Option("--task", "-t", help="Only this task's events.")] = "",
    kind: Annotated[str, typer.Option("--type", help="Only these types, separated by commas.")] = "",
    stream: Annotated[str, typer.Option("--stream", help="Only this stream; run/ is all that begin so.")] = "",
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", min=-1, show_default=False, help="The newest so many; 0: all, as --json does."),
    ] = -1,
    since: Annotated[str, typer.Option("--since", help="2h, 3d, a date, or a log position.")] = "",
    as_json: AsJson = False,
) -> None:
    """List what has happened, oldest first. With --json every event comes with all its fields."""
    most = limit if limit >= 0 else 0 if as_json else SHOWN
    with open_app(ctx, caught_up=False) as app:
        where, values = _condition(app, task=task, kind=kind, stream=stream, since=since)
        found = events(app.workspace.log, where, values, limit=most)
        if as_json:
            emit_stream(event_values(one) for one in found)
            return
        from loop.cli import words

        rows = [
            (one.position, when(one.recorded_at), one.type, brief(one.stream), words.line(one.event)) for one in found
        ]
    if not rows:
        say("nothing of that kind has happened")
        return
    show(
        table(["#", "when", "type", "stream", "what"], rows, right=["#"], free=["what"], least=["stream", "when", "#"])
    )


def events(log: Log, where: str, values: list[Any], *, limit: int) -> Iterator[Recorded]:
    """Events that meet a condition, oldest first; with `limit` 0 all of them, page by page."""
    page = 2000
    if limit:
        yield from log.select(where, values, limit=limit)
        return
    after, head = 0, log.head().position
    while after < head:
        upto = after + page
        yield from log.select(f"position > ? AND position <= ? AND {where}", [after, upto, *values])
        after = upto


def event_values(recorded: Recorded) -> dict[str, Any]:
    """An event with its envelope, as JSON values."""
    return {
        "position": recorded.position,
        "event_id": recorded.event_id,
        "stream": recorded.stream,
        "version": recorded.version,
        "type": recorded.type,
        "schema_version": recorded.schema_version,
        "recorded_at": recorded.recorded_at.isoformat(),
        "actor": recorded.actor,
        "correlation_id": recorded.correlation_id,
        "causation_id": recorded.causation_id,
        "epoch": recorded.epoch,
        "hash": recorded.hash.hex(),
        "event": builtins(recorded.event),
    }


def runs(ctx: typer.Context, task: TaskName = "", as_json: AsJson = False) -> None:
    """List the training runs: what they were trained on, how long they took and what became of them."""
    from loop.cli import reads

    with open_app(ctx) as app:
        found = reads.listed(app.workspace, "runs", task=_known(app, task))
    if as_json:
        emit(found)
        return
    if not found:
        say("nothing has been trained yet; `tuneloop status` says what the loop waits for")
        return
    show(
        table(
            ["run", "state", "adapter", "plan", "trained on", "steps", "loss", "validation", "seconds", "started"],
            [
                (
                    row["run_id"], row["state"], row["adapter"], row["plan"], row["train"],
                    f"{row['step']}/{row['of']}" if row["of"] else row["step"],
                    f"{row['loss']:.3f}" if row["loss"] is not None else "–",
                    percent(row["eval_accuracy"]), f"{row['seconds']:.0f}", when(moment(row["started_at"])),
                )
                for row in found
            ],
            right=["trained on", "steps", "loss", "validation", "seconds"],
            least=["started", "plan", "validation", "seconds", "adapter", "loss"],
        )
    )  # fmt: skip


def adapters(ctx: typer.Context, task: TaskName = "", as_json: AsJson = False) -> None:
    """List the adapters with their last exam result and where they stand: candidate, production, former, rejected."""
    from loop.cli import reads

    with open_app(ctx) as app:
        found = reads.listed(app.workspace, "adapters", task=_known(app, task))
        for row in found:
            evaluation = reads.last_evaluation(app.workspace, row["task"], row["name"])
            row["result"] = result_of(evaluation, row["name"])
            row["verdict"] = evaluation["verdict"] if evaluation else ""
    if as_json:
        emit(found)
        return
    if not found:
        say("no adapter is registered yet; `tuneloop status` says what the loop waits for")
        return
    show(
        table(
            ["adapter", "status", "verdict", "accuracy", "95% interval", "exam", "method", "run", "registered"],
            [
                (
                    row["name"], styled(row["status"], STATUS_STYLES.get(row["status"], "")), row["verdict"] or "–",
                    percent(row["result"] and row["result"]["accuracy"]), interval(row["result"]),
                    row["result"]["n"] if row["result"] else "–",
                    row["method"], row["run_id"], when(moment(row["registered_at"])),
                )
                for row in found
            ],
            right=["accuracy", "exam"],
            least=["registered", "run", "method", "exam", "verdict"],
        )
    )  # fmt: skip


def result_of(evaluation: dict[str, Any] | None, answerer: str) -> dict[str, Any] | None:
    """An answerer's exam result, under the decoding it is served with: scored before generated."""
    mine = [one for one in evaluation["results"] if one["answerer"] == answerer] if evaluation else []
    mine.sort(key=lambda one: ("score", "classify", "generate").index(one["decoding"]))
    return mine[0] if mine else None


def interval(result: dict[str, Any] | None) -> str:
    """A result's 95% interval in per cent."""
    return f"{100 * result['low']:.0f}–{100 * result['high']:.0f}%" if result else "–"


def moment(text: str | None) -> datetime | None:
    """A time as the read tables hold it."""
    return datetime.fromisoformat(text) if text else None


def _known(app: App, task: str) -> str:
    if task:
        app.settings.task(task)
    return task


def _condition(app: App, *, task: str, kind: str, stream: str, since: str) -> tuple[str, list[Any]]:
    """An SQL condition over the events' columns, and its values.

    Raises:
        UsageError: an unknown type, or a time that cannot be read.
    """
    from store.events import all_event_types
    from store.log import payload_of

    parts, values = ["position > 0"], list[Any]()
    if task:
        app.settings.task(task)
        parts.append(f"json_extract({payload_of()}, '$.task') = ?")
        values.append(task)
    types = [name.strip() for name in kind.split(",") if name.strip()]
    known = {name.casefold(): name for name in all_event_types()}
    for name in types:
        if name.casefold() not in known:
            raise UsageError(f"there is no event type {name!r}", hint=_nearest(name, list(known.values())))
    if types:
        parts.append(f"type IN ({', '.join('?' * len(types))})")
        values += [known[name.casefold()] for name in types]
    if stream.endswith("/"):
        parts.append("stream >= ? AND stream < ?")
        values += [stream, stream[:-1] + "0"]  # "0" follows "/"
    elif stream:
        parts.append("stream = ?")
        values.append(stream)
    if since:
        column, bound = parse_since(since, app.now())
        parts.append(f"{column} ?")
        values.append(bound)
    return " AND ".join(parts), values


def parse_since(text: str, now: datetime, option: str = "--since") -> tuple[str, int | str]:
    """`--since`, or another `option`, as a comparison: ("position >=", 120) or ("recorded_at >=", "2026-01-31T…").

    Raises:
        UsageError: it is neither a span, nor a date, nor a position.
    """
    if text.isdigit():
        return "position >=", int(text)
    span = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)", text)
    if span is not None:
        start = now - timedelta(seconds=float(span[1]) * UNITS[span[2]])
    else:
        try:
            start = datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(
                f"{text!r} is no time", hint=f"Examples: {option} 2h, {option} 3d, {option} 2026-01-31, {option} 1200."
            ) from None
    return "recorded_at >=", start.astimezone(UTC).isoformat(timespec="microseconds")


def _nearest(name: str, known: list[str]) -> str:
    import difflib

    lower = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), lower, n=1, cutoff=0.5)
    return f"Did you mean {lower[close[0]]}?" if close else f"Types: {', '.join(known)}."
