"""`verify` and `doctor`: is what we have sound, and is everything there that we need?"""

from __future__ import annotations

from typing import Annotated

import typer

from loop.cli.context import AsJson, open_app, workspace_of
from loop.cli.output import emit, note, say, show, styled, table
from store.wording import counted

DAMAGED = 5  # the exit code of store.errors.StoreError
LEVEL_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def verify(
    ctx: typer.Context,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build the read tables anew from the log first; they can be dropped.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the log's hash chain, the texts, the read tables against the log, and every artifact's bytes.

    The exit code is 5 when something failed. Nothing is changed, except by --rebuild.
    """
    from loop.health import note_verified
    from store.verify import sound, verify

    with open_app(ctx, caught_up=False) as app:
        if rebuild:
            folded = app.workspace.projections.rebuild()
            note(f"the read tables were built anew from {counted(folded, 'event')}")
        else:
            app.workspace.projections.catch_up()
        findings = verify(app.workspace)
        note_verified(app, findings)
    if as_json:
        emit({"sound": sound(findings), "findings": findings})
    else:
        for finding in findings:
            place = f" (position {finding.position})" if finding.position else ""
            place += f" [{finding.file}]" if finding.file else ""
            say(
                styled(f"{finding.level:<5}", LEVEL_STYLES[finding.level]), f"{finding.check}: {finding.message}{place}"
            )
    if not sound(findings):
        if {finding.check for finding in findings if finding.level == "fail"} == {"read tables"}:
            note("the read tables follow from the log: `tuneloop verify --rebuild` makes them anew")
        else:
            note("put the last backup in its place: `tuneloop restore BACKUP`")
        raise typer.Exit(DAMAGED)


def doctor(
    ctx: typer.Context,
    fix: Annotated[
        bool,
        typer.Option(
            "--fix", help="First do what is safe: permissions, leftover files and processes, read tables. Says what."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at everything the loop needs: packages, SQLite, disk, base model, GPU, endpoints, the log, what was left.

    Each line says ok, warn or fail, and what to do. The exit code is 1 when something failed.
    """
    from loop.cli.doctor import examine

    report = examine(workspace_of(ctx), fix=fix)
    failed = any(check.level == "fail" for check in report.checks)
    if as_json:
        emit({"healthy": not failed, "checks": report.checks, "fixed": report.fixed})
    else:
        for sentence in report.fixed:
            say(styled("fixed ", "green"), sentence)
        rows = []
        for check in report.checks:
            found = styled(check.detail)
            if check.advice:
                found.append("\n").append_text(styled(check.advice, "bold"))
            rows.append((styled(check.level, LEVEL_STYLES[check.level]), check.name, found))
        show(table(["", "what", "found"], rows, free=["found"], header=False))
    if failed:
        raise typer.Exit(1)
