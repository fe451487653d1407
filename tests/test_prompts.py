from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.baseline import choose, cost, score
from prompts.parse import parse_answer
from prompts.templates import Shot, choose_shots, read, render, resolve
from store.errors import InputError, SettingsError
from store.events import PromptScore
from store.prompting import PromptSpec

LABELS = ["urgent", "billing", "technical", "general"]
SHOTS = [Shot("paid twice", "billing"), Shot("it crashed", "technical")]


def test_the_library_renders_for_any_labels() -> None:
    names = resolve(["zero-shot", "few-shot", "chain-of-thought"])
    assert names == ["zero-shot@1", "zero-shot@2", "few-shot@1", "chain-of-thought@1"]
    digests = set()
    for name in names:
        spec = render(read(name), LABELS, about="support tickets", definitions={"urgent": "harm now"}, shots=SHOTS)
        for label in LABELS:
            assert label in spec.system
        assert "{" not in spec.system
        digests.add(spec.digest)
        turns = spec.messages("hello {labels} {text}", "billing")
        assert [turn.content for turn in turns[-2:]] == ["hello {labels} {text}", "billing"]
    assert len(digests) == len(names)


def test_zero_shot_is_short() -> None:
    spec = render(read("zero-shot@1"), LABELS, about="support tickets")
    assert len(spec.system.split()) < 30
    assert read("zero-shot").name == "zero-shot@2"


def test_the_digest_is_of_what_the_model_sees() -> None:
    template = read("few-shot@1")
    first = render(template, LABELS, shots=SHOTS)
    assert first.digest == render(template, LABELS, shots=list(SHOTS)).digest
    assert first.digest != render(template, LABELS, shots=SHOTS[:1]).digest
    assert first.digest != render(template, LABELS[:3], shots=SHOTS).digest
    assert [turn.role for turn in first.shots] == ["user", "assistant"] * 2
    other = [Shot(text="another customer's words", label=shot.label) for shot in SHOTS]
    assert first.digest == render(template, LABELS, shots=other).digest, "a digest of a short text can be guessed"


def test_places_are_filled_once() -> None:
    spec = render(read("zero-shot@2"), ["a", "b"], about="{labels}", definitions={"a": "{definitions} {text}"})
    assert "{labels}" in spec.system
    assert "a: {definitions} {text}" in spec.system


def test_long_labels_get_tokens() -> None:
    spec = render(read("zero-shot@1"), ["card_payment_wrong_exchange_rate", "b"])
    assert spec.max_tokens >= 16


def test_few_shot_without_examples_is_refused() -> None:
    with pytest.raises(SettingsError, match="labelled examples"):
        render(read("few-shot@1"), LABELS)


def test_unknown_and_broken_templates(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(["zero-shoot"])
    assert "zero-shot@1" in caught.value.hint
    (tmp_path / "mine@1.toml").write_text('system = "Hi {labels}"\nuser = "no place"\n')
    with pytest.raises(SettingsError, match="exactly once"):
        read("mine@1", tmp_path)
    (tmp_path / "mine@2.toml").write_text('sytem = "Hi"\n')
    with pytest.raises(SettingsError, match="no prompt template"):
        read("mine@2", tmp_path)
    (tmp_path / "mine@3.toml").write_text('system = "Hi {labels}"\nuser = "Text: {text}"\n')
    assert render(read("mine", tmp_path), LABELS).messages("x")[-1].content == "Text: x"


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=30), st.sampled_from(LABELS)), max_size=30),
    st.integers(0, 8),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_shots_are_balanced_and_repeatable(
    examples: list[tuple[str, str]], count: int, seed: int, random: object
) -> None:
    shots = [Shot(*example) for example in examples]
    chosen = choose_shots(shots, LABELS, count, seed)
    random.shuffle(shots)  # type: ignore[attr-defined]
    assert choose_shots(shots, LABELS, count, seed) == chosen
    assert len(chosen) <= count
    assert len({(shot.text, shot.label) for shot in chosen}) == len(chosen)
    present = {shot.label for shot in shots}
    if count >= len(present):
        assert {shot.label for shot in chosen} == present


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("They were charged twice, an urgent tone.\nLabel: billing", "billing"),
        ("billing\nNo wait, the app crashed.\n**Label:** technical.", "technical"),
        ("Label: urgent? Rather not.\nLabel: general", "general"),
        ("This looks urgent. It mentions billing.", None),
        ("The customer asks about money.\nbilling", "billing"),
        ("The customer was charged and this is", None),
        ("Label:", None),
        ("", None),
    ],
)
def test_reasoned_answers(raw: str, expected: str | None) -> None:
    prompt = PromptSpec(name="chain-of-thought@1", digest="d", system="s", reasoning=True)
    assert parse_answer(raw, prompt, LABELS) == expected


@given(st.text(max_size=200))
def test_an_answer_is_a_label_or_nothing(raw: str) -> None:
    for reasoning in (True, False):
        prompt = PromptSpec(name="p@1", digest="d", system="s", reasoning=reasoning)
        assert parse_answer(raw, prompt, LABELS) in (*LABELS, None)


def test_scoring_counts() -> None:
    answers = ["urgent", None] * 9 + ["billing", "urgent"]
    counted = score("p@1", answers, ["urgent", "billing"] * 10, 2.5)
    assert counted == PromptScore(prompt="p@1", correct=9, n=20, abstained=9, seconds=2.5)
    with pytest.raises(InputError):
        score("p@1", [], [], 0.0)


def test_the_best_prompt_is_chosen_and_ties_go_to_the_cheaper() -> None:
    def score(name: str, correct: int, abstained: int = 0) -> PromptScore:
        return PromptScore(prompt=name, correct=correct, n=20, abstained=abstained, seconds=1.0)

    prompts = {
        "a@1": PromptSpec(name="a@1", digest="", system="long " * 50),
        "b@1": PromptSpec(name="b@1", digest="", system="short"),
        "c@1": PromptSpec(name="c@1", digest="", system="short", reasoning=True, max_tokens=48),
    }
    assert cost(prompts["b@1"]) < cost(prompts["a@1"])
    assert choose([score("a@1", 15), score("b@1", 14), score("c@1", 2)], prompts)[0] == "a@1"
    name, reason = choose([score("a@1", 15), score("c@1", 15), score("b@1", 15)], prompts)
    assert name == "b@1"
    assert "cheaper" in reason
    assert choose([score("a@1", 15), score("b@1", 15, abstained=2)], prompts)[0] == "a@1"
    with pytest.raises(InputError):
        choose([], prompts)
