"""A complete copy takes the place of a workspace, in steps that can be killed and finished by the next call.

The old workspace is whole all the while: in its place, or aside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from store.copies import INBOX, PROMPTS, Progress
from store.disk import make_folder, sha256_of, sync
from store.errors import Corrupt, DaemonRunning
from store.kill_points import reached
from store.verify import Finding, verify
from store.workspace import HOME, RESTORING, SETTINGS, Workspace

DAEMON_LOCK = "daemon.lock"  # as loop.lease names it
READY = "ready.json"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was done."""

    backup: str
    root: str
    position: int  # of the backup's last event
    epoch: int
    left_behind: int
    erased_again: int
    old: str  # where the old workspace lies now; empty: there was none
    old_readable: bool
    problems: list[str]  # that the backup had from its beginning


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The copy is complete and its new life has begun: from here on only names change."""

    digest: str  # of the backup's manifest
    names: list[str]  # what it brings for the workspace's folder
    aside: str
    report: Report


@contextlib.contextmanager
def no_daemon(home: Path) -> Iterator[None]:
    """Keep daemons away from a workspace's state for as long as the block lasts, wherever it is moved meanwhile."""
    if not home.is_dir():
        yield
        return
    make_folder(home / "run")
    with (home / "run" / DAEMON_LOCK).open("a+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "unknown process"
            raise DaemonRunning(
                f"a daemon runs on this workspace ({holder})", hint="Stop it, then repeat the command."
            ) from None
        yield


def refuse_unsound(
    findings: Sequence[Finding], known: Sequence[str], hint: str = "Take another one; nothing was changed."
) -> None:
    """Raises Corrupt when the copy has a problem that the backup did not have from its beginning."""
    for finding in findings:
        if finding.level == "fail" and finding.message not in known:
            place = f" (position {finding.position})" if finding.position else ""
            raise Corrupt(f"the backup is not sound: {finding.check}: {finding.message}{place}", hint=hint)


def finish(root: Path, ready: Ready, held: contextlib.ExitStack, progress: Progress) -> Report:
    """Move the old workspace aside and the copy into its place, from wherever that was interrupted.

    Args:
        root: the workspace's folder.
        ready: what `read_ready` gives.
        held: keeps daemons away from the copy until it is closed.
        progress: told what is being done.

    Raises:
        DaemonRunning: a daemon runs on what was placed already.
        Corrupt: what was placed is not sound.
        OSError: a name could not be changed; the next call goes on there.
    """
    staging, aside = root / RESTORING, root / ready.aside
    if ready.aside:
        make_folder(aside)
    if (staging / HOME).is_dir():
        held.enter_context(no_daemon(staging / HOME))
        if is_there(root / HOME):
            (root / HOME).rename(aside / HOME)
            sync(aside)
            sync(root)
        reached("restore.moved_aside")
        (staging / HOME).rename(root / HOME)
        sync(root)
        reached("restore.database_placed")
    _place_settings(root, staging, aside)
    _place_prompts(root, staging, aside, brought=PROMPTS in ready.names)
    _place_inbox(root / INBOX, staging / INBOX)
    sync(root)
    reached("restore.placed")
    progress("checking it in its place", 0, 1)
    with Workspace(root) as workspace:
        findings = verify(workspace)
    shutil.rmtree(staging)
    sync(root)
    hint = f"It was sound before it took its place: look at the disk. The old workspace lies in {aside}."
    refuse_unsound(findings, ready.report.problems, hint)
    return ready.report


def _place_settings(root: Path, staging: Path, aside: Path) -> None:
    """The settings are replaced, never missing: they make a folder a workspace."""
    if not (staging / SETTINGS).exists():
        return
    if is_there(root / SETTINGS) and not is_there(aside / SETTINGS):
        try:
            os.link(root / SETTINGS, aside / SETTINGS, follow_symlinks=False)
        except OSError:  # not every file system can
            shutil.copy2(root / SETTINGS, aside / SETTINGS, follow_symlinks=False)
        sync(aside)
    (staging / SETTINGS).replace(root / SETTINGS)
    sync(root)


def _place_prompts(root: Path, staging: Path, aside: Path, *, brought: bool) -> None:
    placed = brought and not (staging / PROMPTS).exists()
    if not placed and is_there(root / PROMPTS):
        (root / PROMPTS).rename(aside / PROMPTS)
        sync(aside)
    if brought and not placed:
        (staging / PROMPTS).rename(root / PROMPTS)
    sync(root)


def _place_inbox(inbox: Path, brought: Path) -> None:
    """What waits in the inbox stays; files of the backup that are not there any more are put beside."""
    make_folder(inbox)
    for source in sorted(path for path in brought.rglob("*") if path.is_file()) if brought.is_dir() else ():
        target = inbox / source.relative_to(brought)
        make_folder(target.parent)
        if target.is_file() and sha256_of(target) == sha256_of(source):
            continue
        while is_there(target):  # another file of the same name came in since
            target = target.with_name(f"restored-{target.name}")
        source.replace(target)
        sync(target.parent)


def read_ready(root: Path) -> Ready | None:
    """The complete copy that waits in `root`; None where there is none."""
    try:
        return msgspec.json.decode((root / RESTORING / READY).read_bytes(), type=Ready)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return None


def begun(root: Path) -> bool:
    """Whether the copy has begun to take the old workspace's place, or has nothing to wait for."""
    return not (root / HOME).is_dir() or not (root / RESTORING / HOME).is_dir()


def is_there(path: Path) -> bool:
    """Whether anything has this name, a link that leads nowhere included."""
    return path.exists() or path.is_symlink()
