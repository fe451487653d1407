"""`doctor`: what is wrong is named with what to do, and `--fix` does what is safe and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cli_world import History, lived_in

from adapters.specs import write_json
from loop.bootstrap import open_app
from loop.cli import doctor_leftovers, doctor_machine
from loop.cli.main import main
from loop.services import Endpoints

ROOT = Path(__file__).parents[1]
CPUINFO = Path("/proc/cpuinfo")
KEY = "wandb-planted-0123456789abcdef"


class Told(NamedTuple):
    code: int
    checks: list[dict[str, Any]]
    fixed: list[str]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [check for check in self.checks if check["name"] == name]

    def level(self, name: str) -> str:
        return max((check["level"] for check in self.of(name)), key=["ok", "warn", "fail"].index)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = os.umask(0o077)  # as every process of ours has it
    for name in ("WANDB_API_KEY", "WANDB_MODE", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.setenv("TUNELOOP_MODEL__BASE", "some-org/some-model")
    yield
    os.umask(before)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return lived_in(tmp_path / "w")


@pytest.fixture
def doctor(root: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> Told:
        capsys.readouterr()
        code = main(["doctor", "--json", *words, "-w", str(root)])
        told = json.loads(capsys.readouterr().out)
        assert told["healthy"] == (code == 0)
        return Told(code, told["checks"], told["fixed"])

    return run


def test_a_sound_workspace_has_nothing_to_fix(doctor: Any) -> None:
    told = doctor("--fix")
    assert told.code == 0 and told.fixed == []
    for name in ("permissions", "processes", "stale files", "clock", "log", "read tables", "artifacts", "checkpoints"):
        assert told.level(name) == "ok", told.of(name)
    assert all(check["advice"] for check in told.checks if check["level"] != "ok" and check["name"] != "artifacts")


def test_permissions_are_named_and_closed(doctor: Any, root: Path) -> None:
    home = root / ".tuneloop"
    (home / "logs" / "engine.log").write_text("x")
    (home / "logs" / "engine.log").chmod(0o644)
    (home / "runs").chmod(0o750)
    before = doctor()
    assert before.level("permissions") == "warn" and "1 more" in before.of("permissions")[0]["detail"]
    after = doctor("--fix")
    assert after.level("permissions") == "ok" and after.fixed[0].startswith("closed 2 files and folders")
    assert (home / "logs" / "engine.log").stat().st_mode & 0o777 == 0o600
    assert (home / "runs").stat().st_mode & 0o777 == 0o700


def test_settings_that_hold_an_address_are_nobody_elses_business(doctor: Any, root: Path) -> None:
    settings = root / "tuneloop.toml"
    settings.chmod(0o644)
    assert doctor().level("permissions") == "ok"
    with settings.open("a") as file:
        file.write('\n[notify.team]\nkind = "slack"\nurl = "https://hooks.example/secret"\n')
    assert doctor().level("permissions") == "warn"
    told = doctor("--fix")
    assert told.level("permissions") == "ok" and settings.stat().st_mode & 0o077 == 0
    assert "secret" not in json.dumps(told.checks)


def test_read_tables_that_differ_are_built_anew(doctor: Any, root: Path) -> None:
    with open_app(root, env={}) as app, app.workspace.database.writing() as connection:
        connection.exec_driver_sql("UPDATE records SET label = 'nonsense' WHERE record_id = 'rec-001'")
    assert doctor().level("read tables") == "fail"
    told = doctor("--fix")
    assert told.code == 0 and told.level("read tables") == "ok"
    assert any(sentence.startswith("built the read tables anew") for sentence in told.fixed)


def test_leftovers_of_interrupted_writes_go_and_nothing_else(doctor: Any, root: Path) -> None:
    home = root / ".tuneloop"
    run, artifacts = home / "run", home / "artifacts"
    write_json(run / "services.json", Endpoints(engine="http://127.0.0.1:9"))
    (run / "engine.999999999.port").write_text("9")
    (run / f"gateway.{os.getpid()}.port").write_text("9")  # of a process that lives
    (run / "state.json.tmp").write_text("x")
    os.utime(run / "state.json.tmp", (1, 1))
    (run / "fresh.tmp").write_text("x")  # its writer may be at it
    (artifacts / ".tmp-0123456789abcdef").mkdir()
    (artifacts / ".tmp-0123456789abcdef" / "part").write_text("x")
    kept = {path.name for path in artifacts.iterdir() if not path.name.startswith(".")}
    told = doctor()
    assert told.level("stale files") == "warn" and told.level("artifacts") == "warn"
    done = doctor("--fix")
    assert {sentence.split(",")[0] for sentence in done.fixed} == {
        "removed .tuneloop/run/engine.999999999.port",
        "removed .tuneloop/run/services.json",
        "removed .tuneloop/run/state.json.tmp",
        "removed .tuneloop/artifacts/.tmp-0123456789abcdef",
    }
    assert (run / f"gateway.{os.getpid()}.port").exists() and (run / "fresh.tmp").exists()
    assert {path.name for path in artifacts.iterdir()} == kept
    assert done.level("stale files") == "ok" == done.level("artifacts")


def test_addresses_of_a_daemon_that_runs_are_left_alone(doctor: Any, root: Path) -> None:
    run = root / ".tuneloop" / "run"
    write_json(run / "services.json", Endpoints(gateway="http://127.0.0.1:9"))
    with (run / "daemon.lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert doctor("--fix").fixed == [] and (run / "services.json").exists()


def test_unfinished_checkpoints_go_unless_somebody_works_there(doctor: Any, root: Path) -> None:
    folder = root / ".tuneloop" / "runs" / "tickets-run-9"
    for step, complete in ((10, True), (20, False)):
        checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_text("x")
        if complete:
            (checkpoint / "COMPLETE").touch()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert doctor("--fix").fixed == []
    assert "checkpoint-20 was not finished" in " ".join(one["detail"] for one in doctor().of("checkpoints"))
    assert doctor("--fix").fixed == [
        "removed .tuneloop/runs/tickets-run-9/checkpoints/checkpoint-20, which was not finished"
    ]
    assert (folder / "checkpoints" / "checkpoint-10" / "weights").exists()


def test_a_process_that_nobody_looks_after_is_ended(doctor: Any, root: Path) -> None:
    # its starter says that it is another process than its parent
    process = subprocess.Popen(
        [sys.executable, "-m", "loop.notifier", str(root)], cwd=ROOT, env={**os.environ, "TUNELOOP_PARENT": "1"}
    )
    own = subprocess.Popen([sys.executable, "-m", "loop.notifier", str(root), "--once"], cwd=ROOT)
    try:
        deadline = time.monotonic() + 30
        with open_app(root, env={}) as app:
            while [one.pid for one in doctor_leftovers.left_over(app)] != [process.pid]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        told = doctor()
        assert told.level("processes") == "warn" and str(process.pid) in told.of("processes")[0]["advice"]
        done = doctor("--fix")
        assert done.fixed == [f"ended loop.notifier (pid {process.pid}), which nobody looked after"]
        assert process.wait(timeout=10) is not None and done.level("processes") == "ok"
    finally:
        for one in (process, own):
            one.kill()
            one.wait()


def test_a_clock_that_was_set_back_is_named(doctor: Any, root: Path) -> None:
    history = History(root)
    history.now = datetime.now(UTC) - timedelta(hours=5)
    history.record("later", "a text")
    history.now -= timedelta(hours=2)
    history.record("earlier", "another text")
    history.close()
    told = doctor()
    assert told.level("clock") == "warn" and "set back, last by 119 min before event" in told.of("clock")[0]["detail"]
    history = History(root)
    history.now = datetime.now(UTC) + timedelta(days=3)
    history.record("tomorrow", "a third text")
    history.close()
    assert "3 d ahead" in doctor().of("clock")[0]["detail"]


def test_the_mirror_is_told_of_without_its_key(
    doctor: Any, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = doctor()
    assert told.of("wandb")[0]["detail"].startswith("offline, no key is set, ") and told.level("wandb") == "warn"
    assert "d old" in told.of("wandb")[0]["detail"]  # the history is of January
    monkeypatch.setenv("WANDB_MODE", "online")
    assert "WANDB_API_KEY" in doctor().of("wandb")[0]["advice"]
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert doctor().of("wandb")[0]["detail"].startswith("online, a key is set, ")
    assert main(["doctor", "-w", str(root)]) == 0
    assert KEY not in capsys.readouterr().out
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert doctor().of("wandb")[0]["detail"] == "turned off"


def test_a_damaged_event_is_a_failure_that_fix_does_not_touch(doctor: Any, root: Path) -> None:
    with open_app(root, env={}) as app, app.workspace.database.writing() as connection:
        (sql,) = connection.exec_driver_sql(
            "SELECT sql FROM sqlite_master WHERE name = 'events_are_never_updated'"
        ).one()
        connection.exec_driver_sql("DROP TRIGGER events_are_never_updated")
        connection.exec_driver_sql("UPDATE events SET actor = 'somebody' WHERE position = 3")
        connection.exec_driver_sql(sql)
    told = doctor("--fix")
    assert told.code == 1 and told.fixed == [] and told.level("log") == "fail"
    assert "event 3" in told.of("log")[0]["detail"] and "backup" in told.of("log")[0]["advice"]


def test_gpus_are_read_from_what_nvidia_smi_says() -> None:
    told = "NVIDIA H100 80GB HBM3, 81559, 81077, 580.65.06\nnot a line\nTesla T4, 15360, 200, 535.1\n"
    first, second = doctor_machine.parse_gpus(told)
    assert (first.name, first.total, first.free, first.driver) == ("NVIDIA H100 80GB HBM3", 81559, 81077, "580.65.06")
    assert second.free == 200
    assert doctor_machine.parse_gpus("NVIDIA-SMI has failed because it could not communicate\n") == []


@pytest.mark.skipif(not CPUINFO.exists(), reason="only Linux lists a processor's instructions there")
def test_what_is_said_of_bf16_is_what_a_training_here_computes_in() -> None:
    pytest.importorskip("torch")
    from adapters import base_model
    from adapters.specs import BaseModelRef

    able = doctor_machine.multiplies_bf16(CPUINFO.read_text())
    computes = base_model.precision(BaseModelRef(path="", digest="", quantisation="nf4"), "cpu")
    assert able is None or computes == ("bf16" if able else "fp32")
    assert doctor_machine.multiplies_bf16("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 sse\n")
    assert doctor_machine.multiplies_bf16("processor\t: 0\nFeatures\t: fp asimd svebf16 bf16\n")
    assert doctor_machine.multiplies_bf16("flags\t\t: fpu avx2 avx512f avx512_vnni\n") is False
    assert doctor_machine.multiplies_bf16("Processor: none\n") is None


def test_bitsandbytes_is_tried_in_a_process_of_its_own() -> None:
    pytest.importorskip("bitsandbytes")
    assert doctor_machine.try_bitsandbytes("cpu") == ""
    assert doctor_machine.try_bitsandbytes("no-such-device") != ""
