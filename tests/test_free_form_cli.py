"""Answers in free words on the command line: reviewed in an editor, given by hand, shown."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from erase_world import traces_of
from free_world import build, opened, ours, take
from test_cli_review import Terminal

from loop.cli.main import main
from loop.targets import words
from store import events as ev
from store import queries
from store.log import Draft

SAID = '{"shop": "Ahorn", "total": 1}'
BILL = "Ahorn Ltd sends you the bill number 12: to pay are 20.50 euros"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = build(tmp_path / "w")
    with opened(root) as app:
        take(app, "invoices", {"id": "1", "text": BILL, "answer": SAID, "answered_by": "m"},
             {"id": "2", "text": "A wholly different invoice, 7 euros, from the Birch shop"})  # fmt: skip
        for external, priority in (("1", 2.0), ("2", 1.0)):
            reason = ev.ReviewReason(name="coverage", detail="drawn at random")
            event = ev.ReviewRequested(task="invoices", record_id=ours("invoices", external), side="train",
                                       reasons=[reason], priority=priority)  # fmt: skip
            app.workspace.log.append([Draft(event, f"record/{event.record_id}")], actor="daemon", now=app.now())
        app.workspace.projections.catch_up()
    return root


def right(root: Path, external: str) -> str | None:
    with opened(root) as app:
        app.workspace.projections.catch_up()
        row = queries.record(app.workspace.read, ours("invoices", external))
        return words(app, row.record_id, row.label) if row is not None else None


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_review_opens_the_editor_on_what_was_said_and_checks_what_it_leaves(root: Path, tmp_path: Path) -> None:
    editor = tmp_path / "editor.py"  # the first time it leaves nonsense, then what is right
    editor.write_text(
        "import pathlib, sys\npath = pathlib.Path(sys.argv[1])\nlog = pathlib.Path(sys.argv[0]).with_suffix('.log')\n"
        "before = path.read_text()\nlog.open('a').write(before + '\\n')\n"
        'path.write_text(\'{"shop": "Ahorn"}\' if "1" in before and "20.5" not in before and "Ahorn" in before '
        'and "total" in before else \'{"shop": "Ahorn Ltd", "total": 20.5}\')\n'
    )
    command = ["env", f"EDITOR='{sys.executable} {editor}'", sys.executable, "-m", "loop.cli.main", "review",
               "-w", str(root), "-t", "invoices", "--as", "maria"]  # fmt: skip
    terminal = Terminal(tmp_path, command, columns=110)
    try:
        shown = terminal.wait_for("Ahorn Ltd sends", "e edit the right answer", "a take what was said")
        assert f"production said {SAID}, as m" in shown
        terminal.press("e")
        terminal.wait_for("that is no answer of invoices", "required", "2 waiting")
        terminal.press("e")  # it opens on what was left
        terminal.wait_for("the right answer is kept", "A wholly different invoice", "1 waiting, 1 labelled")
        terminal.press("a")
        terminal.wait_for("production gave no answer")
        terminal.press("u")
        terminal.wait_for("Ahorn Ltd sends", "0 labelled")
        terminal.press("e")
        terminal.wait_for("that is no answer of invoices")
        terminal.press("e")
        terminal.wait_for("1 waiting, 1 labelled")
        terminal.press("q")
        terminal.wait_for("ended with 0")
    finally:
        terminal.close()
    assert json.loads(str(right(root, "1"))) == {"shop": "Ahorn Ltd", "total": 20.5}
    assert editor.with_suffix(".log").read_text().splitlines()[:2] == [SAID, '{"shop": "Ahorn"}']
    assert not list((root / ".tuneloop" / "run").glob("answer-*"))


def test_words_are_given_by_hand_and_shown(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuneloop(*arguments: str) -> str:
        assert main(["-w", str(root), *arguments]) == 0
        return capsys.readouterr().out

    monkeypatch.setattr("sys.stdin", io.StringIO('{"total": 20.5,\n "shop": "Ahorn Ltd"}\n'))
    assert "right answer is kept" in tuneloop("label", "1", "-", "--as", "kim")
    shown = tuneloop("show", ours("invoices", "1"))
    assert "20.5" in shown and SAID in shown
    assert (
        json.loads(tuneloop("show", ours("invoices", "1"), "--json"))["label"] == '{"total": 20.5, "shop": "Ahorn Ltd"}'
    )
    assert "answered in words" in tuneloop("undo", "--as", "kim")
    tuneloop("feedback", "2", '{"shop": "Birch", "total": 7}', "-t", "invoices")
    listed = json.loads(tuneloop("queue", "-t", "invoices", "--json"))["items"]
    assert {one["external_id"]: (one["answer"], one["feedback"]) for one in listed} == {
        "1": (SAID, None),
        "2": (None, '{"shop": "Birch", "total": 7}'),
    }
    assert "target" in tuneloop("history")
    assert "Birch" not in tuneloop("history", "--json")


def test_what_is_no_answer_is_an_error_of_its_own(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-w", str(root), "label", "1", '{"shop": "Secret"}']) != 0
    told = capsys.readouterr().err
    assert "no answer of invoices" in told and "required" in told and "Secret" not in told


def test_check_tells_the_guideline_of_the_kind_and_no_classes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(root) as app:
        take(app, "invoices", *[{"id": f"n{n}", "text": f"{chr(97 + n) * 9} paid {n * n} euros at {n}",
                                 "target": {"shop": f"s{n}", "total": n}} for n in range(20)])  # fmt: skip
    assert main(["-w", str(root), "dataset", "check", "-t", "invoices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["per_class"] == {} and found["suspects"] == [] and found["train"] + found["valid"] > 0
    assert any("the guideline for extraction is 100-500" in one for one in found["warnings"])
    assert {"capped", "suspects", "repeated"}.isdisjoint({one["step"] for one in found["curation"]})
    assert main(["-w", str(root), "sweep", "-t", "invoices"]) != 0
    assert "has none" in capsys.readouterr().err


def test_an_editor_that_was_killed_leaves_nothing_that_erasing_does_not_find(root: Path) -> None:
    said = "Dear Mr Poe, we have sent your gift card again today"
    with opened(root) as app:
        take(app, "replies", {"id": "1", "text": "Where is my gift card?", "target": said})
    (root / ".tuneloop" / "run" / "answer-1.txt").write_text(said)
    assert main(["-w", str(root), "erase", ours("replies", "1"), "--yes"]) == 0
    assert traces_of(root, said) == []
