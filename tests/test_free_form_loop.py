"""The whole loop over answers in free words, with real processes on a tiny model: from targets to served words."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

pytest.importorskip("torch")

from test_loop import daemon, drop, wait_for

from loop import targets
from loop.bootstrap import App, open_app
from loop.services import read_endpoints
from store import events as ev
from store.targets import is_seal
from store.verify import sound, verify
from store.workspace import Workspace

FRUITS = ["apple", "pear", "plum", "fig", "lime"]
TOML = """
[model]
base = "{model}"
[daemon]
tick_seconds = 0.5
settle_seconds = 0.0
rescan_seconds = 1.0
[wandb]
enabled = false
[tasks.orders]
kind = "style"
{own}
description = "Thank the customer."
answer_tokens = 24
splits = {{ exam_share = 0.4 }}
harvest = {{ min_new = 1, every_seconds = 0.0 }}
trigger = {{ first = 20, every = 100 }}
[tasks.orders.training]
min_steps = 40
epochs = 1.0
batch_size = 4
micro_batch_size = 4
checkpoint_every = 10
eval_every = 10
min_valid = 2
learning_rate = 0.005
max_length = 128
threads = 1
general_share = 0.0
[tasks.orders.gate]
min_exam = 8
better_than_baseline = true
"""


def text(number: int) -> tuple[str, str]:
    """A text that no other number has anything near to, and the right answer to it."""
    noise = " ".join(f"{(number * 7919 + i * 104729) % 99991:x}" for i in range(6))
    return f"{FRUITS[number % 5]} {noise}", "Thank you very much."


def make(root: Path, model: Path, own: str = "") -> None:
    root.mkdir()
    (root / "tuneloop.toml").write_text(TOML.format(model=model, own=own))
    Workspace.create(root).close()


def past(app: App, kind: type[ev.Event]) -> list[ev.Event]:
    return [one.event for one in app.workspace.log.select("type = ?", [kind.__name__])]


def test_words_are_learned_examined_promoted_and_served(tiny_model: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    make(root, tiny_model)
    drop(root, "orders/a.jsonl", [{"id": f"o{n}", "text": text(n)[0], "target": text(n)[1]} for n in range(48)])
    with daemon(root), open_app(root, env={}) as app:
        wait_for(lambda: past(app, ev.AdapterPromoted), "a promotion", root)
        (promoted,) = past(app, ev.AdapterPromoted)
        assert isinstance(promoted, ev.AdapterPromoted) and promoted.answerer == "orders-v1" and promoted.gain > 0
        local = lambda: read_endpoints(app.workspace.paths.run)  # noqa: E731
        wait_for(lambda: local().gateway, "the gateway", root)
        ask = {"model": "orders", "messages": [{"role": "user", "content": text(77)[0]}]}

        def served() -> dict[str, object]:
            reply = httpx.post(f"{local().gateway}/v1/chat/completions", json=ask, timeout=60, trust_env=False)
            value: dict[str, object] = reply.json() if reply.status_code == 200 else {}
            return value

        wait_for(lambda: served().get("model") == "orders-v1", "the adapter to answer", root)
        said = served()["choices"][0]["message"]["content"]  # type: ignore[index]
        assert said.startswith("Thank you"), said
    with open_app(root, env={}) as app:
        app.workspace.projections.catch_up()
        assert sound(verify(app.workspace))
        _evidence(app)


def _evidence(app: App) -> None:
    """What the log says of it, without a word of anybody's."""
    (frozen,) = past(app, ev.DatasetFrozen)
    assert isinstance(frozen, ev.DatasetFrozen) and frozen.per_class == {} and frozen.suspects == []
    steps = {one.step for one in frozen.curation}
    assert {"capped", "suspects", "repeated"}.isdisjoint(steps) and "validation" in steps
    assert any("the guideline for style is 1000-5000" in warning for warning in frozen.warnings)
    progress = [one for one in past(app, ev.TrainingProgressed) if isinstance(one, ev.TrainingProgressed)]
    assert progress and all(one.eval_accuracy is None for one in progress)
    (trained,) = past(app, ev.TrainingSucceeded)
    assert isinstance(trained, ev.TrainingSucceeded) and trained.eval_accuracy is None and trained.samples
    sample = trained.samples[0]
    assert is_seal(sample["expected"]) and is_seal(sample["answered"])
    assert str(targets.words(app, sample["id"], sample["answered"])).startswith("Thank")
    (looked,) = past(app, ev.EvaluationSucceeded)
    assert isinstance(looked, ev.EvaluationSucceeded)
    assert [(one.decoding, one.metric) for one in looked.results] == [("generate", "chrf")] * 2
    assert {one.kind for one in looked.results} == {"prompt", "adapter"}  # no control writes words
    base, mine = sorted(looked.results, key=lambda one: one.accuracy)
    assert mine.answerer == "orders-v1" and mine.accuracy > 0.5 > 2 * base.accuracy and mine.recall == {}
    (paired,) = looked.paired
    assert paired.metric == "chrf" and paired.low > 0 and paired.error is not None
    (judged,) = past(app, ev.CandidateJudged)
    assert isinstance(judged, ev.CandidateJudged) and "by chrf" in judged.summary
    assert not {"control", "recall"} & {check.name for check in judged.checks}
    holding = [path.name for path in app.root.rglob("*") if path.is_file() and b"Thank you" in path.read_bytes()]
    assert {name.partition("-")[0] for name in holding} == {"tuneloop.sqlite"}, holding
    everything = "".join(str(one.event) for one in app.workspace.log.select("1", []))
    assert "Thank you" not in everything and "apple" not in everything
    for artifact in app.workspace.artifacts.root.glob("*/*.jsonl"):
        assert b"Thank you" not in artifact.read_bytes(), artifact
