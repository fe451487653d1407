"""/metrics of the gateway, and what is built on it: alert rules, their tests, the dashboard, the runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cli_world import lived_in
from web_world import AUTHORISED, TOKEN, Served, Upstream, running_upstream

from adapters.openapi import GATEWAY
from adapters.specs import write_json
from loop import gauges, pulse
from loop.bootstrap import open_app
from loop.cli.main import main
from loop.exposition import Family, Sample, page
from loop.metering import Metrics
from loop.notify.outbox import Box
from loop.production import Pointer, write_pointer
from loop.traffic import Traffic
from store.prompting import PromptSpec

OPS = Path(__file__).parents[1] / "ops"
RULES = OPS / "prometheus" / "alerts.yml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (apt install prometheus)")

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with running_upstream() as url:
        yield url


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, upstream: str) -> Path:
    made = lived_in(tmp_path_factory.mktemp("metrics") / "w")
    pointer = Pointer(
        task="tickets",
        answerer="tickets-v1",
        kind="prompt",
        labels=["billing", "general"],
        prompt=PromptSpec(name="p@1", digest="", system="Classify."),
        upstream=upstream,
    )
    write_pointer(made / ".tuneloop" / "production", pointer)
    return made


@pytest.fixture(scope="module")
def gateway(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(["loop.gateway", str(root)], tmp_path_factory.mktemp("served"), env={"TUNELOOP_TOKEN": TOKEN})
    served.http.headers.update(AUTHORISED)
    yield served
    served.stop()


def values_of(text: str) -> Values:
    found: Values = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()  # type: ignore[union-attr]
            pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or "")
            found[name, frozenset(pairs)] = float(value)
    return found


def value(values: Values, name: str, **labels: str) -> float:
    return values[name, frozenset(labels.items())]


def names_of(text: str) -> set[str]:
    """Every name that a query may use, with what histograms add."""
    families = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    more = {f"{name}{end}" for name, kind in families.items() if kind == "histogram" for end in ("_bucket", "_sum")}
    return set(families) | more


@pytest.fixture(scope="module")
def told(gateway: Served) -> str:
    return gateway.http.get("/metrics").text


# ---------------------------------------------------------------- what it says


def test_it_tells_of_the_workspace_what_the_log_says(told: str, root: Path) -> None:
    values = values_of(told)
    with open_app(root, env={}) as app:
        assert value(values, "tuneloop_log_events") == app.workspace.log.head().position
    assert value(values, "tuneloop_workspace_readable") == 1 and value(values, "tuneloop_daemon_running") == 0
    assert value(values, "tuneloop_records_total", task="tickets", side="train") == 7
    assert value(values, "tuneloop_queue_open", task="tickets", side="train") == 4
    assert value(values, "tuneloop_champion_info", task="tickets", answerer="tickets-v1", kind="adapter") == 1
    assert value(values, "tuneloop_verdicts_total", task="tickets", verdict="reject") == 1
    assert value(values, "tuneloop_exam_accuracy_ratio", task="tickets", answerer="tickets-v2", decoding="score") == 0.4
    assert value(values, "tuneloop_events_total", type="AdapterPromoted") == 1
    assert value(values, "tuneloop_labels_missing", task="tickets") == 70  # trained at 50, again 20 after that
    assert value(values, "tuneloop_mirror_events_behind") == value(values, "tuneloop_log_events")
    assert value(values, "tuneloop_process_resident_memory_bytes", process="gateway") > 1e7
    assert value(values, "tuneloop_disk_free_bytes") > 0


def test_it_counts_answers_failures_and_refusals(gateway: Served) -> None:
    def ask(model: str = "tickets") -> httpx.Response:
        return gateway.http.post(
            "/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": "hello"}]}
        )

    Upstream.reset()
    assert [ask().status_code for _ in range(3)] == [200] * 3
    Upstream.status = 500
    assert ask().status_code == 502
    Upstream.reset()
    assert ask("a-task-that-nobody-knows").status_code == 404
    assert httpx.get(f"{gateway.http.base_url}/metrics", trust_env=False).status_code == 401
    values = values_of(gateway.http.get("/metrics").text)
    labels = {"task": "tickets", "answerer": "tickets-v1"}
    assert value(values, "tuneloop_gateway_answers_total", **labels, code="200") == 3
    assert value(values, "tuneloop_gateway_answers_total", **labels, code="502") == 1
    assert value(values, "tuneloop_gateway_answer_seconds_count", **labels) == 4
    assert value(values, "tuneloop_gateway_answer_seconds_bucket", **labels, le="+Inf") == 4
    assert value(values, "tuneloop_gateway_answer_seconds_sum", **labels) > 0
    assert value(values, "tuneloop_gateway_responses_total", code="404") == 1
    assert value(values, "tuneloop_gateway_responses_total", code="401") >= 1
    assert "nobody-knows" not in gateway.http.get("/metrics").text  # a client's words would be labels without end


def test_the_daemon_is_told_of_while_it_holds_the_lock(root: Path) -> None:
    import fcntl
    import os

    run = root / ".tuneloop" / "run"
    beat = pulse.Pulse(
        pid=os.getpid(), epoch=1, at=datetime.now(UTC), clock=pulse.clock() - 500, ticks=12, failed=2, tick_seconds=0.2,
        longest_wait=10.0, held=[pulse.Held(what="tickets Harvest", error="x", failures=3, seconds=8.0)],
    )  # fmt: skip
    pulse.write(run, beat)
    with (run / "daemon.lock").open("a+") as file, open_app(root, env={}) as app:
        fcntl.flock(file, fcntl.LOCK_EX)
        values = values_of(page(gauges.families(app, app.now())))
        assert value(values, "tuneloop_daemon_running") == 1 == value(values, "tuneloop_daemon_held_commands")
        assert value(values, "tuneloop_daemon_seconds_since_tick") == pytest.approx(500, abs=5)
        assert value(values, "tuneloop_daemon_ticks_total") == 12
        assert value(values, "tuneloop_part_up", part="daemon") == 0  # it hangs
        assert value(values, "tuneloop_process_resident_memory_bytes", process="daemon") > 1e7
        fcntl.flock(file, fcntl.LOCK_UN)
        left = page(gauges.families(app, app.now()))
    (run / pulse.FILE).unlink()
    assert "tuneloop_daemon_ticks_total 12" not in left  # what a daemon said is not said of none


def test_a_scrape_of_a_workspace_that_cannot_be_read_says_so_and_recovers(root: Path, tmp_path: Path) -> None:
    import asyncio

    copy = tmp_path / "w"
    shutil.copytree(root, copy)
    settings = copy / "tuneloop.toml"
    whole = settings.read_text()
    settings.write_text("broken [")
    metrics = Metrics(copy, Traffic())
    told = asyncio.run(metrics.page())
    assert "tuneloop_workspace_readable 0" in told and "tuneloop_gateway_responses_total" in told
    settings.write_text(whole)
    time.sleep(1.1)
    assert "tuneloop_workspace_readable 1" in asyncio.run(metrics.page())
    settings.write_text(whole.replace("[daemon]", "[daemon]\ngateway_prot = 1"))  # while it has it open
    time.sleep(1.1)
    assert "tuneloop_workspace_readable 0" in asyncio.run(metrics.page())
    settings.write_text(whole)
    time.sleep(1.1)
    assert "tuneloop_workspace_readable 1" in asyncio.run(metrics.page())
    metrics.close()


def test_a_scrape_writes_nothing(root: Path) -> None:
    home = root / ".tuneloop"

    def state() -> dict[str, float]:
        kept = [path for path in home.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm"))]
        return {str(path): path.stat().st_mtime_ns for path in kept}

    with open_app(root, env={}) as app:
        before = state()
        page(gauges.families(app, app.now()))
        assert state() == before


def test_labels_can_say_anything(tmp_path: Path) -> None:
    nasty = 'quote " backslash \\ newline \n and \ud800'
    text = page([Family("tuneloop_x", "gauge", "about \\ and\nmore", [Sample(float("inf"), {"label": nasty})])])
    assert len(text.splitlines()) == 3 and text.endswith(" +Inf\n")
    assert 'label="quote \\" backslash \\\\ newline \\n and ?"' in text
    if PROMTOOL:
        subprocess.run([PROMTOOL, "check", "metrics"], input=text, text=True, check=True)


def test_the_document_names_the_page(gateway: Served) -> None:
    reply = gateway.http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    answer = GATEWAY["paths"]["/metrics"]["get"]["responses"]
    assert set(answer["200"]["content"]) == {"text/plain"} and "401" in answer


# ---------------------------------------------------------------- what is built on it


@needs_promtool
def test_prometheus_can_read_the_page(told: str) -> None:
    done = subprocess.run([str(PROMTOOL), "check", "metrics"], input=told, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_promtool
@pytest.mark.parametrize(
    "words",
    [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"], ["check", "config", "prometheus.yml"]],
)
def test_promtool_accepts_rules_their_tests_and_the_configuration(words: list[str]) -> None:
    done = subprocess.run([str(PROMTOOL), *words], cwd=RULES.parent, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[str]:
    return re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8"))


def test_every_alert_is_tested_and_has_its_place_in_the_runbook() -> None:
    tested = set(re.findall(r"alertname: (\w+)", (RULES.parent / "alerts_test.yml").read_text(encoding="utf-8")))
    assert tested == set(alerts()) and len(alerts()) == len(set(alerts()))
    headings = re.findall(r"^### (\w+)$", (OPS / "runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == alerts()
    named = re.findall(r"runbook: 'ops/runbook.md#(\w+)'", RULES.read_text(encoding="utf-8"))
    assert named == [name.lower() for name in alerts()]


def test_every_metric_that_rules_and_dashboard_name_exists(told: str) -> None:
    known = names_of(told)
    board = json.loads((OPS / "grafana" / "tuneloop.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    named = set(re.findall(r"\btuneloop_\w+", " ".join(queries)))
    rules = re.findall(r"^ +expr: (.*)$", RULES.read_text(encoding="utf-8"), re.MULTILINE)
    in_rules = set(re.findall(r"\btuneloop_\w+", " ".join(rules)))
    assert named and in_rules
    assert named | in_rules <= known, sorted((named | in_rules) - known)
    # and nothing is measured that nobody would ever see
    unseen = {name for name in known if name not in named | in_rules and not name.endswith(("_bucket", "_sum"))}
    assert unseen <= {
        "tuneloop_gateway_answer_seconds", "tuneloop_daemon_tick_seconds", "tuneloop_runs", "tuneloop_cycle_phase",
        "tuneloop_notify_delivered_total", "tuneloop_workspace_readable",
    }, sorted(unseen)  # fmt: skip


def test_the_dashboard_is_whole() -> None:
    board: dict[str, Any] = msgspec.json.decode((OPS / "grafana" / "tuneloop.json").read_bytes())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_verify_is_what_the_alert_on_damage_hears(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "w"
    shutil.copytree(root, copy)
    victim = next((copy / ".tuneloop" / "artifacts").glob("*/dataset.jsonl"))
    victim.write_bytes(b"x" * victim.stat().st_size)
    assert main(["verify", "-w", str(copy)]) == 5
    with open_app(copy, env={}) as app:
        values = values_of(page(gauges.families(app, app.now())))
    assert value(values, "tuneloop_log_verified_problems") >= 1
    assert value(values, "tuneloop_part_up", part="log") == 0


def test_a_target_that_takes_no_message_is_told_and_no_part_is_down(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "w"
    shutil.copytree(root, copy)
    with (copy / "tuneloop.toml").open("a") as file:
        file.write('\n[notify.desk]\nkind = "webhook"\nurl = "http://127.0.0.1:9/"\n')
    write_json(copy / ".tuneloop" / "notify" / "desk.json", Box(failures=3, last_error="it does not answer"))
    with open_app(copy, env={}) as app:
        values = values_of(page(gauges.families(app, app.now())))
    assert value(values, "tuneloop_notify_failures", target="desk") == 3
    assert value(values, "tuneloop_part_up", part="notifier") == 1
