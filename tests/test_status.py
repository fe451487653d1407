"""`status`: what the loop does, how long it will take, what it waits for, and how each part is."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_world import History, lived_in, make

from adapters.specs import Metric, write_json, write_lines
from loop import health, progress, pulse
from loop.bootstrap import App, open_app
from loop.cli.main import main
from loop.cli.status import gather
from loop.services import Endpoints
from store import events as ev

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    made = lived_in(tmp_path / "w")
    capsys.readouterr()
    return made


@pytest.fixture
def held(root: Path) -> Iterator[None]:
    """Somebody holds the daemon's lock, and has ticked just now."""
    path = root / ".tuneloop" / "run" / "daemon.lock"
    with path.open("a+") as file:
        file.write("pid 1 on here")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        beat(root)
        yield


def beat(root: Path, *, ago: float = 0.0, held: list[pulse.Held] | None = None) -> None:
    now = pulse.Pulse(
        pid=os.getpid(), epoch=1, at=datetime.now(UTC), clock=pulse.clock() - ago, ticks=3, failed=0,
        tick_seconds=0.1, longest_wait=10.0, held=held or [],
    )  # fmt: skip
    pulse.write(root / ".tuneloop" / "run", now)


def training(app: App, history: History, *, minutes: int = 3) -> None:
    """Opens a cycle whose training began `minutes` ago."""
    history.now = datetime.now(UTC) - timedelta(minutes=minutes + 2)
    run = "tickets-run-3"
    for event in (
        ev.DatasetFrozen(
            task="tickets", run_id=run, artifact="sha256-x", up_to=1, labels_train=60, train=50, valid=10, exam=40,
            hard_exam=0, per_class={"billing": 50}, curation=[],
        ),
        ev.TrainingStarted(
            task="tickets", run_id=run, attempt=1, adapter="tickets-v3", method="qlora", base_model="SmolLM2",
            base_digest="d", quantisation="nf4", prompt="zero-shot@1", seed=1, hyperparameters={},
        ),
    ):  # fmt: skip
        history.add(event, f"run/{run}")
    history.now = datetime.now(UTC)


def part(values: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in values["daemon"]["parts"] if one["name"] == name]
    return dict(found)


def test_a_training_says_how_far_it_is_and_how_long_it_still_takes(root: Path, held: None) -> None:
    history = History(root)
    training(history.app, history)
    folder = history.app.workspace.paths.runs / "tickets-run-3"
    folder.mkdir()
    # earlier attempts went at another speed: only the last steps count
    seconds = [float(step) for step in range(1, 21)] + [20.0 + 4.0 * step for step in range(1, 21)]
    lines = [Metric(step=n, of=60, loss=1.0, seconds=at) for n, at in enumerate(seconds, 1)]
    write_lines(folder / "metrics.jsonl", lines)
    values = gather(history.app)
    (one,) = values["daemon"]["doing"]
    assert (one["task"], one["what"], one["done"], one["of"]) == ("tickets", "training tickets-v3", 40, 60)
    assert one["seconds_left"] == pytest.approx(80, abs=5)
    assert one["seconds_spent"] == pytest.approx(180, abs=10)
    assert values["tasks"]["tickets"]["step"]["phase"] == "training"
    history.close()


def test_before_its_first_steps_earlier_trainings_tell(root: Path, held: None) -> None:
    history = History(root)
    training(history.app, history, minutes=0)
    history.app.workspace.projections.catch_up()
    (one,) = gather(history.app)["daemon"]["doing"]
    assert (one["done"], one["of"]) == (0, 0)
    assert one["seconds_left"] == pytest.approx(41.0, abs=3)  # both runs of this history took 41 s
    history.close()


def test_an_evaluation_is_estimated_from_earlier_looks_at_as_many_items(root: Path, held: None) -> None:
    history = History(root)
    training(history.app, history)
    history.now = datetime.now(UTC) - timedelta(seconds=70)
    history.add(
        ev.EvaluationStarted(
            task="tickets", run_id="tickets-run-3", evaluation_id="tickets-v3-look-1", attempt=1,
            candidate="tickets-v3", champion="tickets-v1", baseline="zero-shot@1", exam=92, hard_exam=0, look=1,
        ),
        "run/tickets-run-3",
    )  # fmt: skip
    history.now = datetime.now(UTC)
    history.app.workspace.projections.catch_up()
    folder = history.app.workspace.paths.runs / "tickets-v3-look-1"
    folder.mkdir()
    write_lines(folder / "metrics.jsonl", [Metric(step=32, of=92, phase="tickets-v3")])
    (one,) = gather(history.app)["daemon"]["doing"]
    assert one["what"] == "evaluating tickets-v3" and (one["phase"], one["done"], one["of"]) == ("tickets-v3", 32, 92)
    # the looks before: 12 s for 40 + 6 items; this one began ten seconds ago
    assert one["seconds_left"] == pytest.approx(92 * 12 / 46 - 10, abs=2)
    history.close()


def test_what_is_done_beside_the_cycles_is_known_by_its_locked_folder(root: Path, held: None) -> None:
    folder = root / ".tuneloop" / "runs" / "tickets-prompts"
    folder.mkdir()
    with open_app(root, env={}) as app:
        assert gather(app)["daemon"]["doing"] == []
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (one,) = gather(app)["daemon"]["doing"]
            assert one["what"] == "comparing prompt versions" and one["seconds_left"] is None
            assert progress.step_processes(folder.parent) == [os.getpid()]
        assert gather(app)["daemon"]["doing"] == []


def test_every_part_that_is_not_well_says_so(root: Path, held: None) -> None:
    with open_app(root, env={"TUNELOOP_ENDPOINT__URL": "http://127.0.0.1:9/v1"}) as app:
        values = gather(app)
        assert part(values, "daemon")["state"] == "ok"
        assert part(values, "engine")["state"] == "down" == part(values, "gateway")["state"]
        assert part(values, "endpoint")["state"] == "down" and "127.0.0.1:9" in part(values, "endpoint")["detail"]
        assert part(values, "mirror")["state"] == "warn"  # the history is of January
        assert part(values, "disk")["state"] == "ok"
    with open_app(root, env={"TUNELOOP_ALERTS__DISK_FREE_MB": "99999999"}) as app:
        assert part(gather(app), "disk")["state"] == "warn"


def test_parts_that_are_well_are_ok(root: Path, held: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{port}"
        pids = {"tracking": os.getpid(), "notifier": os.getpid()}
        write_json(root / ".tuneloop" / "run" / "services.json", Endpoints(engine=url, gateway=url, pids=pids))
        env = {"TUNELOOP_ALERTS__WANDB_BEHIND_SECONDS": "1e12", "TUNELOOP_ENDPOINT__URL": f"{url}/v1"}
        with open_app(root, env=env) as app:
            values = gather(app)
    states = {one["name"]: one["state"] for one in values["daemon"]["parts"]}
    assert states == {
        "daemon": "ok", "engine": "ok", "gateway": "ok", "mirror": "ok", "notifier": "off", "endpoint": "ok",
        "disk": "ok", "log": "ok",
    }  # fmt: skip


def test_a_daemon_that_hangs_is_not_taken_for_a_healthy_one(root: Path, held: None) -> None:
    beat(root, ago=1000)
    with open_app(root, env={}) as app:
        daemon = part(gather(app), "daemon")
    assert daemon["state"] == "down" and "1000 s" in daemon["detail"]


def test_a_pulse_from_before_the_machine_started_is_old(root: Path, held: None) -> None:
    beat(root, ago=-1e6)
    told = pulse.read(root / ".tuneloop" / "run")
    assert told is not None and pulse.age(told) == float("inf")


def test_what_failed_and_is_tried_again_is_named(root: Path, held: None, capsys: pytest.CaptureFixture[str]) -> None:
    beat(root, held=[pulse.Held(what="tickets StartTraining", error="no room on the disk", failures=4, seconds=16.0)])
    assert main(["status", "-w", str(root)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "tries again StartTraining: no room on the disk (in 16 s)" in told
    assert "failed 4 times" in told


def test_the_last_verification_is_remembered(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_app(root, env={}) as app:
        assert "never verified" in part(gather(app), "log")["detail"]
    assert main(["verify", "-w", str(root)]) == 0
    with open_app(root, env={}) as app:
        seen = health.read_verified(app)
        assert seen is not None and seen.problems == 0 and seen.position == app.workspace.log.head().position
        assert "verified up to" in part(gather(app), "log")["detail"]
    victim = next((root / ".tuneloop" / "artifacts").glob("*/dataset.jsonl"))
    victim.write_bytes(b"x" * victim.stat().st_size)
    assert main(["verify", "-w", str(root)]) == 5
    with open_app(root, env={}) as app:
        assert part(gather(app), "log")["state"] == "down"


def test_the_screen_says_what_the_json_says(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json", "-w", str(root)]) == 0
    values = json.loads(capsys.readouterr().out)
    assert main(["status", "-w", str(root)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for one in values["daemon"]["parts"]:
        assert f"{one['name']} {one['state']} {one['detail']}" in shown
    for clause in values["tasks"]["tickets"]["waits"]:
        assert f"waits for {clause}" in shown
    assert values["tasks"]["tickets"]["last_label_at"] is None


def test_watching_redraws_on_a_screen_of_its_own_and_gives_the_terminal_back(root: Path) -> None:
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    command = [sys.executable, "-m", "loop.cli.main", "status", "--watch", "-w", str(root)]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=env)
    os.close(slave)
    seen = b""
    interrupted = False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            seen += os.read(master, 65536)
        except OSError:
            break
        if seen.count(b"tickets-v1 (adapter)") >= 2 and not interrupted:
            process.send_signal(signal.SIGINT)
            interrupted = True
    os.close(master)
    assert process.wait(timeout=10) == 130
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1  # the other screen, and back
    assert seen.rindex(b"\x1b[?25h") > seen.index(b"\x1b[?25l")  # the cursor is back as well


def test_watching_in_a_pipe_gives_a_document_a_line(root: Path) -> None:
    command = [sys.executable, "-m", "loop.cli.main", "status", "--watch", "--json", "-w", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
    assert all(json.loads(line)["tasks"]["tickets"]["champion"]["answerer"] == "tickets-v1" for line in lines)


def test_an_empty_workspace_has_a_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make(tmp_path / "w")
    (root / ".tuneloop" / "run" / pulse.FILE).write_bytes(b"{torn")
    capsys.readouterr()
    assert main(["status", "--json", "-w", str(root)]) == 0
    values = msgspec.json.decode(capsys.readouterr().out)
    assert values["daemon"]["doing"] == [] and values["daemon"]["seconds_since_tick"] is None
