"""What a restore has to know of the loop: production's pointers, the mirror's cursor, and records to forget again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from adapters.specs import write_json
from adapters.tracking_mirror import Cursor
from loop import erasing, settings, surveying
from loop.bootstrap import App
from loop.production import read_pointer, write_pointer
from store import queries
from store.restore import Hooks
from store.workspace import ERASING, Paths, Workspace

_REASON = "as it was before the restore"


def hooks(actor: str) -> Hooks:
    """For `store.restore.restore`; `actor` erases again what was erased before."""

    def erase(workspace: Workspace, record_ids: Sequence[str]) -> None:
        # also with a file that this tuneloop cannot load: without erasing nothing is restored
        app = App(workspace.root, settings.load(workspace.root), workspace)
        known = [one for one in record_ids if queries.record(workspace.read, one) is not None]
        erasing.erase(app, surveying.survey(app, known), actor=actor, reason=_REASON)
        workspace.texts.erase(sorted({*record_ids} - {*known}))  # texts that no event speaks of

    return Hooks(also_erased=about_to_be_erased, erase=erase, settle=settle)


def about_to_be_erased(home: Path) -> list[str]:
    """Records of an erasure that was interrupted in the old workspace; `home` is its .tuneloop."""
    try:
        note = msgspec.json.decode((home / ERASING).read_bytes(), type=erasing.Note)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return []
    return sorted({*note.report.records, *(victim.record_id for victim in note.victims)})


def settle(staging: Path, root: Path, old: Path | None) -> None:
    """Make a copy fit the place that it is for.

    Args:
        staging: the copy's folder.
        root: the folder of the workspace that it becomes.
        old: .tuneloop of the workspace that it replaces.
    """
    here, there = Paths(staging), Paths(root)
    for path in sorted(here.production.glob("*.json")) if here.production.is_dir() else ():
        pointer = read_pointer(here.production, path.stem)
        if pointer is None:  # the daemon writes it anew
            path.unlink()
        elif pointer.adapter:
            moved = msgspec.structs.replace(pointer, adapter=str(there.artifacts / Path(pointer.adapter).name))
            write_pointer(path.parent, moved)
    own = _cursor(here.wandb)
    last = _cursor(old / "wandb") if old is not None else None
    if last is not None and (own is None or own.workspace == last.workspace):
        own = last
    if own is not None:
        own.hash = ""  # it fits no log: the new life is mirrored as a run of its own
        write_json(here.wandb / "cursor.json", own)


def _cursor(folder: Path) -> Cursor | None:
    try:
        return msgspec.json.decode((folder / "cursor.json").read_bytes(), type=Cursor)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return None
