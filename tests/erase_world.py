"""A workspace in which two customers have left their words everywhere, and a search that finds every trace of them."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from cli_world import make

from adapters.specs import (
    AnswererSpec,
    BaseModelRef,
    EvalSpec,
    ExamItem,
    Example,
    Message,
    Prediction,
    PromptSpec,
    write_json,
    write_lines,
)
from loop import actions, intake
from loop.bootstrap import App, open_app
from loop.datasets import Item
from loop.intake import external_record_id
from loop.production import Pointer, write_pointer
from prompts.templates import shot_content
from store import events as ev
from store.log import Draft

JANE, OTHER = "Jane Döe", "Acme"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
LETTER = 'My "new" card – Größe 😀 – was swallowed\nby the machine\\till at 9 Elm Street'
LETTERS = {
    "j1": LETTER,
    "j2": "Please close the account that ends in 4471, my late husband's",
    "j3": "thanks",
    "j4": "Why is my pension payment of the 3rd not in my savings account yet?",
}
OTHERS = {
    "o1": "The invoice of March has the wrong VAT number on it",
    "o2": "thanks",
    "o3": LETTERS["j2"],  # the same words by somebody else
    "o4": "Your app logs me out every five minutes",
}
LABELS = {"j1": "urgent", "j2": "billing", "o1": "billing", "o2": "general", "o3": "billing", "o4": "technical"}
USER = "Text: {text}\nLabel:"
RUN, LOOK = "tickets-run-1", "tickets-v1-look-1"


def ours(external: str) -> str:
    return external_record_id("tickets", external)


def line(external: str, customer: str, text: str, **more: Any) -> bytes:
    return (
        json.dumps({"id": external, "text": text, "customer": customer, "answer": "general", **more}).encode() + b"\n"
    )


def build(root: Path) -> Path:
    """Records, labels, one finished and one prepared run, a prompt that shows examples, spool, logs and a W&B queue."""
    make(root)
    with open_app(root, env={}, clock=lambda: NOW) as app:
        lines = [line(one, JANE, text) for one, text in LETTERS.items()]
        lines += [line(one, OTHER, text) for one, text in OTHERS.items()]
        assert intake.ingest_lines(app, "tickets", lines, source="inbox").received == 8
        for external, label in LABELS.items():
            actions.label(app, ours(external), label, annotator="kim")
        _dataset(app)
        _run_folders(app)
        _production(app)
        _spool(app)
        _rest(app)
        app.workspace.projections.catch_up()
    return root


def append(app: App, event: ev.Event, stream: str) -> None:
    app.workspace.log.append([Draft(event, stream)], actor="daemon", now=NOW)


def _dataset(app: App) -> None:
    """A run that was trained on some of the records, whose control is of the format that holds words."""
    folder = app.root / "made"
    (folder / "control").mkdir(parents=True)
    members = [Item(id=ours(one), label=LABELS[one], split="train") for one in ("j1", "o1", "o2", "o3")]
    write_lines(folder / "dataset.jsonl", [*members, Item(id=ours("j2"), label="billing", split="valid")])
    control = {"format": 1, "labels": [], "vocabularies": {"word": ["swallowed", "elm street"], "char": []}}
    (folder / "control" / "control.json").write_text(json.dumps(control))
    (folder / "control" / "weights.npz").write_bytes(b"weights")
    artifact = app.workspace.artifacts.put(folder, "dataset", {})
    exam = app.root / "exam"
    exam.mkdir()
    write_lines(exam / "exam.jsonl", [ExamItem(id=ours("j3"), text="", label="general")])
    predictions = app.workspace.artifacts.put(exam, "evaluation", {})
    for path in (*folder.rglob("*.*"), exam / "exam.jsonl"):
        path.unlink()
    for path in (folder / "control", folder, exam):
        path.rmdir()
    for event in (
        ev.DatasetFrozen(
            task="tickets", run_id=RUN, artifact=artifact, up_to=1, labels_train=4, train=4, valid=1, exam=1,
            hard_exam=0, per_class={}, curation=[],
        ),
        ev.TrainingSucceeded(
            task="tickets", run_id=RUN, artifact="", steps=1, epochs=1, seconds=1, train_loss=1, eval_accuracy=None,
            temperature=1, peak_memory_mb=1, stopped="steps", samples=[{"id": ours("j1")}],
        ),
        ev.AdapterRegistered(
            task="tickets", run_id=RUN, adapter="tickets-v1", artifact="", control=artifact, method="qlora",
            base_digest="", quantisation="nf4", prompt="zero-shot@1", temperature=1.0,
        ),
        ev.EvaluationSucceeded(
            task="tickets", run_id=RUN, evaluation_id=LOOK, artifact=predictions, results=[], paired=[], seconds=1
        ),
    ):  # fmt: skip
        append(app, event, f"run/{RUN}")
    for backup, position in (("early", 0), ("late", 30), ("gone", 30)):
        app.workspace.projections.catch_up()
        done = ev.BackupCompleted(backup=backup, label="nas", position=position, hash="00", bytes=1)
        append(app, done, "backup")
    append(app, ev.BackupRemoved(backup="gone", label="nas"), "backup")


def training(samples: list[dict[str, str]]) -> tuple[ev.Event, ...]:
    """A run that has ended well, as the mirror to W&B needs it."""
    return (
        ev.DatasetFrozen(
            task="tickets", run_id=RUN, artifact="", up_to=1, labels_train=1, train=1, valid=0, exam=0, hard_exam=0,
            per_class={}, curation=[],
        ),
        ev.TrainingStarted(
            task="tickets", run_id=RUN, attempt=1, adapter="tickets-v1", method="qlora", base_model="m",
            base_digest="d", quantisation="nf4", prompt="zero-shot@1", seed=1, hyperparameters={},
        ),
        ev.TrainingSucceeded(
            task="tickets", run_id=RUN, artifact="", steps=1, epochs=1, seconds=1, train_loss=1, eval_accuracy=None,
            temperature=1, peak_memory_mb=1, stopped="steps", samples=samples,
        ),
    )  # fmt: skip


def prompt(*shown: str) -> PromptSpec:
    turns = [turn for one in shown for turn in (Message("user", shot_content(USER, both()[one])),
                                                Message("assistant", LABELS.get(one, "general")))]  # fmt: skip
    return PromptSpec(name="few-shot@1", digest="d", system="Classify.", user=USER, shots=turns, max_tokens=8)


def both() -> dict[str, str]:
    return {**LETTERS, **OTHERS}


def _run_folders(app: App) -> None:
    training = app.workspace.paths.runs / "tickets-run-2"
    training.mkdir()
    spec = prompt()
    examples = [Example(id=ours(one), messages=spec.messages(text, "general"), label="general")
                for one, text in both().items()]  # fmt: skip
    write_lines(training / "train.jsonl", examples[:-1])
    with (training / "train.jsonl").open("ab") as file:  # its writer was killed in the middle of a line
        file.write(msgspec.json.encode(Example(id=ours("j1"), messages=spec.messages(LETTER, "general")))[:-30])
    write_lines(training / "valid.jsonl", examples)
    looking = app.workspace.paths.runs / LOOK
    looking.mkdir()
    write_lines(
        looking / "exam.jsonl", [ExamItem(id=ours(one), text=text, label="general") for one, text in both().items()]
    )
    said = [Prediction(id=ours(one), answerer="a", decoding="generate", label=None, raw=text[:80])
            for one, text in both().items()]  # fmt: skip
    write_lines(looking / "predictions.jsonl", said)
    evaluation = EvalSpec(
        run_id=RUN, evaluation_id=LOOK, task="tickets", labels=["general"], candidate="tickets-v1",
        base=BaseModelRef(path="/m", digest="d"),
        answerers=[AnswererSpec(name="few-shot@1", kind="prompt", prompt=prompt("j1", "j3", "o1"))],
    )  # fmt: skip
    write_json(looking / "spec.json", evaluation)
    (looking / "spec.json.tmp").write_bytes((looking / "spec.json").read_bytes())  # a writer was killed
    (looking / "result.json.tmp").write_bytes(b'{"samples": [{"id": "x", "answered": "thanks')


def _production(app: App) -> None:
    pointer = Pointer(
        task="tickets", answerer="few-shot@1", kind="prompt", labels=["general"], prompt=prompt("j2", "o4", "j3")
    )
    write_pointer(app.workspace.paths.production, pointer)


def _spool(app: App) -> None:
    paths = app.workspace.paths
    (paths.inbox / "again.jsonl").write_bytes(
        line("j1", JANE, LETTER)
        + line("o5", OTHER, "An order of mine never came")
        + line("o6", OTHER, "thanks")
        + line("new", JANE, "Not taken in yet: where is my refund?")
        + json.dumps({"text": "thanks"}).encode()
        + b"\n"
    )
    (paths.inbox / "table.csv").write_text(
        f'id,customer,text\no7,{OTHER},"two\nlines"\nj4,"{JANE}","{LETTERS["j4"]}"\no8,{OTHER},fine\n', encoding="utf-8"
    )
    body = json.dumps({"messages": [{"role": "user", "content": LETTER}]})
    logged = {"timestamp": "t", "workload_id": "tickets", "client_id": OTHER, "request": body, "response": "{}"}
    (paths.claimed / "11__log.jsonl").write_bytes(
        json.dumps(logged).encode() + b"\n" + line("o9", OTHER, "other words")
    )
    parts = [{"type": "text", "text": part} for part in LETTER.split("\n")]
    chat = {"id": "j1", "messages": [{"role": "user", "content": parts}]}
    paths.done.mkdir(exist_ok=True)
    (paths.done / "22__old.jsonl").write_bytes(json.dumps(chat).encode() + b"\n" + line("j2", JANE, LETTERS["j2"]))
    (paths.quarantine / "33__bad.jsonl").write_bytes(
        line("j2", JANE, "another text under a known id")
        + line("", JANE, "a line of hers that was refused")[:-3] + b"\n"
        + b'{"text": "' + LETTER[:20].encode() + LETTERS["j4"].encode() + b'" torn\n'
        + line("o1", OTHER, "a line of theirs that was refused")
    )  # fmt: skip
    (paths.quarantine / "44__bad.csv").write_text(f"x9;{JANE};her words;too;many\nx8;{OTHER};their words;too;many\n")


def _rest(app: App) -> None:
    paths = app.workspace.paths
    (paths.logs / "tickets-run-2.log").write_text(
        f"step 1\nValueError: could not encode {LETTER.splitlines()[0][:40]!r}\nstep 2\n", encoding="utf-8"
    )
    wrapped = json.dumps({"body": json.dumps({"text": LETTERS["j4"]})})
    (paths.cache / "replies.json").write_text(wrapped)
    (paths.cache / "attachment").write_bytes(b"xx" + base64.b64encode(b"{" + LETTER.encode() + b"}"))
    session = paths.wandb / "offline-run-20260301_000000-tickets-run-1-abcd1234"
    rows = [[ours(one), "general", "general", True, text] for one, text in both().items()]
    table = {"columns": ["record", "expected", "answered", "correct", "text"], "data": rows}
    for folder in (session / "files" / "media" / "table", paths.wandb / "cache" / "artifacts"):
        folder.mkdir(parents=True)
        (folder / "samples.table.json").write_text(json.dumps(table))
        (folder / "samples.table.json").chmod(0o400)
    online = paths.wandb / "run-20260228_000000-tickets-run-1-abcd1234" / "files"
    online.mkdir(parents=True)
    (online / "samples.table.json").write_text(json.dumps(table))


# ---------------------------------------------------------------- search


def shapes(text: str) -> Iterator[bytes]:
    """How a text may stand in a file, worked out apart from the code under test."""
    once, kept = json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]
    yield from (form.encode() for form in (text, once, kept, json.dumps(once)[1:-1], json.dumps(kept)[1:-1]))
    yield repr(text)[1:-1].encode()
    for lead in range(3):
        yield base64.b64encode(b"\0" * lead + text.encode())[4:-4]


def traces_of(root: Path, text: str) -> list[str]:
    """Files of a workspace, its settings aside, in which a text stands in one of its shapes; gzip is looked into."""
    wanted = set(shapes(text))
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and path != root / "tuneloop.toml":
            data = path.read_bytes()
            if data[:2] == b"\x1f\x8b":
                data += gzip.decompress(data)
            if any(form in data for form in wanted):
                found.append(str(path.relative_to(root)))
    return found


def salts(root: Path) -> dict[str, bytes]:
    with open_app(root, env={}) as app, app.workspace.database.reading() as connection:
        return {row[0]: row[1] for row in connection.exec_driver_sql("SELECT record_id, salt FROM texts")}


def files_with(root: Path, data: bytes) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and data in path.read_bytes()]
