"""`tuneloop archive`: what a date, an age or a position closes leaves the database; every command reads the same."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cli_world import START, lived_in

from loop.bootstrap import open_app
from loop.cli import archiving
from loop.cli import main as cli
from store.database import raw
from store.errors import UsageError

READS = [
    ["history", "--json", "--limit", "10"], ["show", "rec-001", "--json"], ["show", "tickets-v1", "--json"],
    ["show", "5", "--json"], ["lineage", "tickets-v1", "--json"], ["lineage", "rec-001", "--json"],
    ["gate", "tickets-v1", "--json"], ["runs", "--json"], ["queue", "--json"], ["compare", "tickets-v1", "zero-shot@1"],
]  # fmt: skip


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lived_in(tmp_path_factory.mktemp("lived") / "w")


@pytest.fixture
def root(lived: Path, tmp_path: Path) -> Path:
    shutil.copytree(lived, tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture
def tuneloop(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def payloads(root: Path) -> int:
    with open_app(root, env={}) as app, app.workspace.database.reading() as connection:
        return int(raw(connection).execute("SELECT count(*) FROM events WHERE payload != ''").fetchone()[0])


def test_every_command_reads_the_same_with_a_cycle_open_across_the_cut(root: Path, tuneloop: Any) -> None:
    before = [tuneloop(*words, "-w", root) for words in READS]
    assert all(code in (0, 9) for code, _, _ in before), before
    with open_app(root, env={}) as app:
        state, head = app.state(), app.workspace.log.head().position
        frozen = [one.position for one in app.workspace.log.select("type = 'DatasetFrozen'", [])]
    cut = frozen[1] + 2  # in the middle of the second run
    code, out, err = tuneloop("archive", "--before", cut, "--json", "-w", root)
    report = json.loads(out)
    assert (code, report["first"], report["last"], report["archived_to"]) == (0, 1, cut - 1, cut - 1), err
    assert f"archiving {cut - 1} of {cut - 1} events" in err
    assert payloads(root) == head - (cut - 1) + 1  # and the event that says so
    for words, told in zip(READS, before, strict=True):
        if words[0] != "history":  # which has one line more
            assert tuneloop(*words, "-w", root) == told, words
    history = json.loads(tuneloop("history", "--json", "--limit", "1000", "-w", root)[1])
    assert [one["position"] for one in history] == list(range(1, head + 2)) and history[-1]["type"] == "Archived"
    (root / ".tuneloop" / "run" / "state.snapshot").unlink(missing_ok=True)
    with open_app(root, env={}) as app:
        assert app.state().tasks == state.tasks  # folded from the segments
    assert tuneloop("verify", "-w", root)[0] == 0
    code, out, _ = tuneloop("archive", "--before", cut, "-w", root)
    assert code == 0 and f"events up to {cut - 1} are" in out
    code, out, _ = tuneloop("archive", "--before", "2026-02-01", "-w", root)
    assert code == 0 and f"events {cut} to {head + 1} are archived" not in out and f"events {cut} to {head}" in out


def test_dates_ages_and_positions_close_what_came_before_them(lived: Path) -> None:
    with open_app(lived, env={}, clock=lambda: datetime.fromisoformat("2026-01-15T09:00:00+00:00")) as app:
        events = list(app.workspace.log.read())
        fifth = events[4].recorded_at
        assert archiving.last_before(app, fifth.isoformat()) == 4
        assert archiving.last_before(app, "5") == 4 and archiving.last_before(app, "0") == 0
        assert archiving.last_before(app, "9d") == len(events)  # all of it is older
        assert archiving.last_before(app, "10d") == sum(one.recorded_at < START for one in events) == 0
        with pytest.raises(UsageError, match="is no time"):
            archiving.last_before(app, "last week")


def test_what_cannot_be_read_as_a_time_changes_nothing(root: Path, tuneloop: Any) -> None:
    before = payloads(root)
    code, _, err = tuneloop("archive", "--before", "soon", "-w", root)
    assert code == 2 and "'soon' is no time" in err and payloads(root) == before
    assert tuneloop("archive", "-w", root)[0] == 2


def test_a_file_that_keeps_its_size_is_made_smaller_by_the_next_call(root: Path, tuneloop: Any) -> None:
    kept = json.loads(tuneloop("archive", "--before", "1000000", "--keep-size", "--json", "-w", root)[1])
    assert kept["after"] >= kept["before"] - 4096
    with open_app(root, env={}) as app, app.workspace.database.reading() as connection:
        owed = raw(connection).execute("SELECT count(*) FROM cursors WHERE name = 'archive-shrink'").fetchone()[0]
    assert owed == 1
    assert tuneloop("archive", "--before", "1", "-w", root)[0] == 0
    with open_app(root, env={}) as app, app.workspace.database.reading() as connection:
        owed = raw(connection).execute("SELECT count(*) FROM cursors WHERE name = 'archive-shrink'").fetchone()[0]
    assert owed == 0
