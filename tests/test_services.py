"""The daemon's services: what keeps one from starting is told, and nobody waits for what takes long."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cli_world import make

from adapters import base_model
from loop.bootstrap import open_app
from loop.services import Service, Services
from loop.serving import add_services
from store.errors import ModelError

PREPARES = "import pathlib, sys, time; time.sleep(1); pathlib.Path(sys.argv[1]).touch()"
LISTENS = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text('4711'); time.sleep(60)"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_why_a_service_cannot_start_stands_in_its_log(run: Path, tmp_path: Path) -> None:
    def refuses(_: Path) -> list[str]:
        raise ModelError("there is no base model at /nowhere", hint="Give an existing folder.")

    assert Service("engine", run, refuses).tend() is False
    assert "no base model at /nowhere. Give an existing" in (tmp_path / "logs" / "engine.log").read_text()


def test_what_a_service_needs_is_prepared_beside_the_loop_and_followed_by_it(run: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"

    def command(port_file: Path) -> list[str]:
        return ["-c", LISTENS, str(port_file)] if ready.exists() else ["-c", PREPARES, str(ready)]

    service = Service("engine", run, command)
    try:
        started = time.monotonic()
        assert service.tend() is False and time.monotonic() - started < 1.0
        assert not ready.exists() and service.runs
        while not service.tend():
            assert time.monotonic() - started < 20
            time.sleep(0.05)
        assert service.url.endswith(":4711") and ready.exists()
        assert time.monotonic() - started < 5  # that it ended is no failure, and no pause follows
    finally:
        service.stop()


def test_the_daemon_does_not_bring_the_base_model_in_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELOOP_MODELS", str(tmp_path / "models"))
    assert not base_model.is_here() and not base_model.is_here("some-org/some-model")
    assert base_model.is_here("/nowhere") and base_model.is_here(str(tmp_path))  # `ensure` has an answer at once
    with open_app(make(tmp_path / "w"), env={}) as app:
        services = Services(app.workspace.paths.run)
        add_services(app, services)
        engine = services._services["engine"]
        assert engine._command(tmp_path / "port") == ["-m", "adapters.base_model"]
    (tmp_path / "models" / base_model.NAME).mkdir(parents=True)
    (tmp_path / "models" / base_model.NAME / base_model.COMPLETE).touch()
    assert base_model.is_here()
