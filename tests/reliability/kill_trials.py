"""Worlds that reach the loop's kill points, and what is done to them: killed once or more, and let come to rest.

The functions here run in `forked.workers`.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kill_world as world
import msgspec
from kill_texts import DIES_ONCE, FAILS, LOSES, answered

from store.kill_points import POINTS


class World(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace with work to do, and the points that only this one reaches."""

    name: str
    points: tuple[str, ...]
    flag: str = ""  # tells the torch-free child how its work goes
    settings: dict[str, dict[str, Any]] = {}
    turns_bad: bool = True


# these the loop never reaches by itself
_OTHERS = ("action.", "erase.", "mirror.", "notify.", "archive.", "backup.", "restore.", "artifacts.redaction_noted")
_SPECIAL = {
    "loses": ("reject.decided",),
    "fails": ("step.failure_seen", "park.texts_forgotten"),
    "dies": ("step.interruption_seen",),
    # its late records are shown to the control that the first run has left
    "rebuilds": ("projections.shadow_filled", "projections.swapped", "harvest.opinions_written"),
    "moves": ("intake.file_copied", "production.adapter_loaded"),  # its adapter stays champion
    "asks": ("ask.folder_prepared", "ask.part_kept", "ask.done"),
}
_SPECIAL_POINTS = {point for points in _SPECIAL.values() for point in points}
_PROMPTS = ["zero-shot@1", "zero-shot@2"]
WHOLE = World(
    name="whole",
    points=tuple(one for one in POINTS if not one.startswith(_OTHERS) and one not in _SPECIAL_POINTS),
)
WORLDS: tuple[World, ...] = (
    WHOLE,
    World(name="loses", points=_SPECIAL["loses"], flag=LOSES, settings={"gate": {"beat_control": "require"}}),
    World(name="fails", points=_SPECIAL["fails"], flag=FAILS),
    World(name="dies", points=_SPECIAL["dies"], flag=DIES_ONCE),
    World(name="rebuilds", points=_SPECIAL["rebuilds"]),
    World(name="moves", points=_SPECIAL["moves"], turns_bad=False),
    World(name="asks", points=_SPECIAL["asks"], settings={"task": {"prompt": "", "prompts": _PROMPTS}}),
)
# with the real training and evaluation on a tiny model, which the stand-in for the engine cannot answer like
REAL = World(
    name="real",
    points=(
        "train.checkpoint_written", "train.loaded", "train.step_done", "train.best_written",
        "train.checkpoint_completed", "train.trained", "evaluate.answered", "train.adapter_written",
        "train.adapter_renamed", "train.result_written", "evaluate.predictions_written", "evaluate.result_written",
    ),
    settings={
        "model": {"quantisation": "fp32"},
        "gate": {"beat_control": "require"},
        "training": {"method": "lora", "rank": 4, "min_valid": 4, "valid_share": 0.2},
    },
)  # fmt: skip
# reached more than once in a run: the first time is not the only one that matters
REPEATED = (
    "log.written", "log.committed", "projections.folded", "file.temporary_written", "services.told",
    "artifacts.files_copied", "artifacts.manifest_written", "artifacts.renamed", "intake.file_claimed",
    "intake.batch_appended", "intake.progress_noted", "intake.file_read", "intake.file_deleted", "intake.line_kept",
    "harvest.chosen", "train.step_done", "train.checkpoint_written", "train.checkpoint_completed",
    "evaluate.answered", "production.adapter_loaded", "production.pointer_moved",
)  # fmt: skip


def template(folder: Path, one: World, endpoint: str = "", model: Path | None = None) -> Path:
    """A workspace of this world that nobody has worked on yet."""
    overrides = dict(one.settings)
    if one.name == "asks":
        overrides["endpoint"] = {"url": endpoint, "timeout_seconds": 10.0, "concurrency": 2}
    root = world.make(folder / one.name, model=model, overrides=overrides)
    if one.flag:
        (root / one.flag).touch()
    world.fill(root, turns_bad=one.turns_bad)
    if one.name == "rebuilds":
        assert world.run(root) == 0
        _make_old(root)
        world.drop(root, "e-late.jsonl", answered("zero-shot@1", range(400, 405), wrong=True))
    return root


def _make_old(root: Path) -> None:
    """As if another version had written the read tables."""
    with sqlite3.connect(root / ".tuneloop" / "tuneloop.sqlite") as connection:
        connection.execute("UPDATE cursors SET version = version - 1 WHERE name = 'read-tables'")
    connection.close()


def prepare(one: World, folder: Path, endpoint: str) -> tuple[Path, dict[str, Any]]:
    """The template of a world, and what an unharmed run makes of it."""
    source = template(folder, one, endpoint)
    return source, killed(one, source, folder / f"{one.name}-unharmed", [])[0]


def killed(
    one: World, source: Path, root: Path, kills: Sequence[str], *, real: bool = False
) -> tuple[dict[str, Any], int]:
    """Let a copy of `source` come to rest, killed at the first point, then on the restart at the second, and so on.

    Returns:
        What has become of it, and how many of the kills came to pass.

    Raises:
        AssertionError: it does not come to rest, leaves processes behind, does a step twice or is damaged.
    """
    world.copy(source, root)
    elsewhere = _move_inbox(root) if one.name == "moves" else None
    deaths = 0
    try:
        for kill in [*kills, ""]:
            deaths += world.run(root, kill, real=real) != 0
        return world.outcome(root, timed=real or one.name == "asks"), deaths
    finally:
        if elsewhere is not None:
            shutil.rmtree(elsewhere)
        shutil.rmtree(root)


def _move_inbox(root: Path) -> Path:
    """Put the inbox on another file system: a rename out of it fails there."""
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm"))
    assert elsewhere.stat().st_dev != root.stat().st_dev, "the trial needs /dev/shm on a file system of its own"
    inbox = root / "inbox"
    for path in inbox.iterdir():
        shutil.copy2(path, elsewhere)
    shutil.rmtree(inbox)
    inbox.symlink_to(elsewhere)
    return elsewhere
