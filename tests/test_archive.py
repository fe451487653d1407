"""Archived history reads the same, wherever the archiving stopped; a lost segment is named, and stops no writer."""

from __future__ import annotations

import gzip
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_helpers import NOW, POOLS, contents, events, labelled, received

from store import queries
from store.archive import archive, archived_to, closed_by
from store.database import DRIVER, raw
from store.errors import Corrupt, StoreError
from store.log import Draft, Recorded
from store.segments import BLOCK, FILE, known_segments
from store.verify import sound, verify
from store.workspace import Workspace

RECORDS = 700  # events 1 to 1400: a record and its label in turn; more than one block of a segment


def fill(workspace: Workspace, records: int = RECORDS) -> None:
    for number in range(records):
        name, text = f"r{number}", f"customer text {number}"
        seal = workspace.texts.seal(text)
        workspace.log.append(
            [
                Draft(received(name, text_digest=seal.digest), f"record/{name}", f"received-{name}"),
                Draft(labelled(name, "urgent" if number % 2 else "billing"), f"record/{name}", f"label-{name}"),
            ],
            actor="daemon", now=NOW + timedelta(seconds=number),
            within=lambda connection, name=name, text=text, seal=seal: workspace.texts.put(
                connection, name, "tickets", text, seal=seal
            ),
        )  # fmt: skip
    workspace.projections.catch_up()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled") / "w"
    with Workspace.create(root) as workspace:
        fill(workspace)
    return root


@pytest.fixture
def workspace(filled: Path, tmp_path: Path) -> Iterator[Workspace]:
    shutil.copytree(filled, tmp_path / "w")
    with Workspace.open(tmp_path / "w") as workspace:
        yield workspace


def read_all(workspace: Workspace) -> list[Recorded]:
    return list(workspace.log.read())


def put_away(workspace: Workspace, up_to: int, size: int = 600) -> Any:
    return archive(workspace, up_to, actor="kim", now=NOW, segment_events=size)


def segment_file(workspace: Workspace, index: int) -> Path:
    with workspace.database.reading() as connection:
        return workspace.artifacts.root / known_segments(raw(connection))[index].artifact / FILE


def test_every_way_of_reading_gives_the_same_as_before(workspace: Workspace) -> None:
    def everything() -> list[Any]:
        log = workspace.log
        return [
            read_all(workspace)[:1400],
            log.stream("record/r3"),
            log.get("label-r5"),
            log.select("type = 'LabelGiven' AND position <= 1400", [], limit=7),
            queries.history(log, task="tickets", types=["LabelGiven"], limit=None),
            queries.labelled(workspace.read, "tickets", up_to=300),
            queries.labelled(workspace.read, "tickets"),
            contents(workspace.database),
        ]

    # a label of long ago that was changed since: `labelled` of back then looks into the old event
    change = labelled("r3", "urgent", previous="urgent")
    workspace.log.append([Draft(change, "record/r3")], actor="kim", now=NOW)
    workspace.projections.catch_up()
    before = everything()
    report = put_away(workspace, 1400)
    assert (report.first, report.last, report.archived_to) == (1, 1400, 1400)
    with workspace.database.reading() as connection:
        stored = raw(connection).execute("SELECT sum(length(payload)) FROM events WHERE position <= 1400").fetchone()
    assert stored == (0,)
    assert everything() == before
    workspace.projections.rebuild()
    assert everything() == before
    findings = verify(workspace)
    assert {finding.level for finding in findings} == {"ok"}, findings


def test_it_repeats_nothing_and_goes_on_where_it_stopped(workspace: Workspace) -> None:
    before = read_all(workspace)
    assert put_away(workspace, 500).last == 500
    head = workspace.log.head()
    again = put_away(workspace, 500)
    assert (again.first, again.last, again.archived_to) == (0, 0, 500)
    assert workspace.log.head() == head
    assert put_away(workspace, 1400).first == 501
    with workspace.database.reading() as connection:
        segments = known_segments(raw(connection))
    assert [(each.first, each.last) for each in segments] == [(1, 500), (501, 1100), (1101, 1400)]
    assert read_all(workspace)[:1400] == before


def test_the_file_shrinks_and_holds_no_archived_payload(workspace: Workspace) -> None:
    report = put_away(workspace, 1400)
    assert report.after < report.before
    workspace.database.checkpoint()
    with workspace.database.reading() as connection:
        kept = raw(connection).execute("SELECT count(*) FROM events WHERE payload != ''").fetchone()
    assert kept == (3,)  # what the archiving itself recorded
    with gzip.open(segment_file(workspace, 0), "rt", encoding="utf-8") as lines:  # any tool can read a segment
        assert sum(1 for _ in lines) == 600


def test_segments_hold_no_customer_text(workspace: Workspace) -> None:
    put_away(workspace, 1400)
    for file in workspace.artifacts.root.rglob("*"):
        if file.is_file():
            assert b"customer text" not in file.read_bytes()
            if file.name == FILE:
                assert b"customer text" not in gzip.decompress(file.read_bytes())
    workspace.texts.erase(["r1"])
    assert b"customer text 1'" not in workspace.database.path.read_bytes()


def test_only_what_the_read_tables_have_taken_in_is_archived(workspace: Workspace) -> None:
    workspace.log.append([Draft(received("late"), "record/late")], actor="daemon", now=NOW)
    assert put_away(workspace, 1401).last == 1400


def test_a_date_closes_what_was_recorded_before_it(workspace: Workspace) -> None:
    later = NOW + timedelta(days=2)
    assert closed_by(workspace, NOW, now=later) == 0
    assert closed_by(workspace, NOW + timedelta(seconds=10), now=later) == 20
    assert closed_by(workspace, NOW + timedelta(seconds=10, microseconds=1), now=later) == 22
    assert closed_by(workspace, NOW + timedelta(days=1), now=later) == 1400


def test_what_a_clock_recorded_that_was_ten_years_ahead_holds_nothing_back(workspace: Workspace) -> None:
    def recorded(name: str, at: datetime) -> None:
        workspace.log.append([Draft(received(name), f"record/{name}")], actor="daemon", now=at)

    later = NOW + timedelta(days=100)
    recorded("ahead", NOW + timedelta(days=3650))
    recorded("right", NOW + timedelta(days=1))
    recorded("new", NOW + timedelta(days=99))
    workspace.projections.catch_up()
    assert closed_by(workspace, NOW + timedelta(days=50), now=later) == 1402
    recorded("ahead again", NOW + timedelta(days=3651))
    assert closed_by(workspace, NOW + timedelta(days=99, seconds=1), now=later) == 1403  # it closes nothing either


def test_a_retry_of_an_archived_append_is_still_recognised(workspace: Workspace) -> None:
    put_away(workspace, 1400)
    shutil.rmtree(workspace.artifacts.root)  # it must not need the segments
    (event,) = [received("r9", text_digest=queries.record(workspace.read, "r9").text_digest)]  # type: ignore[union-attr]
    (known,) = workspace.log.append([Draft(event, "record/r9", "received-r9")], actor="daemon", now=NOW)
    assert (known.position, known.event) == (19, event)
    assert workspace.log.head().position == 1403


@pytest.mark.parametrize("damage", ["moved", "truncated", "flipped", "manifest"])
def test_a_lost_segment_is_named_at_reading_and_stops_no_writer(workspace: Workspace, damage: str) -> None:
    put_away(workspace, 1400)
    file = segment_file(workspace, 1)
    if damage == "moved":
        file.parent.rename(workspace.root / "elsewhere")
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "flipped":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))
    else:
        (file.parent / "manifest.json").write_text("{}")
    workspace.close()
    with Workspace.open(workspace.root) as workspace:
        workspace.log.append([Draft(received("late"), "record/late")], actor="daemon", now=NOW)
        workspace.projections.catch_up()
        assert workspace.log.get("label-r5") is not None  # in the first segment
        with pytest.raises(Corrupt, match="events 601 to 1200 lie in segment sha256-"):
            read_all(workspace)
        with pytest.raises(Corrupt, match="events 601 to 1200"):
            workspace.log.stream("record/r500" if damage != "flipped" else _in_middle(workspace, file))
        found = [finding for finding in verify(workspace) if finding.level == "fail"]
        assert any(each.check == "log" and 601 <= each.position <= 1200 for each in found), found
        assert any(each.check == "artifacts" for each in found), found
        assert not any("was changed: its hash" in each.message for each in found), found  # nothing false is told
        if damage == "moved":
            (workspace.root / "elsewhere").rename(file.parent)
            assert sound(verify(workspace))


def _in_middle(workspace: Workspace, file: Path) -> str:
    """A stream in the block that the middle of the file falls into."""
    offsets = workspace.artifacts.manifest(file.parent.name).meta["offsets"]
    block = max(index for index, offset in enumerate(offsets) if offset <= file.stat().st_size // 2)
    return f"record/r{(601 + block * BLOCK + 4) // 2}"


def test_rows_can_only_lose_a_payload_that_a_segment_holds(workspace: Workspace) -> None:
    put_away(workspace, 600)
    for statement in (
        "UPDATE events SET payload = '' WHERE position = 601",  # in no segment
        "UPDATE events SET payload = '{}' WHERE position = 5",
        "UPDATE events SET payload = '{}' WHERE position = 601",
        "UPDATE events SET payload = '', actor = 'eve' WHERE position = 5",
        "UPDATE events SET hash = x'00' WHERE position = 5",
        "UPDATE segments SET last = 700",
        "DELETE FROM segments",
        "DELETE FROM events WHERE position = 5",
    ):
        with pytest.raises((DRIVER.Error, StoreError)), workspace.database.writing() as connection:
            raw(connection).execute(statement)
    with workspace.database.writing() as connection:
        raw(connection).execute("INSERT INTO segments VALUES (601, 700, 'sha256-none')")
        raw(connection).execute("UPDATE events SET payload = '' WHERE position = 650")
    found = [finding for finding in verify(workspace) if finding.level == "fail"]
    assert any(each.check == "archive" and each.position == 601 for each in found), found


def test_a_broken_chain_is_not_sealed(workspace: Workspace) -> None:
    with workspace.database.writing() as connection:
        raw(connection).execute("DROP TRIGGER events_are_never_updated")
        raw(connection).execute("UPDATE events SET actor = 'eve' WHERE position = 700")
    with pytest.raises(Corrupt, match="event 700 was changed"):
        put_away(workspace, 1400)
    assert archived_to(workspace) == 600


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from store_helpers import NOW
from store.archive import archive
from store.workspace import Workspace
with Workspace.open(Path(sys.argv[3])) as workspace:
    archive(workspace, 1400, actor="kim", now=NOW, segment_events=600)
"""


@pytest.mark.parametrize(
    "point",
    ["archive.segment_written:2", "archive.rows_emptied:2", "archive.recorded:3", "archive.shrunk"],
)
def test_killed_it_loses_nothing_and_can_be_repeated(workspace: Workspace, point: str) -> None:
    before, tables = read_all(workspace), contents(workspace.database)
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, str(here), str(here.parent), str(workspace.root)]
    done = subprocess.run(command, env={"TUNELOOP_KILL_AT": point, "PATH": ""}, check=False, timeout=120)
    assert done.returncode == -9
    assert read_all(workspace)[:1400] == before
    assert sound(verify(workspace))
    put_away(workspace, 1400)
    assert archived_to(workspace) == 1400
    workspace.projections.rebuild()
    assert (read_all(workspace)[:1400], contents(workspace.database)) == (before, tables)
    with workspace.database.reading() as connection:
        named = {segment.artifact for segment in known_segments(raw(connection))}
    assert set(workspace.artifacts.addresses()) == named  # what the killed call left is gone
    assert sound(verify(workspace))


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    history=st.lists(events(POOLS), min_size=1, max_size=40),
    cuts=st.lists(st.tuples(st.integers(0, 45), st.integers(1, 9)), min_size=1, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_any_history_archived_anyhow_folds_to_the_same(history: list[Any], cuts: list[Any], seed: int) -> None:
    chosen = random.Random(seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as folder, Workspace.create(Path(folder)) as workspace:
        for event in history:
            if type(event).__name__ in ("LeaseAcquired", "Archived"):  # they change more than they say
                continue
            workspace.log.append([Draft(event, chosen.choice("xyz"))], actor="kim", now=NOW)
        workspace.projections.catch_up()
        kept = workspace.log.head().position
        before, tables = read_all(workspace), contents(workspace.database)
        for up_to, size in cuts:
            archive(workspace, up_to, actor="kim", now=NOW, segment_events=size, shrink=False)
            workspace.projections.catch_up()
        assert read_all(workspace)[:kept] == before
        workspace.projections.rebuild()
        assert contents(workspace.database) == tables
        chain = [each for each in verify(workspace) if each.check in ("log", "archive", "read tables")]
        assert sound(chain), chain
