"""The log under several real processes, and under SIGKILL."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from store.database import Database
from store.log import Log
from store.projections import Projections
from store.verify import check_chain, sound, verify
from store.workspace import Workspace

HERE = Path(__file__).parent

PRELUDE = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from store_helpers import NOW, labelled, received
from store.errors import Conflict
from store.log import Draft
from store.workspace import Workspace
workspace = Workspace.open(Path(sys.argv[3]))
log, me = workspace.log, sys.argv[4]
"""

WRITER = """
for number in range(int(sys.argv[5])):
    draft = Draft(labelled("shared", "urgent", annotator=me), "record/shared")
    own = Draft(received(f"{me}-{number}"), f"record/{me}-{number}")
    while True:
        try:
            log.append([draft, own], actor=me, now=NOW, expected={"record/shared": log.version("record/shared")})
            break
        except Conflict:
            continue
    if number % 7 == 0:
        workspace.projections.catch_up(batch=5)
    if number == 20:
        workspace.projections.rebuild(batch=50)
"""

ENDLESS = """
number = 0
while True:
    number += 1
    drafts = [Draft(received(f"{me}-{number}-{part}"), f"record/{me}-{number}-{part}") for part in range(3)]
    recorded = log.append(drafts, actor=me, now=NOW)
    sys.stdout.write(f"{recorded[-1].position} {recorded[-1].event_id}\\n")
    sys.stdout.flush()
    if number % 5 == 0:
        workspace.projections.catch_up(batch=4)
"""

INSIDE = """
def wait(connection):
    print("inside", flush=True)
    time.sleep(60)
log.append([Draft(received("never"), "record/never")], actor=me, now=NOW, within=wait)
"""


def start(code: str, root: Path, name: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, str(HERE), str(HERE.parent), str(root), name, *arguments],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Workspace.create(tmp_path).close()
    return tmp_path


def test_four_processes_append_without_gap_or_loss(root: Path) -> None:
    children = [start(WRITER, root, f"writer{number}", "40") for number in range(4)]
    assert [child.wait(timeout=120) for child in children] == [0, 0, 0, 0]
    with Workspace.open(root) as workspace:
        workspace.projections.catch_up()
        assert workspace.log.head().position == 4 * 40 * 2
        assert workspace.log.version("record/shared") == 160
        findings = verify(workspace)
        assert sound(findings), findings
        assert [each.position for each in workspace.log.read()] == list(range(1, 321))


def test_kill_9_at_any_moment_loses_nothing_acknowledged(root: Path) -> None:
    random_ = random.Random(7)  # noqa: S311
    acknowledged: dict[int, str] = {}
    for turn in range(8):
        child = start(ENDLESS, root, f"writer{turn}")
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(random_.uniform(0.0, 0.15))
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
        assert child.wait(timeout=30) == -signal.SIGKILL
        for line in (first + rest).splitlines(keepends=True):
            if line.endswith("\n"):
                position, event_id = line.split()
                acknowledged[int(position)] = event_id
    with Workspace.open(root) as workspace:
        everything = {each.position: each.event_id for each in workspace.log.read()}
        assert {position: everything.get(position) for position in acknowledged} == acknowledged
        assert len(everything) % 3 == 0  # all of an append or none of it
        assert sound(verify(workspace))
        workspace.projections.catch_up()
        assert sound(verify(workspace))


def test_kill_9_inside_a_transaction_leaves_no_trace(root: Path) -> None:
    child = start(INSIDE, root, "writer")
    assert child.stdout is not None and child.stdout.readline() == "inside\n"
    child.kill()
    child.wait(timeout=30)
    child.stdout.close()
    with Workspace.open(root) as workspace:
        assert workspace.log.head().position == 0
        assert workspace.log.version("record/never") == 0


CLAIM = """
import fcntl, sys
SHARED_FIRST, SHARED_SIZE = 0x40000002, 510  # the bytes that every connection locks: sqlite.org/fileformat2.html
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, SHARED_SIZE, SHARED_FIRST)
        print("free")
    except BlockingIOError:
        print("locked")
"""


def test_opening_a_workspace_twice_keeps_the_locks_of_the_first(root: Path) -> None:
    with Workspace.open(root) as first, Workspace.open(root):
        claim = [sys.executable, "-c", CLAIM, str(first.paths.database)]
        done = subprocess.run(claim, capture_output=True, text=True, cwd=HERE.parent, timeout=60)
        assert done.stdout == "locked\n", done


def test_two_logs_in_one_process_share_the_file(tmp_path: Path) -> None:
    from store_helpers import NOW, received

    from store.log import GENESIS, Draft, Head

    one, two = Database(tmp_path / "a.sqlite"), Database(tmp_path / "a.sqlite")
    logs = [Log(one), Log(two)]
    for number in range(10):
        logs[number % 2].append([Draft(received(str(number)), f"record/{number}")], actor="kim", now=NOW)
    assert list(check_chain(logs[0].pages(), Head(0, GENESIS))) == []
    assert Projections(two, logs[1]).catch_up() == 10
    for log, database in zip(logs, (one, two), strict=True):
        log.close()
        database.close()
