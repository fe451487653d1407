"""One bit of what lies on the disk is another one: what that harms is named, and a harmed thing is never used."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import kill_world as world
import msgspec
import pytest
from adapter_world import make_adapter, put_card
from conftest import Trials
from starlette.testclient import TestClient
from store_helpers import contents
from test_training_kills import kill_at, start, torch, weights
from train_world import training_folder

from adapters import checkpoints
from adapters.specs import TrainResult, read_json
from loop import health, snapshot
from loop.bootstrap import open_app, utc_now
from loop.cli.status import gather
from loop.gateway import make_app
from loop.production import Engine, read_pointer
from loop.state import LoopState
from loop.steps import last_checkpoint
from store.archive import archive
from store.artifacts import Artifacts
from store.database import raw
from store.errors import ArtifactError, ModelError, TuneloopError
from store.prompting import PromptSpec
from store.verify import Finding, verify
from store.workspace import Workspace

# what nobody reads: SQLite keeps the larger of this counter and the last position
UNREAD = ("sqlite_sequence",)
BY_COMMAND = 25  # one flip in so many is looked at by `tuneloop doctor` itself


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace at rest whose adapter serves, with customers and their times among its texts."""
    root = world.make(tmp_path_factory.mktemp("flips") / "w")
    world.fill(root, turns_bad=False)
    spoken = [
        {"id": f"c{n}", "text": world.text(n), "customer": f"customer {n}", "timestamp": f"2026-03-{n - 399}"}
        for n in range(400, 412)
    ]  # fmt: skip
    world.drop(root, "e-customers.jsonl", spoken)
    assert world.run(root) == 0
    # no write-ahead log is left of it, and what is noted of processes speaks of those that have ended
    assert not list(root.glob(".tuneloop/*-wal"))
    return root


def everything(root: Path) -> dict[str, Any]:
    """All that can be got out of a workspace: every row of every table, the schema, events, texts and what is told."""
    with Workspace.open(root) as workspace:
        with workspace.database.reading() as connection:
            ask = raw(connection)
            made = ask.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()
            made = [tuple(str(part).lower() for part in one) for one in made]  # SQL knows no capitals in names
            names = [name for kind, name, _, _ in made if kind == "table" and name not in UNREAD]
            rows = {name: sorted(map(repr, ask.execute(f"SELECT * FROM {name}"))) for name in names}  # noqa: S608
        events = [msgspec.to_builtins(one) for one in workspace.log.read()]
        tables = contents(workspace.database)
    with open_app(root, env={}) as app:
        told = {key: value for key, value in gather(app).items() if key != "daemon"}
    return {"schema": made, "rows": rows, "events": events, "tables": tables, "told": told}


def flip(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def looked_at(root: Path) -> list[Finding]:
    """What the checks behind `doctor` and `verify` say that is wrong."""
    try:
        with Workspace.open(root) as workspace:
            found = [one for one in verify(workspace) if one.level == "fail"]
    except TuneloopError as error:  # so damaged that it cannot be opened
        found = [Finding("fail", "workspace", error.message, file=str(root / ".tuneloop" / "tuneloop.sqlite"))]
        assert "tuneloop.sqlite" in error.message
    for file, problem in checkpoints.damaged(root / ".tuneloop" / "runs"):
        found.append(Finding("fail", "checkpoints", problem, file=str(file)))
    return found


def doctor(root: Path) -> list[dict[str, Any]]:
    """What `tuneloop doctor` itself finds wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "loop.cli.main", "-w", str(root), "doctor", "--json"],
        capture_output=True, text=True, env=world.environment(), timeout=120,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return [one for one in json.loads(done.stdout)["checks"] if one["level"] == "fail"]


def flips(files: Sequence[Path], count: int, seed: int) -> Iterator[tuple[Path, str]]:
    """Flip one bit after the other, a file as likely as another, and mend it again; the file, and which bit."""
    random_ = random.Random(seed)  # noqa: S311
    for _ in range(count):
        path = random_.choice(files)
        good = path.read_bytes()
        at, bit = random_.randrange(len(good)), random_.randrange(8)
        path.write_bytes(flip(good, at, bit))
        yield path, f"bit {bit} of byte {at} of {path.name}"
        path.write_bytes(good)


def test_flips_in_the_database(
    lived_in: Path, tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]
) -> None:
    count = trials(36, full=250, soak=10_000)
    root = world.copy(lived_in, tmp_path / "w")
    path = root / ".tuneloop" / "tuneloop.sqlite"
    assert looked_at(root) == []
    whole = everything(root)
    told: Counter[str] = Counter()
    for number, (_, place) in enumerate(flips([path], count, 7)):
        harmed = path.read_bytes()
        found = looked_at(root)
        if found:
            assert any(one.file == str(path) for one in found), (place, found)
            told["named"] += 1
            told["positions"] += any(one.position for one in found)
            if number % BY_COMMAND == 0:
                path.write_bytes(harmed)
                said = doctor(root)
                assert any(path.name in one["detail"] for one in said), (place, found, said)
        else:
            assert everything(root) == whole, f"{place} changes something, and nobody says so"
            told["harmless"] += 1
        for beside in ("-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
    assert told["named"]
    assert told["harmless"]
    measured(
        f"{count} bit flips in the database",
        f"{told['named']} harmful, each named with its file, {told['positions']} with a log position; "
        f"{told['harmless']} harmless: all rows, events and reports as before",
    )


WRITER = """
import itertools, sys
from pathlib import Path
from store.workspace import Workspace
from store_writers import take_in
with Workspace.open(Path(sys.argv[1])) as workspace:
    for number in itertools.count():
        print(take_in(workspace, "writer", number)[-1].position, flush=True)
"""


def test_flips_in_the_write_ahead_log_of_a_killed_writer(
    lived_in: Path, tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]
) -> None:
    count = trials(24, full=150, soak=3000)
    root = world.copy(lived_in, tmp_path / "killed")
    here = Path(__file__).parent
    environment = world.environment(PYTHONPATH=f"{here}{os.pathsep}{here.parent}")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, env=environment)
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(30)]
    writer.kill()
    acknowledged += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    log = root / ".tuneloop" / "tuneloop.sqlite-wal"
    assert log.stat().st_size > 100_000
    whole = everything(world.copy(root, tmp_path / "whole"))
    told: Counter[str] = Counter()
    for number, (_, place) in enumerate(flips([log], count, 13)):
        harmed = world.copy(root, tmp_path / "w")
        path = harmed / ".tuneloop" / "tuneloop.sqlite"
        with contextlib.suppress(TuneloopError), Workspace.open(harmed) as workspace:
            told["lost"] += acknowledged[-1] - (head := workspace.log.head().position)
        found = [one for one in looked_at(harmed) if one.file == str(path)]
        if found:
            assert any(one.position == head + 1 for one in found), (place, found)
            told["named"] += 1
            if number % 3 == 0:  # whoever writes next writes over the note
                assert run("pause", harmed) == 0
                assert any(str(acknowledged[-1]) in one["detail"] for one in doctor(harmed)), place
                with open_app(harmed, env={}) as app:
                    (part,) = [one for one in health.parts(app, app.now()) if one.name == "log"]
                assert part.state == "down", part
        else:
            assert everything(harmed) == {**whole, "told": {**whole["told"], "workspace": str(harmed)}}, place
            told["harmless"] += 1
        shutil.rmtree(harmed)
    assert told["named"]
    measured(
        f"{count} bit flips in the write-ahead log of a writer that was killed (-9)",
        f"by {told['named']} SQLite lost {told['lost']:,} acknowledged events without a word: each time named with the "
        f"first position, also after the next write; {told['harmless']} harmless",
    )


def run(verb: str, root: Path) -> int:
    """Exit code of a command."""
    command = [sys.executable, "-m", "loop.cli.main", "-w", str(root), verb]
    return subprocess.run(command, env=world.environment(), capture_output=True, timeout=120).returncode


def test_flips_in_artifacts(
    lived_in: Path, tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]
) -> None:
    count = trials(12, full=100, soak=2000)
    root = world.copy(lived_in, tmp_path / "w")
    with Workspace.open(root) as workspace:  # history that lies in a segment is an artifact as well
        archive(workspace, 60, actor="cli", now=utc_now(), segment_events=40)
    assert looked_at(root) == []
    files = [
        path for path in sorted((root / ".tuneloop" / "artifacts").rglob("*")) if path.is_file() and path.stat().st_size
    ]
    for number, (path, place) in enumerate(flips(files, count, 8)):
        address = path.relative_to(root / ".tuneloop" / "artifacts").parts[0]
        named = [one for one in looked_at(root) if one.check == "artifacts"]
        assert named, place
        for one in named:
            assert one.file.endswith(address)
            assert path.name in one.message
            assert one.position > 0
        with Workspace.open(root) as workspace, pytest.raises(ArtifactError):
            workspace.artifacts.path(address, verify=True)
        if number % BY_COMMAND == 0:
            assert any(path.name in one["detail"] and address[:19] in one["detail"] for one in doctor(root)), place
    assert looked_at(root) == []
    measured(f"{count} bit flips in {len(files)} files of artifacts", f"{count} named with address, file and position")


def test_flips_in_small_files_stop_nobody(lived_in: Path, tmp_path: Path, measured: Callable[[str, str], None]) -> None:
    root = world.copy(lived_in, tmp_path / "w")
    with open_app(root) as app:
        paths, state = app.workspace.paths, app.state()
    pointer = paths.production / f"{world.TASK}.json"
    good, written, told = read_pointer(paths.production, world.TASK), pointer.read_bytes(), Counter[str]()
    assert good is not None
    for number, (_, place) in enumerate(flips([pointer], 500, 11)):
        found = read_pointer(paths.production, world.TASK)
        assert found in (None, good), f"{place} makes {found} of it"
        told["refused" if found is None else "harmless"] += 1
        if found is None and number % BY_COMMAND == 0:
            assert any(str(pointer) in one["detail"] for one in doctor(root)), place
            assert asked(root) == 503, place
            told["looked at"] += 1
    assert told["looked at"] > 2
    for _, place in flips([paths.run / "state.snapshot"], 500, 12):
        assert snapshot.load(paths.run) in (LoopState(), state), place
    pointer.write_bytes(flip(written, len(written) // 2, 0))
    assert world.run(root) == 0  # the daemon writes it anew
    anew = read_pointer(paths.production, world.TASK)
    assert anew is not None and (anew.answerer, anew.position, anew.prompt) == (
        good.answerer,
        good.position,
        good.prompt,
    )
    measured(
        "500 bit flips in production's pointer, 500 in the copy of the state",
        f"none stopped a reader, none was read otherwise; {told['refused']} pointers were refused (doctor names them, "
        f"the gateway answers 503, the next tick writes them anew), {told['harmless']} say what was written",
    )


def asked(root: Path) -> int:
    """Status of the gateway's answer to a ticket."""
    body = {"model": world.TASK, "messages": [{"role": "user", "content": "hello"}]}
    with TestClient(make_app(root), base_url="http://127.0.0.1") as client:
        return int(client.post("/v1/chat/completions", json=body).status_code)


def test_a_flipped_adapter_is_not_loaded_and_the_old_one_answers_on(
    tiny_model: Path, tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]
) -> None:
    count = trials(6, full=50, soak=500)
    artifacts = Artifacts(tmp_path / "artifacts")
    old, new = (
        artifacts.path(artifacts.put(_adapter(tiny_model, tmp_path / name, seed), "adapter", {"name": name}))
        for seed, name in enumerate(("old", "new"))
    )
    with engine(tiny_model, artifacts.root, tmp_path) as running:
        running.load("old", old)
        before = running.choose("old", PROMPT, "an apple", ["fruit", "metal"])
        for _, place in flips([path for path in sorted(new.iterdir()) if path.is_file()], count, 9):
            with pytest.raises(ModelError, match="artifact sha256-"):
                running.load("new", new)
            assert running.models() == ["base", "old"], place
            assert running.choose("old", PROMPT, "an apple", ["fruit", "metal"]) == before
        running.load("new", new)
        assert running.models() == ["base", "old", "new"]
    measured(
        f"{count} bit flips in an adapter that an engine is to load", f"{count} refused; the old one answered each time"
    )


def test_flips_in_checkpoints(
    tiny_model: Path, tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]
) -> None:
    count, resumes = trials(12, full=100, soak=2000), trials(1, full=5)
    rules = {"max_steps": 24, "dropout": 0.1, "checkpoint_every": 3, "eval_every": 4, "min_valid": 6, "patience": 10**6}
    unharmed = training_folder(tmp_path / "unharmed", tiny_model, **rules)
    assert start(unharmed).wait(180) == 0
    harmed = training_folder(tmp_path / "runs" / "harmed", tiny_model, **rules)
    kill_at(harmed, start(harmed), 11, 0.0)
    kept = harmed / "checkpoints"
    steps = checkpoints.whole(kept)
    assert len(steps) == 2
    assert last_checkpoint(harmed) == steps[-1]
    folders = [kept / f"checkpoint-{step}" for step in steps] + list(kept.glob("best-*"))
    assert len(folders) > 2
    files = [path for folder in folders for path in sorted(folder.iterdir())]
    for path, place in flips(files, count, 10):
        assert path in [file for file, _ in checkpoints.damaged(tmp_path / "runs")], place
        assert not path.is_relative_to(kept / f"checkpoint-{last_checkpoint(harmed)}"), place
    assert checkpoints.whole(kept) == steps
    newest = kept / f"checkpoint-{steps[-1]}"
    kinds = [newest / "adapter_model.safetensors", newest / "optimizer.pt", newest / "rng_state.pth"]
    kinds += [newest / checkpoints.STEERING, folders[-1] / "adapter_model.safetensors"]
    for path in kinds[:resumes]:  # and the child goes on from one that is whole, to the same end
        again = tmp_path / "again" / path.name / path.parent.name
        shutil.copytree(harmed, again)
        flipped = again / path.relative_to(harmed)
        flipped.write_bytes(flip(flipped.read_bytes(), flipped.stat().st_size // 2, 3))
        assert start(again).wait(180) == 0
        assert read_json(again / "result.json", TrainResult).resumed_from < steps[-1]
        ours, theirs = weights(again), weights(unharmed)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    measured(
        f"{count} bit flips in {len(files)} files of checkpoints",
        f"{count} named with their file, none gone on from; {resumes} trainings ended with an unharmed run's weights",
    )


PROMPT = PromptSpec(name="p@1", digest="", system="Answer: fruit or metal.")


def _adapter(tiny_model: Path, folder: Path, seed: int) -> Path:
    return put_card(make_adapter(tiny_model, folder, seed), tiny_model)


@contextlib.contextmanager
def engine(model: Path, root: Path, scratch: Path) -> Iterator[Engine]:
    """The real engine on a model, which loads adapters from below `root`."""
    token, port = "only-for-this-test", scratch / "port"
    command = [sys.executable, "-m", "adapters.serve", "--base", str(model), "--quantisation", "fp32"]
    command += ["--adapter-root", str(root), "--port-file", str(port), "--die-with-parent"]
    child = subprocess.Popen(command, env=world.environment(TUNELOOP_TOKEN=token), stderr=(scratch / "log").open("wb"))
    try:
        deadline = time.monotonic() + 120
        while not port.exists():
            assert child.poll() is None and time.monotonic() < deadline, (scratch / "log").read_text()
            time.sleep(0.05)
        with Engine(f"http://127.0.0.1:{port.read_text()}", token=token) as running:
            yield running
    finally:
        child.terminate()
        child.wait(30)
