"""General ability: option scores and bits per byte against plain forwards, and the base model's cache."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from adapter_world import make_adapter  # noqa: E402

from adapters import base_model, forgetting  # noqa: E402
from adapters.bank import Bank  # noqa: E402
from adapters.forgetting import Ability, Item  # noqa: E402
from adapters.specs import ForgettingSpec  # noqa: E402
from store.errors import StepError  # noqa: E402

ITEMS = [
    Item(kind="choice", id="c1", question="What colour is the sky?", options=["blue", "a loud noise", "7"], answer=0),
    Item(kind="choice", id="c2", question="How many legs has a spider?", options=["eight", "two", "none at all"]),
    Item(kind="choice", id="c3", question="Q " * 40, options=["yes", "no"], answer=1),
    Item(kind="text", id="t1", text="The river rises in the hills and runs to the sea."),
    Item(kind="text", id="t2", text="émigré 日本語 🙂 " * 8),
    Item(kind="text", id="t3", text="a"),
]


@pytest.fixture(scope="module")
def bank(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    opened = Bank.open(base_model.reference(tiny_model, "fp32"), "cpu")
    opened.load("v1", make_adapter(tiny_model, tmp_path_factory.mktemp("forgetting") / "v1", 2))
    return opened


def spoken(bank: Bank, name: str, tokens: list[int], start: int) -> float:
    """Log-probability of tokens[start:] after tokens[:start], by one plain forward."""
    with bank.active(name) as model, torch.no_grad():
        values = model(input_ids=torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return sum(float(values[place - 1, tokens[place]]) for place in range(start, len(tokens)))


@pytest.mark.parametrize("name", ["", "v1"])
def test_it_measures_what_plain_forwards_measure(bank: Bank, name: str) -> None:
    found = forgetting.ability(bank, name, ITEMS, "key")
    encode = bank.tokenizer
    for index, item in enumerate(ITEMS[:3]):
        question = encode(f"Question: {item.question}\nAnswer:", add_special_tokens=False).input_ids
        rates = []
        for option in item.options:
            tail = encode(f" {option}", add_special_tokens=False).input_ids
            rates.append(spoken(bank, name, question + tail, len(question)) / len(option.encode()))
        assert found.correct[index] == (rates.index(max(rates)) == item.answer)
    for index, item in enumerate(ITEMS[3:]):
        tokens = [bank.tokenizer.bos_token_id, *encode(item.text, add_special_tokens=False).input_ids]
        size = len(item.text.encode())
        assert found.bytes[index] == size
        assert found.bits[index] == pytest.approx(-spoken(bank, name, tokens, 1) / math.log(2) / size, abs=1e-4)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_a_soft_prompt_is_in_force_too(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    from peft import PeftModel

    folder = make_adapter(tiny_model, tmp_path / kind, 3, kind, strength=1.0)
    model, tokenizer = base_model.load(base_model.reference(tiny_model, "fp32"), "cpu")
    opened = Bank(model, tokenizer, base_model.reference(tiny_model, "fp32"))
    opened.load("soft", folder)
    found = forgetting.ability(opened, "soft", ITEMS, "")
    assert found.bits != pytest.approx(forgetting.ability(opened, "", ITEMS, "").bits, abs=1e-3)
    reference = PeftModel.from_pretrained(model, str(folder)).eval()
    for index, item in enumerate(ITEMS[3:]):
        tokens = [tokenizer.bos_token_id, *tokenizer(item.text, add_special_tokens=False).input_ids]
        with torch.no_grad():
            values = reference(input_ids=torch.tensor([tokens])).logits[0, -len(tokens) :].double().log_softmax(-1)
        total = sum(float(values[place - 1, tokens[place]]) for place in range(1, len(tokens)))
        assert found.bits[index] == pytest.approx(-total / math.log(2) / len(item.text.encode()), abs=1e-4)


def test_base_and_candidate_are_paired_and_the_base_is_measured_once(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text("".join(json.dumps(msg) + "\n" for msg in map(as_dict, ITEMS)))
    spec = ForgettingSpec(path=str(path), cache=str(tmp_path / "cache.json"))
    seen: list[tuple[int, int]] = []
    first = forgetting.measure(bank, bank.ref, "v1", spec, lambda done, of: seen.append((done, of)))
    assert seen[-1] == (12, 12)
    assert (first.questions, first.passages) == (3, 3)
    assert first.bits != first.base_bits and first.bytes == forgetting.ability(bank, "", ITEMS, "").bytes
    seen.clear()
    second = forgetting.measure(bank, bank.ref, "v1", spec, lambda done, of: seen.append((done, of)))
    assert seen[-1] == (6, 6)
    assert second.base_bits == first.base_bits and second.bits == pytest.approx(first.bits, abs=1e-5)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"key": "another", "correct": [], "bits": [], "bytes": []}'])
def test_a_damaged_or_foreign_cache_is_measured_anew(bank: Bank, tmp_path: Path, damage: bytes) -> None:
    cache = tmp_path / "cache.json"
    cache.write_bytes(damage)
    spec = ForgettingSpec(questions=2, passages=1, cache=str(cache))
    result = forgetting.measure(bank, bank.ref, "v1", spec)
    assert len(result.base_correct) == 2 and len(result.base_bits) == 1
    assert json.loads(cache.read_bytes())["correct"] == result.base_correct


def test_another_suite_is_another_key(bank: Bank, tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    one = forgetting.measure(bank, bank.ref, "v1", ForgettingSpec(questions=3, passages=1, cache=str(cache)))
    two = forgetting.measure(bank, bank.ref, "v1", ForgettingSpec(questions=2, passages=1, cache=str(cache)))
    assert (one.questions, two.questions) == (3, 2) and len(two.base_correct) == 2


def test_the_base_has_forgotten_nothing_of_itself(bank: Bank) -> None:
    spec = ForgettingSpec(questions=5, passages=3)
    result = forgetting.measure(bank, bank.ref, "", spec)
    assert result.correct == result.base_correct and result.bits == pytest.approx(result.base_bits, abs=1e-6)


def test_the_built_in_suite_has_enough_and_its_answers_are_spread() -> None:
    items = forgetting.load_suite(ForgettingSpec())
    questions = [item for item in items if item.kind == "choice"]
    assert (len(questions), len(items) - len(questions)) == (120, 40)
    counts = [sum(item.answer == place for item in questions) for place in range(4)]
    assert min(counts) >= 15, counts


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind": "choice", "id": "x", "question": "?", "options": ["a", "b"], "answer": 2}\n',
        b'{"kind": "choice", "id": "x", "question": "?", "options": ["a"], "answer": 0}\n',
        b'{"kind": "riddle", "id": "x"}\n{"kind": "text", "id": "y", "text": "z"}\n',
        b'{"kind": "text", "id": "x", "text": "  "}\n',
        b"",
    ],
)
def test_a_malformed_suite_is_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_bytes(line)
    with pytest.raises(StepError):
        forgetting.load_suite(ForgettingSpec(path=str(path)))
    with pytest.raises(StepError, match="not there"):
        forgetting.load_suite(ForgettingSpec(path=str(tmp_path / "none.jsonl")))


def test_a_very_long_passage_is_cut_and_its_bytes_with_it(bank: Bank) -> None:
    result = forgetting.ability(bank, "", [Item(kind="text", id="long", text="word " * 3000)], "")
    assert isinstance(result, Ability) and result.bytes[0] < 15_000 and 0 < result.bits[0] < 20


def as_dict(item: Item) -> dict[str, object]:
    return {name: getattr(item, name) for name in ("kind", "id", "question", "options", "answer", "text")}
