"""`archive`: the payloads of old events out of the database."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from loop.cli.context import Annotator, AsJson, annotator_name, open_app
from loop.cli.output import builtins, emit, progress_line, say, when

if TYPE_CHECKING:
    from loop.bootstrap import App

MB = 1_000_000


def archive(
    ctx: typer.Context,
    before: Annotated[
        str, typer.Option("--before", metavar="WHEN", help="A date, an age (90d), or a log position; not included.")
    ],
    keep_size: Annotated[
        bool, typer.Option("--keep-size", help="Do not make the database file smaller now: writers wait meanwhile.")
    ] = False,
    annotator: Annotator = "",
    as_json: AsJson = False,
) -> None:
    """Move old history out of the database, into sealed and hash-checked segments under .tuneloop/artifacts.

    History reads the same afterwards, in every command; only the file is smaller. Segments belong to the workspace:
    backups take them along.
    """
    from store import archive as store

    with open_app(ctx) as app:
        line = progress_line()
        try:
            last = last_before(app, before)
            report = store.archive(
                app.workspace,
                last,
                actor=annotator_name(annotator),
                now=app.now(),
                shrink=not keep_size,
                progress=lambda done, of: line(f"archiving {done:,} of {of:,} events"),
            )
        finally:
            line("")
        held = next(app.workspace.log.read(last, 1), None)
    told = {"position": held.position, "recorded_at": builtins(held.recorded_at)} if held else None
    if as_json:
        emit({**builtins(report), "next": told})
        return
    if not report.last:
        say(f"nothing more to archive before {before}; events up to {report.archived_to} are")
    else:
        say(f"events {report.first} to {report.last} are archived ({report.last - report.first + 1:,})")
        say(
            f"the database has {report.after / MB:.1f} MB (before: {report.before / MB:.1f}), "
            f"all segments {report.segments_bytes / MB:.1f} MB"
        )
    if held is not None:
        say(f"event {held.position} is the first that stays, recorded {when(held.recorded_at)}")


def last_before(app: App, before: str) -> int:
    """The last position that a `--before` closes. Open work needs no exception: what is archived is read as ever.

    Raises:
        UsageError: it is neither an age, nor a date, nor a position.
    """
    from loop.cli.inspecting import parse_since
    from store.archive import closed_by

    _, bound = parse_since(before, app.now(), "--before")
    if isinstance(bound, int):
        return max(0, bound - 1)
    return closed_by(app.workspace, datetime.fromisoformat(bound), now=app.now())
