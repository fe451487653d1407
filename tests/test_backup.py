"""A backup is one moment of a workspace in use; a restore brings all of it back. Killing either loses nothing."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_world import START, History, lived_in
from pytest import CaptureFixture
from store_helpers import NOW

from loop import restoring
from loop.bootstrap import open_app
from loop.cli.main import main
from loop.intake import external_record_id, take_in
from loop.production import Pointer, read_pointer, write_pointer
from store import backup as backups
from store import queries
from store import restore as restores
from store.backup import backup
from store.copies import Copy, copies_in, read_copy
from store.copying import Making
from store.database import DRIVER, raw
from store.errors import Corrupt, InputError, StaleEpoch, StoreError, UsageError
from store.events import BackupCompleted, BackupRemoved, LoopPaused, Restored
from store.kill_points import POINTS
from store.log import Draft
from store.prompting import PromptSpec
from store.verify import artifacts_of, verify
from store.workspace import Workspace

HERE = Path(__file__).parent
PATHS = f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lived_in(tmp_path / "workspace")
    return tmp_path / "workspace"


def make(root: Path, folder: Path, **options: Any) -> Copy:
    with Workspace.open(root) as workspace:
        report = backup(workspace, folder, actor="kim", now=NOW, **options)
    return read_copy(Path(report.folder))


def put_back(copy: Copy, root: Path) -> restores.Report:
    return restores.restore(restores.look(copy.path, root), actor="kim", now=NOW, hooks=restoring.hooks("kim"))


def append(root: Path, *reasons: str, **options: Any) -> None:
    with Workspace.open(root) as workspace:
        for reason in reasons:
            workspace.log.append([Draft(LoopPaused(reason=reason), "loop")], actor="kim", now=NOW, **options)


def story(root: Path) -> list[tuple[Any, ...]]:
    """Every event: position, id, hash."""
    with Workspace.open(root) as workspace:
        return [(one.position, one.event_id, one.hash, type(one.event)) for one in workspace.log.read()]


def is_clean(root: Path) -> None:
    """`tuneloop verify` finds nothing wrong, and nothing that deserves a look."""
    with Workspace.open(root) as workspace:
        workspace.projections.catch_up()
        findings = verify(workspace)
    assert {finding.level for finding in findings} == {"ok"}, findings


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def python(script: str, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A real process that runs beside the test, ended with it."""
    process = subprocess.Popen(
        [sys.executable, "-c", PATHS + script, *map(str, arguments)],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# ---------------------------------------------------------------- one moment

WRITER = """
from pathlib import Path
from cli_world import History
from store import events as ev
history, name = History(Path(sys.argv[1])), sys.argv[2]
number = 0
print("ready", flush=True)
while number < 1500 and not Path(sys.argv[1], "stop").exists():
    number += 1
    history.record(f"{name}-{number}", f"text {number} of {name}")
    if number % 10 == 0:
        folder = Path(sys.argv[1], f"made-by-{name}")
        folder.mkdir(exist_ok=True)
        (folder / "data").write_text(f"{name} {number}")
        address = history.app.workspace.artifacts.put(folder, "dataset", {})
        history.add(ev.EvaluationSucceeded(task="tickets", run_id=f"{name}-{number}", evaluation_id="look",
                    artifact=address, results=[], paired=[], seconds=1.0), f"run/{name}-{number}")
print(number, flush=True)
"""


def test_a_backup_under_writers_is_one_moment_and_stops_none(root: Path, tmp_path: Path) -> None:
    with python(WRITER, root, "ann") as one, python(WRITER, root, "ben") as two:
        for writer in (one, two):
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        made = []
        for _ in range(3):
            time.sleep(0.1)
            made.append(make(root, tmp_path / "copies"))
        (root / "stop").touch()
        written = [int(writer.communicate(timeout=60)[0]) for writer in (one, two)]
    assert [writer.returncode for writer in (one, two)] == [0, 0]
    with Workspace.open(root) as workspace:
        log = {recorded.position: recorded for recorded in workspace.log.read()}
        assert len(workspace.texts.known([f"ann-{n + 1}" for n in range(written[0])])) == written[0]
    assert made[0].manifest.position < made[-1].manifest.position < len(log)  # writers went on
    for copy in made:
        named = {address for n in range(1, copy.manifest.position + 1) for address in artifacts_of(log[n].event)}
        held = {Path(name).parts[2] for name in copy.manifest.files if name.startswith("state/artifacts/")}
        assert held == named
        assert log[copy.manifest.position].hash == copy.manifest.head.hash
        assert copy.manifest.problems == []
    put_back(made[-1], tmp_path / "again")
    is_clean(tmp_path / "again")
    assert story(tmp_path / "again")[: made[-1].manifest.position] == [
        (n, log[n].event_id, log[n].hash, type(log[n].event)) for n in range(1, made[-1].manifest.position + 1)
    ]


INTAKE = """
from pathlib import Path
from loop.bootstrap import open_app
from loop.intake import take_in
with open_app(Path(sys.argv[1]), env={}) as app:
    print("ready", flush=True)
    while not Path(sys.argv[1], "stop").exists():
        take_in(app, limit=7)
"""


def test_what_is_on_its_way_in_is_in_the_log_or_among_the_files(root: Path, tmp_path: Path) -> None:
    """Whenever a backup is made while files are claimed, read and deleted: every line of them is in it, once."""
    settings = root / "tuneloop.toml"
    settings.write_text(settings.read_text().replace("settle_seconds = ", "settle_seconds = 0.0 # "))
    lines = 0

    def drop(files: int) -> None:
        nonlocal lines
        for _ in range(files):
            several = [json.dumps({"id": f"in-{lines + n}", "text": f"help {lines + n}"}) for n in range(5)]
            lines += 5
            beside = root / f"{lines}.tmp"
            beside.write_text("\n".join(several) + "\n")
            beside.rename(root / "inbox" / f"{lines}.jsonl")

    made: list[tuple[Copy, int]] = []
    with python(INTAKE, root) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for _ in range(6):
            drop(8)
            made.append((make(root, tmp_path / "copies"), lines))
        (root / "stop").touch()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    on_their_way = sum(len([n for n in copy.manifest.files if "/inbox/" in n or "/claimed/" in n]) for copy, _ in made)
    assert on_their_way, "no file was ever on its way: the test has tested nothing"
    for number, (copy, dropped) in enumerate(made):
        target = tmp_path / f"again-{number}"
        put_back(copy, target)
        with open_app(target, env={}) as app:
            while any(app.workspace.paths.inbox.iterdir()) or any(app.workspace.paths.claimed.iterdir()):
                take_in(app, now=time.time() + 3600)
            app.workspace.projections.catch_up()
            wanted = {external_record_id("tickets", f"in-{n}") for n in range(dropped)}
            assert app.workspace.texts.known(sorted(wanted)) == wanted
            received = [one.stream for one in app.workspace.log.select("type = 'RecordReceived'", [])]
            assert len(received) == len(set(received))
        is_clean(target)


def test_nothing_is_taken_in_between_the_snapshot_and_what_waits(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that wants to take a file in at the worst moment: the file is in the backup, or its records are."""
    (root / "inbox" / "late.jsonl").write_text('{"id": "late", "text": "help me"}\n')
    real = Making._set_aside

    def daemon() -> None:
        with open_app(root, env={}) as app:
            take_in(app, now=time.time() + 3600)

    thread = threading.Thread(target=daemon)

    def slowly(making: Making, aside: Path) -> None:
        thread.start()
        time.sleep(0.5)
        real(making, aside)

    monkeypatch.setattr(Making, "_set_aside", slowly)
    copy = make(root, tmp_path / "copies", progress=lambda *_: thread.join(timeout=30))
    assert list((root / "inbox").iterdir()) == []  # it was taken in while the backup was made
    put_back(copy, tmp_path / "again")
    with open_app(tmp_path / "again", env={}) as app:
        take_in(app, now=time.time() + 3600)
        assert app.workspace.texts.get(external_record_id("tickets", "late")) == "help me"


def test_a_record_erased_meanwhile_is_not_kept(root: Path, tmp_path: Path) -> None:
    with Workspace.open(root) as workspace:

        def erase(what: str, done: int, of: int) -> None:
            if what == "checking":
                with workspace.database.writing() as connection:
                    workspace.texts.erase_within(connection, ["rec-001"])

        with pytest.raises(StoreError, match="records were erased while"):
            backup(workspace, tmp_path / "copies", actor="kim", now=NOW, progress=erase)
    assert list((tmp_path / "copies").iterdir()) == []
    make(root, tmp_path / "copies")


# ---------------------------------------------------------------- round trip


def test_all_of_a_workspace_comes_back(root: Path, tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    (root / "prompts").mkdir()
    (root / "prompts" / "own@1.toml").write_text('system = "Say {labels}"\n')
    (root / "inbox" / "tickets").mkdir()
    (root / "inbox" / "tickets" / "late.jsonl").write_text('{"id": "x", "text": "late"}\n')
    (root / "inbox" / "leads-outside.jsonl").symlink_to("/etc/hostname")
    for folder in ("claimed", "quarantine", "production"):
        (root / ".tuneloop" / folder / "kept.jsonl").write_text(f"{folder}\n")
    (root / ".tuneloop" / "cache" / "no.need").write_text("x")
    before = story(root)
    capsys.readouterr()
    assert main(["-w", str(root), "backup", str(tmp_path / "copies"), "--label", "the shelf", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    copy = read_copy(Path(told["folder"]))
    assert told["problems"] == []
    for path in [copy.path, *copy.path.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    assert subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=copy.path, capture_output=True).returncode == 0
    untouched = contents(copy.path)
    assert main(["restore", str(copy.path), str(tmp_path / "again")]) == 0  # nothing is replaced: no question
    again = tmp_path / "again"
    assert contents(copy.path) == untouched
    assert story(again)[: len(before)] == before
    for name in (
        "tuneloop.toml", "prompts/own@1.toml", "inbox/tickets/late.jsonl", ".tuneloop/secret", ".tuneloop/.gitignore",
        ".tuneloop/claimed/kept.jsonl", ".tuneloop/quarantine/kept.jsonl",
    ):  # fmt: skip
        assert (again / name).read_bytes() == (root / name).read_bytes(), name
    assert not (again / "inbox" / "leads-outside.jsonl").exists()
    assert not (again / ".tuneloop" / "cache" / "no.need").exists()
    is_clean(again)
    capsys.readouterr()
    assert main(["-w", str(again), "status"]) == 0
    assert "tickets-v1 (adapter)" in capsys.readouterr().out
    with open_app(again, env={}) as app, open_app(root, env={}) as old:
        assert app.workspace.texts.get("rec-001") == old.workspace.texts.get("rec-001")
        assert app.state().tasks == old.state().tasks
        assert app.workspace.texts.keyed("x") == old.workspace.texts.keyed("x")  # ids from content stay the same


def test_production_and_the_mirror_fit_the_new_place(root: Path, tmp_path: Path) -> None:
    with open_app(root, env={}) as app:
        (address,) = {d.artifact for d in app.state().task("tickets").deployed if d.artifact}
        prompt = PromptSpec(name="zero-shot@1", system="s", user="{text}", digest="d")
        folder = app.workspace.artifacts.path(address)
        pointer = Pointer(
            task="tickets", answerer="tickets-v1", kind="adapter", labels=["a"], prompt=prompt, adapter=str(folder)
        )
        write_pointer(app.workspace.paths.production, pointer)
        first = next(app.workspace.log.read(limit=1)).hash.hex()
    cursor = {"workspace": first[:8], "position": 3, "hash": "ab", "generation": 2}
    (root / ".tuneloop" / "wandb" / "cursor.json").write_text(json.dumps(cursor))
    copy = make(root, tmp_path / "copies")
    put_back(copy, tmp_path / "again")
    moved = read_pointer(tmp_path / "again" / ".tuneloop" / "production", "tickets")
    assert moved is not None and Path(moved.adapter) == tmp_path / "again" / ".tuneloop" / "artifacts" / address
    assert (Path(moved.adapter) / "adapter_config.json").is_file()
    kept = json.loads((tmp_path / "again" / ".tuneloop" / "wandb" / "cursor.json").read_text())
    assert (kept["workspace"], kept["generation"], kept.get("hash", "")) == (first[:8], 2, "")


def _json(value: Any) -> bytes:
    import msgspec

    return msgspec.json.encode(value)


def test_unchanged_artifacts_are_shared_between_backups_until_one_is_damaged(root: Path, tmp_path: Path) -> None:
    first = make(root, tmp_path / "copies")
    second = make(root, tmp_path / "copies")
    name = next(name for name in second.manifest.files if name.endswith("/dataset.jsonl"))
    assert (first.path / name).samefile(second.path / name)
    (second.path / name).write_bytes(b"rotten")
    third = make(root, tmp_path / "copies")
    assert not (second.path / name).samefile(third.path / name)
    put_back(third, tmp_path / "again")
    is_clean(tmp_path / "again")
    with pytest.raises(Corrupt, match=name):
        restores.look(second.path, tmp_path / "other")


# ---------------------------------------------------------------- a new life


def test_a_restore_begins_a_new_life_and_moves_the_old_one_aside(
    root: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    copy = make(root, tmp_path / "copies")
    append(root, "after the backup", "and more")
    (root / "inbox" / "new.jsonl").write_text("{}\n")
    (root / ".tuneloop" / "claimed" / "1__was-being-read.jsonl").write_text("{}\n")
    old = story(root)
    assert main(["restore", str(copy.path), str(root)]) == 2  # nobody was asked
    assert "--yes" in capsys.readouterr().err
    assert story(root) == old
    assert main(["restore", str(copy.path), str(root), "--yes", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["left_behind"] == 3  # BackupCompleted and two others
    new = story(root)
    position = copy.manifest.position
    assert new[:position] == old[:position]
    assert [kind.__name__ for *_, kind in new[position:]] == ["Restored", "LeaseAcquired", "BackupCompleted"]
    with Workspace.open(root) as workspace:
        (restored,) = workspace.log.select("type = 'Restored'", [])
        assert restored.event == Restored(
            backup=copy.manifest.backup, position=position, hash=copy.manifest.hash, left_behind=3
        )
    aside = Path(report["old"])
    assert aside.parent == root and (aside / "tuneloop.toml").is_file()
    shutil.copy(root / "tuneloop.toml", tmp_path / "settings")
    assert story(aside) == old  # it can be looked at, and is all there
    assert (root / "inbox" / "new.jsonl").exists()  # what has not been taken in is not lost
    assert (root / ".tuneloop" / "claimed" / "1__was-being-read.jsonl").exists()
    is_clean(root)
    assert not (root / ".tuneloop.restoring").exists()


def test_nothing_older_can_write_into_the_new_life(root: Path, tmp_path: Path) -> None:
    from loop.lease import acquire

    def daemon(times: int) -> int:
        epoch = 0
        for _ in range(times):
            with Workspace.open(root) as workspace:
                lease = acquire(workspace.paths.run, workspace.log, now=START)
                epoch = lease.epoch
                lease.release()
        return epoch

    daemon(1)
    copy = make(root, tmp_path / "copies")
    newest = daemon(3)  # unknown to the backup
    report = put_back(copy, root)
    assert report.epoch > newest
    with pytest.raises(StaleEpoch):
        append(root, "from before", epoch=newest)
    (root / ".tuneloop" / "tuneloop.sqlite").write_bytes(b"no database at all")
    report = put_back(copy, root)
    assert not report.old_readable
    assert report.epoch > newest + 100_000  # what nobody could read had fewer daemons than that
    is_clean(root)


def test_what_was_erased_after_the_backup_stays_erased(root: Path, tmp_path: Path) -> None:
    copy = make(root, tmp_path / "copies")
    history = History(root)
    history.record("rec-later", "a later record, which the backup does not know")
    history.close()
    assert main(["-w", str(root), "erase", "--yes", "rec-001", "rec-later"]) == 0
    (root / ".tuneloop" / "quarantine" / "x.jsonl").write_text("")
    report = put_back(copy, root)
    assert report.erased_again == 1
    is_clean(root)
    with Workspace.open(root) as workspace:
        assert workspace.texts.get("rec-001") is None
        assert workspace.texts.get("rec-002") is not None
        row = queries.record(workspace.read, "rec-001")
        assert row is not None and row.erased
        assert workspace.texts.known(["rec-later"]) == {"rec-later"}  # it cannot come in again
        (restored,) = workspace.log.select("type = 'Restored'", [])
        assert isinstance(restored.event, Restored) and restored.event.erased_again == 1
    # and so it does after another restore, whose backup still holds it, from a life that never knew the later one
    later = make(root, tmp_path / "copies")
    put_back(copy, root)
    put_back(later, root)
    with Workspace.open(root) as workspace:
        assert workspace.texts.get("rec-001") is None
        assert workspace.texts.known(["rec-later"]) == {"rec-later"}
    for path in (root / ".tuneloop").rglob("*"):
        if path.is_file():
            assert b"ticket number 1\n" not in path.read_bytes(), path


def test_erasing_names_the_old_workspace_that_still_has_the_text(
    root: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    copy = make(root, tmp_path / "copies")
    aside = Path(put_back(copy, root).old).name
    capsys.readouterr()
    assert main(["-w", str(root), "erase", "--yes", "rec-003", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["backups"]
    assert {one["backup"] for one in listed} == {copy.manifest.backup, aside}


def test_the_new_life_knows_of_every_backup_that_still_holds_its_records(root: Path, tmp_path: Path) -> None:
    first = make(root, tmp_path / "copies")
    removed = make(root, tmp_path / "copies")
    second = make(root, tmp_path / "copies", label="shelf")
    with Workspace.open(root) as workspace:
        backups._remove(workspace, removed.path, removed.manifest.label, "kim", NOW)
    put_back(first, root)
    with Workspace.open(root) as workspace:
        known = {
            one.event.backup for one in workspace.log.select("type = 'BackupCompleted'", [])
            if isinstance(one.event, BackupCompleted)
        }  # fmt: skip
    assert known == {first.manifest.backup, second.manifest.backup}


def test_a_daemon_or_any_other_command_keeps_a_restore_away(
    root: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    copy = make(root, tmp_path / "copies")
    holding = """
from datetime import UTC, datetime
from pathlib import Path
from loop.lease import acquire
from store.workspace import Workspace
workspace = Workspace.open(Path(sys.argv[1]))
if sys.argv[2] == "daemon":
    lease = acquire(workspace.paths.run, workspace.log, now=datetime.now(UTC))
workspace.log.head()
print("ready", flush=True)
sys.stdin.readline()
"""
    for who, code, words in (("daemon", 10, "a daemon runs"), ("command", 5, "another process has")):
        with python(holding, root, who) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            before = story(root)
            assert main(["restore", str(copy.path), str(root), "--yes"]) == code
            assert words in capsys.readouterr().err
            assert story(root) == before
            assert sorted(path.name for path in root.iterdir() if path.name.startswith(".tuneloop")) == [".tuneloop"]
    assert main(["restore", str(copy.path), str(root), "--yes"]) == 0


# ---------------------------------------------------------------- damage and malice


def test_every_flipped_bit_is_found_and_its_file_named(root: Path, tmp_path: Path) -> None:
    copy = make(root, tmp_path / "copies")
    names = [*copy.manifest.files, "manifest.json", "manifest.sha256"]
    chosen = random.Random(7)  # noqa: S311
    for number in range(60):
        name = names[number % len(names)]
        path = copy.path / name
        content = bytearray(path.read_bytes())
        at = chosen.randrange(len(content))
        content[at] ^= 1 << chosen.randrange(8)
        kept = path.read_bytes()
        path.write_bytes(bytes(content))
        with pytest.raises(Corrupt, match="manifest" if name.startswith("manifest") else name):
            restores.look(copy.path, tmp_path / "again")
        path.write_bytes(kept)
    restores.look(copy.path, tmp_path / "again")


def _missing(copy: Copy) -> str:
    (copy.path / "state" / "secret").unlink()
    return "state/secret is missing"


def _extra(copy: Copy) -> str:
    (copy.path / "workspace" / "prompts").mkdir()
    (copy.path / "workspace" / "prompts" / "evil@1.toml").write_text("x")
    return "evil@1.toml does not belong to it"


def _linked_file(copy: Copy) -> str:
    path = copy.path / "workspace" / "tuneloop.toml"
    path.unlink()
    path.symlink_to("/etc/passwd")
    return "workspace/tuneloop.toml is a link"


def _linked_folder(copy: Copy) -> str:
    shutil.move(copy.path / "state" / "artifacts", copy.path.parent / "elsewhere")
    (copy.path / "state" / "artifacts").symlink_to(copy.path.parent / "elsewhere")
    return "state/artifacts is a link"


def _truncated(copy: Copy) -> str:
    path = copy.path / "state" / "tuneloop.sqlite"
    path.write_bytes(path.read_bytes()[:-4096])
    return "state/tuneloop.sqlite has"


def _rewritten_tail(copy: Copy) -> str:
    """Whoever rewrites the log and all checksums of files cannot rewrite the anchor that the manifest has."""
    path = copy.path / "state" / "tuneloop.sqlite"
    connection = DRIVER.connect(str(path))
    (trigger,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'events_are_never_deleted'").fetchone()
    connection.execute("DROP TRIGGER events_are_never_deleted")
    connection.execute("DELETE FROM events WHERE position = (SELECT max(position) FROM events)")
    connection.execute(trigger)
    connection.execute("UPDATE sqlite_sequence SET seq = (SELECT max(position) FROM events) WHERE name = 'events'")
    connection.commit()
    connection.close()
    content = path.read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    _rewrite(copy, lambda value: value["files"].update({"state/tuneloop.sqlite": entry}))
    return "the last events are missing"


def _no_manifest(copy: Copy) -> str:
    (copy.path / "manifest.json").unlink()
    return "is no backup"


def _rewrite(copy: Copy, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((copy.path / "manifest.json").read_text())
    change(value)
    content = json.dumps(value).encode()
    (copy.path / "manifest.json").write_bytes(content)
    (copy.path / "manifest.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  manifest.json\n")


@pytest.mark.parametrize(
    "harm", [_missing, _extra, _linked_file, _linked_folder, _truncated, _rewritten_tail, _no_manifest]
)
def test_a_damaged_backup_is_refused_before_anything_is_touched(
    root: Path, tmp_path: Path, capsys: CaptureFixture[str], harm: Callable[[Copy], str]
) -> None:
    copy = make(root, tmp_path / "copies")
    words = harm(copy)
    before = story(root)
    assert main(["restore", str(copy.path), str(root), "--yes"]) in (4, 5)
    assert words in capsys.readouterr().err
    assert story(root) == before
    assert sorted(path.name for path in root.iterdir() if path.name.startswith(".tuneloop")) == [".tuneloop"]


@pytest.mark.parametrize(
    "name",
    [
        "../escaped", "workspace/../../escaped", "/etc/escaped", "state/../escaped", "workspace/inbox/../../../escaped",
        "workspace/.git/hooks/post-commit", "workspace/.tuneloop/run/daemon.lock", "state/run/endpoints.json",
        "escaped", "state/artifacts", "workspace//inbox/x", "workspace/inbox/./x", "state/artifacts/x\0y",
    ],
)  # fmt: skip
def test_a_manifest_cannot_name_a_place_that_is_none_of_a_backup(root: Path, tmp_path: Path, name: str) -> None:
    copy = make(root, tmp_path / "copies")
    (copy.path.parent / "escaped").write_text("x")
    _rewrite(
        copy, lambda value: value["files"].update({name: {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}})
    )
    with pytest.raises(Corrupt, match="names a file that no backup holds"):
        restores.look(copy.path, tmp_path / "again")


def test_a_damaged_workspace_is_backed_up_as_it_is_and_said_to_be_so(
    root: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    sound = make(root, tmp_path / "copies")
    with Workspace.open(root) as workspace, workspace.database.writing() as connection:
        raw(connection).execute("UPDATE texts SET text = 'rotten' WHERE record_id = 'rec-001'")
    assert main(["-w", str(root), "backup", str(tmp_path / "copies"), "--keep", "1"]) == 5
    assert "the text of rec-001 is not the one" in capsys.readouterr().out
    assert sound.path.is_dir()  # a worse one takes nothing's place
    (damaged,) = [copy for copy in copies_in(tmp_path / "copies") if copy.manifest.problems]
    assert main(["restore", str(damaged.path), str(tmp_path / "again")]) == 2  # that is worth a question
    assert main(["restore", str(damaged.path), str(tmp_path / "again"), "--yes"]) == 0
    assert "the text of rec-001 is not the one" in capsys.readouterr().out


def test_an_artifact_that_is_damaged_since_comes_whole_from_the_backup_before(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "copies")
    with Workspace.open(root) as workspace:
        folder = workspace.artifacts.path(workspace.artifacts.addresses()[0])
    (folder / "dataset.jsonl").write_text("rotten")
    assert any("dataset.jsonl" in problem for problem in make(root, tmp_path / "others").manifest.problems)
    copy = make(root, tmp_path / "copies")
    assert copy.manifest.problems == []
    put_back(copy, root)
    is_clean(root)


# ---------------------------------------------------------------- keeping


def test_only_as_many_are_kept_as_were_asked_for(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    stranger = lived_in(tmp_path / "stranger")
    others = make(stranger, folder)
    made = [make(root, folder) for _ in range(3)]
    last = make(root, folder, keep=2)
    here = {copy.manifest.backup for copy in copies_in(folder)}
    assert here == {others.manifest.backup, made[2].manifest.backup, last.manifest.backup}
    with Workspace.open(root) as workspace:
        removed = {
            one.event.backup for one in workspace.log.select("type = 'BackupRemoved'", [])
            if isinstance(one.event, BackupRemoved)
        }  # fmt: skip
    assert removed == {made[0].manifest.backup, made[1].manifest.backup}
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_backups_of_a_life_that_was_left_behind_are_left_alone(root: Path, tmp_path: Path) -> None:
    first = make(root, tmp_path / "copies")
    append(root, "left behind")
    second = make(root, tmp_path / "copies")
    put_back(first, root)
    make(root, tmp_path / "copies", keep=1)
    assert second.path.is_dir()
    assert not first.path.exists()


@pytest.mark.parametrize("inside", [".tuneloop", ".tuneloop/artifacts/x", "inbox", "prompts"])
def test_a_backup_goes_nowhere_where_it_would_be_backed_up(root: Path, inside: str) -> None:
    with pytest.raises(UsageError, match="backed up itself"):
        make(root, root / inside)


def test_two_at_once_are_one_too_many(root: Path, tmp_path: Path) -> None:
    with Workspace.open(root) as workspace, backups._one_at_a_time(workspace), pytest.raises(StoreError, match="other"):
        make(root, tmp_path / "copies")
    with pytest.raises(InputError, match="is no backup"):
        restores.look(tmp_path, root)


# ---------------------------------------------------------------- killed anywhere

BACKUP = """
from pathlib import Path
from store_helpers import NOW
from store.backup import backup
from store.workspace import Workspace
with Workspace.open(Path(sys.argv[1])) as workspace:
    backup(workspace, Path(sys.argv[2]), keep=1, actor="kim", now=NOW)
"""
RESTORE = """
from pathlib import Path
from store_helpers import NOW
from loop import restoring
from store.restore import look, restore
restore(look(Path(sys.argv[1]), Path(sys.argv[2])), actor="kim", now=NOW, hooks=restoring.hooks("kim"))
"""


def killed(script: str, *arguments: object, at: str) -> None:
    with python(script, *arguments, TUNELOOP_KILL_AT=at) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == -9, errors


@pytest.mark.parametrize("point", [name for name in POINTS if name.startswith("backup.")])
def test_a_killed_backup_is_finished_or_forgotten_by_the_next(root: Path, tmp_path: Path, point: str) -> None:
    folder = tmp_path / "copies"
    first = make(root, folder)
    killed(BACKUP, root, folder, at=point)
    for copy in copies_in(folder):  # whatever has a name is whole
        restores.look(copy.path, tmp_path / "again")
    is_clean(root)
    last = make(root, folder, keep=1)
    assert [path.name for path in folder.iterdir()] == [last.manifest.backup]
    with Workspace.open(root) as workspace:
        completed, removed = (
            {getattr(one.event, "backup", "") for one in workspace.log.select("type = ?", [kind])}
            for kind in ("BackupCompleted", "BackupRemoved")
        )
        assert completed - removed == {last.manifest.backup}
        assert first.manifest.backup in removed
        assert not (workspace.paths.cache / "backup").exists()
    put_back(last, tmp_path / "again")
    is_clean(tmp_path / "again")


@pytest.mark.parametrize("fresh", [False, True], ids=["over", "fresh"])
@pytest.mark.parametrize("point", [name for name in POINTS if name.startswith("restore.")])
def test_a_killed_restore_is_brought_to_its_end_by_the_next(
    root: Path, tmp_path: Path, point: str, fresh: bool
) -> None:
    (root / "prompts").mkdir()
    (root / "prompts" / "own@1.toml").write_text("old")
    copy = make(root, tmp_path / "copies")
    append(root, "left behind")
    with Workspace.open(root) as workspace:
        workspace.texts.erase(["rec-001"])
    (root / "prompts" / "own@1.toml").write_text("new")
    old = story(root)
    target = tmp_path / "fresh" if fresh else root
    killed(RESTORE, copy.path, target, at=point)
    whole = [home for home in (root / ".tuneloop", *root.glob(".tuneloop.replaced-*/.tuneloop")) if home.is_dir()]
    assert any(_positions(home) == len(old) for home in whole)  # the old log is whole, wherever it is
    report = put_back(copy, target)
    assert report.left_behind == (0 if fresh else 2)
    assert report.erased_again == (0 if fresh else 1)
    is_clean(target)
    assert (target / "prompts" / "own@1.toml").read_text() == "old"
    names = [kind.__name__ for *_, kind in story(target)[copy.manifest.position :]]
    assert names.count("Restored") == names.count("LeaseAcquired") == 1
    assert not (target / ".tuneloop.restoring").exists()
    asides = list(target.glob(".tuneloop.replaced-*"))
    if not fresh:
        assert len(asides) == 1
        assert story(asides[0]) == old
        assert (asides[0] / "prompts" / "own@1.toml").read_text() == "new"


def _positions(home: Path) -> int:
    connection = DRIVER.connect(str(home / "tuneloop.sqlite"))
    try:
        return int(connection.execute("SELECT max(position) FROM events").fetchone()[0])
    except DRIVER.Error:
        return 0
    finally:
        connection.close()


def test_between_two_names_a_person_is_told_what_to_do(root: Path, tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    copy = make(root, tmp_path / "copies")
    killed(RESTORE, copy.path, root, at="restore.moved_aside")
    assert main(["-w", str(root), "status"]) == 2
    assert "tuneloop restore" in capsys.readouterr().err
    assert main(["-w", str(root), "restore", str(copy.path), "--yes"]) == 0
    assert main(["-w", str(root), "status"]) == 0


# ---------------------------------------------------------------- no space

LIMITED = """
import resource
from pathlib import Path
from loop.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


def limited(size: int, *words: object) -> tuple[int, str]:
    with python(LIMITED, size, *words) as process:
        _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.parametrize("what", ["database", "artifact"])
def test_a_full_disk_leaves_no_half_backup(root: Path, tmp_path: Path, what: str) -> None:
    size = 40_000
    if what == "artifact":
        history = History(root)
        folder = tmp_path / "large"
        folder.mkdir()
        (folder / "weights").write_bytes(os.urandom(3_000_000))
        address = history.app.workspace.artifacts.put(folder, "adapter", {})
        history.add(_evaluated(address), "run/large")
        history.close()
        size = 2_000_000
    code, errors = limited(size, "-w", root, "backup", tmp_path / "copies")
    assert code == 5, errors
    assert "Nothing of" in errors and "left" in errors
    assert list((tmp_path / "copies").iterdir()) == []
    is_clean(root)
    make(root, tmp_path / "copies")


def test_a_full_disk_stops_a_restore_before_anything_is_moved(root: Path, tmp_path: Path) -> None:
    copy = make(root, tmp_path / "copies")
    before = story(root)
    code, errors = limited(40_000, "restore", copy.path, root, "--yes")
    assert code == 5, errors
    assert "the old workspace is whole" in errors
    assert story(root) == before
    assert not (root / ".tuneloop.restoring").exists()
    assert put_back(copy, root).left_behind == 1


def _evaluated(address: str) -> Any:
    from store.events import EvaluationSucceeded

    return EvaluationSucceeded(
        task="tickets", run_id="large", evaluation_id="l", artifact=address, results=[], paired=[], seconds=1.0
    )
