"""Scores over a kept prefix and a label tree against one plain forward per text and label."""

from __future__ import annotations

import functools
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from adapter_world import make_adapter  # noqa: E402
from conftest import make_tiny_model  # noqa: E402

from adapters import base_model  # noqa: E402
from adapters.bank import Bank  # noqa: E402
from adapters.encode import encode  # noqa: E402
from adapters.score_pack import Feed, Pack  # noqa: E402
from adapters.scoring import PACK_TOKENS, Scorer  # noqa: E402
from adapters.specs import BaseModelRef  # noqa: E402
from store.errors import ArtifactError, ModelError  # noqa: E402
from store.prompting import Message, PromptSpec  # noqa: E402

LABELS = ["urgent", "billing", "bill", "technical", "tech support", "general"]
TEXTS = [
    "I was charged twice",
    "x",
    "",
    "\n\nnew lines first",
    "the app crashes whenever I open the report of last month and then nothing helps at all",
    "{text} is not a template",
    "émigré 日本語 🙂",
    " leading space",
    "what are your opening hours? " * 6,
]
PROMPT = PromptSpec(
    name="few-shot@1",
    digest="d",
    system="Classify the ticket as urgent, billing, technical or general. Reply with the label only.",
    user="Ticket: {text}",
    shots=[Message("user", "Ticket: my card was refused"), Message("assistant", "billing")],
    max_tokens=6,
)
BARE = PromptSpec(name="bare@1", digest="b", system="", user="{text}")


@pytest.fixture(scope="module")
def bank(tiny_model: Path) -> Bank:
    return open_bank(tiny_model)


def open_bank(tiny_model: Path) -> Bank:
    return Bank.open(base_model.reference(tiny_model, "fp32"), "cpu")


def plain_scores(model: object, tokenizer: object, prompt: PromptSpec, text: str) -> dict[str, float]:
    """One sequence per label through the model as anybody would do it."""
    scores = {}
    for label in LABELS:
        one = encode(tokenizer, prompt.messages(text, label))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([one.tokens])).logits[0].double()  # type: ignore[operator]
        logits = logits[-len(one.tokens) :].log_softmax(-1)  # prompt tuning answers for its virtual tokens too
        places = range(one.start, len(one.tokens))
        scores[label] = sum(float(logits[place - 1, one.tokens[place]]) for place in places)
    return scores


@pytest.mark.parametrize("prompt", [PROMPT, BARE])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_the_tree_equals_one_sequence_per_label(bank: Bank, prompt: PromptSpec, batch_size: int) -> None:
    scored = Scorer(bank).score("", prompt, TEXTS, LABELS, batch_size=batch_size)
    for text, one in zip(TEXTS, scored, strict=True):
        expected = plain_scores(bank.model, bank.tokenizer, prompt, text)
        assert one.label == max(expected, key=lambda label: expected[label])
        assert max(abs(one.scores[label] - expected[label]) for label in LABELS) < 1e-4
        assert sum(one.probabilities(0.7).values()) == pytest.approx(1.0)


@pytest.mark.parametrize("tolerance", [1e-4, 0.05, 0.5])
def test_branches_that_cannot_matter_are_left_out_within_the_tolerance(bank: Bank, tolerance: float) -> None:
    scorer = Scorer(bank)
    for temperature in (0.02, 0.5, 2.0):  # the tiny model's scores are close together: a low one makes it sure
        whole = scorer.score("", PROMPT, TEXTS, LABELS)
        some = scorer.score("", PROMPT, TEXTS, LABELS, temperature=temperature, tolerance=tolerance, batch_size=2)
        for one, other in zip(whole, some, strict=True):
            assert one.label == other.label
            assert all(other.scores[label] >= one.scores[label] - 1e-4 for label in LABELS)
            exact, found = one.probabilities(temperature), other.probabilities(temperature)
            assert max(abs(exact[label] - found[label]) for label in LABELS) <= tolerance + 1e-3
        if temperature < 0.1 and tolerance >= 0.05:
            assert any(one.scores[label] < other.scores[label] - 1e-3 for one, other in zip(whole, some, strict=True)
                       for label in LABELS)  # fmt: skip


@pytest.mark.parametrize("implementation", ["rows", "mask"])
def test_with_and_without_an_attention_by_rows(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, implementation: str
) -> None:
    if implementation == "mask":  # as for an architecture that is not known to take our attention
        monkeypatch.setattr("adapters.packed.PACKABLE", frozenset())
    bank = open_bank(tiny_model)
    scored = Scorer(bank).score("", PROMPT, TEXTS, LABELS, batch_size=4, tolerance=1e-6)
    assert (bank.model.config._attn_implementation == "sdpa") is (implementation == "mask")
    for text, one in zip(TEXTS, scored, strict=True):
        expected = plain_scores(bank.model, bank.tokenizer, PROMPT, text)
        assert max(abs(one.scores[label] - expected[label]) for label in LABELS) < 1e-4


@pytest.mark.parametrize("tolerance", [0.0, 1e-6])
@pytest.mark.parametrize(("family", "more"), [("qwen2", {}), ("qwen3", {"head_dim": 16}), ("gemma", {"head_dim": 16})])
def test_the_tree_is_as_exact_on_other_families(
    tmp_path: Path, family: str, more: dict[str, object], tolerance: float
) -> None:
    make_tiny_model(tmp_path / family, family=family, **more)
    other = open_bank(tmp_path / family)
    for text, one in zip(TEXTS, Scorer(other).score("", PROMPT, TEXTS, LABELS, tolerance=tolerance), strict=True):
        expected = plain_scores(other.model, other.tokenizer, PROMPT, text)
        assert one.label == max(expected, key=lambda label: expected[label])
        assert max(abs(one.scores[label] - expected[label]) for label in LABELS) < 1e-4


@pytest.mark.parametrize("tolerance", [0.0, 1e-6])  # in production nodes are read after their text
@pytest.mark.parametrize("kind", ["lora", "ia3", "prompt", "prefix"])
def test_every_kind_of_adapter_scores_as_peft_itself_answers(
    tiny_model: Path, tmp_path: Path, kind: str, tolerance: float
) -> None:
    from peft import PeftModel

    folder = make_adapter(tiny_model, tmp_path / kind, 3, kind)
    model, tokenizer = base_model.load(base_model.reference(tiny_model, "fp32"), "cpu")
    reference = PeftModel.from_pretrained(model, str(folder)).eval()
    bank = open_bank(tiny_model)
    bank.load("tickets-v1", folder)
    base = Scorer(bank).score("", PROMPT, TEXTS[:3], LABELS)
    tuned = Scorer(bank).score("tickets-v1", PROMPT, TEXTS[:3], LABELS, tolerance=tolerance)
    for text, one, other in zip(TEXTS[:3], tuned, base, strict=True):
        expected = plain_scores(reference, tokenizer, PROMPT, text)
        assert max(abs(one.scores[label] - expected[label]) for label in LABELS) < 1e-4
        assert max(abs(one.scores[label] - other.scores[label]) for label in LABELS) > 1e-3


@pytest.mark.parametrize("quantisation", ["fp32", "nf4"])
def test_adapters_of_all_kinds_share_one_base_and_do_not_disturb_each_other(
    quantisation: Any, tiny_model: Path, tmp_path: Path
) -> None:
    bank = Bank.open(base_model.reference(tiny_model, quantisation), "cpu")
    scorer = Scorer(bank)

    def scores(name: str) -> dict[str, float]:
        return scorer.score(name, PROMPT, TEXTS[:1], LABELS)[0].scores

    alone = {"": scores("")}
    for seed, (name, kind) in enumerate(
        [("a.1", "lora"), ("lora_", "lora"), ("soft", "prompt"), ("i", "ia3"), ("p", "prefix")]
    ):
        bank.load(name, make_adapter(tiny_model, tmp_path / name, seed, kind))
        alone[name] = scores(name)
    alike = pytest.approx if quantisation == "fp32" else functools.partial(pytest.approx, rel=1e-4)
    assert not any(one == alike(other) for one, other in itertools.combinations(alone.values(), 2))
    for name in ["a.1", "i", "", "lora_", "p", "soft", "a.1", "", "i"]:
        again = Scorer(bank).score(name, PROMPT, TEXTS[:1], LABELS)[0].scores
        assert again == alike(alone[name]), name
    bank.unload("a.1")
    bank.unload("i")
    assert bank.names == ["lora_", "soft", "p"]
    for name in ["lora_", "", "soft", "p"]:
        again = Scorer(bank).score(name, PROMPT, TEXTS[:1], LABELS)[0].scores
        assert again == alike(alone[name]), name
    with pytest.raises(ArtifactError, match=r"no adapter 'a\.1'"):
        bank.unload("a.1")
    with pytest.raises(ArtifactError, match=r"no adapter 'a\.1'"):
        Scorer(bank).score("a.1", PROMPT, TEXTS[:1], LABELS)


def test_an_adapter_that_does_not_fit_is_refused_and_the_others_stay(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    good = make_adapter(tiny_model, tmp_path / "good", 1)
    bank = open_bank(tiny_model)
    for loaded_before in (False, True):
        if loaded_before:
            bank.load("good", good)
        before = Scorer(bank).score(bank.names[0] if bank.names else "", PROMPT, TEXTS[:1], LABELS)[0].scores
        weights = load_file(str(good / "adapter_model.safetensors"))
        first = next(iter(weights))
        broken = {
            "shape": {**weights, first: weights[first][:, :-1].contiguous()},
            "missing": {name: value for name, value in weights.items() if name != first},
            "extra": {**weights, "base_model.model.nowhere.lora_A.weight": weights[first].clone()},
        }
        for name, tensors in broken.items():
            folder = tmp_path / f"{name}{loaded_before}"
            shutil.copytree(good, folder)
            save_file(tensors, str(folder / "adapter_model.safetensors"))
            with pytest.raises(ArtifactError, match="does not fit"):
                bank.load(name, folder)
        after = Scorer(bank).score(bank.names[0] if bank.names else "", PROMPT, TEXTS[:1], LABELS)[0].scores
        assert after == pytest.approx(before, abs=1e-6)
    with pytest.raises(ArtifactError, match="already"):
        bank.load("good", good)
    with pytest.raises(ArtifactError, match="needs a name"):
        bank.load("", good)


def test_greedy_generation_equals_the_library_s(bank: Bank) -> None:
    generated = Scorer(bank).generate("", PROMPT, TEXTS, max_tokens=12, batch_size=4)
    for text, one in zip(TEXTS, generated, strict=True):
        tokens = encode(bank.tokenizer, PROMPT.messages(text)).tokens
        with torch.no_grad():
            written = bank.model.generate(torch.tensor([tokens]), max_new_tokens=12, do_sample=False, pad_token_id=2)
        new = written[0, len(tokens) :].tolist()
        assert one.tokens == len(new)
        assert one.text == bank.tokenizer.decode(new, skip_special_tokens=True)
        assert one.finished == (new[-1] == bank.tokenizer.eos_token_id)


def test_details_and_sampling(bank: Bank) -> None:
    scorer = Scorer(bank)
    (one,) = scorer.generate("", PROMPT, TEXTS[:1], max_tokens=3, top=5)
    assert len(one.details) == one.tokens and all(len(token.top) == 5 for token in one.details)
    assert all(token.log_probability == pytest.approx(token.top[0][1]) for token in one.details)
    hot = [scorer.generate("", PROMPT, TEXTS[:1], temperatures=[5.0], seed=seed)[0].text for seed in (1, 1, 2, 3)]
    assert hot[0] == hot[1] and len(set(hot)) > 1


@pytest.mark.parametrize("tolerance", [0.0, 0.02])
def test_no_forward_is_larger_than_the_working_memory_allows(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, tolerance: float
) -> None:
    labels = [f"{word} {number}" for number in range(20) for word in LABELS]  # a tree of far more nodes than fit
    wide = Scorer(bank).score("", PROMPT, TEXTS, labels, tolerance=tolerance)
    fed: list[int] = []
    take = Pack.take

    def counted(self: Pack, *arguments: Any, **options: Any) -> Feed:
        feed = take(self, *arguments, **options)
        fed.append(len(feed.rows))
        return feed

    monkeypatch.setattr(Pack, "take", counted)
    Scorer(bank).score("", PROMPT, TEXTS, labels, tolerance=tolerance)
    assert max(fed) <= PACK_TOKENS and sum(fed) > 2 * PACK_TOKENS
    fed.clear()
    narrow = Scorer(bank, memory_mb=1).score("", PROMPT, TEXTS, labels, tolerance=tolerance)
    longest = max(one.prompt_tokens for one in narrow)
    assert max(fed) <= longest  # a single text has to fit
    for one, other in zip(wide, narrow, strict=True):
        assert one.label == other.label
        if not tolerance:  # else what is read depends on what was read before
            assert one.scores == pytest.approx(other.scores, abs=1e-4)


def test_a_label_may_be_nearly_as_long_as_the_context(bank: Bank) -> None:
    long = "🙂🎉" * 110  # each of several tokens, in a context of 1,024
    for tolerance in (0.0, 0.02):
        (one,) = Scorer(bank, max_length=4096).score("", BARE, ["hello"], [long, "b"], tolerance=tolerance)
        assert one.label == "b"
    (one,) = Scorer(bank).score("", BARE, ["hello"], ["only"], tolerance=0.02)
    assert one.probabilities() == {"only": 1.0}


def test_a_long_text_is_shortened_and_a_long_prompt_refused(bank: Bank) -> None:
    scorer = Scorer(bank, max_length=120)
    long, short = scorer.score("", PROMPT, ["word " * 2000, "short"], LABELS)
    assert long.shortened and not short.shortened and long.prompt_tokens <= 120
    with pytest.raises(ModelError, match="prompt alone"):
        Scorer(bank, max_length=30).score("", PROMPT, ["word " * 2000], LABELS)


def test_a_text_is_shortened_to_a_sliding_window(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "m", family="mistral", sliding_window=96)
    other = open_bank(tmp_path / "m")
    texts = ["word " * 100, "short"]
    long, short = Scorer(other).score("", BARE, texts, LABELS)
    assert long.shortened and long.prompt_tokens < 96 and not short.shortened
    expected = plain_scores(other.model, other.tokenizer, BARE, "short")
    assert max(abs(short.scores[label] - expected[label]) for label in LABELS) < 1e-4


def test_progress_and_nothing_to_do(bank: Bank) -> None:
    seen: list[tuple[int, int]] = []
    Scorer(bank).score("", BARE, TEXTS, LABELS, batch_size=4, on_progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (len(TEXTS), len(TEXTS)) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert Scorer(bank).score("", BARE, [], LABELS) == []
    assert Scorer(bank).generate("", BARE, []) == []


def test_kept_prefixes_are_used_again_and_the_oldest_goes(bank: Bank) -> None:
    scorer = Scorer(bank, prefixes=2)
    for _ in range(2):
        scorer.score("", PROMPT, TEXTS[:1], LABELS)
        scorer.score("", BARE, TEXTS[:1], LABELS)
    kept = scorer._prefixes
    first = kept.of("", PROMPT)
    assert len(kept) == 2 and len(first.tokens) > 20
    third = PromptSpec(name="third@1", digest="t", system="Other rules.")
    scorer.score("", third, TEXTS[:1], LABELS)
    assert len(kept) == 2 and kept.of("", PROMPT) is first
    scorer.forget("")
    assert not kept


def test_an_adapter_of_another_base_or_quantisation_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from adapters.registry import AdapterCard, write_card

    folder = make_adapter(tiny_model, tmp_path / "a", 1)
    bank = open_bank(tiny_model)
    right = AdapterCard(base_digest=bank.ref.digest, quantisation="fp32", prompt="few-shot@1", temperature=1.5)
    write_card(folder, right)
    bank.load("right", folder)
    assert bank.card("right") == right and bank.card("") is None
    for wrong in ({"base_digest": "sha256-0"}, {"quantisation": "nf4"}):
        write_card(
            folder, AdapterCard(**{"base_digest": bank.ref.digest, "quantisation": "fp32", "prompt": ""} | wrong)
        )
        with pytest.raises(ArtifactError, match="trained on"):
            bank.load("wrong", folder)


def test_the_reference_of_an_unknown_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        Bank.open(BaseModelRef(path=str(tmp_path), digest="", quantisation="fp32"))
