"""Workspaces that are killed: made, run to rest, and compared whatever happened on the way."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import forked
import msgspec
from kill_texts import FAILS as FAILS
from kill_texts import LABELS, TASK, answer_of, answered, seeds, text

from store import events as ev
from store.rows import KEYS
from store.verify import sound, verify
from store.workspace import Workspace

HERE = Path(__file__).parent
SECONDS = 30.0  # of one run, at most; a second or two are usual


def make(root: Path, *, model: Path | None = None, overrides: dict[str, Any] | None = None) -> Path:
    """A workspace with one task whose gate asks for little. Without a model a folder that only looks like one."""
    from loop.first_settings import default_toml

    root.mkdir(parents=True)
    if model is None:
        model = root / "model"
        model.mkdir()
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_bytes(b"weights")
    settings = {
        "task": {"prompt": "zero-shot@1"},
        "model": {"base": str(model), "quantisation": "nf4"},
        "daemon": {"tick_seconds": 0.1, "settle_seconds": 0.0, "rescan_seconds": 1.0, "batch": 20},
        "wandb": {"enabled": False},
        "splits": {"exam_share": 0.4},
        "harvest": {"min_new": 1, "every_seconds": 0.0},
        "trigger": {"first": 20, "every": 1000},
        "training": {
            "min_steps": 8, "epochs": 1.0, "batch_size": 8, "micro_batch_size": 4, "checkpoint_every": 3,
            "eval_every": 3, "max_length": 128, "threads": 1, "learning_rate": 0.003,
        },
        "gate": {
            "min_exam": 8, "exam_growth": 4, "better_than_baseline": False, "not_worse_margin": 0.99,
            "max_forgetting": 1.0, "max_bits_rise": 100.0,
        },
        "rollback": {"min_feedback": 5, "drop": 0.1},
    }  # fmt: skip
    for name, values in (overrides or {}).items():
        settings[name] = {**settings.get(name, {}), **values}
    (root / "tuneloop.toml").write_text(default_toml(list(LABELS), task=TASK, overrides=settings))
    Workspace.create(root).close()
    return root


def drop(root: Path, name: str, lines: list[Any], folder: str = "inbox") -> None:
    """Write a file into the inbox at once, as a rename does."""
    target = root / folder / name
    part = root / f"{name}.writing"
    part.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines))
    part.replace(target)


def fill(root: Path, *, turns_bad: bool = True) -> None:
    """What waits in the inbox: examples, answered records, corrections and what cannot be taken in.

    With `turns_bad` the first adapter's answers will be corrected so often that it is rolled back.
    """
    drop(root, "a-examples.jsonl", [*seeds(30), b"not json\n", *seeds(30, 30), b"\xff\xfe\n"])
    records = answered("zero-shot@1", range(100, 112), wrong=False)
    records += answered(f"{TASK}-v1", range(200, 208), wrong=True) if turns_bad else []
    # without an id of production's a record is named by chance: as near copies they fall where the first one fell
    nameless = [{"text": f"{text(n)}!"} for n in (0, 1)]
    drop(root, "b-production.jsonl", [*records, *nameless])
    if turns_bad:
        corrections = [{"id": f"p{n}", "label": answer_of(text(n))} for n in range(200, 208)]
        drop(root, "c.feedback.jsonl", [*corrections, {"id": "nobody", "label": "fruit"}])
    drop(root, "d-picture.png", [b"no text"])


# ---------------------------------------------------------------- processes


def environment(kill: str = "", **more: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "TUNELOOP_"))}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (HERE, HERE.parents[1])))
    env["TUNELOOP_MODELS"] = str(Path(tempfile.gettempdir(), f"tuneloop-trials-{os.getuid()}"))
    env |= {**forked.ONE_THREAD, "WANDB_MODE": "offline"}
    return {**env, **({"TUNELOOP_KILL_AT": kill} if kill else {}), **more}


def start(root: Path, mode: str, *options: str, kill: str = "") -> subprocess.Popen[bytes]:
    """A daemon with the torch-free children, in a process of its own."""
    with (root / ".tuneloop" / "logs" / "daemon.log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(HERE / "stub_daemon.py"), str(root), mode, *options],
            stdout=output, stderr=subprocess.STDOUT, env=environment(kill), cwd=root,
        )  # fmt: skip


def run(root: Path, kill: str = "", *, real: bool = False) -> int:
    """Run the daemon until it rests or dies at `kill`; its exit code. Nothing it started is left afterwards.

    Call it from a process without threads. With `real` it trains and evaluates with the real children.

    Raises:
        AssertionError: it fails, does not come to rest, or leaves processes behind.
    """
    import stub_daemon

    modules = stub_daemon.REAL if real else stub_daemon.STUBS
    log = root / ".tuneloop" / "logs" / "daemon.log"
    process = forked.start(lambda: stub_daemon.serve(root, "rest", modules=modules), log, environment(kill))
    try:
        code = forked.wait(process, SECONDS * (5 if real else 1))
    except TimeoutError:
        raise AssertionError(f"{kill or 'unarmed'}: no rest after {SECONDS:.0f} s\n{logs(root)}") from None
    assert code in (0, -signal.SIGKILL), f"{kill}: exit code {code}\n{logs(root)}"
    gone(root)
    return code


def gone(root: Path, seconds: float = 10.0) -> None:
    """Wait until no process of the workspace lives.

    Raises:
        AssertionError: one outlives its daemon.
    """
    deadline = time.monotonic() + seconds
    while orphans := processes(root):
        assert time.monotonic() < deadline, f"these outlive their daemon: {orphans}"
        time.sleep(0.01)


def processes(root: Path) -> list[str]:
    """Command lines of the processes that name the workspace, except this one's."""
    found = []
    needle = re.escape(str(root).encode()) + rb"(/|\0|$)"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if re.search(needle, line):
                    found.append(f"{entry.name} " + line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def logs(root: Path) -> str:
    return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in (root / ".tuneloop/logs").glob("*.log"))


def copy(template: Path, root: Path) -> Path:
    """A workspace as the template: the same secret, so the same ids."""
    shutil.copytree(template, root, symlinks=True)
    settings = root / "tuneloop.toml"
    settings.write_text(settings.read_text().replace(str(template), str(root)))
    return root


# ---------------------------------------------------------------- what is the same


VOLATILE = {  # times, places in the log, and what depends on how often a step was begun
    "position", "up_to", "harvested_up_to", "label_position", "attempt", "resumed_from", "seconds", "epoch", "at",
    "text_digest", "kept_as", "step", "of", "loss", "annotated_at", "received_at", "labelled_at", "started_at",
    "ended_at", "registered_at", "peak_memory_mb", "request_id", "record_id", "cluster", "latency_ms", "check",
}  # fmt: skip
REPEATED = (ev.LeaseAcquired, ev.StepInterrupted, ev.TrainingProgressed)  # as often as there were processes
STARTS = (ev.TrainingStarted, ev.EvaluationStarted)
ONCE = (
    ev.PromptAdopted, ev.DatasetFrozen, ev.TrainingSucceeded, ev.AdapterRegistered, ev.EvaluationSucceeded,
    ev.ForgettingMeasured, ev.CandidateJudged, ev.CandidateRejected, ev.AdapterPromoted, ev.AdapterRolledBack,
)  # fmt: skip


def outcome(root: Path, *, timed: bool = False) -> dict[str, Any]:
    """What a workspace has come to, without times, ids and the number of attempts.

    With `timed` the predictions hold real times, so that no two runs keep the same bytes of them.

    Raises:
        AssertionError: a step has two endings, `verify` finds damage, or something half done lies about.
    """
    with Workspace.open(root) as workspace:
        workspace.projections.catch_up()
        findings = verify(workspace)
        assert sound(findings), [one for one in findings if one.level == "fail"]
        recorded = list(workspace.log.read())
        endings = Counter(
            (one.type, one.stream, getattr(one.event, "evaluation_id", ""), getattr(one.event, "answerer", ""))
            for one in recorded
            if isinstance(one.event, ONCE)
        )
        assert not [key for key, count in endings.items() if count > 1], endings
        starts = {(one.type, one.stream) for one in recorded if isinstance(one.event, STARTS)}
        said = Counter(
            f"{one.type} {_plain(msgspec.to_builtins(one.event))}"
            for one in recorded
            if not isinstance(one.event, (*REPEATED, *STARTS))
        )
        with workspace.database.reading() as connection:
            rows = {
                table: sorted(
                    _plain(dict(row))
                    for row in connection.exec_driver_sql(f"SELECT * FROM {table}").mappings()  # noqa: S608
                )
                for table in KEYS
            }
            texts = sorted(
                text for (text,) in connection.exec_driver_sql("SELECT text FROM texts WHERE text IS NOT NULL")
            )
        paths = workspace.paths
        pointers = {
            path.name: _plain(json.loads(path.read_bytes())).replace(str(root), "")
            for path in paths.production.glob("*.json")
        }
        kept = sorted(line for path in paths.quarantine.iterdir() for line in path.read_bytes().splitlines())
        assert not [path.name for folder in (paths.claimed, paths.inbox) for path in folder.iterdir()]
        assert not [path.name for path in paths.production.iterdir() if path.suffix != ".json"]
        rendered = [path for path in paths.home.rglob("*") if path.parent != paths.home and _holds(path, texts)]
        assert not rendered, f"texts are left of steps that have ended: {rendered}"
        assert not list(paths.runs.glob("*.dataset"))
        addresses = sorted(workspace.artifacts.addresses())
        looks = {one.event.artifact for one in recorded if isinstance(one.event, ev.EvaluationSucceeded)}
    found = {
        "events": said, "starts": sorted(starts), "rows": rows, "texts": texts, "pointers": pointers, "kept": kept,
        "artifacts": addresses,
    }  # fmt: skip
    return _without(found, looks) if timed else found


def _without(value: Any, names: set[str]) -> Any:
    """Every one of `names` is as good as another."""
    if isinstance(value, str):
        for name in names:
            value = value.replace(name, "…")
        return value
    if isinstance(value, Counter):
        return Counter({_without(key, names): count for key, count in value.items()})
    if isinstance(value, dict):
        return {key: _without(one, names) for key, one in value.items()}
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return sorted(_without(one, names) for one in value)  # they were sorted by their names
    return [_without(one, names) for one in value] if isinstance(value, list | tuple) else value


def _holds(path: Path, texts: list[str]) -> bool:
    """Whether a file holds customer text; those of the quarantine do, on purpose."""
    if not path.is_file() or path.parent.name == "quarantine":
        return False
    data = path.read_bytes()
    return any(text.encode() in data for text in texts)


def _plain(value: dict[str, Any]) -> str:
    return json.dumps(_steady(value), sort_keys=True, default=str)


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(one) for key, one in value.items() if key not in VOLATILE}
    if isinstance(value, str) and value.startswith(("[", "{")):  # a column that holds JSON
        with contextlib.suppress(ValueError):
            return _steady(json.loads(value))
    return [_steady(one) for one in value] if isinstance(value, list) else value


def same(one: dict[str, Any], other: dict[str, Any], what: str) -> None:
    """Compare two outcomes, naming only what differs."""
    for key in one:
        if one[key] != other[key]:
            left, right = _differing(one[key], other[key])
            raise AssertionError(f"{what}: {key} differ\nunharmed: {left}\nkilled:   {right}")


def _differing(one: Any, other: Any) -> tuple[Any, Any]:
    if isinstance(one, Counter):
        return one - other, other - one
    if isinstance(one, dict):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        return tuple(
            {name: [row for row in side.get(name, []) if row not in against.get(name, [])] for name in names}
            if all(isinstance(side.get(name), list) for name in names)
            else {name: side.get(name) for name in names}
            for side, against in ((one, other), (other, one))
        )  # type: ignore[return-value]
    return one, other
