"""Answers in free words: taken in, sealed in events, kept where they can be erased."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from erase_world import files_with, salts, traces_of
from free_world import SCHEMA, build, opened, ours, take

from adapters.specs import ExamItem, Example, Prediction, SampleOutput, write_lines
from loop import actions, chats, erasing, exchange, surveying
from loop.asking import Given, Part
from loop.evaluations import exam_items
from loop.fitting import training_labels
from loop.settings import load
from loop.targets import words
from store import queries
from store.errors import InputError, SettingsError, UnknownRecord
from store.events import FeedbackReceived, LabelGiven, RecordReceived
from store.prompting import PromptSpec
from store.targets import is_seal
from store.verify import verify

BILL = "Invoice of Gartenbau Öhlknecht, 12 May, sum payable 1,240.50 euros"
TARGET = {"shop": "Gartenbau Öhlknecht", "total": 1240.5}
WRONG = '{"shop": "Gartenbau Ohlknecht & Sons", "total": 12.0}'
LETTER = "My parcel has been lying at the customs office since Tuesday"
KIND_WORDS = "Dear Ms Döe, the customs office has your parcel; I have asked them to let it go."


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path / "w")


def test_a_line_with_a_target_becomes_a_sealed_label(root: Path) -> None:
    with opened(root) as app:
        done = take(app, "invoices", {"id": "1", "text": BILL, "target": TARGET, "answer": WRONG, "answered_by": "m"})
        assert (done.received, done.labelled, done.quarantined) == (1, 1, 0)
        app.workspace.projections.catch_up()
        row = queries.record(app.workspace.read, ours("invoices", "1"))
        assert row is not None and is_seal(row.label) and is_seal(row.answer) and row.label != row.answer
        assert json.loads(str(words(app, row.record_id, row.label))) == TARGET
        assert words(app, row.record_id, row.answer) == WRONG
        assert app.state().task("invoices").labels_train | app.state().task("invoices").labels_exam == (
            {"target": 1} if row.side == "train" or row.audit else {}
        )
        assert {one.level for one in verify(app.workspace)} == {"ok"}


def test_equal_answers_have_equal_seals_whatever_their_spelling(root: Path) -> None:
    spelled = '{ "total": 1240.50, "shop": "Gartenbau   Öhlknecht" }'
    with opened(root) as app:
        take(app, "invoices", {"id": "1", "text": BILL, "answer": spelled, "answered_by": "m"})
        take(app, "invoices", {"id": "1", "target": TARGET}, feedback=True)
        found = app.workspace.log.select("type = ?", [FeedbackReceived.__name__])
        assert [one.event.disagrees for one in found if isinstance(one.event, FeedbackReceived)] == [False]
        take(app, "invoices", {"id": "1", "target": {**TARGET, "total": 1}}, feedback=True)
        found = app.workspace.log.select("type = ?", [FeedbackReceived.__name__])
        assert [one.event.disagrees for one in found if isinstance(one.event, FeedbackReceived)] == [False, True]


def test_the_same_words_about_other_records_have_other_seals(root: Path) -> None:
    with opened(root) as app:
        take(app, "replies", {"id": "1", "text": LETTER, "target": KIND_WORDS})
        take(app, "replies", {"id": "2", "text": "Where is my gift card, please?", "target": KIND_WORDS})
        given = [one.event for one in app.workspace.log.select("type = ?", [LabelGiven.__name__])]
        assert len({one.label for one in given if isinstance(one, LabelGiven)}) == 2


def test_a_line_again_changes_nothing_and_another_answer_is_refused(root: Path) -> None:
    line = {"id": "1", "text": BILL, "target": TARGET}
    with opened(root) as app:
        take(app, "invoices", line)
        assert take(app, "invoices", {**line, "x": 1}).known == 1
        again = take(app, "invoices", {**line, "target": {**TARGET, "total": 2}})
        assert again.quarantined == 1 and "carries another target" in again.problems[0][1]
        twice = take(app, "replies", *[{"id": "r", "text": LETTER, "target": KIND_WORDS}] * 2)
        assert (twice.received, twice.known, twice.quarantined) == (1, 1, 0)


def test_a_record_that_lacked_its_target_gets_it_later(root: Path) -> None:
    with opened(root) as app:
        take(app, "replies", {"id": "1", "text": LETTER})
        assert take(app, "replies", {"id": "1", "text": LETTER, "target": KIND_WORDS}).labelled == 1
        app.workspace.projections.catch_up()
        row = queries.record(app.workspace.read, ours("replies", "1"))
        assert row is not None and words(app, row.record_id, row.label) == KIND_WORDS


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ({"shop": "Secret & Sons"}, "required"),
        ("no json at all, Secret & Sons", "no JSON"),
        ({"shop": "Secret & Sons", "total": "12"}, "/properties/total/type"),
        ('{"shop": "Secret & Sons", "total": NaN}', "no JSON"),
    ],
)
def test_a_target_that_is_not_as_the_schema_has_it_is_put_aside_without_quoting_it(
    root: Path, target: object, why: str
) -> None:
    with opened(root) as app:
        done = take(app, "invoices", {"id": "1", "text": BILL, "target": target})
        assert done.quarantined == 1 and why in done.problems[0][1]
        assert "Secret" not in str(done.problems)


@pytest.mark.parametrize("answer", ['{"shop": "\\ud800"}', "[" * 3000, '{"total": 1e999}', "9" * 5000, "\u2028 {}"])
def test_any_answer_of_production_is_taken_in(root: Path, answer: str) -> None:
    with opened(root) as app:
        done = take(app, "invoices", {"id": "1", "text": BILL, "answer": answer, "answered_by": "m"})
        assert (done.received, done.quarantined) == (1, 0)
        app.workspace.projections.catch_up()
        row = queries.record(app.workspace.read, ours("invoices", "1"))
        assert row is not None and words(app, row.record_id, row.answer) == answer.strip()


def test_labels_that_a_task_had_as_another_kind_are_left_out(root: Path) -> None:
    with opened(root) as app:
        for n in range(12):
            take(
                app,
                "tickets",
                {"id": f"t{n}", "text": f"{chr(97 + n) * 8} went wrong {n * n} times", "label": "urgent"},
            )
    toml = (root / "tuneloop.toml").read_text()
    (root / "tuneloop.toml").write_text(toml.replace('labels = ["urgent", "billing"]', 'kind = "style"'))
    with opened(root) as app:
        app.workspace.projections.catch_up()
        assert training_labels(app, "tickets", app.state().position) == [] and exam_items(app, "tickets") == []


def test_logs_and_chats_of_free_tasks_are_read(root: Path) -> None:
    turns = [{"role": "user", "content": LETTER}]
    reply = {"choices": [{"message": {"content": "Tough luck, wait."}}], "model": "gpt"}
    with opened(root) as app:
        logged = {"timestamp": "t", "workload_id": "replies", "client_id": "c", "id": "9",
                  "request": {"messages": turns}, "response": reply}  # fmt: skip
        chat = {"id": "8", "messages": [{"role": "user", "content": "Hi? Is anybody there?"},
                                        {"role": "assistant", "content": KIND_WORDS}]}  # fmt: skip
        assert take(app, "replies", logged, chat).received == 2
        app.workspace.projections.catch_up()
        first = queries.record(app.workspace.read, ours("replies", "9"))
        second = queries.record(app.workspace.read, ours("replies", "8"))
        assert first is not None and words(app, first.record_id, first.answer) == "Tough luck, wait."
        assert second is not None and words(app, second.record_id, second.label) == KIND_WORDS


def test_people_give_words_and_take_them_back(root: Path) -> None:
    with opened(root) as app:
        take(app, "replies", {"id": "1", "text": LETTER})
        record = ours("replies", "1")
        actions.label(app, record, "A first try", annotator="kim")
        actions.label(app, record, KIND_WORDS, annotator="kim")
        assert actions.label(app, record, f"  {KIND_WORDS}\n", annotator="kim") == []
        actions.undo(app, annotator="kim")
        app.workspace.projections.catch_up()
        row = queries.record(app.workspace.read, record)
        assert row is not None and words(app, record, row.label) == "A first try"
        with pytest.raises(InputError, match="no answer of replies"):
            actions.label(app, record, "  ", annotator="kim")
        take(app, "invoices", {"id": "1", "text": BILL})
        with pytest.raises(InputError, match="required"):
            actions.label(app, ours("invoices", "1"), '{"shop": "x"}', annotator="kim")


def test_no_event_holds_words(root: Path) -> None:
    with opened(root) as app:
        take(app, "invoices", {"id": "1", "text": BILL, "target": TARGET, "answer": WRONG})
        take(app, "replies", {"id": "2", "text": LETTER, "answer": "no", "answered_by": "m"})
        take(app, "replies", {"id": "2", "target": KIND_WORDS}, feedback=True)
        actions.label(app, ours("replies", "2"), "Yours faithfully, the customs desk", annotator="kim")
        payloads = "".join(str(one.event) for one in app.workspace.log.select("1", []))
    for said in ("knecht", "1240", "customs", "'no'"):
        assert said not in payloads


def test_erasing_takes_the_words_everywhere_and_leaves_no_salt_to_guess_by(root: Path) -> None:
    with opened(root) as app:
        take(app, "replies", {"id": "1", "text": LETTER, "answer": "Wait until they call you back", "answered_by": "m"})
        take(app, "replies", {"id": "2", "text": "Where is my gift card?", "target": "It is on its way, Mr Poe"})
        take(app, "replies", {"id": "1", "target": "We are on it, dear customer"}, feedback=True)
        actions.label(app, ours("replies", "1"), KIND_WORDS, annotator="kim")
        paths = app.workspace.paths
        (paths.logs / "some.log").write_text(f"step 1\nfailed at {KIND_WORDS[:40]!r}\nstep 2\n", encoding="utf-8")
        (paths.quarantine / "1__feedback.jsonl").write_text(
            json.dumps({"id": "1", "target": "ok"}) + "\n" + json.dumps({"id": "2", "target": "fine"}) + "\n"
        )
        salt = salts(root)[ours("replies", "1")]
        found = surveying.survey(app, [ours("replies", "1")])
        actions.label(app, ours("replies", "1"), "Said after the survey, on the telephone", annotator="kim")
        erasing.erase(app, found, actor="kim")
        row = queries.record(app.workspace.read, ours("replies", "1"))
        assert row is not None and row.erased and words(app, row.record_id, row.label) == "(erased)"
        with pytest.raises(UnknownRecord):
            actions.label(app, ours("replies", "1"), KIND_WORDS, annotator="kim")
        assert {one.level for one in verify(app.workspace)} == {"ok"}
    gone = [LETTER, KIND_WORDS, "Wait until they call you back", "We are on it, dear customer",
            "Said after the survey, on the telephone"]  # fmt: skip
    for text in gone:
        assert traces_of(root, text) == [], text
    assert files_with(root, salt) == [] and files_with(root, b'"target": "ok"') == []
    assert files_with(root, b'"target": "fine"') and traces_of(root, "It is on its way, Mr Poe")
    assert "step 2" in (root / ".tuneloop" / "logs" / "some.log").read_text()


def test_erasing_reaches_what_steps_have_of_the_words(root: Path) -> None:
    one, other = ours("replies", "1"), ours("replies", "2")
    with opened(root) as app:
        take(app, "replies", {"id": "1", "text": LETTER, "target": KIND_WORDS})
        take(app, "replies", {"id": "2", "text": "Where is my gift card?", "target": "It is on its way, Mr Poe"})
        runs = app.workspace.paths.runs
        for name in ("replies-run-1", "replies-v1-look-1", "replies-v1-look-1-asking"):
            (runs / name).mkdir()
        spec = PromptSpec(name="answer@1", digest="", system="Answer.")
        write_lines(
            runs / "replies-run-1" / "train.jsonl",
            [Example(id=one, messages=spec.messages(LETTER, KIND_WORDS), label="target:x"),
             Example(id=other, messages=spec.messages("Where?", "On its way"), label="target:y")],
        )  # fmt: skip
        samples = {
            "samples": [{"id": one, "expected": "s", "answered": "odd words"}, {"id": other, "answered": "fine"}]
        }
        (runs / "replies-run-1" / "result.json").write_text(json.dumps(samples))
        early = [SampleOutput(id=who, expected="s", answered=f"early words {n}", step=10)
                 for n, who in enumerate((one, other))]  # fmt: skip
        write_lines(runs / "replies-run-1" / "samples.jsonl", early)
        write_lines(runs / "replies-run-1" / "samples.jsonl.tmp", early[:1])
        look = runs / "replies-v1-look-1"
        write_lines(look / "exam.jsonl", [ExamItem(id=one, text=LETTER, label="target:x", target=KIND_WORDS)])
        said = [Prediction(id=who, answerer="v1", decoding="generate", label=None, raw=f"odd answer {n}")
                for n, who in enumerate((one, other))]  # fmt: skip
        write_lines(look / "predictions.jsonl", said)
        parts = [
            Part(prompt="answer@1", seconds=1.0, given=[Given(one, raw="odd remote 0"), Given(other, raw="odd 1")])
        ]
        write_lines(runs / "replies-v1-look-1-asking" / "answers.jsonl", parts)
        erasing.erase(app, surveying.survey(app, [one]), actor="kim")
    for gone in (KIND_WORDS, "odd words", "odd answer 0", "odd remote 0", "early words 0"):
        assert traces_of(root, gone) == [], gone
    for left in ("On its way", "fine", "odd answer 1", "odd 1", "early words 1"):
        assert traces_of(root, left), left


def test_targets_go_out_and_come_in_as_chat_files(root: Path, tmp_path: Path) -> None:
    with opened(root) as app:
        take(app, "replies", *[{"id": str(n), "text": f"{LETTER}, number {n * n}", "target": f"{KIND_WORDS} ({n})"}
                               for n in range(8)])  # fmt: skip
        app.workspace.projections.catch_up()
        exchange.write_file(tmp_path / "out.jsonl", exchange.standing(app, "replies", side="all", ids=True))
    lines = [chats.read(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert sorted(line.turns[2] for line in lines) == [f"{KIND_WORDS} ({n})" for n in range(8)]
    other = build(tmp_path / "other")
    with opened(other) as app:
        done = exchange.import_file(app, "replies", tmp_path / "out.jsonl")
        assert (done.report.labelled, done.otherwise, done.report.quarantined) == (8, 0, 0)
        app.workspace.projections.catch_up()
        exchange.write_file(tmp_path / "again.jsonl", exchange.standing(app, "replies", side="all", ids=True))
        assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
        edited = (tmp_path / "out.jsonl").read_text(encoding="utf-8").replace("(3)", "(three)")
        (tmp_path / "out.jsonl").write_text(edited, encoding="utf-8")
        done = exchange.import_file(app, "replies", tmp_path / "out.jsonl", relabel=True, annotator="kim")
        assert (done.relabelled, done.report.known) == (1, 7)


def test_a_classification_beside_them_is_as_it_was(root: Path) -> None:
    with opened(root) as app:
        take(app, "tickets", {"id": "1", "text": LETTER, "label": "urgent", "target": "ignored"})
        event = app.workspace.log.select("type = ?", [LabelGiven.__name__])[0].event
        assert isinstance(event, LabelGiven) and event.label == "urgent"
        assert app.workspace.log.select("type = ?", [RecordReceived.__name__])


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('kind = "extraction"', ["json_schema is needed"]),
        ('kind = "extraction"\njson_schema = "none.json"', ["tasks.t.json_schema", "none.json"]),
        ('kind = "extraction"\njson_schema = "bad.json"', ["tasks.t.json_schema", "no JSON Schema"]),
        ('kind = "extraction"\njson_schema = "away.json"', ["tasks.t.json_schema", "lies outside"]),
        ('kind = "extraction"\njson_schema = "s.json"\nmetric = "chrf"', ["metric 'chrf'", "fields"]),
        ('kind = "style"\njson_schema = "s.json"', ["json_schema", "'style'"]),
        ('kind = "style"\nlabels = ["a", "b"]', ["tasks.t.labels", "'style'"]),
        ('kind = "style"\njudge_model = "m"', ["judge_model", "judge"]),
        ('kind = "instruction"\nprompts = ["answer", "zero-shot"]', ["prompts"]),
        ('kind = "instruction"\nprompts = ["few-shot"]', ["tasks.t.prompts", "few-shot@1"]),
        ('kind = "instruction"\nprompts = ["nobody"]', ["tasks.t.prompts", "'nobody'"]),
        ('kind = "instruction"\ntraining.objective = "dpo"', ["training.objective", "labels"]),
        ('kind = "instruction"\ngate.protected = ["a"]', ["gate.protected"]),
        ('kind = "poem"', ["tasks.t.kind", "'poem'"]),
        ('labels = ["a", "b"]\nmetric = "chrf"', ["metric", "classification"]),
        (f'labels = ["a", "target:{"0" * 32}"]', ["tasks.t.labels"]),
    ],
)
def test_what_does_not_go_together_is_refused_by_its_key(tmp_path: Path, lines: str, told: list[str]) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "bad.json").write_text('{"type": "objct"}')
    (tmp_path / "away.json").write_text('{"$ref": "http://127.0.0.1:9/x.json"}')
    (tmp_path / "tuneloop.toml").write_text(f"[tasks.t]\n{lines}\n")
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, {})
    for word in told:
        assert word in caught.value.message


def test_a_missing_validator_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "tuneloop.toml").write_text('[tasks.t]\nkind = "extraction"\njson_schema = "s.json"\n')
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, {})
    assert "tasks.t.json_schema" in caught.value.message and "tuneloop[extraction]" in caught.value.hint


def test_a_free_kind_brings_its_prompt_and_metric(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "mine@2.toml").write_text('system = "Do {about}."')
    (tmp_path / "tuneloop.toml").write_text(
        '[tasks.e]\nkind = "extraction"\njson_schema = "s.json"\n[tasks.i]\nkind = "instruction"\nprompt = "mine@2"\n'
    )
    tasks = load(tmp_path, {}).tasks
    assert (tasks["e"].labels, tasks["e"].prompt, tasks["e"].metric) == ([], "extract", "fields")
    assert (tasks["i"].prompts, tasks["i"].prompt, tasks["i"].metric) == (["mine@2"], "mine@2", "chrf")
