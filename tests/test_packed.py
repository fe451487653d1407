"""A packed micro-batch gives the loss and gradients of the padded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from conftest import make_tiny_model  # noqa: E402

from adapters import (  # noqa: E402
    attention,  # noqa: F401
    base_model,
)
from adapters.encode import encode  # noqa: E402
from adapters.packed import TREE, can_pack, label_log_likelihoods, pack  # noqa: E402
from store.prompting import Message, PromptSpec  # noqa: E402

PROMPT = PromptSpec(name="p@1", digest="", system="Classify the ticket. Answer: urgent, billing or general.")
TICKETS = [
    ("I was charged twice this month", "billing"),
    ("I was charged for a seat that nobody uses, please look", "billing"),
    ("everything is down, all of our shops!!", "urgent"),
    ("dark mode?", "general"),
    ("dark mode?", "general"),
]
GENERAL = [Message("user", "What is the capital of France?"), Message("assistant", "The capital of France is Paris.")]

sequences = st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=8), min_size=1, max_size=6)


@given(sequences)
@settings(deadline=None)
def test_a_token_sees_exactly_its_own_sequence(rows: list[list[int]]) -> None:
    packed = pack(rows, [1] * len(rows))
    mask = packed.mask()
    assert len(packed.tokens) <= sum(map(len, rows))
    for token in range(len(packed.tokens)):
        seen = torch.nonzero(mask[token]).flatten().tolist()
        assert packed.positions[seen].tolist() == list(range(len(seen)))
        assert seen[-1] == token
        branch = packed.tokens[seen].tolist()
        assert any(row[: len(branch)] == branch for row in rows)


@given(sequences)
@settings(deadline=None)
def test_everything_that_is_to_be_learned_is_there_once(rows: list[list[int]]) -> None:
    packed = pack(rows, [1] * len(rows))
    mask = packed.mask()
    learned: dict[int, list[int]] = {}
    for source, target, owner in zip(
        packed.sources.tolist(), packed.targets.tolist(), packed.owners.tolist(), strict=True
    ):
        seen = torch.nonzero(mask[source]).flatten()
        assert packed.tokens[seen].tolist() == rows[owner][: len(seen)]
        learned.setdefault(owner, []).append(target)
    assert learned == {index: row[1:] for index, row in enumerate(rows)}


def test_a_shared_prefix_lies_there_once() -> None:
    packed = pack([[7, 8, 9, 1], [7, 8, 9, 2, 3]], [3, 3])
    assert packed.tokens.tolist() == [7, 8, 9, 1, 2, 3]
    assert packed.positions.tolist() == [0, 1, 2, 3, 3, 4]
    assert packed.mask()[4].tolist() == [True, True, True, False, True, False]


def _with_lora(folder: Path, quantisation: Any) -> tuple[Any, Any]:
    from peft import LoraConfig, get_peft_model

    model, tokenizer = base_model.load(base_model.reference(folder, quantisation), "cpu", training=True)
    if quantisation == "nf4":  # 4-bit weights, computed with in fp32: then nothing is rounded on the way
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.float()
        for module in model.modules():
            if hasattr(module, "compute_dtype"):
                module.compute_dtype = torch.float32
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide the gradient of A
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train(), tokenizer


def _gradients(model: Any) -> Any:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    model.zero_grad()
    return found


def _padded(model: Any, rows: list[Any]) -> Any:
    width = max(len(row.tokens) for row in rows)
    ids = torch.full((len(rows), width), 2)
    labels = torch.full((len(rows), width), -100)
    seen = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row.tokens)] = torch.tensor(row.tokens)
        seen[index, : len(row.tokens)] = 1
        labels[index, row.start : len(row.tokens)] = torch.tensor(row.tokens[row.start :])
    return model(input_ids=ids, attention_mask=seen, labels=labels).loss


def _packed(model: Any, rows: list[Any], tree: bool = False) -> Any:
    packed = pack([row.tokens for row in rows], [row.start for row in rows])
    logits = model(**packed.inputs(tree=tree), use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), packed.targets)


FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
}


@pytest.fixture(scope="module", params=FAMILIES)
def model_of_a_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / request.param
    make_tiny_model(folder, family=request.param, **FAMILIES[request.param])
    return folder


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("with_general", [False, True])
@pytest.mark.parametrize("quantisation", ["fp32", "nf4"])
def test_loss_and_gradients_equal_the_padded_batch(
    model_of_a_family: Path, quantisation: str, with_general: bool, tree: bool
) -> None:
    model, tokenizer = _with_lora(model_of_a_family, quantisation)
    assert can_pack(model.get_base_model()) == ""
    rows = [encode(tokenizer, PROMPT.messages(text, label)) for text, label in TICKETS]
    if with_general:
        rows.append(encode(tokenizer, GENERAL))
    _assert_equal(model, rows, tree)


def _assert_equal(model: Any, rows: list[Any], tree: bool) -> None:
    loss = _padded(model, rows)
    loss.backward()
    expected = _gradients(model)
    if tree:
        model.set_attn_implementation(TREE)
    packed = _packed(model, rows, tree)
    packed.backward()
    found = _gradients(model)
    assert packed.item() == pytest.approx(loss.item(), rel=1e-5)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("quantisation", ["fp32", "nf4"])
def test_sequences_that_share_nothing_are_packed_too(model_of_a_family: Path, quantisation: str, tree: bool) -> None:
    model, tokenizer = _with_lora(model_of_a_family, quantisation)
    rows = [encode(tokenizer, GENERAL), encode(tokenizer, PROMPT.messages("hello", "general"))]
    rows = [type(row)(row.tokens[1 + index :], row.start - 1 - index, False) for index, row in enumerate(rows)]
    _assert_equal(model, rows, tree)


@pytest.mark.parametrize("implementation", ["sdpa", TREE])
def test_label_log_likelihoods_equal_one_sequence_per_label(tiny_model: Path, implementation: str) -> None:
    model, tokenizer = _with_lora(tiny_model, "fp32")
    prompts = [encode(tokenizer, PROMPT.messages(text)).tokens for text, _ in TICKETS]
    answers = [[20, 30, 2], [20, 2], [40, 2]]
    model.eval()
    expected = []
    for prompt in prompts:
        row = []
        for answer in answers:
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            row.append(sum(float(logits[p, t]) for p, t in zip(places, answer, strict=True)))
        expected.append(row)
    model.set_attn_implementation(implementation)
    for tokens in (1, 100, 10_000):
        found = label_log_likelihoods(model, prompts, answers, tokens=tokens)
        assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-4)
    alone = label_log_likelihoods(model, prompts, answers, packed=False)
    assert torch.allclose(torch.tensor(alone), torch.tensor(expected), atol=1e-4)
