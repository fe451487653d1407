"""The files that run tuneloop as a service: units, container, and what they assume of the program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loop import settings
from loop.first_settings import default_toml
from store import errors

ROOT = Path(__file__).parents[1]
OPS = ROOT / "ops"
ANALYZE = shutil.which("systemd-analyze")


def compose() -> list[str]:
    """The command that checks compose files; empty where there is none."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]) and subprocess.run([*words, "version"], capture_output=True).returncode == 0:
            return words
    return []


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in (OPS / "systemd").iterdir():
        text = unit.read_text(encoding="utf-8").replace("/opt/tuneloop/.venv/bin/tuneloop", sys.executable)
        (tmp_path / f"{unit.stem}@{unit.suffix}").write_text(text, encoding="utf-8")
    units = [str(tmp_path / name) for name in ("tuneloop@x.service", "tuneloop-nightly@x.timer")]
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    done = subprocess.run([str(ANALYZE), "verify", *units], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and str(tmp_path) not in done.stderr, done.stderr


def test_the_unit_knows_the_exit_codes_that_a_restart_does_not_help() -> None:
    text = (OPS / "systemd" / "tuneloop.service").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"RestartPreventExitStatus=(.*)", text)[0].split()}
    assert codes == {
        errors.UsageError.exit_code,
        errors.SettingsError.exit_code,
        errors.DaemonRunning.exit_code,
    }
    seconds = int(re.findall(r"TimeoutStopSec=(\d+)", text)[0])
    # the step's time, five seconds for each of four services, and room
    assert seconds >= settings.DaemonSettings().stop_seconds + 4 * 5 + 10


@pytest.mark.skipif(not compose(), reason="docker compose is not installed")
def test_compose_accepts_its_file_and_wants_a_token() -> None:
    command = [*compose(), "-f", str(OPS / "docker" / "compose.yml"), "config"]
    env = {name: value for name, value in os.environ.items() if name != "TUNELOOP_TOKEN"}
    with_token = {**env, "TUNELOOP_TOKEN": "a-token-for-tests-0123456789"}
    done = subprocess.run(command, capture_output=True, text=True, env=with_token)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run(command, capture_output=True, text=True, env=env)
    assert refused.returncode != 0 and "put a token into" in refused.stderr


def test_what_the_container_sets_is_a_setting(tmp_path: Path) -> None:
    text = (OPS / "docker" / "compose.yml").read_text(encoding="utf-8")
    given = dict(re.findall(r"^ +(TUNELOOP_\w+__\w+): \"?([^\"\n]*?)\"?$", text, re.MULTILINE))
    assert len(given) == 4
    values = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in given.items()}
    (tmp_path / "tuneloop.toml").write_text(default_toml(["a", "b"]), encoding="utf-8")
    loaded = settings.load(tmp_path, values)
    assert (loaded.daemon.gateway_host, loaded.daemon.gateway_port) == ("0.0.0.0", 8080)  # noqa: S104
    assert loaded.resources.memory_limit_mb == 6000


def test_the_image_is_built_from_files_that_are_there_and_let_through() -> None:
    dockerfile = (OPS / "docker" / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE) for name in line.split()[:-1]
    }
    let_through = {
        line[1:]
        for line in (OPS / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert copied == let_through and all((ROOT / name).exists() for name in copied)


def test_the_drill_tries_every_alert_by_what_the_runbook_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OPS / "drill"))
    import troubles
    import world

    alerts = re.findall(r"- alert: (\w+)", (OPS / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    tried = {entry.alert for entry in troubles.ENTRIES}
    assert tried | set(troubles.NOT_TRIED) == set(alerts) and not tried & set(troubles.NOT_TRIED)
    runbook = world.spans((OPS / "runbook.md").read_text(encoding="utf-8"))
    source = (OPS / "drill" / "troubles.py").read_text(encoding="utf-8")
    done = re.findall(r'world\.(?:do|stands|label)\("([^"]+)"', source)
    assert len(done) > 20 and set(done) <= set(runbook)
