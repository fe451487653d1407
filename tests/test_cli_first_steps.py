"""What somebody meets who tries the command line for the first time, or after something was lost."""

from __future__ import annotations

import inspect
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_world import History, lived_in, make

from loop import settings
from loop.cli import main as cli
from loop.policy import waits
from loop.settings import Settings
from loop.state import LoopState, TaskState


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_lost_database_is_no_empty_workspace(left: str, tmp_path: Path, tuneloop: Any) -> None:
    root = lived_in(tmp_path / "w")
    home = root / ".tuneloop"
    for file in home.glob("tuneloop.sqlite*"):
        file.unlink()
    if left == "an empty file":
        (home / "tuneloop.sqlite").touch()
    for verb in ("status", "verify", "history"):
        told = tuneloop(verb, "-w", root)
        assert told.code == 5, verb
        assert "artifacts" in told.err and "tuneloop restore BACKUP" in told.err
    told = tuneloop("doctor", "-w", root)
    assert told.code == 1 and "tuneloop restore BACKUP" in " ".join(told.out.split())
    assert sum(file.stat().st_size for file in home.glob("tuneloop.sqlite*")) == 0, "reading made a log"


def test_a_damaged_database_names_the_way_back(tmp_path: Path, tuneloop: Any) -> None:
    root = make(tmp_path / "w")
    (root / ".tuneloop" / "tuneloop.sqlite").write_bytes(b"no database at all" * 500)
    for file in (root / ".tuneloop").glob("tuneloop.sqlite-*"):
        file.unlink()
    told = tuneloop("verify", "-w", root)
    assert told.code == 5 and "tuneloop restore BACKUP" in told.err and "tuneloop verify" not in told.err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("quote.csv", b'text,label\n"unclosed,billing\nfoo,billing\n', ["a quote opened on line 2 is never closed"]),
        ("empty.csv", b"", ["is empty"]),
        ("columns.csv", b"Body,Queue\na,b\n", ["no column 'text'", "found body, queue"]),
        ("latin.csv", "text,label\nGrüße,billing\n".encode("latin-1"), ["not UTF-8", "iconv"]),
        ("latin.jsonl", '{"text": "Grüße"}\n'.encode("latin-1"), ["not UTF-8", "iconv"]),
        ("wide.csv", "text,label\nhello,billing\n".encode("utf-16"), ["not UTF-8", "iconv"]),
        ("commas.txt", b"text,label\nhello,billing\n", ["--format csv"]),
        ("folder", None, ["is a folder", "inbox"]),
    ],
)
def test_a_file_that_cannot_be_taken_in_says_what_to_do(
    name: str, content: bytes | None, words: list[str], tmp_path: Path, tuneloop: Any
) -> None:
    root, file = make(tmp_path / "w"), tmp_path / name
    file.mkdir() if content is None else file.write_bytes(content)
    told = tuneloop("ingest", file, "-w", root)
    assert told.code == 4
    for word in words:
        assert word in told.err, told.err
    if content and name != "commas.txt":
        assert "tuneloop history --type RecordQuarantined" in told.err
        assert tuneloop("history", "--type", "RecordQuarantined", "-w", root).out.count(words[0].split()[0]) >= 1


def test_csv_on_stdin_is_told_to_say_so(tmp_path: Path, tuneloop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "w")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"text,label\nhello there,billing\n")))
    told = tuneloop("ingest", "-", "-w", root)
    assert told.code == 4 and "nothing in stdin" in told.err and "--format csv" in told.err


def test_a_header_that_is_a_ticket_is_not_quoted(tmp_path: Path, tuneloop: Any) -> None:
    root, file = make(tmp_path / "w"), tmp_path / "bare.csv"
    file.write_text("my name is Jane Roe and I was charged twice,billing\n")
    told = tuneloop("ingest", file, "-w", root)
    assert told.code == 4 and "found billing and others" in told.err and "Jane" not in told.err


def test_what_stood_before_an_open_quote_comes_in_and_what_followed_is_kept(tmp_path: Path, tuneloop: Any) -> None:
    root, file = make(tmp_path / "w"), tmp_path / "quote.csv"
    file.write_text('text,label\nfine,billing\n"two\nlines",billing\nopen,"here\nlost,billing\n')
    told = tuneloop("ingest", file, "-w", root)
    assert told.code == 0 and "2 new" in told.out and "opened on line 5" in told.err
    (kept,) = (root / ".tuneloop" / "quarantine").iterdir()
    assert kept.read_text() == 'open,"here\nlost,billing\n'


def test_answers_that_are_no_label_are_counted(tmp_path: Path, tuneloop: Any) -> None:
    root, file = make(tmp_path / "w"), tmp_path / "answers.jsonl"
    answers = ["Refund team", "I would say that Jane Roe wants her money back", "billing", "Refund team"]
    lines = [json.dumps({"text": f"ticket number {n}", "answer": answer}) for n, answer in enumerate(answers)]
    file.write_text("\n".join(lines) + "\n")
    told = tuneloop("ingest", file, "-w", root)
    assert told.code == 0 and "3 answers are no label of tickets, for example 'Refund team'" in told.err
    file.write_text(json.dumps({"text": "another ticket", "answer": answers[1]}) + "\n")
    told = tuneloop("ingest", file, "-w", root)
    assert "1 answer is no label of tickets" in told.err and "Jane" not in told.err


def test_the_help_of_ingest_names_every_column(tuneloop: Any) -> None:
    told = tuneloop("ingest", "--help").out
    for key in ("text", "label", "id", "answer", "answered_by", "customer", "client_id", "workload_id", "messages"):
        assert key in told


@pytest.mark.parametrize("verb", [name for verbs in cli.VERBS.values() for name, _, _ in verbs])
def test_help_is_whole_and_flows(verb: str, tuneloop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    function = next(function for verbs in cli.VERBS.values() for name, function, _ in verbs if name == verb)
    shown = tuneloop(verb, "--help").out
    for paragraph in inspect.cleandoc(function.__doc__ or "").split("\n\n"):
        words = " ".join(paragraph.split())
        assert words in " ".join(shown.split())
        lines = [line.strip() for line in shown.splitlines() if line.strip() and line.strip() in words]
        for line, following in itertools.pairwise(lines):
            assert len(line) + len(following.split()[0]) + 1 > 80, f"a break within a paragraph after {line!r}"


@pytest.mark.parametrize(
    ("labels", "words"), [("a", "--labels a,b"), ("a,A", "--labels"), ("a," + "b" * 500, "--labels")]
)
def test_init_says_which_option_to_change(labels: str, words: str, tmp_path: Path, tuneloop: Any) -> None:
    told = tuneloop("init", tmp_path / "w", "--labels", labels)
    assert told.code == 3 and words in told.err and "tuneloop.toml" not in told.err
    assert not (tmp_path / "w").exists()


SCHEMA = {"type": "object", "properties": {"shop": {"type": "string"}}, "required": ["shop"]}


@pytest.mark.parametrize("kind", ["extraction", "instruction", "style"])
def test_init_makes_a_task_that_answers_in_free_words(kind: str, tmp_path: Path, tuneloop: Any) -> None:
    schema = tmp_path / "invoice.schema.json"
    schema.write_text(json.dumps(SCHEMA))
    words = ["--schema", schema] if kind == "extraction" else []
    assert tuneloop("init", tmp_path / "w", "--task", "invoices", "--kind", kind, *words).code == 0
    task = settings.load(tmp_path / "w", env={}).task("invoices")
    assert task.kind == kind and task.labels == []
    assert task.gate.better_than_baseline and task.gate.max_invalid is None
    assert (tmp_path / "w" / schema.name).exists() == (kind == "extraction")
    assert tuneloop("status", "-w", tmp_path / "w").code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kind", "poem"], "classification, extraction"),
        (["--kind", "extraction"], "--schema FILE"),
        (["--kind", "style", "--schema", "x.json"], "--schema FILE"),
        (["--kind", "style", "--labels", "a,b"], "Leave --labels out"),
        (["--kind", "extraction", "--schema", "missing.json"], "missing.json cannot be read"),
    ],
)
def test_init_refuses_a_kind_that_does_not_go_together(
    options: list[str], words: str, tmp_path: Path, tuneloop: Any
) -> None:
    told = tuneloop("init", tmp_path / "w", *options)
    assert told.code in (2, 4) and words in told.err and not (tmp_path / "w").exists()


def test_init_leaves_another_schema_of_that_name_alone(tmp_path: Path, tuneloop: Any) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "s.json").write_text("{}")
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    told = tuneloop("init", tmp_path / "w", "--kind", "extraction", "--schema", tmp_path / "s.json")
    assert told.code == 4 and (tmp_path / "w" / "s.json").read_text() == "{}"
    assert not (tmp_path / "w" / "tuneloop.toml").exists()


def test_init_says_how_records_come_in(tmp_path: Path, tuneloop: Any) -> None:
    assert "ingest FILE" in tuneloop("init", tmp_path / "w", "--labels", "a,b").out


def test_the_gate_before_any_candidate(tmp_path: Path, tuneloop: Any) -> None:
    assert "no candidate has been judged yet" in tuneloop("gate", "-w", make(tmp_path / "w")).err


def test_archive_names_its_own_option(tmp_path: Path, tuneloop: Any) -> None:
    told = tuneloop("archive", "--before", "foo", "-w", make(tmp_path / "w"))
    assert told.code == 2 and "--before 2h" in told.err and "--since" not in told.err


def test_a_wrong_variable_is_named_in_the_hint(tmp_path: Path, tuneloop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "w")
    monkeypatch.setenv("TUNELOOP_DAEMON__BATCH", "many")
    hint = tuneloop("status", "-w", root).err.partition("hint:")[2]
    assert "unset TUNELOOP_DAEMON__BATCH" in hint and "Edit" not in hint
    monkeypatch.setenv("TUNELOOP_DAEMON__BATCH", "10")
    (root / "tuneloop.toml").write_text(
        (root / "tuneloop.toml").read_text().replace("[daemon]", "[daemon]\ntick = 'x'")
    )
    hint = tuneloop("status", "-w", root).err.partition("hint:")[2]
    assert "Edit" in hint and "TUNELOOP_DAEMON__BATCH" not in hint


def test_history_keeps_the_time_on_a_narrow_terminal(
    tmp_path: Path, tuneloop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = tuneloop("history", "-w", lived_in(tmp_path / "w")).out
    heading = next(line for line in shown.splitlines() if "type" in line)
    assert "when" in heading and "stream" not in heading


def test_rollback_and_promote_say_the_same_where_nothing_serves(tmp_path: Path, tuneloop: Any) -> None:
    root = lived_in(tmp_path / "w")
    for words in (("rollback",), ("promote", "tickets-v1")):
        told = tuneloop(*words, "-w", root)
        assert told.code == 0 and "nothing serves here now" in told.err and "next request" not in told.out


def test_rollback_explains_what_can_be_named(tmp_path: Path, tuneloop: Any) -> None:
    root = lived_in(tmp_path / "w")
    told = tuneloop("rollback", "--to", "tickets-v1", "-w", root)
    assert told.code == 4 and "can go back to: zero-shot@1" in told.err
    assert tuneloop("rollback", "-w", root).code == 0
    told = tuneloop("rollback", "--to", "tickets-v1", "-w", root)
    assert told.code == 4 and "tuneloop promote tickets-v1" in told.err


def test_training_in_an_empty_workspace_names_the_way_in(tmp_path: Path, tuneloop: Any) -> None:
    told = tuneloop("train", "-w", make(tmp_path / "w"))
    assert told.code == 4 and "tuneloop ingest FILE" in told.err


def test_status_tells_a_judged_candidate_apart(tmp_path: Path, tuneloop: Any) -> None:
    root = make(tmp_path / "w")
    history = History(root)
    history.adopt()
    history.candidate(1, "inconclusive")
    history.close()
    shown = " ".join(tuneloop("status", "-w", root).out.split())
    assert "tickets-v1: judged inconclusive, since" in shown
    assert "until tickets-v1 is judged again" in shown


def test_one_of_a_kind_is_said_in_the_singular(tmp_path: Path, tuneloop: Any) -> None:
    root = make(tmp_path / "w")
    for number in range(11):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(json.dumps({"text": f"{number} is another ticket {number * 977}", "label": "billing"}) + "\n")
        assert tuneloop("ingest", file, "-w", root).out.startswith("1 new, 0 known already, 1 label,")
    shown = tuneloop("status", "-w", root).out
    assert not re.search(r"\b1 (more )?labels", shown) and "since 0 s" not in shown


def test_what_a_workspace_with_labels_waits_for_before_its_prompt() -> None:
    state = LoopState(tasks={"t": TaskState(task="t", labels_train={"a": 20, "b": 20})})
    found = waits(state, Settings(tasks={"t": {"labels": ["a", "b"]}}), "t")
    assert found[0] == "the daemon to compare the prompt versions (`tuneloop run`)"


def test_the_hint_of_a_lost_database_leads_back(tmp_path: Path, tuneloop: Any) -> None:
    root = lived_in(tmp_path / "w")
    assert tuneloop("backup", tmp_path / "copies", "-w", root).code == 0
    (copy,) = (path for path in (tmp_path / "copies").iterdir() if path.is_dir() and not path.name.startswith("."))
    before = tuneloop("history", "--type", "LabelGiven", "-w", root).out
    for file in (root / ".tuneloop").glob("tuneloop.sqlite*"):
        file.unlink()
    assert tuneloop("status", "-w", root).code == 5
    told = tuneloop("restore", copy, root, "--yes")
    assert told.code == 0, told.err
    assert tuneloop("verify", "-w", root).code == 0
    assert tuneloop("history", "--type", "LabelGiven", "-w", root).out == before
