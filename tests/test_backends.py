"""Training outside of the process: refusals, the contract with the command, axolotl's schema, several processes.

axolotl and unsloth need a GPU. Where a test runs their command, a stand-in of a few lines takes the place of the
package and says so; everything on our side of the command is real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from train_world import LABELS, PROMPT, training_folder

from adapters.backends import axolotl, commands, launched, unsloth
from adapters.child import Stopping, Unrecoverable
from adapters.combinations import processes, refusal
from adapters.specs import BaseModelRef, Example, Metric, TrainResult, TrainSpec, read_json, read_lines
from store.errors import StepError

ROOT = Path(__file__).parents[1]
AXOLOTL = os.environ.get("TUNELOOP_AXOLOTL_PYTHON", "")


def _spec(**changes: Any) -> TrainSpec:
    spec = TrainSpec(
        run_id="r1",
        task="tickets",
        adapter="tickets-v1",
        labels=LABELS,
        prompt=PROMPT,
        base=BaseModelRef(path="/models/base", digest=""),
    )
    return msgspec.structs.replace(spec, **changes)


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "key"),
        [
            ({"backend": "axolotl", "objective": "dpo"}, "backend"),
            ({"backend": "unsloth", "method": "ia3"}, "backend"),
            ({"backend": "unsloth", "dora": True}, "dora"),
            ({"backend": "unsloth", "launcher": "accelerate launch --num_processes 2"}, "launcher"),
            ({"launcher": "accelerate launch"}, "launcher"),
            ({"launcher": "accelerate launch --num_processes 3"}, "launcher"),
            ({"launcher": "accelerate 'launch"}, "launcher"),
        ],
    )
    def test_what_a_back_end_cannot_do_is_refused_with_its_key(self, changes: dict[str, Any], key: str) -> None:
        found = refusal(_spec(**changes), "nf4")
        assert found is not None and found.key == key and found.hint

    @pytest.mark.parametrize(
        ("words", "count"),
        [
            ("accelerate launch --num_processes 2 --cpu", 2),
            ("accelerate launch --num-processes=4", 4),
            ("torchrun --nproc_per_node 8 --standalone", 8),
            ("accelerate launch --config_file relative.yaml", None),
            ("accelerate launch --config_file /no/such/file.yaml", None),
            ("accelerate launch", 0),
            ("", 0),
        ],
    )
    def test_a_launcher_says_how_many_processes(self, words: str, count: int | None) -> None:
        assert processes(words) == count

    @pytest.mark.parametrize("words", ["--config_file {}", "--config-file={}", "--config_file {} --num_processes 4"])
    def test_accelerate_s_own_configuration_says_it_too(self, words: str, tmp_path: Path) -> None:
        file = tmp_path / "two-gpus.yaml"
        file.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 2  # GPUs\n")
        launcher = f"accelerate launch {words.format(file)}"
        assert processes(launcher) == (4 if "num_processes" in words else 2)
        assert refusal(_spec(launcher=launcher, batch_size=32, micro_batch_size=8), "nf4") is None
        refused = refusal(_spec(launcher=launcher, batch_size=8, micro_batch_size=8), "nf4")
        assert refused is not None and refused.key == "launcher"
        file.write_text("num_machines: 1\n")
        assert processes(f"accelerate launch --config_file {file}") == 0

    @pytest.mark.parametrize("backend", ["axolotl", "unsloth"])
    def test_without_a_gpu_it_is_refused_at_once_and_for_good(
        self, tiny_model: Path, tmp_path: Path, stopping: Stopping, monkeypatch: pytest.MonkeyPatch, backend: Any
    ) -> None:
        from adapters.train import train

        monkeypatch.setattr(commands, "gpu_there", lambda: False)
        folder = training_folder(tmp_path / "r1", tiny_model, backend=backend, backend_python=sys.executable)
        with pytest.raises(Unrecoverable, match=f"{backend} needs a GPU") as caught:
            train(folder, stopping)
        assert "trl" in caught.value.hint
        assert not (folder / "checkpoints").exists()

    @pytest.mark.parametrize("python", ["", "/no/such/python", sys.executable])
    def test_an_environment_without_the_package_is_told(self, python: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commands, "gpu_there", lambda: True)
        with pytest.raises(commands.ModelError) as caught:
            commands.check_environment("axolotl", python, "axolotl_is_not_here")
        assert "axolotl" in caught.value.hint


# ---------------------------------------------------------------- what the commands say


def test_axolotls_losses_are_read_from_its_lines() -> None:
    told = axolotl.metric("[INFO] {'loss': '0.6931', 'grad_norm': 1.5, 'learning_rate': '2e-04', 'epoch': 0.1}", 3, 60)
    assert told == Metric(step=3, of=60, loss=0.6931, grad_norm=1.5, learning_rate=2e-4, phase="train")
    assert axolotl.metric("{'train_runtime': 12.0, 'train_loss': 0.5, 'epoch': 1.0}", 3, 60) is None


@given(st.text())
def test_no_line_breaks_the_reader(line: str) -> None:
    for one in (line, "{" + line + "}", unsloth.MARK + line):
        axolotl.metric(one, 1, 2)
        unsloth.metric(one, 2)


def test_unsloths_steps_are_read_from_our_scripts_lines() -> None:
    assert unsloth.metric('tuneloop: {"step": 4, "loss": 1.5}', 60) == Metric(step=4, of=60, loss=1.5, phase="train")


def test_a_command_that_fails_is_told_with_its_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    with pytest.raises(StepError, match="code 7"):
        commands.run([sys.executable, "-c", "print('out of memory'); raise SystemExit(7)"], tmp_path, lines.append)
    assert lines == ["out of memory"]
    assert "out of memory" in capfd.readouterr().out


# ---------------------------------------------------------------- the contract, with a stand-in for the package


def _environment(root: Path, package: str, files: dict[str, str]) -> str:
    """An interpreter that finds a stand-in of `package` besides our libraries; returns its path."""
    for name, code in files.items():
        path = root / "site" / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(textwrap.dedent(code), encoding="utf-8")
    python = root / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{root / "site"}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return str(python)


AXOLOTL_STAND_IN = """
    # stands in for axolotl: reads its configuration and data, trains nothing, writes an adapter
    import json, os, shutil, sys
    from pathlib import Path

    config = json.loads(Path(sys.argv[1]).read_text())
    rows = [json.loads(line) for line in Path(config["datasets"][0]["path"]).read_text().splitlines()]
    assert all(set(row) == {"input_ids", "attention_mask", "labels"} for row in rows)
    assert os.environ["WANDB_MODE"] == "disabled"
    for step in range(config["max_steps"]):
        print({"loss": f"{2.0 - step / 10}", "grad_norm": 0.5, "learning_rate": "1e-4", "epoch": 0.1}, flush=True)
    output = Path(config["output_dir"])
    output.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(Path(os.environ["STAND_IN_ADAPTER"]) / name, output / name)
    (output / "README.md").write_text("a card of theirs")
"""
UNSLOTH_STAND_IN = """
    # stands in for unsloth: its two calls, by transformers and peft on the CPU
    class FastLanguageModel:
        @staticmethod
        def from_pretrained(model_name, max_seq_length, dtype, load_in_4bit, use_exact_model_name, random_state):
            from transformers import AutoModelForCausalLM, AutoTokenizer

            return AutoModelForCausalLM.from_pretrained(model_name), AutoTokenizer.from_pretrained(model_name)

        @staticmethod
        def get_peft_model(model, r, target_modules, lora_alpha, lora_dropout, use_rslora, random_state, **_):
            from peft import LoraConfig, get_peft_model

            return get_peft_model(model, LoraConfig(r=r, target_modules=target_modules, task_type="CAUSAL_LM"))
"""


@pytest.mark.parametrize("backend", ["axolotl", "unsloth"])
def test_a_run_folder_goes_in_and_an_adapter_of_ours_comes_out(
    tiny_model: Path, tmp_path: Path, stopping: Stopping, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    pytest.importorskip("torch")
    from adapter_world import make_adapter

    from adapters import registry
    from adapters.bank import Bank
    from adapters.train import train

    monkeypatch.setattr(commands, "gpu_there", lambda: True)
    monkeypatch.setenv("STAND_IN_ADAPTER", str(make_adapter(tiny_model, tmp_path / "theirs", 3)))
    files = {"cli/train.py": AXOLOTL_STAND_IN} if backend == "axolotl" else {"__init__.py": UNSLOTH_STAND_IN}
    python = _environment(tmp_path, backend, files)
    folder = training_folder(
        tmp_path / "r1", tiny_model, quantisation="bf16", backend=backend, backend_python=python, max_steps=6
    )
    train(folder, stopping)
    result = read_json(folder / "result.json", TrainResult)
    assert (result.steps, result.stopped) == (6, "steps")
    assert f"trained by {backend}" in result.notes[-1]
    assert result.eval_accuracy is not None and len(result.samples) == 2
    lines = [line for line in read_lines(folder / "metrics.jsonl", Metric) if line.loss is not None]
    assert [(line.step, line.of) for line in lines] == [(step, 6) for step in range(1, 7)]

    info = registry.describe(folder / "adapter")
    assert info.card is not None
    assert (info.card.quantisation, info.card.temperature) == ("bf16", result.temperature)
    assert sorted(file.name for file in (folder / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tuneloop.json",
    ]
    spec = read_json(folder / "spec.json", TrainSpec)
    Bank.open(spec.base, "cpu").load("v1", folder / "adapter")

    # the tokens are those of our own training
    from transformers import AutoTokenizer

    from adapters.encode import encode

    tokenizer = AutoTokenizer.from_pretrained(str(tiny_model))
    given = [json.loads(line) for line in (folder / "checkpoints/outside/tokens.jsonl").read_text().splitlines()]
    examples = read_lines(folder / "train.jsonl", Example)
    assert [row["input_ids"] for row in given] == [encode(tokenizer, one.messages).tokens for one in examples]
    assert all(row["labels"][-1] == row["input_ids"][-1] and row["labels"][0] == -100 for row in given)


def test_a_back_end_that_leaves_no_adapter_has_failed(
    tiny_model: Path, tmp_path: Path, stopping: Stopping, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.train import train

    monkeypatch.setattr(commands, "gpu_there", lambda: True)
    python = _environment(tmp_path, "axolotl", {"cli/train.py": "print('nothing to do')"})
    folder = training_folder(tmp_path / "r1", tiny_model, backend="axolotl", backend_python=python, max_steps=2)
    with pytest.raises(StepError, match="without an adapter"):
        train(folder, stopping)
    assert not (folder / "result.json").exists()


# ---------------------------------------------------------------- axolotl's own schema


SCHEMA = """
import json, sys
from axolotl.utils.schemas.config import AxolotlInputConfig

for text in json.load(sys.stdin):
    values = json.loads(text)
    unknown = sorted(set(values) - set(AxolotlInputConfig.model_fields))
    assert not unknown, unknown
    found = AxolotlInputConfig(**values)
    assert found.adapter == values["adapter"] and found.lora_r == values["lora_r"], found
    assert found.datasets[0].path == values["datasets"][0]["path"], found.datasets
print("valid")
"""


@pytest.mark.skipif(not AXOLOTL, reason="`make check-axolotl` makes an environment with axolotl for it")
def test_the_configuration_is_valid_by_axolotls_own_schema(tmp_path: Path) -> None:
    bf16 = BaseModelRef(path="/models/base", digest="", quantisation="bf16")
    specs = [
        _spec(),
        _spec(dora=True, targets="attention-min", gradient_checkpointing=True, dropout=0.05),
        _spec(method="lora", base=bf16, rslora=True, targets="attention", init_adapter="/adapters/v1"),
    ]
    texts = [
        axolotl.written(axolotl.config(one, 60, 6, tmp_path / "tokens.jsonl", tmp_path / "output", 2)) for one in specs
    ]
    done = subprocess.run(
        [AXOLOTL, "-c", SCHEMA], input=json.dumps(texts), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("valid")


def test_the_batch_is_shared_among_the_processes(tmp_path: Path) -> None:
    spec = _spec(batch_size=16, micro_batch_size=4)
    alone, two = (axolotl.config(spec, 60, 6, tmp_path / "t", tmp_path / "o", count) for count in (1, 2))
    assert (alone["gradient_accumulation_steps"], two["gradient_accumulation_steps"]) == (4, 2)


# ---------------------------------------------------------------- several processes


def test_two_processes_train_the_same_as_one(
    tiny_model: Path, tmp_path: Path, stopping: Stopping, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from adapters.train import train

    options: dict[str, Any] = {"quantisation": "fp32", "max_steps": 6, "samples": 2}
    alone = training_folder(tmp_path / "alone", tiny_model, **options)
    train(alone, stopping)
    words = "torchrun --nproc_per_node 2 --standalone"  # accelerate starts one process only on the CPU
    both = training_folder(tmp_path / "both", tiny_model, launcher=words, **options)
    train(both, stopping)
    expected, found = (read_json(folder / "result.json", TrainResult) for folder in (alone, both))
    assert found.steps == expected.steps
    curves = [
        [line.loss for line in read_lines(folder / "metrics.jsonl", Metric) if line.loss is not None]
        for folder in (alone, both)
    ]
    assert len(curves[1]) == 6
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert found.temperature == pytest.approx(expected.temperature, rel=1e-3)
    assert list((both / "checkpoints").glob("checkpoint-5/COMPLETE"))


def test_a_launcher_that_starts_too_few_is_told_and_not_started_again(
    tiny_model: Path, tmp_path: Path, stopping: Stopping
) -> None:
    from adapters.train import train

    words = "accelerate launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    folder = training_folder(tmp_path / "r1", tiny_model, launcher=words)
    with pytest.raises(Unrecoverable, match="started 1 processes instead of 2"):
        train(folder, stopping)


def test_what_a_rank_could_say_of_its_failure_is_told(tiny_model: Path, tmp_path: Path, stopping: Stopping) -> None:
    script = tmp_path / "launch.py"
    script.write_text(
        "import sys; from pathlib import Path; folder = Path(sys.argv[-1])\n"
        'folder.joinpath("error.json").write_text(\'{"message": "out of memory"}\')\nsys.exit(3)\n'
    )
    folder = training_folder(tmp_path / "r1", tiny_model, launcher=f"{sys.executable} {script} --num_processes 2")
    with pytest.raises(StepError, match="out of memory"):
        launched.train(folder, read_json(folder / "spec.json", TrainSpec))
