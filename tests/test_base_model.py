from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from adapters import base_model
from store.errors import ModelError

torch = pytest.importorskip("torch")


def _copy(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_a_local_folder_is_used_as_it_is(tiny_model: Path) -> None:
    assert base_model.ensure(str(tiny_model)) == tiny_model.resolve()


@pytest.mark.parametrize("name", ["/no/such/folder", "not a hub id"])
def test_a_missing_model_is_a_model_error_with_a_hint(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        base_model.ensure(name, cache=tmp_path)
    assert caught.value.hint


def test_a_folder_without_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = _copy(tiny_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        base_model.ensure(str(folder))
    with pytest.raises(ModelError):
        base_model.digest(folder)


def test_the_digest_follows_the_content_not_the_place(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELOOP_MODELS", str(tmp_path / "models"))
    first = base_model.digest(tiny_model)
    copy = _copy(tiny_model, tmp_path / "copy")
    assert base_model.digest(copy) == first == base_model.digest(tiny_model)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert base_model.digest(copy) != first


def test_another_model_than_the_recorded_one_is_refused(tiny_model: Path) -> None:
    ref = base_model.reference(tiny_model, "fp32")
    other = type(ref)(path=ref.path, digest="sha256-" + "0" * 64, quantisation="fp32")
    with pytest.raises(ModelError, match="recorded"):
        base_model.load(other, "cpu")


BITS = {"bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
@pytest.mark.parametrize("quantisation", ["nf4", "bf16", "fp32"])
def test_every_quantisation_loads_and_answers(tiny_model: Path, quantisation: Any, compute: Any) -> None:
    model, tokenizer = base_model.load(base_model.reference(tiny_model, quantisation, compute), "cpu")
    ids = tokenizer("hello", return_tensors="pt").input_ids
    assert model(ids).logits.shape == (1, ids.shape[1], 768)
    layer = model.model.layers[0].mlp.up_proj
    used = BITS["fp32" if quantisation == "fp32" else compute]
    assert model.dtype == used
    assert layer.weight.dtype == (torch.uint8 if quantisation == "nf4" else used)
    if quantisation == "nf4":
        state = layer.weight.quant_state
        assert (state.quant_type, state.nested, layer.compute_dtype) == ("nf4", True, used)


@pytest.mark.parametrize("quantisation", ["nf4", "bf16"])
def test_the_precision_of_products_changes_no_weight(tiny_model: Path, quantisation: Any) -> None:
    half, tokenizer = base_model.load(base_model.reference(tiny_model, quantisation, "bf16"), "cpu")
    wide, _ = base_model.load(base_model.reference(tiny_model, quantisation, "fp32"), "cpu")
    for one, other in zip(half.parameters(), wide.parameters(), strict=True):
        assert torch.equal(one.bfloat16(), other.bfloat16())
    ids = tokenizer("my invoice is wrong", return_tensors="pt").input_ids
    torch.testing.assert_close(half(ids).logits.float(), wide(ids).logits, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("able", "library", "expected"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, True, "fp32"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True, "bf16"),
        ({"neon": True, "bf16": True}, True, "bf16"),
        ({"neon": True, "bf16": True}, False, "fp32"),
    ],
)
def test_a_processor_without_bf16_computes_in_fp32(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], library: bool, expected: str
) -> None:
    """Processors that are not this one are told of, not there."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: library)
    ref = base_model.BaseModelRef(path="", digest="")
    assert base_model.precision(ref, "cpu") == expected


def test_a_loaded_4_bit_model_keeps_no_page_of_its_file(tiny_model: Path, tmp_path: Path) -> None:
    """Where pages stay, they count as the process's memory: as much again as the model."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the system does not list a process's mappings")
    folder = _copy(tiny_model, tmp_path / "half")  # only weights that are stored as they are used are views of a file
    whole, _ = base_model.load(base_model.reference(tiny_model, "bf16", "bf16"), "cpu")
    whole.save_pretrained(folder)
    model, _ = base_model.load(base_model.reference(folder, "nf4", "bf16"), "cpu")
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == model.config.tie_word_embeddings
    assert str(folder) not in maps.read_text()


def _lora_gradients(model: Any, ids: Any) -> Any:
    model.train()
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(ids, labels=ids).loss.backward()
    return torch.cat([p.grad.flatten() for n, p in model.named_parameters() if "lora_B" in n])


def test_an_evaluation_leaves_nf4_gradients_as_they_were(tiny_model: Path) -> None:
    """An evaluation forward on an AVX512-BF16 CPU must not swap in the matmul that has no gradient."""
    from peft import LoraConfig, get_peft_model

    ref = base_model.reference(tiny_model, "nf4", "bf16")
    base, tokenizer = base_model.load(ref, "cpu", training=True)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = tokenizer("one ticket about money, one about an error", return_tensors="pt").input_ids
    before = _lora_gradients(model, ids)
    model.eval()
    with torch.no_grad():
        model(ids)
    after = _lora_gradients(model, ids)
    assert before.norm() > 0
    assert torch.equal(before, after)


def test_the_flag_reaches_every_four_bit_layer(tiny_model: Path) -> None:
    model, _ = base_model.load(base_model.reference(tiny_model, "nf4"), "cpu", training=True)
    assert base_model.keep_differentiable(model) == 2 * 7
    assert not any(getattr(module, "support_avx512bf16_for_cpu", False) for module in model.modules())
