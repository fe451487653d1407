"""The whole loop with real processes on a tiny model: daemon, engine, gateway, training and evaluation children."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from loop import actions
from loop.bootstrap import App, open_app
from loop.cli.main import main
from loop.first_settings import default_toml
from loop.intake import external_record_id
from loop.production import read_pointer
from loop.services import read_endpoints
from prompts.client import Answerer
from store import events as ev
from store import queries
from store.prompting import PromptSpec
from store.verify import sound, verify
from store.workspace import Workspace

WORDS = {"fruit": ["apple", "pear", "plum", "fig", "lime"], "metal": ["iron", "zinc", "tin", "gold", "lead"]}
TASKS = ("garden", "forge")
PLAIN = PromptSpec(name="production", digest="", system="", user="{text}")


def text(number: int) -> tuple[str, str]:
    """A text that no other number has anything near to, and its label."""
    label = ("fruit", "metal")[number % 2]
    noise = " ".join(f"{(number * 7919 + i * 104729) % 99991:x}" for i in range(6))
    return f"{WORDS[label][number % 5]} {noise}", label


METHODS: dict[str, dict[str, dict[str, object]]] = {  # the base's quantisation: task: its training
    "nf4": {"dora": {"dora": True}, "prefix": {"method": "prefix"}, "prompt": {"method": "prompt"},
            "ia3": {"method": "ia3"}},
    "bf16": {"rslora": {"method": "lora", "rslora": True}, "full": {"method": "full"}},
}  # fmt: skip


def make_workspace(
    root: Path,
    model: Path,
    *,
    min_steps: int = 6,
    tasks: tuple[str, ...] = TASKS,
    quantisation: str = "nf4",
    prompts: tuple[str, ...] = ("zero-shot@1", "few-shot@1"),
    training: dict[str, dict[str, object]] | None = None,
) -> None:
    """Tasks whose gate asks for little: this tests the loop, not the model."""
    root.mkdir()
    parts = []
    for task in tasks:
        toml = default_toml(
            list(WORDS),
            task=task,
            overrides={
                "task": {"prompts": list(prompts)},
                "model": {"base": str(model), "quantisation": quantisation},
                "daemon": {"tick_seconds": 0.5, "settle_seconds": 0.0, "rescan_seconds": 1.0},
                "splits": {"exam_share": 0.4},
                "harvest": {"min_new": 1, "every_seconds": 0.0},
                "trigger": {"first": 20, "every": 100},
                "training": {
                    "min_steps": min_steps, "epochs": 1.0, "batch_size": 4, "micro_batch_size": 4,
                    "checkpoint_every": 2, "eval_every": 3, "learning_rate": 0.003, "max_length": 128, "threads": 1,
                    **(training or {}).get(task, {}),
                },
                "gate": {
                    "min_exam": 8, "exam_growth": 4, "better_than_baseline": False, "not_worse_margin": 0.99,
                    "max_forgetting": 1.0, "max_bits_rise": 100.0,
                },
            },
        )  # fmt: skip
        head, _, body = toml.partition(f"[tasks.{task}]")
        parts += [head if not parts else "", f"[tasks.{task}]{body}"]
    (root / "tuneloop.toml").write_text("".join(parts))
    Workspace.create(root).close()


def drop(root: Path, name: str, lines: list[dict[str, object]]) -> None:
    """As a careful producer does: write elsewhere, rename in."""
    target = root / "inbox" / name
    target.parent.mkdir(exist_ok=True)
    temporary = root / f"{target.name}.writing"
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    temporary.replace(target)


def start(root: Path, *extra: str) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    env |= {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    log = (root / ".tuneloop" / "logs" / "daemon.log").open("ab")
    return subprocess.Popen(
        [sys.executable, "-m", "loop.cli.main", "-w", str(root), "run", *extra],
        stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True,
    )  # fmt: skip


@contextlib.contextmanager
def daemon(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    child = start(root)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait(timeout=60)


def wait_for(ready: Callable[[], object], what: str, root: Path, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            logs = sorted((root / ".tuneloop" / "logs").glob("*.log"))
            tails = "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in logs)
            raise AssertionError(f"waited {seconds} s for {what}\n{tails}")
        time.sleep(0.1)


def label_queue(app: App, task: str, numbers: range) -> None:
    truth = {external_record_id(task, f"{task}-{number}"): text(number)[1] for number in numbers}
    app.workspace.projections.catch_up()
    for row in queries.queue(app.workspace.read, task):
        actions.label(app, row.record_id, truth[row.record_id], annotator="tester")


def kinds(app: App, task: str) -> list[str]:
    return [one.type for one in app.workspace.log.read() if one.event.task == task]


def seed_lines(task: str, numbers: range) -> list[dict[str, object]]:
    return [{"id": f"{task}-{n}", "text": text(n)[0], "label": text(n)[1]} for n in numbers]


def production_lines(task: str, numbers: range) -> list[dict[str, object]]:
    return [
        {"id": f"{task}-{n}", "text": text(n)[0], "answer": "fruit", "answered_by": "zero-shot@1", "margin": 0.1}
        for n in numbers
    ]


def test_one_daemon_takes_two_tasks_from_tickets_to_promotion_and_back(tiny_model: Path, tmp_path: Path) -> None:
    root = tmp_path / "ws"
    make_workspace(root, tiny_model)
    with open_app(root) as app, daemon(root) as child:
        wait_for(lambda: read_endpoints(app.workspace.paths.run).gateway, "the gateway", root)
        for task in TASKS:
            drop(root, f"{task}/examples.jsonl", seed_lines(task, range(24)))
            drop(root, f"{task}/production.jsonl", production_lines(task, range(24, 54)))
        for task in TASKS:
            wait_for(lambda task=task: read_pointer(app.workspace.paths.production, task), "a prompt", root)
            wait_for(lambda task=task: "HarvestCompleted" in kinds(app, task), "the harvest", root)
        gateway = read_endpoints(app.workspace.paths.run).gateway
        with Answerer(f"{gateway}/v1", "", "garden") as production:
            before = production.answer(PLAIN, ["apple 1 2 3"], list(WORDS))[0]
        assert before.answered_by in ("zero-shot@1", "few-shot@1")
        for task in TASKS:
            label_queue(app, task, range(54))
        for task in TASKS:
            wait_for(lambda task=task: app.state().task(task).champion.answerer == f"{task}-v1", "promotion", root)
            wait_for(
                lambda task=task: read_pointer(app.workspace.paths.production, task).answerer == f"{task}-v1",
                "the pointer", root,
            )  # fmt: skip
        assert_one_busy_child_at_a_time(app)
        with Answerer(f"{gateway}/v1", "", "garden") as production:
            after = production.answer(PLAIN, [text(n)[0] for n in range(6)], list(WORDS))
        assert {one.answered_by for one in after} == {"garden-v1"}
        assert all(one.label in WORDS for one in after)
        started = time.monotonic()
        assert main(["-w", str(root), "rollback", "--task", "garden"]) == 0
        assert time.monotonic() - started < 1.0
        with Answerer(f"{gateway}/v1", "", "garden") as production:
            back = production.answer(PLAIN, ["apple 1 2 3"], list(WORDS))[0]
        assert back.answered_by == before.answered_by
        assert back.raw == before.raw
        assert app.state().task("forge").champion.answerer == "forge-v1"
        second = subprocess.run(
            [sys.executable, "-m", "loop.cli.main", "-w", str(root), "run"], capture_output=True, text=True, timeout=60
        )
        assert second.returncode == 10
        assert "already runs" in second.stderr
        assert child.poll() is None
    assert child.returncode == 0
    with open_app(root) as app:
        assert sound(verify(app.workspace))
        steps = kinds(app, "garden")
        for kind in (
            "PromptAdopted", "DatasetFrozen", "TrainingStarted", "TrainingSucceeded", "AdapterRegistered",
            "EvaluationStarted", "EvaluationSucceeded", "ForgettingMeasured", "CandidateJudged", "AdapterPromoted",
            "AdapterRolledBack",
        ):  # fmt: skip
            assert kind in steps
        assert_no_text_in_log(app)


@pytest.mark.parametrize("quantisation", METHODS)
def test_every_other_method_goes_the_same_way_to_production(
    quantisation: str, tiny_model: Path, tmp_path: Path
) -> None:
    root, tasks = tmp_path / "ws", tuple(METHODS[quantisation])
    methods = METHODS[quantisation]
    make_workspace(root, tiny_model, tasks=tasks, quantisation=quantisation, prompts=("zero-shot@1",), training=methods)
    with open_app(root) as app, daemon(root):
        for task in tasks:
            drop(root, f"{task}/examples.jsonl", seed_lines(task, range(60)))
        for task in tasks:
            wait_for(
                lambda task=task: (found := read_pointer(app.workspace.paths.production, task))
                and found.answerer == f"{task}-v1",
                f"the pointer of {task}", root,
            )  # fmt: skip
        gateway = read_endpoints(app.workspace.paths.run).gateway
        for task in tasks:  # one base model in memory serves them all
            with Answerer(f"{gateway}/v1", "", task) as production:
                answers = production.answer(PLAIN, [text(n)[0] for n in range(4)], list(WORDS))
            assert {one.answered_by for one in answers} == {f"{task}-v1"}
            assert all(one.label in WORDS for one in answers)
            assert kinds(app, task).count("AdapterPromoted") == 1
        assert main(["-w", str(root), "rollback", "--task", tasks[-1]]) == 0
        with Answerer(f"{gateway}/v1", "", tasks[-1]) as production:
            back = production.answer(PLAIN, [text(0)[0]], list(WORDS))[0]
        assert back.answered_by == "zero-shot@1"
        assert sound(verify(app.workspace))


def assert_one_busy_child_at_a_time(app: App) -> None:
    open_steps = 0
    for one in app.workspace.log.read():
        if isinstance(one.event, ev.TrainingStarted | ev.EvaluationStarted):
            open_steps += 1
        if isinstance(one.event, ev.TrainingSucceeded | ev.EvaluationSucceeded):
            open_steps -= 1
        assert open_steps <= 1


def assert_no_text_in_log(app: App) -> None:
    payloads = b"".join(str(one.event).encode() for one in app.workspace.log.read())
    for number in range(54):
        assert text(number)[0].encode() not in payloads


def test_a_daemon_killed_in_training_goes_on_from_its_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    root = tmp_path / "ws"
    make_workspace(root, tiny_model, min_steps=400, tasks=("garden",))
    with open_app(root) as app:
        drop(root, "examples.jsonl", seed_lines("garden", range(60)))
        first = start(root)
        runs = app.workspace.paths.runs / "garden-run-1" / "checkpoints"
        wait_for(lambda: list(runs.glob("checkpoint-*/COMPLETE")), "a checkpoint", root)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        wait_for(lambda: not children_of(root), "its children to die with it", root, seconds=10)
        with daemon(root):
            wait_for(lambda: app.state().task("garden").champion.answerer == "garden-v1", "promotion", root)
        starts = [one.event for one in app.workspace.log.read() if isinstance(one.event, ev.TrainingStarted)]
        assert [one.attempt for one in starts] == [1, 2]
        assert starts[1].resumed_from > 0
        assert kinds(app, "garden").count("TrainingSucceeded") == 1
        assert kinds(app, "garden").count("StepInterrupted") == 1
        assert sound(verify(app.workspace))
        before = status(root)
        drop_read_tables(app)
        assert main(["-w", str(root), "verify", "--rebuild"]) == 0
        assert status(root) == before


def children_of(root: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str(root).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def status(root: Path) -> dict[str, object]:
    """What `tuneloop status` tells of the log; the part "daemon" tells of the moment."""
    done = subprocess.run(
        [sys.executable, "-m", "loop.cli.main", "-w", str(root), "status", "--json"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return {name: value for name, value in json.loads(done.stdout).items() if name != "daemon"}


def drop_read_tables(app: App) -> None:
    from store.tables import read_tables

    with app.workspace.database.writing() as connection:
        for table in read_tables():
            connection.exec_driver_sql(f"DROP TABLE {table.name}")


def test_a_damaged_adapter_is_never_served_and_the_old_answerer_stays(tiny_model: Path, tmp_path: Path) -> None:
    root = tmp_path / "ws"
    make_workspace(root, tiny_model, tasks=("garden",))
    with open_app(root) as app, daemon(root):
        drop(root, "examples.jsonl", seed_lines("garden", range(60)))
        wait_for(lambda: app.state().task("garden").champion.answerer == "garden-v1", "promotion", root)
        wait_for(
            lambda: read_pointer(app.workspace.paths.production, "garden").answerer == "garden-v1", "the pointer", root
        )
        assert main(["-w", str(root), "rollback"]) == 0
        artifact = queries.adapter(app.workspace.read, "garden", "garden-v1").artifact
        weights = app.workspace.artifacts.path(artifact) / "adapter_model.safetensors"
        weights.chmod(0o600)
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 0xFF
        weights.write_bytes(bytes(data))
        assert main(["-w", str(root), "promote", "garden-v1"]) != 0
        assert app.state().task("garden").champion.kind == "prompt"
        assert not sound(verify(app.workspace))


def test_bad_lines_and_a_missing_model_leave_the_daemon_running(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    make_workspace(root, tmp_path / "no-such-model", tasks=("garden",))
    with open_app(root) as app, daemon(root) as child:
        (root / "inbox" / "bad.jsonl").write_bytes(
            b'{"id": "a", "text": "apple 1", "label": "fruit"}\n'
            b"not json\n"
            b'{"id": "b", "text": "iron 2", "label": "wood"}\n'
            b'{"id": "a", "text": "something else", "label": "fruit"}\n'
            b"\xff\xfe\n"
        )
        wait_for(lambda: kinds(app, "garden").count("RecordQuarantined") == 4, "the quarantine", root)
        assert kinds(app, "garden").count("RecordReceived") == 1
        log = app.workspace.paths.logs / "daemon.log"
        wait_for(lambda: "no-such-model" in log.read_text(), "a clear error about the model", root)
        assert child.poll() is None
        shutil.rmtree(app.workspace.paths.inbox)
        app.workspace.paths.inbox.mkdir()
        (root / "inbox" / "later.jsonl").write_text('{"id": "c", "text": "zinc 3", "label": "metal"}\n')
        wait_for(lambda: kinds(app, "garden").count("RecordReceived") == 2, "intake into a new folder", root)
