"""A look takes answers from earlier looks, and only from those that would be the same again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cli_world import make
from store_helpers import NOW

from adapters.specs import (
    AnswererSpec,
    BaseModelRef,
    EvalResult,
    EvalSpec,
    ExamItem,
    Prediction,
    write_json,
    write_lines,
)
from loop import evaluations
from loop.bootstrap import App, open_app
from store import events as ev
from store.log import Draft
from store.prompting import PromptSpec

PROMPT = PromptSpec(name="zero-shot@1", digest="d", system="Classify.")
FIRST = AnswererSpec(name="tickets-v1", kind="adapter", prompt=PROMPT, adapter="/a/artifacts/sha256-1")
SPEC = EvalSpec(
    run_id="r1",
    evaluation_id="e1",
    task="tickets",
    labels=["urgent", "billing"],
    base=BaseModelRef(path="/m", digest="sha256-b"),
    candidate="tickets-v1",
    answerers=[AnswererSpec(name="zero-shot@1", kind="prompt", prompt=PROMPT), FIRST],
)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with open_app(make(tmp_path / "w"), env={}) as app:
        yield app


def look(app: App, spec: EvalSpec, items: list[str], label: str | None) -> None:
    """A look that has ended, with `label` as everybody's answer to everything."""
    folder = app.workspace.paths.runs / spec.evaluation_id
    folder.mkdir()
    write_json(folder / "spec.json", spec)
    write_lines(folder / "exam.jsonl", [ExamItem(id=item, text=f"text of {item}", label="urgent") for item in items])
    told = [
        Prediction(id=item, answerer=one.name, decoding=decoding, label=label, raw="text", latency_ms=3.0)
        for one in spec.answerers
        for decoding in one.decodings
        for item in items
    ]
    write_lines(folder / "predictions.jsonl", told)
    write_json(
        folder / "result.json",
        EvalResult(run_id=spec.run_id, evaluation_id=spec.evaluation_id, seconds=1.0, peak_memory_mb=1.0),
    )
    started = ev.EvaluationStarted(
        task="tickets", run_id=spec.run_id, evaluation_id=spec.evaluation_id, attempt=1, candidate=spec.candidate,
        champion="zero-shot@1", baseline="zero-shot@1", exam=len(items), hard_exam=0, look=1,
    )  # fmt: skip
    for event in (started, *evaluations.finish(app, folder, "zero-shot@1")):
        app.workspace.log.append([Draft(event, f"run/{spec.run_id}")], actor="test", now=NOW)
    app.workspace.projections.catch_up()


def test_the_same_answerers_are_not_asked_again(app: App) -> None:
    look(app, SPEC, ["a", "b"], "billing")
    found = evaluations.known(app, SPEC, {"b", "c"})
    assert {(one.answerer, one.decoding, one.id, one.label) for one in found} == {
        (name, decoding, "b", "billing") for name in ("zero-shot@1", "tickets-v1") for decoding in ("generate", "score")
    }
    moved = msgspec.structs.replace(FIRST, adapter="/b/artifacts/sha256-1")
    assert evaluations.known(app, msgspec.structs.replace(SPEC, answerers=[moved]), {"a"})


def test_an_abstention_is_an_answer_and_the_newest_counts(app: App) -> None:
    look(app, SPEC, ["a"], "billing")
    look(app, msgspec.structs.replace(SPEC, run_id="r2", evaluation_id="e2"), ["a"], None)
    assert [one.label for one in evaluations.known(app, SPEC, {"a"})] == [None] * 4


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(SPEC, base=BaseModelRef(path="/m", digest="sha256-another")),
        msgspec.structs.replace(SPEC, base=BaseModelRef(path="/m", digest="sha256-b", quantisation="bf16")),
        msgspec.structs.replace(SPEC, labels=["billing", "urgent"]),
        msgspec.structs.replace(SPEC, device="cuda"),
    ],
)
def test_another_model_or_other_labels_answer_anew(app: App, other: EvalSpec) -> None:
    look(app, SPEC, ["a"], "billing")
    assert evaluations.known(app, other, {"a"}) == []


@pytest.mark.parametrize(
    "changed",
    [
        msgspec.structs.replace(FIRST, adapter="/a/artifacts/sha256-2"),
        msgspec.structs.replace(FIRST, prompt=msgspec.structs.replace(PROMPT, system="Classify!")),
        msgspec.structs.replace(FIRST, temperature=2.0),
    ],
)
def test_other_weights_prompts_or_temperatures_answer_anew(app: App, changed: AnswererSpec) -> None:
    look(app, SPEC, ["a"], "billing")
    found = evaluations.known(app, msgspec.structs.replace(SPEC, answerers=[changed]), {"a"})
    assert found == []


def test_damaged_predictions_are_not_used(app: App) -> None:
    look(app, SPEC, ["a"], "billing")
    for path in app.workspace.artifacts.root.rglob("predictions.jsonl"):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes().replace(b"billing", b"urgent!"))
    assert evaluations.known(app, SPEC, {"a"}) == []
