"""A customer is forgotten: no byte of their words is left, wherever the erasure was killed; everybody else's stay."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli_world import make
from erase_world import (
    JANE,
    LETTER,
    LETTERS,
    LOOK,
    NOW,
    OTHER,
    OTHERS,
    RUN,
    append,
    build,
    files_with,
    line,
    ours,
    salts,
    traces_of,
    training,
)
from hypothesis import given
from hypothesis import strategies as st

from adapters.specs import BaseModelRef, EvalSpec, ExamItem, Example, Prediction, read_json, read_lines
from loop import actions, datasets, erasing, intake, surveying, traces
from loop.bootstrap import App, open_app
from loop.commands import FreezeDataset
from loop.production import read_pointer
from loop.steps import LOCK, Steps
from loop.sweeping import members
from store import events as ev
from store.database import DRIVER
from store.errors import StoreError
from store.kill_points import POINTS
from store.pages import free_pages_are_empty
from store.verify import sound, verify
from store.workspace import ERASING

ROOT = Path(__file__).parents[1]
UNIQUE = [LETTERS["j1"], LETTERS["j4"], "where is my refund?", "a line of hers that was refused", JANE]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("erase") / "w")


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "w")
    return tmp_path / "w"


def opened(root: Path) -> App:
    return open_app(root, env={}, clock=lambda: NOW)


def is_forgotten(root: Path, before: dict[str, bytes]) -> None:
    """Nothing of Jane is left, everything of the others is, and the log says so once for each record."""
    for text in UNIQUE:
        assert traces_of(root, text) == [], text
    for one in LETTERS:
        assert files_with(root, before[ours(one)]) == []
    with opened(root) as app:
        workspace = app.workspace
        workspace.projections.catch_up()
        erased = [one.event for one in workspace.log.select("type = 'RecordErased'", [])]
        assert sorted(event.record_id for event in erased) == sorted(map(ours, LETTERS))  # type: ignore[attr-defined]
        assert workspace.texts.many([*map(ours, LETTERS), *map(ours, OTHERS)]) == {
            ours(k): v for k, v in OTHERS.items()
        }
        assert not (workspace.paths.home / ERASING).exists()
        findings = verify(workspace)
        assert sound(findings), [one for one in findings if one.level != "ok"]
        runs = workspace.paths.runs
        others = {ours(one) for one in OTHERS}
        assert {one.id for one in read_lines(runs / "tickets-run-2" / "valid.jsonl", Example)} == others
        exam = read_lines(runs / LOOK / "exam.jsonl", ExamItem)
        assert {item.id: item.text for item in exam} == {ours(one): text for one, text in OTHERS.items()}
        said = {one.id: one.raw for one in read_lines(runs / LOOK / "predictions.jsonl", Prediction)}
        assert [bool(said[ours(one)]) for one in (*LETTERS, *OTHERS)] == [False] * 4 + [True] * 4
        (spec,) = read_json(runs / LOOK / "spec.json", EvalSpec).answerers
        assert spec.prompt is not None and [turn.content for turn in spec.prompt.shots] == [
            f"Text: {OTHERS['o1']}\nLabel:", "billing"
        ]  # fmt: skip
        pointer = read_pointer(workspace.paths.production, "tickets")
        assert pointer is not None and [turn.content for turn in pointer.prompt.shots][::2] == [
            f"Text: {OTHERS['o4']}\nLabel:"
        ]
    for kept in ("never came", "two\nlines", "other words", "theirs that was refused", "their words", "step 2"):
        assert traces_of(root, kept), kept


# ---------------------------------------------------------------- everything


def test_no_byte_of_a_customer_is_left_and_everything_else_stays(root: Path, tuneloop: Any) -> None:
    before = salts(root)
    for text in (*UNIQUE, *LETTERS.values()):
        assert traces_of(root, text), f"the search would not find {text!r}"
    done = tuneloop("erase", "--customer", JANE, "--yes", "--reason", "a letter", "--as", "kim", "--json", "-w", root)
    assert done.code == 0, done.err
    is_forgotten(root, before)
    report = done.json
    assert sorted(report["erased"]) == sorted(map(ours, LETTERS)) and report["labels"] == 2
    assert report["places"] == {
        "production": 1, "runs": 2, "inbox": 2, "claimed": 1, "done": 1, "quarantine": 2, "artifacts": 1, "logs": 1,
        "cache": 2, "wandb": 3,
    }  # fmt: skip
    assert [(one["adapter"], sorted(one["records"])) for one in report["adapters"]] == [
        ("tickets-v1", ["exam", "train", "valid"])
    ]
    assert [one["backup"] for one in report["backups"]] == ["late"]
    assert report["uploaded"] == ["tickets-run-1-abcd1234"]
    assert report["waiting"] == ["inbox/again.jsonl"]  # somebody else says "thanks", and is not taken in yet
    assert report["same_words"] == 2
    with opened(root) as app:
        one = app.workspace.log.stream(f"record/{ours('j1')}")[-1]
        event = one.event
        assert isinstance(event, ev.RecordErased) and one.actor == "kim" and event.reason == "a letter"
        assert (event.label, event.places, len(event.redacted)) == ("urgent", report["places"], 1)
        (dataset,) = event.redacted
        assert app.workspace.artifacts.redacted(dataset) == {"control/control.json", "control/weights.npz"}
    # other people's lines of the spool come in as ever, hers do not
    with opened(root) as app:
        intake.take_in(app, now=time.time() + 1000)
        app.workspace.projections.catch_up()
        known = app.workspace.texts.known([ours(one) for one in ("o5", "o6", "o7", "o8", "o9", "new")])
        assert known == {ours(one) for one in ("o5", "o6", "o7", "o8", "o9")}
        assert app.workspace.texts.get(ours("o7")) == "two\nlines"
        assert not app.workspace.texts.of_customer(JANE)


def test_one_record_of_a_customer_and_the_rest_of_theirs_stays(root: Path, tuneloop: Any) -> None:
    done = tuneloop("erase", "j1", "--yes", "--json", "-w", root)
    assert done.code == 0 and done.json["erased"] == [ours("j1")], done.err
    assert traces_of(root, LETTER) == []
    with opened(root) as app:
        assert app.workspace.texts.of_customer(JANE) == sorted(ours(one) for one in ("j2", "j3", "j4"))
        assert read_lines(app.workspace.paths.runs / LOOK / "exam.jsonl", ExamItem)[0].text == LETTERS["j2"]
    inbox = (root / "inbox" / "again.jsonl").read_bytes().splitlines()
    assert [bool(one.strip()) for one in inbox] == [False, True, True, True, True]
    again = tuneloop("erase", "--record", "j1", "--yes", "-w", root)
    assert again.code == 0 and "was erased before" in again.out


def test_a_short_text_goes_where_a_line_says_whose_it_is(root: Path, tuneloop: Any) -> None:
    assert tuneloop("erase", "--record", "j3", "--yes", "-w", root).code == 0
    with opened(root) as app:
        exam = {item.id: item.text for item in read_lines(app.workspace.paths.runs / LOOK / "exam.jsonl", ExamItem)}
        assert ours("j3") not in exam and exam[ours("o2")] == "thanks"
        assert app.workspace.texts.get(ours("o2")) == "thanks"
        # a piece that cannot be read cannot say whose it is
        assert not (app.workspace.paths.runs / LOOK / "result.json.tmp").exists()
    inbox = (root / "inbox" / "again.jsonl").read_bytes().splitlines()
    assert b'"thanks"' in inbox[2] and not inbox[4].strip()  # theirs by its id; nobody's
    assert traces_of(root, LETTER)


def test_labels_count_no_more_and_the_next_training_leaves_the_records_out(root: Path, tuneloop: Any) -> None:
    with opened(root) as app:
        for side, counts in _labels(app).items():
            assert sum(counts.values()), side
        before = _labels(app)
        (frozen,) = [one.event for one in app.workspace.log.select("type = 'DatasetFrozen'", [])]
        assert isinstance(frozen, ev.DatasetFrozen) and ours("j1") in members(
            app.workspace.artifacts.root / frozen.artifact
        )
    assert tuneloop("erase", "--customer", JANE, "--yes", "-w", root).code == 0
    with opened(root) as app:
        left = {label: count for counts in _labels(app).values() for label, count in counts.items()}
        total = sum(sum(counts.values()) for counts in before.values())
        assert sum(left.values()) == total - 2 and "urgent" not in left
        for number in range(12):
            text = f"{('pay', 'crash')[number % 2]} {number} {number * 7919 % 9973} {number * 104729 % 9973}"
            record = json.dumps({"id": f"x{number}", "text": text, "label": ("billing", "technical")[number % 2]})
            intake.ingest_lines(app, "tickets", [record.encode()])
        app.workspace.projections.catch_up()
        command = FreezeDataset(task="tickets", run_id="tickets-run-9", plan="standard", trigger="")
        task, rules = app.state().task("tickets"), app.settings.task("tickets")
        steps = Steps(app.workspace.paths.logs)
        while (fresh := datasets.freeze(app, steps, task, rules, command)) is None:
            time.sleep(0.05)
        assert not {ours(one) for one in LETTERS} & members(app.workspace.artifacts.root / fresh.artifact).keys()
        # a dataset that was frozen before is rendered without them
        cycle = app.state().task("tickets").cycle
        assert cycle is not None and cycle.dataset == frozen.artifact
        folder = app.workspace.paths.runs / "tickets-run-3"
        app.workspace.artifacts.path(frozen.artifact, verify=True)  # what was redacted is no damage
        datasets.prepare_training(app, cycle, rules, BaseModelRef(path="/m", digest="d"), folder)
        rendered = {one.id for part in ("train", "valid") for one in read_lines(folder / f"{part}.jsonl", Example)}
        assert ours("o1") in rendered and not {ours(one) for one in LETTERS} & rendered


def _labels(app: App) -> dict[str, dict[str, int]]:
    task = app.state().task("tickets")
    return {"all": dict(task.labels_train)} if not task.labels_exam else {
        "train": dict(task.labels_train), "exam": dict(task.labels_exam)
    }  # fmt: skip


# ---------------------------------------------------------------- killed

ERASE_POINTS = sorted(name for name in POINTS if name.startswith("erase."))


def killed(root: Path, point: str) -> None:
    command = [sys.executable, "-m", "loop.cli.main", "erase", "--customer", JANE, "--yes", "-w", str(root)]
    env = {**os.environ, "TUNELOOP_KILL_AT": point, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, timeout=120, check=False)
    assert done.returncode == -9, done.stderr.decode()


@pytest.mark.parametrize("point", [*ERASE_POINTS, "file.temporary_written", "artifacts.redaction_noted"])
def test_killed_anywhere_it_is_finished_by_whoever_comes_next(root: Path, tuneloop: Any, point: str) -> None:
    before = salts(root)
    killed(root, point)
    if point == "file.temporary_written":  # the note had no name yet: nothing was erased
        with opened(root) as app:
            assert len(app.workspace.texts.of_customer(JANE)) == 4 and erasing.resume(app) is None
    if ERASE_POINTS.index(point) % 2 if point in POINTS and point in ERASE_POINTS else False:
        with opened(root) as app:  # as the daemon does at its tick
            assert erasing.resume(app, wait=False) is not None
    else:
        done = tuneloop("erase", "--customer", JANE, "--yes", "-w", root)
        assert done.code == 0, done.err
    is_forgotten(root, before)
    with opened(root) as app:
        assert erasing.resume(app) is None


def test_the_note_of_another_erasure_is_finished_first(root: Path, tuneloop: Any) -> None:
    before = salts(root)
    killed(root, "erase.runs_swept")
    done = tuneloop("erase", "--record", "o4", "--yes", "--json", "-w", root)
    assert done.code == 0 and done.json["erased"] == [ours("o4")]
    assert traces_of(root, OTHERS["o4"]) == []
    assert [path for text in UNIQUE for path in traces_of(root, text)] == []
    assert files_with(root, before[ours("j1")]) == []


def test_a_note_that_cannot_be_read_is_told(root: Path, tuneloop: Any) -> None:
    (root / ".tuneloop" / ERASING).write_text("{")
    refused = tuneloop("erase", "--record", "j1", "--yes", "-w", root)
    assert refused.code == 5 and ERASING in refused.err
    assert traces_of(root, LETTER)


def test_a_pointer_that_the_disk_has_changed_keeps_no_text(root: Path, tuneloop: Any) -> None:
    path = root / ".tuneloop" / "production" / "tickets.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"few-shot@1", b"few-shot@0"))
    assert read_pointer(path.parent, "tickets") is None
    assert tuneloop("erase", "--customer", JANE, "--yes", "-w", root).code == 0
    assert not path.exists()  # the daemon writes it anew
    assert [path for text in UNIQUE for path in traces_of(root, text)] == []


def test_an_erasure_that_was_interrupted_is_told_and_mended(root: Path, tuneloop: Any) -> None:
    before = salts(root)
    killed(root, "erase.noted")

    def told() -> tuple[dict[str, Any], dict[str, Any]]:
        parts = tuneloop("status", "--json", "-w", root).json["daemon"]["parts"]
        checks = tuneloop("doctor", "--json", "-w", root).json["checks"]
        (check,) = [one for one in checks if one["name"] == "erasing"]
        return next((one for one in parts if one["name"] == "erasing"), {}), check

    part, check = told()
    assert part["state"] == check["level"] == "warn" and part["since"]
    assert "4 records" in part["detail"] and "4 records" in check["detail"] and "doctor --fix" in check["advice"]
    with opened(root) as app, erasing._alone(app, 0.0):  # somebody is at it
        part, check = told()
        assert part["state"] == check["level"] == "ok" and "at this moment" in part["detail"]
    done = tuneloop("doctor", "--fix", "--json", "-w", root)
    assert "finished an erasure of 4 records that was interrupted" in done.json["fixed"]
    is_forgotten(root, before)
    assert told()[0] == {}
    (root / ".tuneloop" / ERASING).write_text("{")
    part, check = told()
    assert part["state"] == "down" and check["level"] == "fail" and ERASING in check["detail"]


# ---------------------------------------------------------------- at the same time

SLEEPER = """
import fcntl, json, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
lock = (folder / "lock").open("w")
fcntl.flock(lock, fcntl.LOCK_EX)
exam = (folder / "exam.jsonl").read_text()
def end(*_):
    (folder / "predictions.jsonl").write_text(exam.replace('"text"', '"raw"'))
    (folder / "late.txt").write_text(exam)
    raise SystemExit(0)
signal.signal(signal.SIGTERM, end)
(folder / "ready").touch()
time.sleep(60)
"""


def test_a_step_that_has_read_the_texts_is_ended_and_what_it_wrote_last_is_cleaned(root: Path, tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    folder = (root / ".tuneloop" / "runs" / LOOK).resolve()
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    child = subprocess.Popen([sys.executable, "-m", "sleeper", str(folder)], env=env)
    beside = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(folder)])  # only looks at it
    try:
        while not (folder / "ready").exists():
            time.sleep(0.02)
        with opened(root) as app:
            surveyed = surveying.survey(app, customer=JANE)
            report = erasing.erase(app, surveyed, actor="kim")
        assert report.stopped == [LOOK]
        assert child.wait(timeout=10) == 0 and beside.poll() is None
    finally:
        for process in (child, beside):
            process.kill()
            process.wait()
    assert (folder / "late.txt").exists() and (folder / LOCK).exists()
    assert traces_of(root, LETTER) == [] and traces_of(root, LETTERS["j4"]) == []


def test_while_a_step_that_cannot_be_ended_has_the_texts_nothing_is_said_to_be_gone(root: Path, tuneloop: Any) -> None:
    before = salts(root)
    with (root / ".tuneloop" / "runs" / LOOK / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # by us, who are no step's child: as one on another machine would
        refused = tuneloop("erase", "--customer", JANE, "--yes", "-w", root)
        assert refused.code == 5 and LOOK in refused.err and "works on" in refused.err
        with opened(root) as app:
            assert not app.workspace.log.select("type = 'RecordErased'", [])
        assert tuneloop("erase", "--customer", JANE, "--yes", "-w", root).code == 5  # its folder is clean by now
    assert tuneloop("erase", "--customer", JANE, "--yes", "-w", root).code == 0
    is_forgotten(root, before)


def test_records_that_come_in_meanwhile_go_as_well(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(root) as app:
        surveyed = surveying.survey(app, customer=JANE)
        intake.ingest_lines(app, "tickets", [line("late", JANE, "One more letter, sent this very minute")])
        report = erasing.erase(app, surveyed, actor="kim")
        assert ours("late") in report.records
        assert isinstance(app.workspace.log.stream(f"record/{ours('late')}")[-1].event, ev.RecordErased)
    assert traces_of(root, "this very minute") == []


def test_a_label_that_is_given_meanwhile_is_taken_off_the_count(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(root) as app:
        surveyed = surveying.survey(app, [ours("j4")])
        before = _labels(app)
        scrub = app.workspace.texts.scrub

        def late(*words: Any) -> None:
            scrub(*words)
            actions.label(app, ours("j4"), "technical", annotator="maria")

        monkeypatch.setattr(app.workspace.texts, "scrub", late)
        erasing.erase(app, surveyed, actor="kim")
        assert _labels(app) == before


def test_two_erasures_do_not_meet(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "LOCK_SECONDS", 0.2)
    with opened(root) as app, erasing._alone(app, 1.0), opened(root) as other:
        (root / ".tuneloop" / ERASING).write_text("{}")  # there is something to finish, and somebody is at it
        assert erasing.resume(other, wait=False) is None
        with pytest.raises(StoreError, match="another erasure"):
            erasing.resume(other)


def test_a_reader_that_holds_the_log_back_is_told_and_the_next_call_finishes(
    root: Path, tuneloop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = salts(root)
    with opened(root) as app, opened(root) as reader:
        surveyed = surveying.survey(app, customer=JANE)
        quick = app.workspace.texts.scrub
        monkeypatch.setattr(app.workspace.texts, "scrub", lambda: quick(0.1))
        with app.workspace.database.writing() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 50")
        with reader.workspace.database.reading() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM texts").scalar_one()
            with pytest.raises(StoreError, match="write-ahead log"):
                erasing.erase(app, surveyed, actor="kim")
        assert not app.workspace.log.select("type = 'RecordErased'", [])  # not said before it is true
    assert tuneloop("erase", "--customer", JANE, "--yes", "-w", root).code == 0
    is_forgotten(root, before)


# ---------------------------------------------------------------- asked wrongly, asked only


def test_what_is_unknown_or_unclear_is_refused_before_anything_goes(root: Path, tuneloop: Any) -> None:
    uuid = ours("j1")
    for words, code, told in (
        (["--record", "j1", "nobody"], 4, "there is no record 'nobody'"),
        (["--record", uuid[:4]], 4, "there is no record"),  # too short to be meant
        (["--customer", "Nobody"], 4, "nothing of a customer 'Nobody'"),
        (["--customer", JANE, "--record", "j1"], 2, "either records or a customer"),
        ([], 2, "either records or a customer"),
        (["--customer", JANE, "--reason", f"{JANE.upper()} asked"], 2, "names the customer"),
    ):
        refused = tuneloop("erase", *words, "--yes", "-w", root)
        assert (refused.code, told in refused.err) == (code, True), (words, refused.err)
    unasked = tuneloop("erase", "--record", "j1", "-w", root)
    assert unasked.code == 2 and "--yes" in unasked.err
    with opened(root) as app:
        assert len(app.workspace.texts.of_customer(JANE)) == 4
        assert not app.workspace.log.select("type = 'RecordErased'", [])
    assert tuneloop("erase", uuid[:8], "--yes", "-w", root).code == 0


def test_a_dry_run_tells_the_same_and_changes_nothing(root: Path, tuneloop: Any) -> None:
    def state() -> dict[Path, bytes]:
        passing = ("-wal", "-shm", ".lock")
        return {p: p.read_bytes() for p in root.rglob("*") if p.is_file() and not p.name.endswith(passing)}

    tuneloop("erase", "--customer", JANE, "--dry-run", "--json", "-w", root)
    before = state()
    dry = tuneloop("erase", "--customer", JANE, "--dry-run", "--json", "-w", root)
    assert dry.code == 0 and dry.json["erased"] == [] and state() == before
    shown = tuneloop("erase", "--customer", JANE, "--dry-run", "-w", root)
    assert "4 records would be erased" in shown.out and "late (nas" in shown.out and LETTER[:20] not in shown.out
    done = tuneloop("erase", "--customer", JANE, "--yes", "--json", "-w", root)
    for key in ("records", "places", "labels", "adapters", "backups", "uploaded", "waiting", "same_words"):
        assert dry.json[key] == done.json[key], key


def test_a_customer_who_is_only_in_the_spool_is_forgotten_too(root: Path, tuneloop: Any) -> None:
    (root / "inbox" / "more.jsonl").write_bytes(line("n1", "Newcomer", "A first letter") + line("o5", OTHER, "later"))
    done = tuneloop("erase", "--customer", "Newcomer", "--yes", "--json", "-w", root)
    assert done.code == 0 and done.json["places"] == {"inbox": 1} and done.json["erased"] == []
    assert traces_of(root, "A first letter") == [] and b"later" in (root / "inbox" / "more.jsonl").read_bytes()


def test_the_same_id_in_two_tasks_has_to_be_named_in_full(tmp_path: Path, tuneloop: Any) -> None:
    root = make(tmp_path / "w")
    settings = root / "tuneloop.toml"
    settings.write_text(settings.read_text() + '\n[tasks.mail]\nlabels = ["spam", "ham"]\n')
    with opened(root) as app:
        intake.ingest_lines(app, "tickets", [line("7", "", "a ticket of some length", answer="")])
        intake.ingest_lines(app, "mail", [line("7", "", "a mail of some length", answer="")])
        app.workspace.projections.catch_up()
    (root / "inbox" / "mail").mkdir()
    (root / "inbox" / "mail" / "a.jsonl").write_bytes(line("7", "", "a mail of some length, changed"))
    refused = tuneloop("erase", "7", "--yes", "-w", root)
    assert refused.code == 4 and "several records" in refused.err
    assert tuneloop("erase", ours("7"), "--yes", "-w", root).code == 0
    assert traces_of(root, "a ticket of some length") == []
    assert len(traces_of(root, "a mail of some length")) >= 2  # the other task's, in the database and in its inbox


def test_files_of_people_are_told_and_left_alone(root: Path, tuneloop: Any) -> None:
    (root / "export.jsonl").write_bytes(line("j1", JANE, LETTER))
    done = tuneloop("erase", "--record", "j1", "--yes", "--json", "-w", root)
    assert done.json["yours"] == ["export.jsonl"] and traces_of(root, LETTER) == ["export.jsonl"]


def test_lineage_names_the_adapters_that_saw_a_record(root: Path, tuneloop: Any) -> None:
    with opened(root) as app:
        adopted = ev.PromptAdopted(
            task="tickets", prompt="few-shot@1", digest="d", scores=[], reason="", shots=[ours("j1")]
        )
        append(app, adopted, "task/tickets")
    assert tuneloop("erase", "--record", "j1", "--yes", "-w", root).code == 0
    seen = tuneloop("lineage", "j1", "--json", "-w", root).json
    assert seen["erased"] and [(one["adapter"], one["records"]) for one in seen["adapters"]] == [
        ("tickets-v1", {"train": [ours("j1")]})
    ]
    assert [one["prompt"] for one in seen["prompts"]] == ["few-shot@1"]
    shown = tuneloop("lineage", "j1", "-w", root)
    assert "tickets-v1" in shown.out and "erased since" in shown.out
    unseen = tuneloop("lineage", "j4", "-w", root)
    assert unseen.code == 0 and "no adapter" in unseen.out


def test_wandbs_own_files_of_a_queued_table_lose_the_texts(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    root = make(tmp_path / "w")
    with opened(root) as app:
        intake.ingest_lines(app, "tickets", [line(one, JANE, text) for one, text in LETTERS.items()])
        intake.ingest_lines(app, "tickets", [line("o1", OTHER, OTHERS["o1"])])
        samples = [{"id": ours(one), "expected": "general", "answered": ""} for one in (*LETTERS, "o1")]
        for event in training(samples):
            append(app, event, f"run/{RUN}")
        app.workspace.projections.catch_up()
    command = [sys.executable, "-m", "adapters.tracking", str(root), "--once", "--send-text", "--mode", "offline"]
    env = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)
    assert len(traces_of(root, LETTERS["j4"])) > 1
    with opened(root) as app:
        report = erasing.erase(app, surveying.survey(app, customer=JANE), actor="kim")
    assert [name.split("-")[0] for name in report.sessions] == ["offline"] and report.uploaded == []
    for text in (LETTER, LETTERS["j2"], LETTERS["j4"]):
        assert traces_of(tmp_path, text) == []
    assert len(traces_of(root, OTHERS["o1"])) > 1


def test_pages_that_another_program_left_full_are_written_anew(root: Path, tuneloop: Any) -> None:
    database = root / ".tuneloop" / "tuneloop.sqlite"
    careless = DRIVER.connect(str(database))
    careless.execute("PRAGMA secure_delete = OFF")
    careless.execute("CREATE TABLE copy (text TEXT)")
    careless.executemany("INSERT INTO copy VALUES (?)", [(LETTER * 50,) for _ in range(40)])
    careless.commit()
    careless.execute("DROP TABLE copy")
    careless.commit()
    careless.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    careless.close()
    assert not free_pages_are_empty(database)
    assert tuneloop("erase", "--record", "j1", "--yes", "-w", root).code == 0
    assert free_pages_are_empty(database) and traces_of(root, LETTER) == []


# ---------------------------------------------------------------- finding


@given(
    pieces=st.lists(st.binary(min_size=12, max_size=20), min_size=1, max_size=80, unique=True),
    order=st.lists(st.tuples(st.integers(0, 79), st.binary(max_size=9)), max_size=30),
)
def test_many_needles_are_found_where_each_alone_is(pieces: list[bytes], order: list[tuple[int, bytes]]) -> None:
    data = b"".join(pieces[index % len(pieces)] + filler for index, filler in order)
    alone = sorted({span for piece in pieces for span in traces.spans(data, [piece])})
    assert sorted(set(traces._spans_of_many(data, pieces))) == alone
    assert sorted(set(traces.spans(data, pieces))) == alone


@given(text=st.text(min_size=12, max_size=60).filter(traces.searched), lead=st.binary(max_size=5))
def test_every_way_of_writing_a_text_is_found_and_blanked_in_place(text: str, lead: bytes) -> None:
    import base64

    text = text.replace("\0", "0").encode("utf-8", "replace").decode()
    ways = [
        text.encode(), json.dumps(text).encode(), json.dumps(text, ensure_ascii=False).encode(),
        json.dumps(json.dumps({"t": text})).encode(), repr(text).encode(),
        base64.b64encode(lead + text.encode() + lead),
    ]  # fmt: skip
    for way in ways:
        data = b"before\n" + way + b"\nafter"
        places = traces.spans(data, traces.forms(text))
        assert places, way
        blank = traces.blanked(data, places)
        assert len(blank) == len(data) and blank.count(b"\n") == data.count(b"\n")
        assert blank.startswith(b"before\n") and blank.endswith(b"\nafter")
        assert not traces.spans(blank, traces.forms(text))
