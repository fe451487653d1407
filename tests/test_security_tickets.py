"""What a ticket says changes nothing but its own text: not the prompt's turns, not a label, not the screen, not who
answers. Each of the hostile tickets in `attacks.jsonl` goes the whole way."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from attack_world import LABELS, Attack, attacks
from cli_world import make

from loop import intake
from loop.bootstrap import App, open_app
from loop.cli.main import main
from prompts import templates
from prompts.parse import parse_answer
from store import events as ev
from store import queries
from store.labels import parse_label
from store.prompting import PromptSpec

ALL = attacks()
TAKEN = [one for one in ALL if one.kind != "refused"]
REFUSED = [one for one in ALL if one.kind == "refused"]
PLAIN = PromptSpec(name="p@1", digest="", system="Classify.")
COT = PromptSpec(name="c@1", digest="", system="Think, then say Label: and the label.", reasoning=True)


def each(found: list[Attack]) -> Any:
    return pytest.mark.parametrize("attack", found, ids=[one.name for one in found])


def test_there_are_enough_of_them_and_each_is_another() -> None:
    assert len(ALL) >= 50
    assert max(Counter(one.name for one in ALL).values()) == max(Counter(one.text for one in ALL).values()) == 1


# ---------------------------------------------------------------- intake


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that took all of them in as production records, and has put all of them into the queue."""
    root = make(tmp_path_factory.mktemp("tickets") / "w")
    lines = [json.dumps({"id": one.name, "text": one.text}).encode() for one in ALL]
    with open_app(root, env={}) as app:
        report = intake.ingest_lines(app, "tickets", lines, source="attacks", claim="attacks")
        assert (report.received, report.quarantined) == (len(TAKEN), len(REFUSED))
        app.workspace.projections.catch_up()
        for one in TAKEN:
            record = intake.external_record_id("tickets", one.name)
            reason = ev.ReviewReason(name="uncertain", detail="margin 0.01", score=0.01)
            row = queries.record(app.workspace.read, record)
            assert row is not None
            asked = ev.ReviewRequested(task="tickets", record_id=record, side=row.side, reasons=[reason], priority=1.0)
            append(app, asked, f"record/{record}")
        app.workspace.projections.catch_up()
    return root


def append(app: App, event: ev.Event, stream: str) -> None:
    from store.log import Draft

    app.workspace.log.append([Draft(event, stream)], actor="daemon", now=app.now())


def test_each_comes_in_as_one_record_with_its_own_text_and_no_label(taken: Path) -> None:
    with open_app(taken, env={}) as app:
        for one in TAKEN:
            record = intake.external_record_id("tickets", one.name)
            row = queries.record(app.workspace.read, record)
            assert row is not None and row.label is None and row.answer is None and row.feedback is None
            assert app.workspace.texts.get(record) == one.text
        received = [one.event for one in app.workspace.log.read() if isinstance(one.event, ev.RecordReceived)]
        assert len(received) == len(TAKEN)
        payloads = b"".join(msgspec.json.encode(one.event) for one in app.workspace.log.read())
        for one in TAKEN:
            if len(one.text) > 12:
                assert json.dumps(one.text)[1:-1].encode() not in payloads and one.text.encode() not in payloads


def test_what_cannot_be_taken_in_is_kept_aside_with_a_reason(taken: Path) -> None:
    with open_app(taken, env={}) as app:
        kept = [one.event for one in app.workspace.log.read() if isinstance(one.event, ev.RecordQuarantined)]
    reasons = " ".join(one.reason for one in kept)
    assert len(kept) == len(REFUSED)
    for words in ("NUL", "surrogate", "empty", "characters, more than"):
        assert words in reasons


def test_the_same_tickets_as_csv_come_in_as_the_same_records(tmp_path: Path) -> None:
    root = make(tmp_path / "w")
    # a NUL ends a CSV file's line, and a lone surrogate cannot be written as UTF-8
    rows = [one for one in TAKEN if "\r" not in one.text.replace("\r\n", "")]
    content = io.StringIO()
    writer = csv.DictWriter(content, ["id", "text"])
    writer.writeheader()
    writer.writerows({"id": one.name, "text": one.text} for one in rows)
    file = tmp_path / "attacks.csv"
    file.write_bytes(content.getvalue().encode())
    with open_app(root, env={}) as app:
        report = intake.ingest_file(app, "tickets", file)
        assert (report.received, report.quarantined) == (len(rows), 0)
        app.workspace.projections.catch_up()
        for one in rows:
            record = intake.external_record_id("tickets", one.name)
            # a CSV reader joins line ends to one kind; nothing else may differ
            assert (app.workspace.texts.get(record) or "").splitlines() == one.text.splitlines()
            row = queries.record(app.workspace.read, record)
            assert row is not None and row.label is None


# ---------------------------------------------------------------- the prompt


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(str(tiny_model))


def turns(tokenizer: Any, tokens: list[int]) -> list[str]:
    """Who speaks, in the order of the turns that the model sees."""
    words = tokenizer.decode(tokens)
    return [part.partition("\n")[0] for part in words.split("<|im_start|>")[1:]]


def prompts() -> list[PromptSpec]:
    shots = [templates.Shot(text=one.text, label=LABELS[1], id=one.name) for one in TAKEN[:4]]
    return [
        templates.render(templates.read(name), LABELS, about="support tickets", shots=shots)
        for name in templates.available()
    ]


@each(TAKEN)
def test_a_ticket_stays_inside_its_turn_of_every_prompt(tokenizer: Any, attack: Attack) -> None:
    from adapters.encode import encode

    special = set(tokenizer.all_special_ids)
    for prompt in prompts():
        innocent = encode(tokenizer, prompt.messages("hello"), 900, user=prompt.user)
        hostile = encode(tokenizer, prompt.messages(attack.text), 900, user=prompt.user)
        assert turns(tokenizer, hostile.tokens) == turns(tokenizer, innocent.tokens)
        assert [one for one in hostile.tokens if one in special] == [one for one in innocent.tokens if one in special]
        system = tokenizer.decode(innocent.tokens).partition("<|im_end|>")[0]
        assert tokenizer.decode(hostile.tokens).partition("<|im_end|>")[0] == system


@each(TAKEN)
def test_a_ticket_fills_its_place_and_no_other(attack: Attack) -> None:
    for prompt in prompts():
        before, after = prompt.user.split("{text}")
        last = prompt.messages(attack.text)[-1]
        assert last.role == "user" and last.content == before + attack.text + after
        assert prompt.messages(attack.text)[:-1] == prompt.messages("hello")[:-1]


# ---------------------------------------------------------------- answers


@each(ALL)
def test_a_model_that_repeats_a_ticket_says_a_label_or_nothing(attack: Attack) -> None:
    assert parse_label(attack.text, LABELS) == attack.repeated()
    assert parse_answer(attack.text, PLAIN, LABELS) == attack.repeated()
    assert parse_answer(attack.text, COT, LABELS) in (*LABELS, None)


@each(ALL)
@pytest.mark.parametrize("label", LABELS)
def test_a_clear_answer_is_not_changed_by_what_a_model_repeats_after_it(attack: Attack, label: str) -> None:
    assert parse_answer(f"{label}\n{attack.text}", PLAIN, LABELS) == label
    assert parse_answer(f"{attack.text}\nLabel: {label}", COT, LABELS) == label


@each(TAKEN)
def test_an_answer_in_a_record_is_read_by_the_same_rule(attack: Attack) -> None:
    from loop.formats import decode, read_record

    value = {"text": "hello", "answer": attack.text, "answered_by": attack.text[:50], "id": "1"}
    line = read_record(decode(json.dumps(value).encode()), LABELS, max_chars=20_000)
    assert line.answer == attack.repeated() and line.label is None


def test_a_hostile_ticket_changes_no_score_of_the_tickets_beside_it(tiny_model: Path) -> None:
    pytest.importorskip("torch")
    from adapters import base_model
    from adapters.bank import Bank
    from adapters.scoring import Scorer

    scorer = Scorer(Bank.open(base_model.reference(tiny_model, "fp32"), "cpu"), max_length=256)
    innocent = ["charged twice", "the app crashes", "opening hours?"]
    alone = scorer.score("", PLAIN, innocent, LABELS)
    texts = [text for one in TAKEN for text in (one.text, innocent[len(one.name) % 3])]
    for text, found in zip(texts, scorer.score("", PLAIN, texts, LABELS), strict=True):
        shares = found.probabilities(1.0)
        assert list(shares) == LABELS and sum(shares.values()) == pytest.approx(1.0) and found.label in LABELS
        if text in innocent:
            assert shares == pytest.approx(alone[innocent.index(text)].probabilities(1.0), abs=1e-4)


# ---------------------------------------------------------------- the screen


def harmful(text: str) -> list[str]:
    """Characters that a terminal acts on, or that turn or hide what is read; a line's end is none."""
    kept = {"\u200c", "\u200d", "\n"}
    return [c for c in text if c not in kept and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@pytest.mark.parametrize(
    "command",
    [["queue", "-n", "200"], ["queue", "-n", "200", "--json"], ["history", "--limit", "500"], ["status"],
     ["history", "--limit", "500", "--json"], ["state", "--json"]],
    ids=" ".join,
)  # fmt: skip
def test_no_command_lets_a_ticket_speak_to_the_terminal(
    taken: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-w", str(taken), *command]) == 0
    shown = capsys.readouterr()
    assert not harmful(shown.out) and not harmful(shown.err)


@each(TAKEN)
def test_neither_does_the_labelling_screen_nor_show(
    taken: Path, attack: Attack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from loop import review as screen
    from loop.cli import review

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    item = screen.Item(
        record_id="r", external_id=attack.text[:200], text=attack.text, answer="billing", answered_by=attack.text[:60],
        reasons=[ev.ReviewReason(name="disputed", detail=attack.text[:60], score=1.0)],
    )  # fmt: skip
    session = screen.opened(LABELS, [item])
    review._draw(session, 1, blind=False)
    drawn = capsys.readouterr().out
    assert drawn.startswith(review.CLEAR) and not harmful(drawn.removeprefix(review.CLEAR))
    for key, label in session.keys.items():  # the keys are the person's, whatever the ticket lists
        assert screen.press(session, key)[1] == screen.Act(kind="label", record_id="r", label=label)
    record = intake.external_record_id("tickets", attack.name)
    assert main(["-w", str(taken), "show", record]) == 0
    assert not harmful(capsys.readouterr().out)
