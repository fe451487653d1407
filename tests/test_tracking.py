"""The mirror to Weights & Biases: what it writes offline is read back from wandb's own files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import tracking_view as view
from adapters import wandb_segments
from adapters.specs import Metric, write_lines
from adapters.tracking import resolve_mode
from store import events as ev
from store.log import Draft, Log, Recorded
from store.workspace import Workspace

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CHECK = ev.GateCheck(name="better_than_baseline", outcome="pass", detail="p=0.01")

# ---------------------------------------------------------------- a plausible log


def append(log: Log, stream: str, *events: ev.Event) -> list[Recorded]:
    start = NOW + timedelta(seconds=log.head().position)
    return [
        log.append([Draft(event, stream)], actor="daemon", now=start + timedelta(seconds=n))[0]
        for n, event in enumerate(events)
    ]


def receive(workspace: Workspace, first: int, count: int) -> None:
    """Records with their texts, a label on each second one."""
    drafts: list[Draft] = []
    for n in range(first, first + count):
        text, record_id = f"Secret text of ticket {n}", f"r{n}"
        side: ev.Side = "exam" if n % 4 == 0 else "train"
        with workspace.database.writing() as connection:
            digest = workspace.texts.put(connection, record_id, "tickets", text)
        drafts.append(
            Draft(
                ev.RecordReceived(
                    task="tickets", record_id=record_id, text_digest=digest, chars=len(text), source="inbox", side=side,
                    audit=n % 4 == 0, audit_probability=0.25, cluster=record_id, answer="billing",
                ),
                f"record/{record_id}",
            )
        )  # fmt: skip
        if n % 2 == 0:
            label = ev.LabelGiven(
                task="tickets",
                record_id=record_id,
                label="urgent",
                side=side,
                audit=n % 4 == 0,
                annotator="Kim Private",
            )
            drafts.append(Draft(label, f"record/{record_id}"))
    workspace.log.append(drafts, actor="Kim Private", now=NOW)


def started(run_id: str, adapter: str, attempt: int = 1, resumed_from: int = 0) -> ev.TrainingStarted:
    return ev.TrainingStarted(
        task="tickets", run_id=run_id, attempt=attempt, adapter=adapter, method="qlora", base_model="SmolLM2",
        base_digest="sha256-1", quantisation="nf4", prompt="zero-shot@1", seed=1, resumed_from=resumed_from,
        hyperparameters={"rank": 16, "learning_rate": 2e-4, "min_steps": 60},
    )  # fmt: skip


def progressed(run_id: str, step: int, **fields: Any) -> ev.TrainingProgressed:
    return ev.TrainingProgressed(
        task="tickets", run_id=run_id, step=step, of=60, loss=3 - step / 30, seconds=float(step), **fields
    )


def frozen(run_id: str) -> ev.DatasetFrozen:
    return ev.DatasetFrozen(
        task="tickets", run_id=run_id, artifact="sha256-data", up_to=10, labels_train=50, train=40, valid=10, exam=20,
        hard_exam=3, per_class={"urgent": 30, "billing": 20},
        curation=[ev.CurationCount(step="near_duplicates", count=4, detail="cosine")],
    )  # fmt: skip


def succeeded(run_id: str, artifact: str, steps: int) -> ev.TrainingSucceeded:
    return ev.TrainingSucceeded(
        task="tickets", run_id=run_id, artifact=artifact, steps=steps, epochs=2.5, seconds=61.0, train_loss=1.1,
        eval_accuracy=0.8, temperature=1.3, peak_memory_mb=900.0, stopped="steps",
        samples=[
            {"id": "r1", "step": "20", "expected": "urgent", "answered": "urgent"},
            {"id": "r3", "expected": "urgent", "answered": "billing"},
        ],
    )  # fmt: skip


def result(answerer: str, kind: ev.AnswererKind, accuracy: float, decoding: Any = "score") -> ev.AnswererResult:
    return ev.AnswererResult(
        answerer=answerer, kind=kind, decoding=decoding, n=20, correct=round(20 * accuracy), accuracy=accuracy,
        low=accuracy - 0.1, high=accuracy + 0.1, recall={"urgent": accuracy}, abstained=0, invalid=0, latency_ms=30.0,
    )  # fmt: skip


def looked_at(run_id: str, adapter: str, accuracy: float, verdict: ev.Outcome) -> list[ev.Event]:
    look = f"{adapter}-look-1"
    return [
        ev.EvaluationStarted(
            task="tickets", run_id=run_id, evaluation_id=look, attempt=1, candidate=adapter, champion="few-shot@1",
            baseline="few-shot@1", exam=20, hard_exam=3, look=1,
        ),
        ev.EvaluationSucceeded(
            task="tickets", run_id=run_id, evaluation_id=look, artifact="sha256-p", seconds=9.0,
            results=[
                result("few-shot@1", "prompt", 0.5),
                result(adapter, "adapter", accuracy - 0.05, "generate"),
                result(adapter, "adapter", accuracy),
            ],
            paired=[
                ev.PairedResult(
                    opponent="few-shot@1", decoding="score", n=20, gained=6, lost=1, difference=0.25, low=0.1, high=0.4,
                    p_value=0.02,
                )
            ],
        ),
        ev.ForgettingMeasured(
            task="tickets", run_id=run_id, evaluation_id=look, candidate=adapter, suite="built-in", questions=100,
            base_accuracy=0.5, accuracy=0.49, accuracy_drop=0.02, drop_low=0.0, drop_high=0.04,
            base_bits_per_byte=1.0, bits_per_byte=1.01, bits_rise=0.01,
        ),
        ev.CandidateJudged(
            task="tickets", run_id=run_id, evaluation_id=look, candidate=adapter, champion="few-shot@1",
            verdict=verdict, checks=[CHECK], summary="because",
        ),
    ]  # fmt: skip


def registered(run_id: str, adapter: str, artifact: str) -> ev.AdapterRegistered:
    return ev.AdapterRegistered(
        task="tickets", run_id=run_id, adapter=adapter, artifact=artifact, control="sha256-data", method="qlora",
        base_digest="sha256-1", quantisation="nf4", prompt="zero-shot@1", temperature=1.3,
    )  # fmt: skip


def store_adapter(workspace: Workspace, name: str) -> str:
    folder = workspace.root / f"made-{name}"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(name.encode() * 1000)
    return workspace.artifacts.put(folder, "adapter", {"adapter": name})


def first_cycle(workspace: Workspace) -> None:
    """A training that is interrupted once, resumes, and is promoted; its run folder is still there."""
    log, run = workspace.log, "tickets-run-1"
    artifact = store_adapter(workspace, "tickets-v1")
    folder = workspace.paths.runs / run
    folder.mkdir()
    steps = [*range(1, 7), *range(5, 11)]
    lines = [Metric(step=n, of=60, loss=3 - n / 30, learning_rate=1e-4, seconds=float(n)) for n in steps]
    write_lines(folder / "metrics.jsonl", [*lines, Metric(step=10, of=60, eval_loss=1.5, eval_accuracy=0.75)])
    append(
        log,
        f"run/{run}",
        frozen(run),
        started(run, "tickets-v1"),
        progressed(run, 5),
        ev.StepInterrupted(task="tickets", run_id=run, kind="train", attempt=1, checkpoint=4, reason="kill"),
        started(run, "tickets-v1", attempt=2, resumed_from=4),
        progressed(run, 10),
        succeeded(run, artifact, 10),
        registered(run, "tickets-v1", artifact),
        *looked_at(run, "tickets-v1", 0.75, "promote"),
    )
    append(
        log,
        "deployment/tickets",
        ev.AdapterPromoted(
            task="tickets", answerer="tickets-v1", kind="adapter", previous="few-shot@1", artifact=artifact, run_id=run
        ),
    )


def second_cycle(workspace: Workspace) -> None:
    """A training whose run folder is gone, and whose candidate is rejected."""
    log, run = workspace.log, "tickets-run-2"
    artifact = store_adapter(workspace, "tickets-v2")
    append(
        log,
        f"run/{run}",
        frozen(run),
        started(run, "tickets-v2"),
        *(progressed(run, step) for step in (5, 10)),
        progressed(run, 15, eval_loss=1.2, eval_accuracy=0.7),
        succeeded(run, artifact, 17),
        registered(run, "tickets-v2", artifact),
        *looked_at(run, "tickets-v2", 0.6, "reject"),
        ev.CandidateRejected(task="tickets", run_id=run, candidate="tickets-v2", reason="not better"),
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Any:
    with Workspace.create(tmp_path / "place") as place:
        append(place.log, "loop", ev.LeaseAcquired(holder="me", new_epoch=1))
        receive(place, 0, 8)
        first_cycle(place)
        second_cycle(place)
        yield place


# ---------------------------------------------------------------- running it, reading back


def environment(workspace: Workspace, **extra: str) -> dict[str, str]:
    """No key, no login, no setting of the machine's user."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_") and name != "NETRC"}
    return {**kept, "HOME": str(workspace.root), "PYTHONPATH": str(ROOT), **extra}


def command(workspace: Workspace, *options: str) -> list[str]:
    return [sys.executable, "-m", "adapters.tracking", str(workspace.root), *options]


def once(workspace: Workspace, *options: str, **env: str) -> None:
    done = subprocess.run(
        command(workspace, "--once", *options),
        env=environment(workspace, **env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def follow(workspace: Workspace, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(workspace), env=environment(workspace, **env), stderr=subprocess.DEVNULL)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def cursor(workspace: Workspace) -> dict[str, Any]:
    path = workspace.paths.wandb / "cursor.json"
    return json.loads(path.read_text()) if path.exists() else {}


def sessions(workspace: Workspace, wandb_id: str) -> list[Path]:
    return sorted(workspace.paths.wandb.glob(f"offline-run-*-{wandb_id}"))


def read(workspace: Workspace, wandb_id: str, kind: str) -> list[Any]:
    """All records of one kind from all sessions of a run."""
    return [
        getattr(record, kind)
        for folder in sessions(workspace, wandb_id)
        for path in [wandb_segments.file_of(folder)]
        if path is not None
        for record in wandb_segments.records(path)
        if record.WhichOneof("record_type") == kind
    ]


def values(items: Sequence[Any]) -> dict[str, Any]:
    """Items of a config, summary or history record; nested keys joined by a dot."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def history(workspace: Workspace, wandb_id: str) -> dict[int, dict[str, Any]]:
    """Rows by step; no step may come twice."""
    records = read(workspace, wandb_id, "history")
    rows = {record.step.num: values(record.item) for record in records}
    assert len(rows) == len(records), "a step was sent twice"
    assert list(rows) == sorted(rows)
    return rows


def merged(records: Sequence[Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for record in records:
        result.update(values(record.update))
    return result


def ids(workspace: Workspace) -> tuple[str, str, str]:
    """W&B ids of the loop and of the two trainings."""
    first = next(workspace.log.read(limit=1)).hash.hex()[:8]
    names = [view.training_run_id(first, f"tickets-run-{n}") for n in (1, 2)]
    return view.loop_run_id(first, 0), names[0], names[1]


def everything(workspace: Workspace) -> bytes:
    return b"".join(path.read_bytes() for path in workspace.paths.wandb.rglob("*") if path.is_file())


# ---------------------------------------------------------------- what it writes


def test_a_log_as_offline_runs(workspace: Workspace) -> None:
    once(workspace, "--project", "triage")
    loop, first, second = ids(workspace)
    assert set(workspace.paths.wandb.glob("offline-run-*")) == {sessions(workspace, one)[0] for one in ids(workspace)}

    # the loop: a row per event
    log = list(workspace.log.read())
    rows = history(workspace, loop)
    assert {step: (row["event"], row["chain"]) for step, row in rows.items()} == {
        one.position: (one.type, one.hash.hex()) for one in log
    }
    assert rows[1]["_timestamp"] == log[0].recorded_at.timestamp()
    last = {name.removeprefix("tickets/"): value for name, value in rows[len(log)].items() if "/" in name}
    assert last == {
        "records": 8, "audit_records": 2, "labels": 4, "exam_labels": 2, "datasets": 2, "trainings": 2, "looks": 2,
        "candidate": "tickets-v2", "accuracy": 0.6, "promotions": 1, "champion": "tickets-v1", "rejections": 1,
    }  # fmt: skip

    # the first training: its metrics.jsonl is there; steps that were done again keep their first values
    rows = history(workspace, first)
    assert list(rows) == list(range(1, 12))
    assert [rows[n]["train/loss"] for n in range(1, 11)] == pytest.approx([3 - n / 30 for n in range(1, 11)])
    assert (rows[10]["eval/loss"], rows[10]["eval/accuracy"]) == (1.5, 0.75)
    assert rows[11]["samples._type"] == "table-file"
    (table,) = sessions(workspace, first)[0].glob("files/media/table/*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["record", "step", "expected", "answered", "correct"],
        "data": [["r1", "20", "urgent", "urgent", True], ["r3", "", "urgent", "billing", False]],
        **{name: value for name, value in json.loads(table.read_text()).items() if name not in ("columns", "data")},
    }
    (run,) = read(workspace, first, "run")
    assert (run.project, run.run_id, run.display_name, run.job_type, list(run.tags)) == (
        "triage", first, "tickets-v1", "training", ["tickets"],
    )  # fmt: skip
    config = merged(read(workspace, first, "config"))
    assert (config["rank"], config["learning_rate"], config["method"]) == (16, 2e-4, "qlora")
    assert (config["attempt"], config["resumed_from"], config["seed"]) == (2, 4, 1)
    assert config["dataset"]["train"] == 40 and config["dataset"]["curation"] == {"near_duplicates": 4}
    summary = merged(read(workspace, first, "summary"))
    assert (summary["status"], summary["verdict"], summary["verdict_reason"]) == ("production", "promote", "because")
    assert summary["exam"]["tickets-v1 (score)"]["accuracy"] == 0.75
    assert summary["paired"]["few-shot@1 (score)"]["p_value"] == 0.02
    assert summary["forgetting"]["bits_rise"] == 0.01
    assert summary["training"]["temperature"] == 1.3

    # the second: its losses come from the events, and it never was production
    rows = history(workspace, second)
    assert list(rows) == [5, 10, 15, 18]
    assert (rows[15]["eval/loss"], rows[15]["eval/accuracy"]) == (1.2, 0.7)
    assert merged(read(workspace, second, "summary"))["status"] == "rejected"

    # the adapters: one collection, the aliases tell them apart
    adapters = {one: [a for a in read(workspace, one, "artifact") if a.type == "model"] for one in (first, second)}
    assert {a.name for logged in adapters.values() for a in logged} == {f"tickets-adapter-{loop[5:]}"}
    assert {*adapters[first][-1].aliases} == {"latest", "candidate", "production"}
    assert [{*a.aliases} for a in adapters[second]] == [{"latest", "candidate"}]
    files = {entry.path: entry.size for entry in adapters[first][-1].manifest.contents}
    assert files["adapter_model.safetensors"] == len(b"tickets-v1") * 1000

    # ids only
    assert b"Secret text" not in everything(workspace)
    assert b"Kim Private" not in everything(workspace)


def test_once_more_adds_nothing(workspace: Workspace) -> None:
    once(workspace)
    before = {path: path.stat().st_size for path in workspace.paths.wandb.rglob("*.wandb")}
    mark = cursor(workspace)
    once(workspace)
    assert {path: path.stat().st_size for path in workspace.paths.wandb.rglob("*.wandb")} == before
    assert cursor(workspace) == mark


def test_what_comes_later_goes_on_in_the_same_runs(workspace: Workspace) -> None:
    once(workspace)
    _, first, second = ids(workspace)
    artifact = workspace.log.stream("run/tickets-run-2")[-7].event.artifact  # type: ignore[attr-defined]
    append(
        workspace.log,
        "deployment/tickets",
        ev.AdapterPromoted(
            task="tickets", answerer="tickets-v2", kind="adapter", previous="tickets-v1", artifact=artifact,
            run_id="tickets-run-2", forced=True,
        ),
    )  # fmt: skip
    once(workspace)
    history(workspace, first)
    status = [merged(read(workspace, one, "summary"))["status"] for one in (first, second)]
    assert status == ["replaced", "production"]
    assert {*read(workspace, second, "artifact")[-1].aliases} == {"latest", "candidate", "production"}

    append(
        workspace.log,
        "deployment/tickets",
        ev.AdapterRolledBack(task="tickets", answerer="tickets-v1", kind="adapter", rolled_back="tickets-v2"),
    )
    once(workspace)
    status = [merged(read(workspace, one, "summary"))["status"] for one in (first, second)]
    assert status == ["production", "replaced"]
    assert {*read(workspace, first, "artifact")[-1].aliases} == {"latest", "candidate", "production"}
    assert list(history(workspace, ids(workspace)[0])) == list(range(1, workspace.log.head().position + 1))


def test_texts_are_sent_only_when_asked_for(workspace: Workspace) -> None:
    once(workspace, "--send-text")
    (table,) = sessions(workspace, ids(workspace)[1])[0].glob("files/media/table/*.json")
    assert [row[-1] for row in json.loads(table.read_text())["data"]] == [
        "Secret text of ticket 1", "Secret text of ticket 3",
    ]  # fmt: skip


def test_a_running_training_is_shown_as_it_goes(workspace: Workspace) -> None:
    log, run = workspace.log, "tickets-run-3"
    append(log, f"run/{run}", frozen(run), started(run, "tickets-v3"), progressed(run, 5), progressed(run, 10))
    once(workspace)
    third = view.training_run_id(ids(workspace)[0][5:], run)
    assert list(history(workspace, third)) == [5]  # an evaluation at step 10 may follow
    append(log, f"run/{run}", progressed(run, 15), succeeded(run, "sha256-gone", 17), registered(run, "v3", "sha256-x"))
    once(workspace)  # its artifact is missing: everything else is sent
    assert list(history(workspace, third)) == [5, 10, 15, 18]


# ---------------------------------------------------------------- deaths


def all_rows_once(workspace: Workspace) -> None:
    loop, first, second = ids(workspace)
    assert list(history(workspace, loop)) == list(range(1, workspace.log.head().position + 1))
    assert list(history(workspace, first)) == list(range(1, 12))
    assert list(history(workspace, second)) == [5, 10, 15, 18]


def test_killed_it_goes_on_exactly_where_it_was(workspace: Workspace) -> None:
    receive(workspace, 100, 2000)
    for position in (500, 2500):
        process = follow(workspace)
        try:
            until(lambda position=position: cursor(workspace).get("position", 0) >= position)  # type: ignore[misc]
        finally:
            process.kill()
            process.wait()
    once(workspace)
    loop, *_ = ids(workspace)
    assert len(sessions(workspace, loop)) == 3
    all_rows_once(workspace)
    rows = history(workspace, loop)
    assert rows[max(rows)]["tickets/records"] == 2008
    assert rows[max(rows)]["tickets/labels"] == 1004


def test_rows_that_came_further_than_the_cursor_are_not_repeated(workspace: Workspace) -> None:
    """Death between a row and the cursor: as if nothing but the opening of the sessions had been noted."""
    once(workspace)
    state = cursor(workspace)
    for wandb_id, mark in state["runs"].items():
        state["runs"][wandb_id] = {
            **{name: value for name, value in mark.items() if name == "run_id"},
            "session": sessions(workspace, wandb_id)[0].name,
        }
    state.update(position=0, hash="", counts={})
    (workspace.paths.wandb / "cursor.json").write_text(json.dumps(state))
    once(workspace)
    all_rows_once(workspace)


def test_rows_that_never_reached_the_disk_are_sent_again(workspace: Workspace) -> None:
    """Power loss: the cursor is ahead of wandb's files."""
    receive(workspace, 100, 300)
    once(workspace)
    state = cursor(workspace)
    for wandb_id, mark in state["runs"].items():
        folder = sessions(workspace, wandb_id)[0]
        path = wandb_segments.file_of(folder)
        assert path is not None
        os.truncate(path, path.stat().st_size * 2 // 3)
        mark["session"] = folder.name
    (workspace.paths.wandb / "cursor.json").write_text(json.dumps(state))
    once(workspace)
    all_rows_once(workspace)
    rows = history(workspace, ids(workspace)[0])
    assert rows[max(rows)]["tickets/records"] == 308


def test_sigterm_sends_the_last_events_and_closes_the_runs(workspace: Workspace) -> None:
    process = follow(workspace)
    until(lambda: cursor(workspace).get("position") == workspace.log.head().position)
    append(workspace.log, "loop", ev.LoopPaused(reason="tea"))
    process.terminate()
    assert process.wait(timeout=10) == 0
    all_rows_once(workspace)
    assert all("session" not in mark for mark in cursor(workspace)["runs"].values())
    for one in ids(workspace):
        assert read(workspace, one, "exit")


def test_a_second_mirror_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    process = follow(workspace)
    try:
        until(lambda: bool(cursor(workspace)))
        second = subprocess.run(
            command(workspace, "--once"), env=environment(workspace), capture_output=True, text=True, check=False
        )
        assert second.returncode == 10 and "another process" in second.stderr
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_a_server_that_hangs_delays_only_the_mirror(workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, never answers
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = follow(workspace, WANDB_API_KEY="0" * 40, WANDB_BASE_URL=url)
        until(lambda: any(workspace.paths.wandb.glob("run-*")))
        began = time.monotonic()
        append(workspace.log, "loop", ev.LoopPaused(reason="tea"))
        assert time.monotonic() - began < 1
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=10) == 0
    assert cursor(workspace).get("position", 0) == 0
    once(workspace)
    all_rows_once(workspace)


def test_a_log_that_was_replaced_becomes_a_run_of_its_own(workspace: Workspace) -> None:
    once(workspace)
    state = cursor(workspace)
    state["hash"] = "00"
    (workspace.paths.wandb / "cursor.json").write_text(json.dumps(state))
    once(workspace)
    loop, first, _ = ids(workspace)
    assert list(history(workspace, f"{loop}-1")) == list(range(1, workspace.log.head().position + 1))
    assert list(history(workspace, first)) == list(range(1, 12))


def test_nothing_is_imported_or_written_without_news(workspace: Workspace) -> None:
    once(workspace)
    code = (
        "import sys; from adapters import tracking; status = tracking.main([sys.argv[1], '--once']); "
        "assert status == 0; assert not {'wandb', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(workspace.root)], env=environment(workspace), check=True)


def test_disabled_writes_nothing(workspace: Workspace) -> None:
    once(workspace, WANDB_MODE="disabled")
    once(workspace, "--mode", "disabled")
    assert not list(workspace.paths.wandb.iterdir())


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("mode", "env", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {"WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("offline", {"WANDB_API_KEY": "k", "WANDB_MODE": "online"}, "offline"),
    ],
)
def test_mode(mode: str, env: Mapping[str, str], expected: str, tmp_path: Path) -> None:
    assert resolve_mode(mode, {"HOME": str(tmp_path), **env}) == expected


def test_a_login_counts_as_a_key(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password 123\n")
    assert resolve_mode("auto", {"HOME": str(tmp_path)}) == "online"
    assert resolve_mode("auto", {"HOME": str(tmp_path), "WANDB_BASE_URL": "https://wandb.example"}) == "offline"


@given(st.text(max_size=200))
def test_ids_suit_wandb(run_id: str) -> None:
    wandb_id = view.training_run_id("0123abcd", run_id)
    assert 0 < len(wandb_id) <= 128
    assert not set(wandb_id) & set("/\\#?%: ")
    assert wandb_id == view.training_run_id("0123abcd", run_id)


def framed(records: Sequence[bytes]) -> bytes:
    """Records as LevelDB's log writes them, behind wandb's header."""
    out = bytearray(b":W&B" + bytes(3))
    for record in records:
        begun = False
        while True:
            left = wandb_segments.BLOCK - len(out) % wandb_segments.BLOCK
            if left < 7:
                out += bytes(left)
                continue
            part, record = record[: left - 7], record[left - 7 :]
            kind = {(False, False): 1, (False, True): 2, (True, True): 3, (True, False): 4}[begun, bool(record)]
            out += bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part
            begun = True
            if not record:
                break
    return bytes(out)


@given(
    sizes=st.lists(st.integers(0, 400) | st.integers(32_000, 100_000), max_size=6), cut=st.floats(0, 1, width=32)
)  # fmt: skip
def test_files_are_read_as_far_as_they_are_whole(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], cut: float
) -> None:
    records = [bytes([n % 250 + 1]) * size for n, size in enumerate(sizes)]
    path = tmp_path_factory.mktemp("file") / "run-x.wandb"
    whole = framed(records)
    path.write_bytes(whole)
    assert list(wandb_segments.payloads(path)) == records
    path.write_bytes(whole[: int(len(whole) * cut)])
    kept = list(wandb_segments.payloads(path))
    assert kept == records[: len(kept)]


def test_counters_follow_corrections_and_withdrawals() -> None:
    counts: dict[str, view.TaskCounts] = {}
    label = ev.LabelGiven(task="t", record_id="a", label="x", side="exam", audit=True, annotator="k")
    feedback = ev.FeedbackReceived(task="t", record_id="a", label="x", side="train", disagrees=True)
    for event in (
        label,
        msgspec.structs.replace(label, label="y", previous="x"),
        ev.LabelWithdrawn(task="t", record_id="a", label="y", side="exam", audit=True, annotator="k"),
        feedback,
        msgspec.structs.replace(feedback, disagrees=False),
        ev.LoopPaused(),
    ):
        view.count(counts, event)
    assert counts["t"].shown == {"labels": 0, "exam_labels": 0, "feedback": 2, "corrections": 1}
