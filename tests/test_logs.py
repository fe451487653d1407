"""Log lines: for people and for collectors, without keys, and in files that do not grow for ever."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import make

from loop.logs import configure, tidy
from store import logs as store_logs
from store.logs import about, log_to_stderr

ROOT = Path(__file__).parents[1]
KEY = "sk-planted-0123456789abcdef"


@pytest.fixture(autouse=True)
def plain_loggers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(store_logs.VARIABLE, "")
    yield
    for name in ("tuneloop", "other"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def test_a_line_for_people_is_one_safe_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    logging.getLogger("tuneloop.x").info("a %s\n\x1b[31mb", "word")
    assert re.fullmatch(r"\d\d:\d\d:\d\d info    a word \[31mb\n", capsys.readouterr().err)


def test_json_lines_carry_what_they_are_about(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    log = logging.getLogger("tuneloop.x")
    log.warning("é\x9b\nsecond line")
    with about("tickets-run-3"):
        log.info("the engine is slow")
        log.info("7 LabelGiven", extra={"event": "LabelGiven", "position": 7, "correlation_id": "another"})
    log.info("over")
    first, slow, given, over = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("warning", "tuneloop.x", "é\x9b\nsecond line")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", first["time"]) and "correlation_id" not in first
    assert slow["correlation_id"] == "tickets-run-3" and "correlation_id" not in over
    assert (given["event"], given["position"], given["correlation_id"]) == ("LabelGiven", 7, "another")


@pytest.mark.parametrize("form", ["human", "json"])
def test_no_line_holds_a_key(form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    configure(form)
    log_to_stderr("other")
    for name in ("tuneloop.x", "other"):
        log = logging.getLogger(name)
        log.error("refused: %s", KEY)
        try:
            raise ValueError(f"with {KEY}")
        except ValueError:
            log.exception("it failed")
    told = capsys.readouterr().err
    assert KEY not in told and told.count("***") == 4


def test_children_write_in_the_format_of_the_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    program = (
        "import logging\nfrom store.logs import log_to_stderr\nlog_to_stderr('x')\nlogging.getLogger('x').info('hi')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr)["message"] == "hi"


@pytest.mark.parametrize("how", ["option", "setting", "environment"])
def test_run_logs_json_when_asked(how: str, tmp_path: Path) -> None:
    root = make(tmp_path / "w")
    (root / "inbox" / "a.jsonl").write_text('{"text": "the first ticket", "answer": "billing"}\n')
    os.utime(root / "inbox" / "a.jsonl", (1, 1))
    env = {**os.environ, "TUNELOOP_MODEL__BASE": str(tmp_path / "none"), "WANDB_MODE": "disabled"}
    env.pop(store_logs.VARIABLE, None)
    if how == "setting":
        env["TUNELOOP_DAEMON__LOG_FORMAT"] = "json"
    if how == "environment":
        env[store_logs.VARIABLE] = "json"
    more = ["--log-format", "json"] if how == "option" else []
    command = [sys.executable, "-m", "loop.cli.main", "run", "-w", str(root), *more]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines: list[dict[str, object]] = []
    deadline = time.monotonic() + 60
    for line in process.stderr:
        lines.append(json.loads(line))
        if lines[-1].get("event") == "HarvestCompleted" or time.monotonic() > deadline:
            break
    process.send_signal(signal.SIGTERM)
    lines += [json.loads(line) for line in process.stderr]
    process.wait()
    harvest = next(line for line in lines if line.get("event") == "HarvestCompleted")
    assert harvest["stream"] == "task/tickets" and isinstance(harvest["position"], int)
    assert any("the engine cannot start" in str(line["message"]) for line in lines)


def test_large_logs_are_cut_while_they_are_written(tmp_path: Path) -> None:
    with (tmp_path / "engine.log").open("ab", buffering=0) as writer:
        writer.write(b"x" * 5000 + b"\nlast line\n")
        assert tidy(tmp_path, largest=1000) == ["engine.log"]
        writer.write(b"after\n")
    assert (tmp_path / "engine.log").read_bytes() == b"after\n"
    assert (tmp_path / "engine.1.log").read_bytes().endswith(b"last line\n")
    assert (tmp_path / "engine.1.log").stat().st_mode & 0o077 == 0
    assert tidy(tmp_path, largest=1000) == []


def test_old_files_go_first_and_only_beyond_the_limit(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / f"run-{number}.log"
        path.write_text("a line\n")
        os.utime(path, (number, number))
    assert tidy(tmp_path, most=6) == []
    assert tidy(tmp_path, most=4) == ["run-0.log", "run-1.log"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"run-{number}.log" for number in range(2, 6)]
