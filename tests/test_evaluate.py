"""The evaluation step as the daemon starts it: a folder goes in, predictions and a result come out."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from adapter_world import make_adapter, put_card

from adapters import base_model, metrics
from adapters.bank import Bank
from adapters.control import Control
from adapters.scoring import Scorer
from adapters.specs import (
    KNOWN,
    AnswererSpec,
    EvalResult,
    EvalSpec,
    ExamItem,
    ForgettingSpec,
    Metric,
    Prediction,
    StepFailure,
    read_json,
    read_lines,
    write_json,
    write_lines,
)
from store.prompting import Message, PromptSpec

LABELS = ["urgent", "billing", "technical", "general"]
EXAM = [
    ExamItem(id="r1", text="charged twice", label="billing"),
    ExamItem(id="r2", text="the app crashes", label="technical"),
    ExamItem(id="r3", text="opening hours", label="general"),
    ExamItem(id="r4", text="production is down", label="urgent"),
    ExamItem(id="r5", text="word " * 3000, label="general"),
    ExamItem(id="r6", text="refund please", label="billing", hard=True),
]
PROMPT = PromptSpec(
    name="few-shot@1",
    digest="d",
    system="Classify the ticket.",
    shots=[Message("user", "thanks"), Message("assistant", "general")],
    max_tokens=5,
)
REASONING = PromptSpec(name="cot@1", digest="c", system="Think first.", reasoning=True, max_tokens=6)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_card(make_adapter(tiny_model, tmp_path_factory.mktemp("evaluate") / "v1", 4), tiny_model)


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control")
    Control.fit(
        ["invoice charge", "app crash", "hours", "down now"], ["billing", "technical", "general", "urgent"]
    ).save(folder)
    return folder


def prepare(tiny_model: Path, folder: Path, answerers: list[AnswererSpec], **more: object) -> Path:
    folder.mkdir(parents=True)
    spec = EvalSpec(
        run_id="run-1",
        evaluation_id="eval-1",
        task="tickets",
        labels=LABELS,
        base=base_model.reference(tiny_model, "fp32"),
        candidate="tickets-v1",
        answerers=answerers,
        device="cpu",
        threads=1,
        batch_size=4,
    )
    write_json(folder / "spec.json", msgspec.structs.replace(spec, **more))
    write_lines(folder / "exam.jsonl", EXAM)
    return folder


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adapters.evaluate", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_every_answerer_meets_the_same_exam_under_every_decoding(
    tiny_model: Path, tmp_path: Path, adapter: Path, control: Path
) -> None:
    answerers = [
        AnswererSpec(name="few-shot@1", kind="prompt", prompt=PROMPT),
        AnswererSpec(name="cot@1", kind="prompt", prompt=REASONING, decodings=["generate"]),
        AnswererSpec(name="tickets-v1", kind="adapter", prompt=PROMPT, adapter=str(adapter), temperature=2.0),
        AnswererSpec(name="control", kind="control", control=str(control), decodings=["classify"]),
    ]
    suite = ForgettingSpec(questions=4, passages=2, cache=str(tmp_path / "cache.json"))
    folder = prepare(tiny_model, tmp_path / "runs" / "eval-1", answerers, forgetting=suite)
    done = run(folder)
    assert done.returncode == 0, done.stderr
    result = read_json(folder / "result.json", EvalResult)
    assert result.evaluation_id == "eval-1" and result.seconds > 0 and result.peak_memory_mb > 50
    assert result.forgetting is not None
    assert len(result.forgetting.correct) == 4 and len(result.forgetting.bits) == 2

    predictions = read_lines(folder / "predictions.jsonl", Prediction)
    told = {(one.answerer, one.decoding) for one in predictions}
    assert told == {
        ("few-shot@1", "generate"), ("few-shot@1", "score"), ("cot@1", "generate"),
        ("tickets-v1", "generate"), ("tickets-v1", "score"), ("control", "classify"),
    }  # fmt: skip
    assert len(predictions) == len(told) * len(EXAM)
    assert all(one.label is None or one.label in LABELS for one in predictions)
    assert all(len(one.raw) <= 80 and one.latency_ms > 0 for one in predictions)
    for one in predictions:
        if one.decoding != "generate":
            assert sum(one.probabilities.values()) == pytest.approx(1.0, abs=1e-4)
            assert one.label == max(one.probabilities, key=lambda label: one.probabilities[label])

    # the scores are those of the scorer, at the temperature of the spec
    bank = Bank.open(base_model.reference(tiny_model, "fp32"), "cpu")
    bank.load("tickets-v1", adapter)
    mine = [one for one in predictions if (one.answerer, one.decoding) == ("tickets-v1", "score")]
    scored = Scorer(bank).score("tickets-v1", PROMPT, [item.text for item in EXAM], LABELS)
    for prediction, found in zip(mine, scored, strict=True):
        assert prediction.probabilities == pytest.approx(found.probabilities(2.0), abs=1e-3)

    kinds = {one.name: one.kind for one in answerers}
    results = metrics.answerer_results(EXAM, predictions, kinds)
    assert len(results) == 6 and all((r.n, r.hard_n) == (5, 1) for r in results)
    pairs = metrics.paired_results(EXAM, predictions, "tickets-v1", ["few-shot@1", "control"])
    assert [(p.opponent, p.decoding) for p in pairs] == [
        ("few-shot@1", "generate"), ("few-shot@1", "score"), ("control", "generate"), ("control", "score"),
    ]  # fmt: skip

    steps = read_lines(folder / "metrics.jsonl", Metric)
    phases = {one.phase for one in steps}
    assert {"loading", "tickets-v1 by score", "general ability"} <= phases
    assert all(one.step <= one.of for one in steps if one.of)
    assert not (folder / "error.json").exists()
    before = (folder / "result.json").stat().st_mtime_ns
    assert run(folder).returncode == 0
    assert (folder / "result.json").stat().st_mtime_ns == before  # done is done


def test_an_unsure_adapter_gives_no_answer_below_its_threshold(tiny_model: Path, tmp_path: Path, adapter: Path) -> None:
    asked = AnswererSpec(name="tickets-v1", kind="adapter", prompt=PROMPT, adapter=str(adapter), decodings=["score"])
    free = prepare(tiny_model, tmp_path / "runs" / "free", [asked])
    assert run(free).returncode == 0
    shares = [max(one.probabilities.values()) for one in read_lines(free / "predictions.jsonl", Prediction)]
    limit = sorted(shares)[len(shares) // 2]
    held = [msgspec.structs.replace(asked, abstain_below=limit)]
    folder = prepare(tiny_model, tmp_path / "runs" / "held", held)
    assert run(folder).returncode == 0
    answers = read_lines(folder / "predictions.jsonl", Prediction)
    assert [one.label is None for one in answers] == [share < limit for share in shares]
    assert 0 < sum(one.label is None for one in answers) < len(answers)


def test_what_is_known_is_not_asked_again(tiny_model: Path, tmp_path: Path, adapter: Path) -> None:
    answerers = [AnswererSpec(name="tickets-v1", kind="adapter", prompt=PROMPT, adapter=str(adapter))]
    alone = prepare(tiny_model, tmp_path / "runs" / "alone", answerers)
    helped = prepare(tiny_model, tmp_path / "runs" / "helped", answerers)
    said = Prediction(id="r2", answerer="tickets-v1", decoding="score", label="urgent", latency_ms=7.0)
    write_lines(helped / KNOWN, [said, msgspec.structs.replace(said, id="r9")])
    assert run(alone).returncode == run(helped).returncode == 0
    one = read_lines(alone / "predictions.jsonl", Prediction)
    other = read_lines(helped / "predictions.jsonl", Prediction)
    assert [(p.id, p.decoding) for p in one] == [(p.id, p.decoding) for p in other]
    assert [p for p in other if p.id == "r2" and p.decoding == "score"] == [said]
    for mine, theirs in zip(one, other, strict=True):
        if mine.id != "r2":
            assert mine.label == theirs.label
            assert mine.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)


@pytest.mark.parametrize("wrong", ["adapter", "base", "control", "spec", "exam", "quantisation"])
def test_what_is_wrong_is_said_in_error_json(tiny_model: Path, tmp_path: Path, adapter: Path, wrong: str) -> None:
    answerer = AnswererSpec(name="tickets-v1", kind="adapter", prompt=PROMPT, adapter=str(adapter))
    base = base_model.reference(tiny_model, "fp32")
    more: dict[str, object] = {}
    if wrong == "adapter":
        answerer = msgspec.structs.replace(answerer, adapter=str(tmp_path / "nowhere"))
    elif wrong == "base":
        more["base"] = msgspec.structs.replace(base, digest="sha256-another")
    elif wrong == "control":
        answerer = AnswererSpec(name="control", kind="control", control=str(tmp_path), decodings=["classify"])
    elif wrong == "quantisation":
        more["base"] = msgspec.structs.replace(base, quantisation="bf16")
    folder = prepare(tiny_model, tmp_path / "runs" / "e", [answerer], **more)
    if wrong == "spec":
        (folder / "spec.json").write_text("{")
    elif wrong == "exam":
        (folder / "exam.jsonl").unlink()
    done = run(folder)
    assert done.returncode == 1
    failure = read_json(folder / "error.json", StepFailure)
    assert failure.message and failure.hint
    assert not (folder / "result.json").exists()


def test_a_folder_that_another_process_works_on_is_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    folder = prepare(tiny_model, tmp_path / "runs" / "e", [])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(folder)
    assert done.returncode == 3 and "another process" in done.stderr
    assert not (folder / "error.json").exists()


def test_it_gives_way_to_production_and_ends_when_asked(tiny_model: Path, tmp_path: Path) -> None:
    """SIGTERM ends it with code 0 and no result; a second start does the whole work."""
    answerers = [AnswererSpec(name="few-shot@1", kind="prompt", prompt=msgspec.structs.replace(PROMPT, max_tokens=200))]
    folder = prepare(tiny_model, tmp_path / "home" / "runs" / "e", answerers, candidate="few-shot@1")
    write_lines(folder / "exam.jsonl", [ExamItem(id=f"r{i}", text=f"text {i}", label="general") for i in range(400)])
    (tmp_path / "home" / "serving.busy").touch()
    child = subprocess.Popen([sys.executable, "-m", "adapters.evaluate", str(folder)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 90
    while not any(one.of for one in read_lines(folder / "metrics.jsonl", Metric)):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    assert (tmp_path / "home" / "working.busy").exists()
    os.kill(child.pid, 15)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 0, said
    assert not (folder / "result.json").exists() and not (folder / "error.json").exists()
    write_lines(folder / "exam.jsonl", EXAM[:2])
    assert run(folder).returncode == 0
    assert len(read_lines(folder / "predictions.jsonl", Prediction)) == 4
