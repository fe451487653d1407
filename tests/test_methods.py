"""Every method on the tiny model, from its spec to a served answer; and what soft prompts and whole models ask for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from train_world import LABELS, PROMPT, training_folder  # noqa: E402

from adapters import attention, bank, base_model, evaluate, methods, registry, serve, soft, trainer  # noqa: E402, F401
from adapters.bank import Bank  # noqa: E402
from adapters.chat import Asked  # noqa: E402
from adapters.child import Stopping  # noqa: E402
from adapters.encode import encode  # noqa: E402
from adapters.packed import TREE, pack  # noqa: E402
from adapters.scoring import Scorer  # noqa: E402
from adapters.specs import (  # noqa: E402
    AnswererSpec,
    EvalSpec,
    ExamItem,
    Example,
    Metric,
    Prediction,
    TrainResult,
    TrainSpec,
    read_json,
    read_lines,
    write_json,
    write_lines,
)
from adapters.train import train  # noqa: E402
from store.errors import ArtifactError, ModelError  # noqa: E402

EVERY = [
    ("qlora", "nf4", "bf16", {}),
    ("qlora", "nf4", "fp32", {}),
    ("qlora", "nf4", "bf16", {"dora": True}),
    ("lora", "bf16", "bf16", {"targets": "attention"}),
    ("lora", "bf16", "fp32", {"targets": "attention"}),
    ("lora", "fp32", "auto", {"rslora": True, "targets": "attention-min"}),
    ("full", "bf16", "bf16", {"learning_rate": 2e-3}),
    ("full", "bf16", "fp32", {"learning_rate": 2e-3}),
    ("full", "fp32", "auto", {"learning_rate": 2e-3}),
    ("prefix", "nf4", "bf16", {"learning_rate": 0.03}),
    ("prefix", "fp32", "auto", {"learning_rate": 0.03}),
    ("prompt", "nf4", "bf16", {"learning_rate": 0.03}),
    ("prompt", "fp32", "auto", {"learning_rate": 0.03}),
    ("ia3", "nf4", "bf16", {"learning_rate": 0.03}),
    ("ia3", "nf4", "fp32", {"learning_rate": 0.03}),
    ("ia3", "fp32", "auto", {"learning_rate": 0.03, "targets": "attention"}),
]
KINDS = {"qlora": "LORA", "lora": "LORA", "full": "FULL", "prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING"}


def _losses(folder: Path) -> list[float]:
    return [line.eval_loss for line in read_lines(folder / "metrics.jsonl", Metric) if line.eval_loss is not None]


@pytest.mark.parametrize(("method", "quantisation", "compute", "changes"), EVERY, ids=lambda it: str(it) if it else "")
def test_every_method_trains_evaluates_and_serves_the_same_answers(
    tiny_model: Path,
    tmp_path: Path,
    stopping: Stopping,
    method: str,
    quantisation: str,
    compute: str,
    changes: dict[str, Any],
) -> None:
    changes = {"method": method, "max_steps": 15, **changes}
    folder = training_folder(tmp_path / "r1", tiny_model, quantisation=quantisation, compute=compute, **changes)
    train(folder, stopping)
    losses = _losses(folder)
    assert losses[-1] < losses[0]
    result = read_json(folder / "result.json", TrainResult)
    info = registry.describe(folder / "adapter")
    assert result.compute == (quantisation if compute == "auto" else compute)
    assert info.kind == KINDS.get(method, "IA3")
    if info.kind == "FULL":  # what it is computed in changes nothing of the file
        kept = {str(tensor.dtype) for tensor in load_file(folder / "adapter" / registry.MODEL_WEIGHTS).values()}
        assert kept == {"torch.bfloat16" if quantisation == "bf16" else "torch.float32"}
    assert info.parameters == result.trainable_parameters
    assert info.card is not None and info.card.quantisation == quantisation
    assert not (folder / "adapter" / "README.md").exists()

    # what training saw last is what the evaluation sees
    spec = read_json(folder / "spec.json", TrainSpec)
    valid = read_lines(folder / "valid.jsonl", Example)
    loaded = Bank.open(spec.base, "cpu")
    loaded.load("tickets-v1", folder / "adapter")
    scorer = Scorer(loaded)
    texts = [one.messages[1].content for one in valid]
    scored = scorer.score("tickets-v1", PROMPT, texts, LABELS)
    tokens = sum(len(loaded.tokenizer(one.label).input_ids) + 1 for one in valid)
    loss = -sum(one.scores[its.label] for one, its in zip(scored, valid, strict=True)) / tokens
    exact = result.compute == "fp32" and (method, quantisation) != ("full", "bf16")  # which is rounded at its end
    assert loss == pytest.approx(losses[-1], rel=1e-4 if exact else 2e-2)
    before = scorer.score("", PROMPT, texts, LABELS)
    assert any(
        abs(one.scores[name] - two.scores[name]) > 1e-3
        for one, two in zip(scored, before, strict=True)
        for name in LABELS
    )

    # what is evaluated is what the engine answers, which promotion asks for
    exam = tmp_path / "look"
    exam.mkdir()
    write_lines(
        exam / "exam.jsonl", [ExamItem(id=one.id, text=one.messages[1].content, label=one.label) for one in valid]
    )
    candidate = AnswererSpec(name="tickets-v1", kind="adapter", prompt=PROMPT, adapter=str(folder / "adapter"))
    base = AnswererSpec(name="p@1", kind="prompt", prompt=PROMPT)
    write_json(
        exam / "spec.json",
        EvalSpec(
            run_id="r1", evaluation_id="look", task="tickets", labels=LABELS, base=spec.base, candidate="tickets-v1",
            answerers=[base, candidate], threads=1, device="cpu",
        ),
    )  # fmt: skip
    evaluate.evaluate(exam, stopping)
    predicted = {
        one.id: one.label
        for one in read_lines(exam / "predictions.jsonl", Prediction)
        if (one.answerer, one.decoding) == ("tickets-v1", "score")
    }
    empty = Bank.open(spec.base, "cpu")
    engine = serve.Engine(empty, Scorer(empty))
    try:
        engine.load("tickets-v1", folder / "adapter")
        asked = [Asked(model="tickets-v1", prompt=PROMPT, text=text, choices=tuple(LABELS)) for text in texts]
        served = [engine.submit(one).result(60).text for one in asked]
        words = engine.submit(Asked(model="tickets-v1", prompt=PROMPT, text=texts[0], max_tokens=3)).result(60)
    finally:
        engine.close()
    assert served == [predicted[one.id] for one in valid]
    assert words.tokens > 0


@pytest.mark.parametrize(("method", "rate"), [("full", 2e-3), ("prompt", 0.03), ("prefix", 0.03)])
def test_stopped_it_goes_on_as_if_nothing_had_happened(
    tiny_model: Path, tmp_path: Path, stopping: Stopping, monkeypatch: pytest.MonkeyPatch, method: str, rate: float
) -> None:
    options: dict[str, Any] = {"quantisation": "fp32", "method": method, "max_steps": 12, "learning_rate": rate}
    unharmed = training_folder(tmp_path / "unharmed", tiny_model, **options)
    train(unharmed, stopping)
    harmed = training_folder(tmp_path / "harmed", tiny_model, **options)
    seen: list[str] = []

    def reached(point: str) -> None:
        seen.append(point)
        stopping.asked = seen.count("train.step_done") == 7

    monkeypatch.setattr(trainer, "reached", reached)
    with pytest.raises(SystemExit):
        train(harmed, stopping)
    monkeypatch.undo()
    stopping.asked = False
    train(harmed, stopping)
    expected, found = (read_json(folder / "result.json", TrainResult) for folder in (unharmed, harmed))
    assert found.resumed_from == 7
    assert (found.train_loss, found.temperature) == (expected.train_loss, expected.temperature)
    assert _losses(harmed) == _losses(unharmed)


def test_a_training_goes_on_from_an_earlier_one(tiny_model: Path, tmp_path: Path, stopping: Stopping) -> None:
    for method, rate in (("full", 2e-3), ("prompt", 0.03), ("prefix", 0.03), ("ia3", 0.03)):
        options: dict[str, Any] = {"quantisation": "fp32", "method": method, "samples": 0}
        first = training_folder(tmp_path / f"{method}-1", tiny_model, max_steps=8, learning_rate=rate, **options)
        train(first, stopping)
        second = training_folder(
            tmp_path / f"{method}-2", tiny_model, max_steps=1, learning_rate=1e-12,
            init_adapter=str(first / "adapter"), **options,
        )  # fmt: skip
        train(second, stopping)
        ends = [read_json(folder / "result.json", TrainResult).temperature for folder in (first, second)]
        assert ends[0] == pytest.approx(ends[1], rel=1e-3)
        fresh = training_folder(tmp_path / f"{method}-3", tiny_model, max_steps=1, learning_rate=1e-12, **options)
        train(fresh, stopping)
        starts = [
            next(line.loss for line in read_lines(folder / "metrics.jsonl", Metric) if line.loss is not None)
            for folder in (second, fresh)
        ]
        assert starts[0] < starts[1] - 0.005


def test_full_fine_tuning_keeps_small_updates(tiny_model: Path, tmp_path: Path, stopping: Stopping) -> None:
    """In bf16 an update of 1e-5 is rounded away; the loss would not move."""
    folder = training_folder(
        tmp_path / "r1", tiny_model, quantisation="bf16", compute="bf16", method="full", max_steps=20,
        learning_rate=2e-5, samples=0,
    )  # fmt: skip
    train(folder, stopping)
    losses = _losses(folder)
    assert losses[-1] < losses[0] - 0.003


# ---------------------------------------------------------------- soft prompts in packed batches


def _soft(folder: Path, kind: str) -> tuple[Any, Any]:
    model, tokenizer = base_model.load(base_model.reference(folder, "fp32"), "cpu", training=True)
    spec = read_json(folder.parent / f"{kind}.json", TrainSpec)
    tuned = methods.adapt(model, tokenizer, spec)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return tuned.train(), tokenizer


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_packed_behind_a_soft_prompt_loss_and_gradients_equal_the_padded_batch(
    tiny_model: Path, tmp_path: Path, kind: str, tree: bool
) -> None:
    made = training_folder(tmp_path / "r1", tiny_model, quantisation="fp32", method=kind, virtual_tokens=7)
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.copy(made / "spec.json", tmp_path / f"{kind}.json")
    tuned, tokenizer = _soft(tmp_path / "model", kind)
    rows = [encode(tokenizer, one.messages) for one in read_lines(made / "train.jsonl", Example)[-6:]]
    width = max(len(row.tokens) for row in rows)
    ids = torch.full((len(rows), width), 2)
    labels = torch.full((len(rows), width), -100)
    seen = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row.tokens)] = torch.tensor(row.tokens)
        seen[index, : len(row.tokens)] = 1
        labels[index, row.start : len(row.tokens)] = torch.tensor(row.tokens[row.start :])
    expected = tuned(input_ids=ids, attention_mask=seen, labels=labels).loss
    expected.backward()
    weight = tuned.prompt_encoder["default"].embedding.weight
    gradient, weight.grad = weight.grad, None
    if tree:
        tuned.get_base_model().set_attn_implementation(TREE)
    packed = pack([row.tokens for row in rows], [row.start for row in rows])
    logits = tuned(**packed.inputs(tree=tree), use_cache=False).logits[0]
    loss = torch.nn.functional.cross_entropy(logits, packed.targets)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (weight.grad - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_a_soft_prompt_begins_as_its_text(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    """Untrained it answers as if the text stood before the prompt."""
    model, tokenizer = base_model.load(base_model.reference(tiny_model, "fp32"), "cpu")
    text = "Answer with one word: urgent, billing or general."
    length = len(tokenizer(text).input_ids)
    spec_folder = training_folder(
        tmp_path / "r1", tiny_model, quantisation="fp32", method=kind, virtual_tokens=length, soft_prompt_text=text
    )
    spec = read_json(spec_folder / "spec.json", TrainSpec)
    prompt = tokenizer("hello there").input_ids
    with torch.no_grad():
        plain = model(torch.tensor([tokenizer(text).input_ids + prompt])).logits[0, length:]
    tuned = methods.adapt(model, tokenizer, spec).eval()
    with torch.no_grad():
        behind = tuned(input_ids=torch.tensor([prompt])).logits[0, -len(prompt) :]
    assert torch.allclose(plain, behind, atol=1e-4)
    tuned.save_pretrained(str(tmp_path / "kept"))
    told = (tmp_path / "kept" / "adapter_config.json").read_text()
    assert text not in told


# ---------------------------------------------------------------- whole models


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What full fine-tuning leaves."""
    folder = tmp_path_factory.mktemp("whole") / "v1"
    model, tokenizer = base_model.load(base_model.reference(tiny_model, "fp32"), "cpu")
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    methods.save(model, folder)
    tokenizer.save_pretrained(str(folder))
    card = registry.AdapterCard(base_digest=base_model.digest(tiny_model), quantisation="fp32", prompt="p@1")
    registry.write_card(folder, card)
    return folder


def test_a_whole_model_stands_beside_the_base_and_its_adapters(tiny_model: Path, tmp_path: Path, whole: Path) -> None:
    from adapter_world import make_adapter, put_card

    lora = put_card(make_adapter(tiny_model, tmp_path / "lora", 3), tiny_model)
    loaded = Bank.open(base_model.reference(tiny_model, "fp32"), "cpu")
    scorer = Scorer(loaded)
    base = scorer.score("", PROMPT, ["hello"], LABELS)[0].scores
    loaded.load("lora", lora)
    loaded.load("whole", whole)
    other = scorer.score("lora", PROMPT, ["hello"], LABELS)[0].scores
    found = scorer.score("whole", PROMPT, ["hello"], LABELS)[0].scores
    assert len({round(one["urgent"], 3) for one in (base, other, found)}) == 3
    assert scorer.score("", PROMPT, ["hello"], LABELS)[0].scores == pytest.approx(base)
    loaded.unload("whole")
    scorer.forget("whole")
    assert scorer.score("lora", PROMPT, ["hello"], LABELS)[0].scores == pytest.approx(other)


def test_a_whole_model_without_room_is_refused_and_the_others_stay(
    tiny_model: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Bank.open(base_model.reference(tiny_model, "fp32"), "cpu")
    monkeypatch.setattr(bank, "free_memory", lambda: 1000)
    with pytest.raises(ArtifactError, match="does not fit beside the base"):
        loaded.load("whole", whole)
    assert loaded.names == []
    assert Scorer(loaded).score("", PROMPT, ["hello"], LABELS)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda folder: _set(folder, auto_map={"AutoModelForCausalLM": "x.Y"}), "code of its own"),
        (lambda folder: _set(folder, model_type=None), "model_type"),
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b"\x80\x04"), "pickle"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (lambda folder: _cut(folder / "model.safetensors"), "damaged"),
    ],
)
def test_a_damaged_or_unsafe_whole_model_is_refused(tmp_path: Path, whole: Path, change: Any, word: str) -> None:
    folder = tmp_path / "v1"
    shutil.copytree(whole, folder)
    registry.check(folder)
    change(folder)
    with pytest.raises(ArtifactError, match=word):
        registry.check(folder)


def _set(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def test_a_method_that_does_not_fit_the_model_is_told(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = training_folder(tmp_path / "r1", tiny_model, quantisation="fp32", method="ia3")
    other = GPT2LMHeadModel(GPT2Config(vocab_size=768, n_embd=64, n_layer=1, n_head=2))
    with pytest.raises(ModelError, match='method "ia3" does not fit'):
        methods.adapt(other, None, read_json(folder / "spec.json", TrainSpec))
