"""The processes that follow the log, killed: the mirror to Weights & Biases and the notifier.

The functions here run in `forked.workers`.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forked
import kill_world as world

from loop.notifier import box_path
from store.workspace import Workspace

POINTS = {
    "mirror": (
        "mirror.session_noted", "mirror.rows_sent", "mirror.training_sent", "mirror.position_noted",
        "mirror.session_closed", "mirror.session_noted:2", "mirror.session_closed:2",
    ),
    "notify": ("notify.queued", "notify.sent", "notify.sent:2", "file.temporary_written"),
}  # fmt: skip
Rows = dict[str, dict[int, Any]]
NOWHERE = "http://127.0.0.1:9/"  # stands in the template for the target's address


def template(folder: Path) -> Path:
    """A workspace whose loop has come to rest, and of which nobody was told anything yet."""
    from loop.notify.outbox import Outbox

    root = world.make(folder / "followed")
    world.fill(root)
    assert world.run(root) == 0, world.logs(root)
    with (root / "tuneloop.toml").open("a") as settings:
        settings.write(f'[notify.ops]\nkind = "webhook"\nurl = "{NOWHERE}"\n')
    with Workspace.open(root) as workspace:
        first = next(workspace.log.read(limit=1))
        Outbox(box_path(workspace.paths.notify, "ops")).put([], first.position, first.hash.hex())
    return root


def killed(name: str, source: Path, root: Path, kills: Sequence[str], url: str = NOWHERE) -> tuple[Rows | None, int]:
    """Let the mirror, or the notifier, catch up with a copy of `source`, killed at each of `kills` in turn.

    Returns:
        The mirror's rows by run and step, and how many of the kills came to pass. What the notifier has told, its
        targets know.

    Raises:
        AssertionError: it fails, leaves processes behind or sends a row twice.
    """
    world.copy(source, root)
    settings = root / "tuneloop.toml"
    settings.write_text(settings.read_text().replace(NOWHERE, url))
    deaths = 0
    try:
        for kill in [*kills, ""]:
            code = forked.wait(
                forked.start(_work(name, root), root / ".tuneloop/logs/follower.log", world.environment(kill)), 60
            )
            assert code in (0, -signal.SIGKILL), f"{kill}: exit code {code}\n{world.logs(root)}"
            deaths += code != 0
        world.gone(root)
        return rows(root) if name == "mirror" else None, deaths
    finally:
        shutil.rmtree(root)


def _work(name: str, root: Path) -> Callable[[], object]:
    def mirror() -> None:
        from adapters.tracking import main

        raise SystemExit(main([str(root), "--once", "--mode", "offline"]))

    def notify() -> None:
        from loop.notifier import main

        raise SystemExit(main([str(root), "--once"]))

    return {"mirror": mirror, "notify": notify}[name]


def rows(root: Path) -> Rows:
    """What lies in wandb's files: by run, by step; every step once."""
    from adapters import wandb_segments

    found: Rows = {}
    for folder in sorted((root / ".tuneloop" / "wandb").glob("offline-run-*")):
        path = wandb_segments.file_of(folder)
        here = found.setdefault(folder.name.split("-", 3)[3], {})
        for record in wandb_segments.records(path) if path is not None else ():
            if record.WhichOneof("record_type") == "history":
                step = record.history.step.num
                assert step not in here, f"{folder.name}: step {step} was sent twice"
                here[step] = {
                    ".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
                }
    return {run: {step: _steady(row) for step, row in steps.items()} for run, steps in found.items()}


def _steady(row: dict[str, Any]) -> dict[str, Any]:
    """Without what is wandb's own: times, and chance names of files."""
    return {name: value for name, value in row.items() if not name.startswith("_") and "artifact_path" not in name}
