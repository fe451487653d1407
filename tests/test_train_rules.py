"""The pure rules of training: how long, when to stop, what is refused, how warm the probabilities."""

from __future__ import annotations

import itertools
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import methods
from adapters.calibration import temperature
from adapters.child import Journal, Threads
from adapters.specs import BaseModelRef, Metric, PromptSpec, TrainSpec, read_lines
from adapters.train import plan
from store.errors import ModelError, SettingsError


def _spec(**changes: Any) -> TrainSpec:
    spec = TrainSpec(
        run_id="r1",
        task="tickets",
        adapter="tickets-v1",
        labels=["billing", "general"],
        prompt=PromptSpec(name="p@1", digest="", system="Classify."),
        base=BaseModelRef(path="/nowhere", digest="sha256-0"),
    )
    return msgspec.structs.replace(spec, **changes)


class TestPlan:
    def test_few_examples_get_the_minimum_of_steps_and_it_is_said(self) -> None:
        planned = plan(_spec(), 48)
        assert (planned.steps, planned.an_epoch, planned.epoch_cap_exceeded) == (60, 3, True)
        assert planned.epochs == 20

    def test_many_examples_get_their_epochs(self) -> None:
        planned = plan(_spec(), 1000)
        assert (planned.steps, planned.epoch_cap_exceeded) == (189, False)

    def test_never_more_than_the_maximum(self) -> None:
        assert plan(_spec(max_steps=10), 1000).steps == 10

    @given(examples=st.integers(1, 5000), micro=st.sampled_from([1, 2, 4, 8, 16]), epochs=st.floats(0.1, 10))
    def test_within_its_bounds(self, examples: int, micro: int, epochs: float) -> None:
        spec = _spec(micro_batch_size=micro, epochs=epochs)
        planned = plan(spec, examples)
        assert min(spec.min_steps, spec.max_steps) <= planned.steps <= spec.max_steps
        allowed = min(epochs, 3) if examples < 1000 else epochs
        assert planned.epoch_cap_exceeded == (planned.steps > math.ceil(allowed * planned.an_epoch))

    def test_more_than_three_epochs_of_few_examples_are_warned_of(self) -> None:
        forced = plan(_spec(epochs=5, min_steps=1), 999)
        assert forced.epoch_cap_exceeded and "5 epochs over 999 examples" in forced.notes[0]
        for planned in (plan(_spec(epochs=5, min_steps=1), 1000), plan(_spec(epochs=3, min_steps=1), 999)):
            assert not planned.epoch_cap_exceeded and not planned.notes


class TestSteering:
    def _after(self, accuracies: list[float], **options: int) -> Any:
        from adapters.trainer import Steering, steer

        now = Steering()
        for index, accuracy in enumerate(accuracies, 1):
            now = steer(now, 10 * index, accuracy, 1 / index, **{"patience": 3, "earliest": 0, **options})
            if now.stopped:
                break
        return now

    def test_it_stops_when_accuracy_has_stopped_rising(self) -> None:
        now = self._after([0.5, 0.7, 0.7, 0.6, 0.7, 0.9])
        assert now.stopped
        assert now.best_accuracy == 0.7

    def test_at_equal_accuracy_the_lower_loss_is_kept(self) -> None:
        assert self._after([0.7, 0.7, 0.6]).best_step == 20

    def test_the_first_steps_do_not_count_as_waiting(self) -> None:
        assert not self._after([0.5, 0.5, 0.5, 0.5, 0.9], earliest=40).stopped

    @given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=12))
    def test_the_best_is_the_best_seen(self, accuracies: list[float]) -> None:
        now = self._after(accuracies, patience=99)
        assert now.best_accuracy == max(accuracies)


class TestRunaway:
    def test_a_loss_that_doubles_is_divergence(self) -> None:
        from adapters.trainer import runaway

        assert "rose" in runaway([1.0] * 10 + [3.0] * 5, warmup=2)

    @pytest.mark.parametrize("losses", [[9.0, 5.0, 2.0, 1.0, 0.5] * 3, [0.01] * 10 + [0.3] * 5, [1.0, 50.0]])
    def test_ordinary_losses_are_not(self, losses: list[float]) -> None:
        from adapters.trainer import runaway

        assert runaway(losses, warmup=2) == ""


class TestMethods:
    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"method": "full"}, "method: .*4-bit"),
            ({"method": "lora"}, "method: .*QLoRA"),
            ({"base": BaseModelRef(path="/nowhere", digest="", quantisation="bf16")}, "method: .*4-bit base"),
            ({"method": "prefix", "gradient_checkpointing": True}, "gradient_checkpointing: "),
            ({"method": "prompt", "dora": True}, "dora: "),
            ({"method": "ia3", "rslora": True}, "rslora: "),
            ({"method": "ia3", "targets": "attention-min"}, "targets: .*never queries"),
            ({"method": "ia3", "objective": "dpo"}, "objective: "),
            ({"method": "prompt", "objective": "grpo"}, "objective: "),
            ({"batch_size": 16, "micro_batch_size": 5}, "micro_batch_size: "),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_is_loaded(self, changes: dict[str, Any], word: str) -> None:
        with pytest.raises(SettingsError, match=word) as caught:
            methods.check(_spec(**changes))
        assert caught.value.hint

    def test_an_adapter_to_start_from_must_be_there(self) -> None:
        with pytest.raises(ModelError, match="no adapter"):
            methods.check(_spec(init_adapter="/no/adapter"))

    def test_a_record_claims_no_setting_that_was_not_used(self) -> None:
        assert "rank" in methods.unused(_spec(method="prompt"))
        assert "virtual_tokens" not in methods.unused(_spec(method="prompt"))
        assert not {"rank", "targets"} & methods.unused(_spec())

    def test_the_defaults_are_the_documents(self) -> None:
        spec = _spec()
        methods.check(spec)
        config = methods.peft_config(spec)
        assert (config.r, config.lora_alpha, config.target_modules) == (16, 32, "all-linear")
        small = methods.peft_config(_spec(targets="attention-min"))
        assert small.target_modules == {"q_proj", "v_proj"}


class TestTemperature:
    @staticmethod
    def _draw(n: int, heat: float, seed: int = 0) -> tuple[list[list[float]], list[int]]:
        """Scores whose softmax at temperature `heat` are the true shares."""
        chance = random.Random(seed)  # noqa: S311
        scores, targets = [], []
        for _ in range(n):
            row = [chance.gauss(0, 2) for _ in range(4)]
            shares = [math.exp(value) for value in row]
            targets.append(chance.choices(range(4), shares)[0])
            scores.append([value * heat for value in row])
        return scores, targets

    @pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
    def test_many_examples_give_the_true_one(self, heat: float) -> None:
        assert temperature(*self._draw(2000, heat)) == pytest.approx(heat, rel=0.15)

    def test_ten_right_answers_do_not_make_certainty(self) -> None:
        scores = [[0.0, -8.0, -9.0, -9.0]] * 10
        assert temperature(scores, [0] * 10) >= 1.0

    def test_nothing_to_fit_on_is_one(self) -> None:
        assert temperature([], []) == 1.0

    @given(st.integers(4, 30), st.integers(0, 5))
    def test_it_is_always_a_usable_number(self, n: int, seed: int) -> None:
        assert 0.04 < temperature(*self._draw(n, 2.0, seed)) < 21


class TestChild:
    def test_an_interrupted_attempts_lines_beyond_the_checkpoint_are_dropped(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path)
        for step in range(1, 8):
            journal.write(Metric(step=step, of=10, loss=1.0 / step, phase="train"))
        again = Journal(tmp_path, resume_at=4)
        again.write(Metric(step=5, of=10, loss=0.2))
        lines = read_lines(tmp_path / "metrics.jsonl", Metric)
        assert [line.step for line in lines] == [1, 2, 3, 4, 5]
        assert all(one.seconds <= other.seconds for one, other in itertools.pairwise(lines))

    def test_one_thread_while_production_is_answered(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        before = torch.get_num_threads()
        folder = tmp_path / "runs" / "r1"
        folder.mkdir(parents=True)
        busy = tmp_path / "serving.busy"
        threads = Threads(folder, 2)
        try:
            assert threads.adjust() == 2
            busy.touch()
            assert threads.adjust() == 1
            assert torch.get_num_threads() == 1
            os.utime(busy, (time.time() - 10,) * 2)
            assert threads.adjust() == 2
        finally:
            torch.set_num_threads(before)
