"""`backup` and `restore`: copies of a workspace, and a workspace from a copy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loop.cli.context import Annotator, AsJson, annotator_name, open_app, workspace_of
from loop.cli.output import builtins, emit, note, now, progress_line, say, styled, when
from store.errors import UsageError

if TYPE_CHECKING:
    from store.restore import Outlook
    from store.swap import Report

DAMAGED = 5  # the exit code of store.errors.StoreError
MB = 1_000_000


def backup(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where backups lie; each gets a folder of its own.")],
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, help="Remove older ones of this workspace, until N sound ones are left."),
    ] = None,
    label: Annotated[
        str, typer.Option("--label", help="Where that is, in your words, for the log; empty: the folder's name.")
    ] = "",
    annotator: Annotator = "",
    as_json: AsJson = False,
) -> None:
    """Copy the whole workspace while it is in use: log, texts, artifacts, settings, and what waits to be taken in.

    The copy is checked after it was written. It holds customer text and is readable by its owner only. Files that
    tuneloop.toml names elsewhere are not in it, but listed. The exit code is 5 when the workspace itself has problems:
    they are in the copy, too, and nothing older is removed then.
    """
    from loop.named import named_elsewhere
    from store import backup as store

    with open_app(ctx) as app:
        line = progress_line()
        try:
            report = store.backup(
                app.workspace,
                directory,
                label=label,
                keep=keep,
                actor=annotator_name(annotator),
                now=app.now(),
                progress=_told(line),
            )
        finally:
            line("")
        left_out = named_elsewhere(app)
    if as_json:
        emit({**builtins(report), "not_in_it": builtins(left_out)})
    else:
        shared = f", {report.shared_bytes / MB:.1f} MB of it shared with the one before" if report.shared_bytes else ""
        say(styled(report.folder, "bold"))
        say(f"up to event {report.position}, {report.files} files, {report.bytes / MB:.1f} MB{shared}")
        for name in report.removed:
            say(f"removed {name}")
        for one in left_out:
            say(f"not in it, and yours to keep: {one.path} ({one.key}{'' if one.there else ', which is missing'})")
        for problem in report.problems:
            say(styled("fail ", "red"), problem)
        if report.problems:
            note("the copy is as damaged as the workspace: keep an older one, and run `tuneloop verify`")
    if report.problems:
        raise typer.Exit(DAMAGED)


def restore(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="The folder of one backup.")],
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to; without it the workspace here.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    annotator: Annotator = "",
    as_json: AsJson = False,
) -> None:
    """Put a backup in a workspace's place. Every byte of it is checked first; the old workspace is moved aside.

    Stop the daemon before. The log goes on after the backup's last event, and says so; records that were erased since
    the backup was made are erased again.
    """
    from loop import restoring
    from store import restore as store

    actor = annotator_name(annotator)
    line = progress_line()
    try:
        outlook = store.look(source, _target(ctx, directory), _told(line))
        line("")
        if not yes:
            _ask(outlook)
        report = store.restore(
            outlook, actor=actor, now=now(), hooks=restoring.hooks(actor), progress=_told(line)
        )  # fmt: skip
    finally:
        line("")
    if as_json:
        emit(builtins(report))
    else:
        _print(report)


def _target(ctx: typer.Context, directory: Path | None) -> Path:
    from loop import bootstrap
    from store.workspace import RESTORING

    if directory is not None:
        return directory
    start = (workspace_of(ctx) or Path.cwd()).resolve()
    if not start.exists():
        return start  # -w names the folder that is to be
    for folder in (start, *start.parents):
        if (folder / RESTORING).is_dir():  # an interrupted one
            return folder
    try:
        return bootstrap.find_root(start)
    except UsageError as error:
        raise UsageError(error.message, hint="Name the folder to restore into: tuneloop restore BACKUP DIR.") from None


def _ask(outlook: Outlook) -> None:
    """Raises UsageError where nobody can answer, and Abort where the answer is no."""
    manifest, old = outlook.copy.manifest, outlook.old
    if outlook.finishing or (old is None and not manifest.problems):
        return
    note(f"{manifest.backup}: made {when(manifest.made_at)}, up to event {manifest.position}")
    for problem in manifest.problems:
        note(f"it has had a problem from its beginning: {problem}")
    if old is not None and not old.readable:
        note(f"the log in {outlook.root} cannot be read: what was erased since the backup is not known")
    elif old is not None:
        whose = "" if old.same else "another workspace's, "
        note(
            f"the log in {outlook.root} ({whose}{old.head} events) is moved aside, {old.left_behind} later events in it"
        )
    if not sys.stdin.isatty():
        raise UsageError("this replaces a workspace", hint="Add --yes to do it; the old one is moved aside.")
    typer.confirm("Restore it?", abort=True, err=True)


def _print(report: Report) -> None:
    say(styled(f"restored {report.backup} into {report.root}", "bold"))
    say(f"the log goes on after event {report.position}, under epoch {report.epoch}; everything in it was checked")
    if report.old:
        say(f"the old workspace lies in {report.old}, customer text included: delete it when you are sure")
    if report.left_behind:
        say(f"later events that are left behind there: {report.left_behind}")
    if report.erased_again:
        say(f"records erased since the backup, and now again: {report.erased_again}")
    if not report.old_readable:
        say(styled("the old log could not be read: erase again what was erased since the backup", "yellow"))
    for problem in report.problems:
        say(styled("fail ", "red"), problem)
    say("next: tuneloop run")


def _told(line: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """Progress in words: megabytes on a terminal, and every tenth elsewhere."""
    fine = sys.stderr.isatty()

    def tell(what: str, done: int, of: int) -> None:
        share = done / of if of else 0.0
        if fine:
            line(f"{what}: {done / MB:.1f} of {of / MB:.1f} MB")
        elif of > 100 * MB:
            line(f"{what}: {int(10 * share) * 10}%")

    return tell
