"""Verify: clean where nothing is wrong, and every kind of damage named with its place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_helpers import NOW, labelled, received

from store import events as e
from store.database import raw
from store.errors import UsageError
from store.log import COLUMNS, Draft, Head, chain_hash
from store.verify import Finding, sound, verify
from store.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """Nine events: a lease, three records with texts and labels, one of them erased, and a promoted adapter."""
    with Workspace.create(tmp_path / "w") as workspace:
        workspace.log.append([Draft(e.LeaseAcquired(holder="daemon", new_epoch=1), "loop")], actor="daemon", now=NOW)
        for name in "abc":
            seal = workspace.texts.seal(f"text of {name}")
            workspace.log.append(
                [
                    Draft(received(name, text_digest=seal.digest), f"record/{name}"),
                    Draft(labelled(name, "urgent"), f"record/{name}"),
                ],
                actor="daemon", now=NOW, epoch=1,
                within=lambda connection, name=name, seal=seal: workspace.texts.put(
                    connection, name, "tickets", f"text of {name}", seal=seal
                ),
            )  # fmt: skip
        workspace.log.append(
            [Draft(e.RecordErased(task="tickets", record_id="c"), "record/c")], actor="kim", now=NOW,
            within=lambda connection: workspace.texts.erase_within(connection, ["c"]),
        )  # fmt: skip
        (tmp_path / "adapter").mkdir()
        (tmp_path / "adapter" / "weights").write_bytes(b"weights")
        artifact = workspace.artifacts.put(tmp_path / "adapter", "adapter", {})
        promoted = e.AdapterPromoted(task="tickets", answerer="v1", kind="adapter", previous="", artifact=artifact)
        workspace.log.append([Draft(promoted, "deployment/tickets")], actor="daemon", now=NOW, epoch=1)
        workspace.projections.catch_up()
        yield workspace


def change(workspace: Workspace, *statements: str, values: tuple[Any, ...] = ()) -> None:
    """Change the database as somebody with a shell could."""
    with workspace.database.writing() as connection:
        for trigger in ("events_are_never_updated", "events_are_never_deleted"):
            connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
        for statement in statements:
            connection.exec_driver_sql(statement, values)


def problems(workspace: Workspace, **more: Any) -> list[Finding]:
    return [each for each in verify(workspace, **more) if each.level != "ok" and "append-only" not in each.message]


def test_a_sound_workspace_is_said_to_be_so(workspace: Workspace) -> None:
    findings = verify(workspace)
    assert {finding.level for finding in findings} == {"ok"}, findings
    assert [finding.check for finding in findings] == [
        "database", "log", "archive", "streams", "texts", "read tables", "artifacts",
    ]  # fmt: skip
    assert sound(findings)


@pytest.mark.parametrize("column", ["actor", "payload", "recorded_at", "type", "stream", "epoch", "event_id"])
def test_a_changed_row_is_found_with_its_position(workspace: Workspace, column: str) -> None:
    changed = f"replace({column}, substr({column}, 1, 1), '7')"
    change(workspace, f"UPDATE events SET {column} = {changed} WHERE position = 4")  # noqa: S608
    found = problems(workspace)
    assert any(each.check == "log" and each.position == 4 and "changed" in each.message for each in found), found
    assert not sound(verify(workspace))
    assert [each.position for each in found if "was changed: its hash" in each.message] == [4]


def test_a_changed_row_with_a_hash_made_to_fit_breaks_the_chain(workspace: Workspace) -> None:
    with workspace.database.reading() as connection:
        row = list(raw(connection).execute(f"SELECT {COLUMNS} FROM events WHERE position = 4").fetchone())  # noqa: S608
    row[7] = "eve"
    change(workspace, "UPDATE events SET actor = 'eve', hash = ? WHERE position = 4", values=(chain_hash(row[:13]),))
    assert [(each.check, each.position) for each in problems(workspace)] == [("log", 4)]


def test_a_missing_row_and_a_missing_tail_are_found(workspace: Workspace) -> None:
    anchor = workspace.log.head()
    change(workspace, "DELETE FROM events WHERE position = 9")
    found = problems(workspace)
    assert any(each.check == "log" and each.position == 9 and "missing" in each.message for each in found), found
    assert any(each.check == "read tables" for each in found)
    with workspace.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM events WHERE position = 2")
    found = problems(workspace)
    assert any(each.check == "log" and each.position == 2 and "missing" in each.message for each in found), found
    assert any(each.check == "streams" and "record/a" in each.message for each in found), found
    assert anchor.position == 9


def test_a_tail_written_anew_is_seen_by_an_anchor_only(workspace: Workspace) -> None:
    anchor = workspace.log.head()
    change(
        workspace,
        "DELETE FROM events WHERE position = 9",
        "UPDATE sqlite_sequence SET seq = 8 WHERE name = 'events'",
        "DELETE FROM cursors",
    )
    promoted = e.AdapterPromoted(task="tickets", answerer="evil", kind="prompt", previous="")
    workspace.log.append([Draft(promoted, "deployment/tickets")], actor="daemon", now=NOW, epoch=1)
    workspace.projections.catch_up()
    assert [each for each in problems(workspace) if each.level == "fail"] == []
    (found,) = [each for each in problems(workspace, anchor=anchor) if each.level == "fail"]
    assert (found.position, "anchor" in found.message) == (9, True)
    assert not sound(verify(workspace, anchor=Head(99, anchor.hash)))


def test_a_payload_of_an_unknown_kind_is_found(workspace: Workspace) -> None:
    change(workspace, "UPDATE events SET type = 'Teleported' WHERE position = 2")
    messages = [each.message for each in problems(workspace) if each.position == 2]
    assert any("does not know" in message for message in messages), messages


def test_a_lease_that_the_log_does_not_know_is_found(workspace: Workspace) -> None:
    change(workspace, "UPDATE lease SET epoch = 7")
    assert any("lease says epoch 7, the log 1" in each.message for each in problems(workspace))


def test_a_changed_text_and_a_lost_one_are_found(workspace: Workspace) -> None:
    change(
        workspace, "UPDATE texts SET text = 'other' WHERE record_id = 'a'", "DELETE FROM texts WHERE record_id = 'b'"
    )
    found = problems(workspace)
    assert [(each.level, each.position) for each in found if each.check == "texts"] == [("fail", 2), ("warn", 4)]


def test_read_tables_that_differ_are_found_and_mended_by_a_rebuild(workspace: Workspace) -> None:
    change(workspace, "UPDATE records SET label = 'billing' WHERE record_id = 'a'", "DELETE FROM deployments")
    found = [each for each in problems(workspace) if each.check == "read tables"]
    assert len(found) == 2 and "row a" in found[0].message
    workspace.projections.rebuild()
    assert not [each for each in problems(workspace) if each.check == "read tables"]


def test_a_damaged_or_missing_artifact_is_found(workspace: Workspace) -> None:
    (address,) = workspace.artifacts.addresses()
    weights = workspace.paths.artifacts / address / "weights"
    weights.write_bytes(b"wEights")
    (found,) = problems(workspace)
    assert found.check == "artifacts" and found.position == 9 and address in found.file and "weights" in found.message
    (workspace.paths.artifacts / address).rename(workspace.paths.artifacts / "elsewhere")
    (found,) = problems(workspace)
    assert "not here" in found.message and found.position == 9


def test_files_that_others_may_read_are_a_warning(workspace: Workspace) -> None:
    workspace.paths.database.chmod(0o644)
    (found,) = problems(workspace)
    assert (found.level, found.file) == ("warn", str(workspace.paths.database))
    assert sound(verify(workspace))


def test_damaged_pages_are_reported_and_not_raised(workspace: Workspace) -> None:
    with workspace.database.reading() as connection:
        pages = raw(connection).execute(
            "SELECT rootpage FROM sqlite_master WHERE name IN ('events', 'texts', 'records')"
        ).fetchall()  # fmt: skip
    workspace.close()
    with workspace.paths.database.open("r+b") as file:
        for (page,) in pages:
            file.seek((page - 1) * 4096)
            file.write(b"\xa5" * 64)
    with Workspace.open(workspace.root) as again:
        findings = verify(again)
    assert not sound(findings)
    assert any(finding.check == "database" for finding in findings if finding.level == "fail")


# ---------------------------------------------------------------- the workspace itself


def test_a_workspace_is_found_from_below_and_missed_with_a_hint(workspace: Workspace, tmp_path: Path) -> None:
    below = workspace.root / "some" / "where"
    below.mkdir(parents=True)
    with Workspace.open(below) as again:
        assert again.root == workspace.root
        assert again.log.head().position == 9
    with pytest.raises(UsageError) as caught:
        Workspace.open(tmp_path)
    assert "tuneloop init" in caught.value.hint


def test_creating_again_changes_nothing(workspace: Workspace) -> None:
    (workspace.root / "tuneloop.toml").write_text("# mine")
    with Workspace.create(workspace.root) as again:
        assert again.log.head() == workspace.log.head()
    assert (workspace.root / "tuneloop.toml").read_text() == "# mine"
    for folder in workspace.paths.folders():
        assert folder.stat().st_mode & 0o077 == 0


def test_opening_a_workspace_imports_nothing_heavy(workspace: Workspace) -> None:
    code = (
        "import sys; from pathlib import Path; from store.workspace import Workspace; from store.counts import counts;"
        "w = Workspace.open(Path(sys.argv[1])); w.projections.catch_up(); counts(w.read, 'tickets');"
        "print([m for m in ('sqlmodel', 'pydantic', 'torch', 'openai', 'wandb', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(workspace.root)],
        capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
