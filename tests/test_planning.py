"""Memory plans against the document's tables and a measured training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.planning import Shape, memory, read_shape, trainable_parameters
from adapters.specs import BaseModelRef, PromptSpec, TrainSpec
from store.errors import ModelError

LLAMA = {
    "7B": Shape(hidden=4096, layers=32, heads=32, kv_heads=32, head_dim=128, intermediate=11008, vocabulary=32000),
    "13B": Shape(hidden=5120, layers=40, heads=40, kv_heads=40, head_dim=128, intermediate=13824, vocabulary=32000),
    "34B": Shape(hidden=8192, layers=48, heads=64, kv_heads=8, head_dim=128, intermediate=22016, vocabulary=32000),
    "70B": Shape(hidden=8192, layers=80, heads=64, kv_heads=8, head_dim=128, intermediate=28672, vocabulary=32000),
}
# the document's table in GB; its LoRA cells for 34B (60) and 70B (120) lie below the 16-bit weights alone
TABLE = {
    "full": {"7B": 56, "13B": 104, "34B": 272, "70B": 560},
    "lora": {"7B": 17, "13B": 28},
    "qlora": {"7B": 9, "13B": 14, "34B": 24, "70B": 40},
}
TOKENS = 4 * 512  # of the table's micro-batch: our reading, it does not say


def spec(method: str, **more: object) -> TrainSpec:
    quantisation = "nf4" if method == "qlora" else "bf16"
    base = BaseModelRef(path="", digest="", quantisation=quantisation)  # type: ignore[arg-type]
    values = {
        "run_id": "r", "task": "t", "adapter": "a", "labels": ["x", "y"], "base": base, "method": method,
        "prompt": PromptSpec(name="p@1", digest="", system="s"), **more,
    }  # fmt: skip
    return TrainSpec(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "size"), [(m, s) for m, sizes in TABLE.items() for s in sizes])
def test_the_document_s_tables_are_met_within_15_percent(method: str, size: str) -> None:
    planned = memory(LLAMA[size], spec(method, gradient_checkpointing=True), TOKENS, gpu=True, usual=True).total / 1e9
    assert planned == pytest.approx(TABLE[method][size], rel=0.15)


def test_the_tables_lora_cells_for_the_largest_models_are_less_than_their_weights() -> None:
    assert 2 * LLAMA["34B"].parameters / 1e9 > 60 and 2 * LLAMA["70B"].parameters / 1e9 > 120


def test_a_plan_of_full_fine_tuning_counts_16_bytes_a_parameter() -> None:
    planned = memory(LLAMA["7B"], spec("full"), TOKENS)
    assert planned.weights + planned.gradients + planned.optimiser == 16 * LLAMA["7B"].parameters


def test_parameters_are_counted_as_the_models_have_them() -> None:
    assert LLAMA["7B"].parameters == 6_738_415_616
    assert LLAMA["70B"].parameters == pytest.approx(68.98e9, rel=0.001)
    assert trainable_parameters(LLAMA["7B"], spec("qlora")) == 39_976_960
    assert trainable_parameters(LLAMA["7B"], spec("lora", targets="attention-min", rank=8)) == 4_194_304
    assert trainable_parameters(LLAMA["7B"], spec("prompt", virtual_tokens=50)) == 50 * 4096


SMOL = Shape(hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocabulary=49152, tied=True)
# megabytes by micro-batch and tokens, as `python -P ops/bench/planning.py` measured them
PEAKS = {
    ("qlora", "bf16"): {(4, 207): 1092, (16, 818): 1950, (4, 353): 1269, (16, 964): 1607},
    ("lora", "bf16"): {(4, 207): 1228, (16, 818): 2105, (4, 353): 1417, (16, 964): 1758},
    ("qlora", "fp32"): {(4, 207): 1382, (16, 818): 2089, (4, 353): 1751, (16, 964): 2325},
    ("lora", "fp32"): {(4, 207): 1715, (16, 818): 2405, (4, 353): 2082, (16, 964): 2671},
    ("full", "fp32"): {(4, 207): 3153, (16, 818): 3584, (4, 353): 3331, (16, 964): 3908},
}
BESIDE_THE_FIT = {
    ("qlora", "fp32"): {(8, 349): 1750, (8, 495): 1620},
    ("lora", "fp32"): {(8, 349): 2055, (8, 495): 1953},
}


@pytest.mark.parametrize(("method", "compute"), PEAKS)
def test_measured_peaks_of_the_built_in_model_are_met_within_15_percent(method: str, compute: str) -> None:
    peaks = PEAKS[method, compute] | BESIDE_THE_FIT.get((method, compute), {})
    for (micro, tokens), megabytes in peaks.items():
        planned = memory(SMOL, spec(method), tokens, learned=micro, compute=compute).total / 1e6  # type: ignore[arg-type]
        assert planned == pytest.approx(megabytes, rel=0.15), (micro, tokens)


def test_more_of_anything_takes_more_memory() -> None:
    shape = LLAMA["7B"]
    base = memory(shape, spec("qlora"), 1000).total
    assert memory(shape, spec("qlora"), 2000).total > base
    assert memory(shape, spec("qlora", rank=64), 1000).total > base
    assert memory(shape, spec("lora"), 1000).total > base
    assert memory(shape, spec("qlora", gradient_checkpointing=True), 1000).total < base
    assert memory(shape, spec("qlora"), 1000, learned=10).total < base


def test_a_config_that_gives_no_sizes_is_told(tmp_path: Path) -> None:
    for content in ("{", "{}", "[]", json.dumps({"hidden_size": "x"})):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=r"config\.json"):
            read_shape(tmp_path)
    with pytest.raises(ModelError):
        read_shape(tmp_path / "missing")
