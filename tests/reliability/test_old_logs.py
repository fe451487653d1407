"""Workspaces that earlier versions wrote, one for each schema: today's code makes the same state of them.

A folder `tests/golden/schema-N` holds the whole database as SQL, the settings and the artifacts of a small workspace,
and what `tuneloop status` said of it then. They are never changed. When a release brings a new schema, its own code
writes the next one:

    PYTHONPATH=.:tests .venv/bin/python tests/reliability/test_old_logs.py tests/golden/schema-4

Schema 1 was never released: its file was written by the code of schema 2, with the first migration alone.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_world import History, lived_in

from loop.bootstrap import open_app
from loop.cli.status import gather
from store import events as ev
from store.database import MIGRATIONS, Database, driver
from store.workspace import DATABASE, HOME, SETTINGS, Workspace

GOLDEN = Path(__file__).parents[1] / "golden"
LOG, STATUS, ARTIFACTS = "log.sql", "status.json", "artifacts"
SCHEMAS = sorted(GOLDEN.glob("schema-*"))


def restored(golden: Path, root: Path) -> Path:
    """The workspace as it was, byte for byte in every row and every statement of its schema."""
    (root / HOME).mkdir(parents=True)
    shutil.copy(golden / SETTINGS, root / SETTINGS)
    shutil.copytree(golden / ARTIFACTS, root / HOME / ARTIFACTS)
    database = root / HOME / DATABASE
    with contextlib.closing(driver.connect(str(database))) as connection:
        connection.executescript((golden / LOG).read_text(encoding="utf-8"))
        connection.commit()
    database.chmod(0o600)
    return root


def schema_of(root: Path) -> int:
    with contextlib.closing(driver.connect(str(root / HOME / DATABASE))) as connection:
        return int(connection.execute("SELECT max(number) FROM migrations").fetchone()[0])


def told(root: Path) -> dict[str, Any]:
    """What `status` says that follows from the log and the settings."""
    with open_app(root, env={}) as app:
        app.workspace.projections.catch_up()
        said = json.loads(json.dumps(gather(app), default=str))
    return {key: value for key, value in said.items() if key not in ("workspace", "daemon")}


def still(then: Any, now: Any, where: str = "status") -> None:
    """Whether all that was said then is said now; what has been added since is welcome.

    Raises:
        AssertionError: names the place that differs.
    """
    if isinstance(then, dict):
        for key, value in then.items():
            assert key in now, f"{where}.{key} is gone"
            still(value, now[key], f"{where}.{key}")
    elif isinstance(then, list):
        assert len(then) == len(now), f"{where}: {then} became {now}"
        for number, (one, other) in enumerate(zip(then, now, strict=True)):
            still(one, other, f"{where}[{number}]")
    else:
        assert then == now, f"{where}: {then!r} became {now!r}"


def columns(root: Path) -> list[tuple[Any, ...]]:
    """Every stored column of every event, before anything of today has opened the file."""
    with contextlib.closing(driver.connect(str(root / HOME / DATABASE))) as connection:
        return list(connection.execute("SELECT * FROM events ORDER BY position"))


def test_there_is_one_for_every_schema() -> None:
    assert [path.name for path in SCHEMAS] == [f"schema-{one.number}" for one in MIGRATIONS]


@pytest.mark.parametrize("golden", SCHEMAS, ids=lambda path: path.name)
def test_a_log_of_an_earlier_version_replays_to_the_same_state(
    golden: Path, tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    from store_helpers import contents

    from store.verify import sound, verify

    root = restored(golden, tmp_path / "w")
    assert schema_of(root) == int(golden.name.removeprefix("schema-"))
    before = columns(root)
    then = json.loads((golden / STATUS).read_text())
    still(then, told(root))
    assert schema_of(root) == MIGRATIONS[-1].number
    assert columns(root) == before, "the migration changed events"
    with Workspace.open(root) as workspace:
        findings = verify(workspace)
        assert sound(findings), findings
        events = list(workspace.log.read())
        tables = contents(workspace.database)
        workspace.projections.rebuild()
        assert contents(workspace.database) == tables
    still(then, told(root))
    history = History(root)  # and it goes on: the next event follows from the last of back then
    history.now = max(one.recorded_at for one in events)
    history.add(ev.LoopResumed(), "loop")
    history.close()
    with Workspace.open(root) as workspace:
        assert sound(verify(workspace))
    measured(f"a log of schema {golden.name[7:]}", f"{len(events)} events replay to the same state, and it goes on")


def make(golden: Path) -> None:
    """Write a golden folder with the code that is here."""
    assert not golden.exists(), f"{golden} is there: golden files are never changed"
    schema = int(golden.name.removeprefix("schema-"))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "w")
        if schema < MIGRATIONS[-1].number:  # written under the schema before: only the log's own tables
            _open_as(schema)
        lived_in(root)
        history = History(root)
        history.add(ev.FeedbackReceived(
            task="tickets", record_id="rec-001", label="billing", side="train", disagrees=True,
            answered_by="zero-shot@1", source="cli",
        ), "record/rec-001")  # fmt: skip
        for record, label, side in (("rec-001", "billing", "train"), ("rec-004", "urgent", "exam")):
            history.add(ev.LabelGiven(
                task="tickets", record_id=record, label=label, side=side, audit=side == "exam", annotator="kim",
            ), f"record/{record}")  # fmt: skip
        history.add(ev.LabelWithdrawn(
            task="tickets", record_id="rec-004", label="urgent", side="exam", audit=True, annotator="kim",
        ), "record/rec-004")  # fmt: skip
        history.add(ev.AdapterRolledBack(
            task="tickets", answerer="zero-shot@1", kind="prompt", rolled_back="tickets-v1", reason="worse",
        ), "deployment/tickets")  # fmt: skip
        history.add(ev.LoopPaused(reason="maintenance"), "loop")
        if schema >= 3:
            from store.archive import archive

            workspace = history.app.workspace
            workspace.projections.catch_up()
            archive(workspace, 20, actor="cli", now=history.now, segment_events=12)
        history.close()
        said = told(root)
        assert schema_of(root) == schema
        golden.mkdir(parents=True)
        shutil.copy(root / SETTINGS, golden / SETTINGS)
        shutil.copytree(root / HOME / ARTIFACTS, golden / ARTIFACTS)
        with contextlib.closing(sqlite3.connect(root / HOME / DATABASE)) as connection:  # pysqlite3 has no iterdump
            (golden / LOG).write_text("\n".join(connection.iterdump()) + "\n", encoding="utf-8")
        (golden / STATUS).write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")


def _open_as(schema: int) -> None:
    import store.workspace

    class Older(Database):
        def __init__(self, path: Path, **options: Any) -> None:
            super().__init__(path, migrations=MIGRATIONS[:schema], **options)

    store.workspace.Database = Older  # type: ignore[misc]


if __name__ == "__main__":
    make(Path(sys.argv[1]).absolute())
