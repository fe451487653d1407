"""Preferences and rewards: which examples, what falls back and why, the packed way's exactness, and each trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from train_world import LABELS, PROMPT, example, training_folder

from adapters.objectives import count, examples_for, settle
from adapters.specs import (
    BaseModelRef,
    Example,
    Message,
    Metric,
    TrainResult,
    TrainSpec,
    read_json,
    read_lines,
    write_lines,
)

GENERAL = Example(id="g", kind="general", messages=[Message("user", "2 + 2?"), Message("assistant", "4")])


def _spec(**changes: Any) -> TrainSpec:
    spec = TrainSpec(
        run_id="r1",
        task="tickets",
        adapter="tickets-v1",
        labels=LABELS,
        prompt=PROMPT,
        base=BaseModelRef(path="/nowhere", digest=""),
    )
    return msgspec.structs.replace(spec, **changes)


class TestExamples:
    MIXED = (
        example(1, "urgent", rejected="billing"),
        example(2, "billing"),
        example(3, "general", rejected="no label"),
        GENERAL,
    )

    def test_each_objective_takes_its_own(self) -> None:
        taken = {
            name: [one.id for one in examples_for(_spec(objective=name), self.MIXED)] for name in ("sft", "dpo", "grpo")
        }
        assert taken == {"sft": ["t1", "t2", "t3", "g"], "dpo": ["t1", "t2"], "grpo": ["t1", "t2", "t3"]}

    def test_confirmed_answers_hold_against_the_labels_they_were_mistaken_for(self) -> None:
        """Corrections alone teach that production's favourite label is wrong everywhere."""
        corrections = [
            example(1, "urgent", "billing"),
            example(2, "general", "billing"),
            example(3, "urgent", "billing"),
        ]
        confirmed = [example(number, "billing") for number in range(4, 8)] + [example(9, "general")]
        found = {one.id: one.rejected for one in examples_for(_spec(objective="dpo"), corrections + confirmed)}
        assert [found[f"t{number}"] for number in (1, 2, 3)] == ["billing"] * 3
        assert [found[f"t{number}"] for number in range(4, 8)] == ["urgent", "general", "urgent", "urgent"]
        assert found["t9"] == "billing"  # what stood for it when it was missed

    def test_too_few_corrections_are_trained_by_sft_with_the_reason(self) -> None:
        asked = _spec(objective="dpo", learning_rate=5e-5, init_adapter="/an/adapter", weight_decay=0.02, min_pairs=20)
        found = settle(asked, self.MIXED)
        assert (found.objective, found.init_adapter) == ("sft", "")
        assert found.notes == [
            "trained by sft instead of dpo: it needs 20 corrections of production's answers and there are 1"
        ]
        assert found.learning_rate == 2e-4  # sft's, where dpo's own stood
        assert found.weight_decay == 0.02

    def test_what_people_set_stays_when_it_falls_back(self) -> None:
        assert settle(_spec(objective="dpo", learning_rate=7e-5), self.MIXED).learning_rate == 7e-5
        own = settle(_spec(objective="dpo", learning_rate=5e-5, built_in=True), self.MIXED)
        assert (own.learning_rate, own.min_steps) == (1e-3, 120), "as the built-in model is trained by labels"

    def test_enough_corrections_stay_dpo(self) -> None:
        asked = _spec(objective="dpo", min_pairs=1)
        assert settle(asked, self.MIXED) == asked

    def test_rewards_need_two_classes(self) -> None:
        found = settle(_spec(objective="rloo"), [example(1, "urgent"), GENERAL])
        assert found.objective == "sft" and "two classes" in found.notes[0]

    def test_drawn_answers_count_in_batches(self) -> None:
        assert count(_spec(objective="grpo", generations=4), 10) == 40
        assert count(_spec(), 10) == 10


torch = pytest.importorskip("torch")

from peft import LoraConfig, get_peft_model  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from adapters import attention, base_model, registry, trainer  # noqa: E402, F401
from adapters.child import Stopping  # noqa: E402
from adapters.fused import pack_log_probs  # noqa: E402
from adapters.packed import TREE  # noqa: E402
from adapters.reinforce import RIGHT, VALID, draw, rewards  # noqa: E402
from adapters.train import train  # noqa: E402


def _tuned(folder: Path) -> Any:
    model, _ = base_model.load(base_model.reference(folder, "fp32"), "cpu", training=True)
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return tuned.train()


def _batch(side: str) -> dict[str, Any]:
    """Sequences padded as DPO ("right") or as GRPO and RLOO (prompts left, answers right) pad them."""
    prompts = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [5, 6, 10], [5, 6, 10], [40]]
    answers = [[20, 21, 2], [22, 2], [20, 21, 2], [20, 21, 2], [30]]
    rows, masks, labels = [], [], []
    if side == "right":
        width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        for prompt, answer in zip(prompts, answers, strict=True):
            blank = width - len(prompt) - len(answer)
            rows.append(prompt + answer + [2] * blank)
            masks.append([1] * (width - blank) + [0] * blank)
            labels.append([-100] * len(prompt) + answer + [-100] * blank)
    else:
        left, right = max(map(len, prompts)), max(map(len, answers))
        for prompt, answer in zip(prompts, answers, strict=True):
            before, after = left - len(prompt), right - len(answer)
            rows.append([2] * before + prompt + answer + [2] * after)
            masks.append([0] * before + [1] * (len(prompt) + len(answer)) + [0] * after)
            labels.append([-100] * left + answer + [-100] * after)
    return {
        name: torch.tensor(values)
        for name, values in (("input_ids", rows), ("attention_mask", masks), ("labels", labels))
    }


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("side", ["right", "both"])
def test_packed_log_probabilities_and_gradients_equal_trls(
    tiny_model: Path, side: str, tree: bool, temperature: float
) -> None:
    fields = ("log_probs", "entropy", "mean_logits", "log_sum_sq_probs", "is_top1")
    batch = _batch(side)
    weights = torch.rand(batch["labels"][:, 1:].shape, generator=torch.Generator().manual_seed(1))
    found = []
    for packed in (False, True):
        tuned = _tuned(tiny_model)
        base = tuned.get_base_model()
        add_fused_lm_head(base, temperature=temperature, outputs=fields)
        if packed:
            if tree:
                base.set_attn_implementation(TREE)
            pack_log_probs(base, tree=tree, temperature=temperature)
        output = tuned(**batch, fused_lm_head=True)
        (output.log_probs * weights).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in tuned.parameters() if p.grad is not None])
        found.append((output, gradient))
    (theirs, expected), (ours, gradient) = found
    for name in fields:
        assert torch.allclose(getattr(ours, name).float(), getattr(theirs, name).float(), atol=1e-4), name
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-4)


def test_answers_are_drawn_from_the_models_own_distribution(tiny_model: Path) -> None:
    """At a low temperature the draw is greedy; at 1 its first tokens come as often as the model says."""
    tuned = _tuned(tiny_model).eval()
    prompts = [[5, 6, 7, 8]] * 3 + [[9, 10]] * 2
    with torch.no_grad():
        drawn = draw(tuned, prompts, limit=4, ends={2}, temperature=1e-4)
        for prompt, answer in zip(prompts, drawn, strict=True):
            tokens = list(prompt)
            for token in answer:
                best = int(tuned(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
                assert token == best
                tokens.append(token)
        torch.manual_seed(0)
        first = [answer[0] for answer in draw(tuned, [[5, 6, 7, 8]] * 4000, limit=1, ends={2}, temperature=0.2)]
        shares = (tuned(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[0, -1] / 0.2).softmax(dim=-1)
    for token in shares.topk(3).indices.tolist():
        assert first.count(token) / 4000 == pytest.approx(float(shares[token]), abs=0.03)


def test_an_answer_ends_with_its_end_token(tiny_model: Path) -> None:
    tuned = _tuned(tiny_model).eval()
    with torch.no_grad():
        every = set(range(768)) - {5}
        torch.manual_seed(0)
        assert all(len(one) == 1 for one in draw(tuned, [[7, 8]] * 5, limit=6, ends=every, temperature=1.0))
        assert all(len(one) == 6 for one in draw(tuned, [[7, 8]] * 5, limit=6, ends=set(), temperature=1.0))


def test_only_the_exact_label_and_its_end_are_rewarded() -> None:
    right, valid = rewards(LABELS, {2})
    said = ["urgent", "billing", "urgent", "I think urgent", "", " urgent\n"]
    tokens = [[7, 2], [7, 2], [7], [7, 8, 2], [], [7, 2]]
    wanted = ["urgent"] * 6
    assert right(completions=said, completion_ids=tokens, label=wanted, prompts=[]) == [RIGHT, 0, 0, 0, 0, RIGHT]
    assert valid(completions=said, completion_ids=tokens, label=wanted, prompts=[]) == [VALID, VALID, 0, 0, 0, VALID]


@pytest.fixture(scope="module")
def undecided(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that answers with labels, as often with a wrong one as with the right one: all of the tiny model
    was trained on both."""
    options: dict[str, Any] = {"method": "full", "learning_rate": 5e-3, "max_steps": 90, "min_steps": 90, "samples": 0}
    folder = training_folder(
        tmp_path_factory.mktemp("undecided") / "r0", tiny_model, quantisation="fp32", eval_every=90, **options
    )
    rows = []
    for number in range(12):
        label, other = LABELS[number % 3], LABELS[(number + 1) % 3]
        one = example(number, label)
        rows += [one, msgspec.structs.replace(one, messages=PROMPT.messages(one.messages[1].content, other))]
    write_lines(folder / "train.jsonl", rows)
    train(folder, Stopping())
    return folder / "adapter"


@pytest.fixture(scope="module")
def start(undecided: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter that answers production, on that base."""
    folder = training_folder(
        tmp_path_factory.mktemp("start") / "r0",
        undecided,
        quantisation="fp32",
        max_steps=1,
        learning_rate=1e-4,
        samples=0,
    )
    train(folder, Stopping())
    return folder / "adapter"


OPTIONS: dict[str, Any] = {"quantisation": "fp32", "learning_rate": 5e-3, "rank": 8, "alpha": 16, "samples": 0}
DRAWN = {"generations": 8, "batch_size": 64, "micro_batch_size": 64}


@pytest.mark.parametrize(("objective", "changes"), [("dpo", {}), ("grpo", DRAWN), ("rloo", {**DRAWN, "beta": 0.02})])
def test_each_objective_improves_on_the_adapter_it_begins_from(
    undecided: Path, tmp_path: Path, stopping: Stopping, start: Path, objective: Any, changes: dict[str, Any]
) -> None:
    options = {**OPTIONS, "beta": 0.0 if objective == "grpo" else 0.1, "max_steps": 30, "eval_every": 30, **changes}
    folder = training_folder(tmp_path / "r1", undecided, objective=objective, init_adapter=str(start), **options)
    train(folder, stopping)
    result = read_json(folder / "result.json", TrainResult)
    assert (result.objective, result.steps, result.notes) == (objective, 30, [])
    info = registry.describe(folder / "adapter")
    assert info.kind == "LORA" and info.parameters == result.trainable_parameters
    assert not (folder / "adapter" / "ref").exists()
    before = read_json(start.parent / "result.json", TrainResult)
    assert before.eval_accuracy is not None and result.eval_accuracy is not None
    assert before.eval_accuracy <= 0.5 < 0.9 <= result.eval_accuracy
    lines = [line for line in read_lines(folder / "metrics.jsonl", Metric) if line.loss is not None]
    assert [line.step for line in lines] == list(range(1, 31))
    if objective == "dpo":
        assert lines[0].loss is not None and lines[-1].loss is not None
        assert lines[-1].loss < lines[0].loss
    else:
        gained = [sum(line.reward or 0.0 for line in part) / 5 for part in (lines[:5], lines[-5:])]
        assert gained[0] + 0.1 < gained[1] <= RIGHT + VALID


def test_dpo_begins_as_its_own_reference(undecided: Path, tmp_path: Path, stopping: Stopping, start: Path) -> None:
    options = {**OPTIONS, "max_steps": 1, "imitation": 0.0}
    folder = training_folder(tmp_path / "r1", undecided, objective="dpo", init_adapter=str(start), **options)
    train(folder, stopping)
    first = next(line.loss for line in read_lines(folder / "metrics.jsonl", Metric) if line.loss is not None)
    assert first == pytest.approx(0.6931, abs=1e-3)  # ln 2


@pytest.mark.parametrize("objective", ["dpo", "grpo"])
def test_stopped_it_goes_on_from_its_checkpoint(
    undecided: Path,
    tmp_path: Path,
    stopping: Stopping,
    start: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: Any,
) -> None:
    options = {**OPTIONS, "max_steps": 10, "generations": 4}
    folders = [
        training_folder(tmp_path / name, undecided, objective=objective, init_adapter=str(start), **options)
        for name in ("unharmed", "harmed")
    ]
    train(folders[0], stopping)
    seen: list[str] = []

    def reached(point: str) -> None:
        seen.append(point)
        stopping.asked = seen.count("train.step_done") == 6

    monkeypatch.setattr(trainer, "reached", reached)
    with pytest.raises(SystemExit):
        train(folders[1], stopping)
    monkeypatch.undo()
    stopping.asked = False
    train(folders[1], stopping)
    expected, found = (read_json(folder / "result.json", TrainResult) for folder in folders)
    assert found.resumed_from == 6
    assert found.steps == expected.steps
    assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-3, abs=1e-4)


def test_a_child_with_too_few_corrections_says_so_in_its_result(
    tiny_model: Path, tmp_path: Path, stopping: Stopping
) -> None:
    folder = training_folder(tmp_path / "r1", tiny_model, objective="dpo", min_pairs=200, max_steps=2, min_steps=1)
    train(folder, stopping)
    result = read_json(folder / "result.json", TrainResult)
    assert result.objective == "sft"
    assert "needs 200 corrections" in result.notes[0]
