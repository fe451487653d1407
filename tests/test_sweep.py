"""Settings compared on the validation examples: by what, on what, what is told of it, and what is left behind."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters import methods
from adapters.metrics import mcnemar_exact
from adapters.specs import ExamItem, Prediction
from loop import intake
from loop.auditing import audit_labels
from loop.bootstrap import App, open_app
from loop.cli.main import main
from loop.cli.sweep import print_sweep, toml_lines
from loop.first_settings import default_toml
from loop.fitting import Item
from loop.planning import make_plan
from loop.steps import MODULES
from loop.sweep import LOCK, Asked, best_of, beyond_noise, lead_of, limited, scored, sweep
from store import events as ev
from store import queries
from store.errors import InputError, SettingsError, StepError, UsageError
from store.log import Draft
from store.workspace import Workspace

ROOT = Path(__file__).parents[1]
STUBS = {**MODULES, "train": "sweep_child", "evaluate": "sweep_child"}
LABELS = ["billing", "technical"]
WORDS = {"billing": "refund the invoice charged twice", "technical": "screen crashes and shows an error"}


def make(root: Path, *, labelled: int = 110, model: Path | None = None, **training: object) -> Path:
    """A workspace with labelled records, two fifths of them for validation; without a model one that looks like one."""
    root.mkdir()
    if model is None:
        model = root / "model"
        model.mkdir()
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_bytes(b"weights")
    values = {"valid_share": 0.4, "max_steps": 3, "min_steps": 3, **training}
    quantisation = "bf16" if values.get("method") == "ia3" else "nf4"
    overrides = {
        "model": {"base": str(model), "quantisation": quantisation},
        "training": values,
        "resources": {"nice": 0},
        "task": {"prompts": ["zero-shot@1"]},
    }
    (root / "tuneloop.toml").write_text(default_toml(LABELS, task="t", overrides=overrides))
    Workspace.create(root).close()
    lines = []
    for number in range(labelled):
        label = LABELS[number % 2]
        text = f"{WORDS[label]} {number * 7919 % 9973} {number * 104729 % 9973}"
        lines.append(json.dumps({"id": f"x{number}", "text": text, "label": label}).encode())
    with open_app(root, env={}) as app:
        intake.ingest_lines(app, "t", lines)
    return root


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is `sweep_child`, which needs no training stack."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(Path(__file__).parent))))
    monkeypatch.setenv("TUNELOOP_HOME", "")
    monkeypatch.setattr(methods.importlib.util, "find_spec", lambda _: True)


@pytest.fixture
def app(tmp_path: Path, stubs: None) -> Iterator[App]:
    with open_app(make(tmp_path / "w"), env={}) as opened:
        opened.workspace.projections.catch_up()
        yield opened


def swept(app: App, say: Any = lambda _: None, **asked: Any) -> ev.SweepCompleted:
    event = sweep(app, "t", Asked(**asked), say=say, modules=STUBS).event
    assert isinstance(event, ev.SweepCompleted)
    return event


def started(app: App) -> list[dict[str, Any]]:
    path = app.root / "started.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def left_behind(app: App) -> list[str]:
    return sorted(one.name for one in app.workspace.paths.runs.iterdir() if one.is_dir())


def test_the_best_settings_are_recorded_with_the_numbers_they_stand_on(app: App, capsys: Any) -> None:
    said: list[str] = []
    event = swept(app, said.append, rates=[1e-3, 0.9, 3e-4])
    present, best, failed, worse = event.trials
    n = event.valid
    assert n >= 20 and event.present == present.name == "rank 16, rate 0.0002, all-linear"
    assert (present.correct, best.correct) == (round(n / 2), n)
    assert best.accuracy == 1.0 and present.low is not None and present.low < 0.5 < (present.high or 0)
    assert best.settings == {"rank": 16, "alpha": 32, "learning_rate": 1e-3, "targets": "all-linear"}
    assert (best.steps, best.seconds, best.train_loss, best.valid_loss) == (3, 1.5, 0.5, 0.0)
    assert failed.failure == "training diverged" and failed.accuracy is None and worse.correct < present.correct
    lost = n - round(n / 2)
    assert event.lead is not None and (event.lead.gained, event.lead.lost, event.lead.n) == (lost, 0, n)
    assert event.lead.p_value == mcnemar_exact(lost, 0)
    assert event.best == best.name and event.comparisons == 2 and event.beyond_noise
    assert event.control_correct is not None and event.control_correct > n / 2
    assert any(line.startswith("setting 2 of 4 (rank 16, rate 0.001, all-linear)") for line in said)

    print_sweep(event)
    shown = capsys.readouterr().out
    assert "training diverged" in shown and "more than noise" in shown
    assert shown.endswith("[tasks.t.training]\nlearning_rate = 0.001\n")
    position = queries.history(app.workspace.log, types=["SweepCompleted"])[0].position
    assert main(["show", str(position), "-w", str(app.root)]) == 0
    assert capsys.readouterr().out == shown
    assert main(["history", "--stream", "task/t", "-w", str(app.root)]) == 0
    assert "points over the present settings" in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")


def test_all_train_on_the_same_examples_and_none_sees_the_validation_or_the_exam(app: App) -> None:
    swept(app, ranks=[4], rates=[1e-3])
    trained = [one for one in started(app) if "train" in one]
    looked = [one for one in started(app) if "exam" in one]
    assert [(one["rank"], one["alpha"]) for one in trained] == [(16, 32), (4, 8)]
    assert trained[0]["train"] == trained[1]["train"] and looked[0]["exam"] == looked[1]["exam"]
    assert all(one["valid"] == [] for one in trained)
    rows = {row.record_id: row.side for row in queries.records(app.workspace.read, "t")}
    seen, held = set(trained[0]["train"]), set(looked[0]["exam"])
    assert seen and held and not seen & held
    assert {rows[one] for one in seen | held} == {"train"}


def test_nothing_is_left_but_the_event_and_the_log_of_a_failure(app: App) -> None:
    swept(app, rates=[1e-3])
    assert left_behind(app) == [] and not list(app.workspace.paths.logs.glob("t.sweep*"))
    assert not any(app.workspace.paths.artifacts.glob("sha256*"))
    assert swept(app, rates=[0.9]).sweep_id == "t-sweep-2"
    assert left_behind(app) == []
    assert [one.name for one in app.workspace.paths.logs.glob("t.sweep-2*")] == ["t.sweep-2.log"]
    swept(app, rates=[1e-3])
    assert not list(app.workspace.paths.logs.glob("t.sweep*"))


def test_an_interruption_ends_the_child_and_leaves_nothing(app: App) -> None:
    (app.root / "slow").touch()

    def interrupt(words: str) -> None:
        if "step" in words:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(app, interrupt, rates=[1e-3], steps=300)
    child = started(app)[-1]["pid"]
    assert not Path(f"/proc/{child}").exists()
    assert left_behind(app) == [] and not list(app.workspace.paths.logs.glob("t.sweep*"))
    assert not queries.history(app.workspace.log, types=["SweepCompleted"])


def test_it_gives_way_to_a_step_of_the_loop_and_goes_on_when_that_has_ended(app: App) -> None:
    (app.root / "slow").touch()
    runs, said = app.workspace.paths.runs, []
    lock = None

    def add(event: ev.Event) -> None:
        app.workspace.log.append([Draft(event, "run/t-run-1")], actor="daemon", now=app.now())

    def say(words: str) -> None:
        nonlocal lock
        said.append(words)
        if "step " in words and lock is None:
            (runs / "t-run-1").mkdir()
            lock = (runs / "t-run-1" / "lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
            begin(add)
        if "waits for a step of the loop" in words:
            child = started(app)[-1]["pid"]
            assert not Path(f"/proc/{child}").exists()
            add(ev.TrainingFailed(task="t", run_id="t-run-1", attempt=1, reason="x", parked=True))

    event = swept(app, say, rates=[1e-3], steps=60)
    assert event.best == "rank 16, rate 0.001, all-linear"
    assert [one["folder"] for one in started(app) if "train" in one] == ["t.sweep-1", "t.sweep-1", "t.sweep-2"]
    assert left_behind(app) == ["t-run-1"]


def begin(add: Any) -> None:
    add(
        ev.DatasetFrozen(
            task="t", run_id="t-run-1", artifact="", up_to=1, labels_train=50, train=50, valid=0, exam=0, hard_exam=0,
            per_class={}, curation=[],
        )
    )  # fmt: skip
    add(
        ev.TrainingStarted(
            task="t", run_id="t-run-1", attempt=1, adapter="t-v1", method="qlora", base_model="", base_digest="",
            quantisation="nf4", prompt="", seed=1, hyperparameters={},
        )
    )  # fmt: skip


KILLED = """
import os, sys
from pathlib import Path
from test_sweep import STUBS, Asked, methods, open_app, sweep
methods.importlib.util.find_spec = lambda _: True
with open_app(Path(sys.argv[1]), env={}) as app:
    def dies(words):
        if words.startswith("setting 2"):
            os.kill(os.getpid(), 9)
    sweep(app, "t", Asked(rates=[1e-3, 3e-4]), say=dies, modules=STUBS)
"""


def test_what_a_killed_sweep_leaves_is_told_and_removed(app: App, capsys: Any) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(app.root)], capture_output=True, text=True, timeout=120)
    assert done.returncode == -9, done.stderr
    left = left_behind(app)
    assert "t.sweep-data" in left and len(left) > 1

    def doctor(*words: str) -> tuple[str, list[str]]:
        capsys.readouterr()
        main(["doctor", "--json", *words, "-w", str(app.root)])
        told = json.loads(capsys.readouterr().out)
        (check,) = [one for one in told["checks"] if one["name"] == "sweeps"]
        assert ("text" in check["detail"]) == (check["level"] == "warn")
        return check["level"], [one for one in told["fixed"] if "killed sweep" in one]

    assert doctor()[0] == "warn"
    with (app.workspace.paths.run / LOCK).open("w") as lock:  # another one is at work on them
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert doctor("--fix") == ("ok", []) and left_behind(app) == left
    level, fixed = doctor("--fix")
    assert level == "ok" and left_behind(app) == []
    assert len(fixed) == len(left) and any("t.sweep-data" in one for one in fixed)


def test_it_is_refused_while_a_step_runs_but_not_because_of_one_that_a_killed_daemon_left_open(app: App) -> None:
    begin(lambda event: app.workspace.log.append([Draft(event, "run/t-run-1")], actor="daemon", now=app.now()))
    (app.workspace.paths.runs / "t-run-1").mkdir()
    with (app.workspace.paths.runs / "t-run-1" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StepError, match="a step of t is running"):
            swept(app, rates=[1e-3])
    assert started(app) == []
    assert swept(app, rates=[1e-3]).comparisons == 1


def test_two_sweeps_at_once_are_refused(app: App) -> None:
    with (app.workspace.paths.run / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another sweep"):
            swept(app, rates=[1e-3])


@pytest.mark.parametrize("labelled", [0, 40])
def test_too_few_validation_examples_are_refused_before_anything_is_trained(
    tmp_path: Path, stubs: None, labelled: int
) -> None:
    with open_app(make(tmp_path / "w", labelled=labelled), env={}) as app:
        app.workspace.projections.catch_up()
        with pytest.raises(InputError, match="at least 20") as caught:
            swept(app, rates=[1e-3])
        assert "valid_share" in caught.value.hint
        assert started(app) == [] and left_behind(app) == []


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "nothing to compare"),
        ({"ranks": [16], "rates": [2e-4]}, "nothing to compare"),
        ({"ranks": [0]}, "rank is 0"),
        ({"rates": [float("nan")]}, "learning_rate is nan"),
        ({"rates": [2.0]}, "learning_rate is 2.0"),
        ({"targets": ["all"]}, "targets is 'all'"),
    ],
)
def test_settings_that_say_nothing_or_are_out_of_range_are_refused(app: App, asked: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        swept(app, **asked)
    assert started(app) == []


def test_settings_that_the_method_cannot_be_trained_with_are_refused(tmp_path: Path, stubs: None) -> None:
    with open_app(make(tmp_path / "w", method="ia3", learning_rate=1e-3), env={}) as app:
        with pytest.raises(SettingsError, match="IA3 scales keys"):
            swept(app, targets=["attention-min"])
        with pytest.raises(UsageError, match="rank says nothing"):
            swept(app, ranks=[8])
        assert started(app) == []


def test_a_limit_keeps_the_proportions_and_every_class() -> None:
    items = [Item(id=f"a{n}", label="a", split="train") for n in range(60)]
    items += [Item(id=f"b{n}", label="b", split="train") for n in range(29)]
    items += [Item(id="c0", label="c", split="train"), Item(id="v", label="a", split="valid")]
    items += [Item(id=f"general:{n}", label="", split="train", kind="general") for n in range(9)]
    kept = limited(items, 30, 0.1, seed=1)
    sizes = {label: sum(one.label == label and one.split == "train" for one in kept) for label in "abc"}
    assert sizes["c"] == 1 and sum(sizes.values()) == 30 and 18 <= sizes["a"] <= 21
    assert sum(one.kind == "general" for one in kept) == 3 and "v" in {one.id for one in kept}
    assert limited(items, 30, 0.1, seed=1) == kept and limited(items, 30, 0.1, seed=2) != kept


def predictions(name: str, right: set[int], n: int) -> list[Prediction]:
    return [
        Prediction(id=str(i), answerer=name, decoding="score", label="ab"[i not in right], probabilities={"a": 0.9})
        for i in range(n)
    ]


def test_a_lead_within_the_noise_is_called_that_and_having_chosen_from_many_counts() -> None:
    exam = [ExamItem(id=str(i), text="", label="a") for i in range(40)]
    found = predictions("now", set(range(20)), 40) + predictions("new", set(range(26)), 40)
    made = [ev.SweepTrial(name=name, settings={}) for name in ("now", "new")]
    assert best_of(scored(made, exam, found), "now") == "new"
    lead = lead_of("new", "now", exam, found)
    assert lead is not None and lead.p_value == pytest.approx(2 / 2**6)
    assert beyond_noise(lead, 1, 0.05) and not beyond_noise(lead, 2, 0.05)
    # of equals the present settings stay
    equal = predictions("now", {1, 2}, 40) + predictions("new", {3, 4}, 40)
    assert best_of(scored(made, exam, equal), "now") == "now" and lead_of("now", "now", exam, equal) is None


def test_the_lines_for_the_settings_are_what_the_settings_read(tmp_path: Path) -> None:
    best = {"rank": 8, "alpha": 16, "learning_rate": 1e-05, "targets": "attention"}
    event = ev.SweepCompleted(
        task="t", sweep_id="s", method="qlora", base_model="", base_digest="", quantisation="nf4", prompt="", seed=1,
        up_to=1, train=1, valid=1, present="a", best="b",
        trials=[
            ev.SweepTrial(name="a", settings={**best, "rank": 16, "alpha": 32, "learning_rate": 2e-4}),
            ev.SweepTrial(name="b", settings=best),  # type: ignore[arg-type]
        ],
    )  # fmt: skip
    lines = toml_lines(event)
    assert lines == ["[tasks.t.training]", "rank = 8", "alpha = 16", "learning_rate = 1e-05"]
    (tmp_path / "tuneloop.toml").write_text('[tasks.t]\nlabels = ["a", "b"]\n' + "\n".join(lines))
    from loop.settings import load

    rules = load(tmp_path, {}).task("t").training
    assert (rules.rank, rules.alpha, rules.learning_rate) == (8, 16, 1e-5)


def test_numbers_that_are_none_are_refused_in_one_line(tmp_path: Path, capsys: Any) -> None:
    root = make(tmp_path / "w", labelled=0)
    assert main(["sweep", "--rank", "8,many", "-w", str(root)]) == 2
    assert "--rank 8,many is no list of numbers" in capsys.readouterr().err


def test_real_trainings_of_the_tiny_model_are_scored_and_compared(tmp_path: Path, tiny_model: Path) -> None:
    small = {"batch_size": 4, "micro_batch_size": 4, "max_length": 160, "threads": 1, "rank": 4, "alpha": 8}
    root = make(tmp_path / "w", model=tiny_model, learning_rate=1e-7, **small)
    command = [sys.executable, "-m", "loop.cli.main", "sweep", "--rate", "5e-3", "--steps", "20", "--json"]
    done = subprocess.run(
        [*command, "-w", str(root)], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    event = json.loads(done.stdout)["event"]
    idle, learning = event["trials"]  # at a rate of 1e-7 nothing is learnt
    assert learning["train_loss"] < idle["train_loss"], event
    assert learning["steps"] == idle["steps"] == 20 and idle["seconds"] > 0
    for one in (idle, learning):
        assert one["valid_loss"] > 0 and one["low"] <= one["accuracy"] <= one["high"]
        assert one["accuracy"] == pytest.approx(one.get("correct", 0) / event["valid"])
    ahead = learning.get("correct", 0) > idle.get("correct", 0)
    assert event["present"] == idle["name"] and event["best"] == (learning if ahead else idle)["name"]
    assert event["valid"] >= 20 and event["control_correct"] > event["valid"] / 2
    assert "setting 1 of 2" in done.stderr
    assert not [one for one in (root / ".tuneloop" / "runs").iterdir() if one.is_dir()]


def test_a_plan_makes_a_few_real_steps_and_leaves_nothing(tmp_path: Path, tiny_model: Path) -> None:
    small = {"batch_size": 4, "micro_batch_size": 4, "max_length": 160, "threads": 1, "rank": 4, "alpha": 8}
    root = make(tmp_path / "w", model=tiny_model, **small)
    with open_app(root, env={}) as app:
        app.workspace.projections.catch_up()
        plan = make_plan(app, "t")
        curated = audit_labels(app, "t")
        mixed = sum(one.count for one in curated.curation if one.step == "general")
        assert mixed > 0 and plan.probe.examples == curated.train + mixed
        assert plan.probe.step_seconds > 0 and plan.seconds > 0 and plan.fits
        assert left_behind(app) == []
        (tiny := tmp_path / "broken").mkdir()
        for file in tiny_model.iterdir():
            (tiny / file.name).write_bytes(b"" if file.name == "tokenizer.json" else file.read_bytes())
        app.settings = app.settings.model_copy(
            update={"model": app.settings.model.model_copy(update={"base": str(tiny)})}
        )
        with pytest.raises(StepError):
            make_plan(app, "t")
        assert left_behind(app) == []
