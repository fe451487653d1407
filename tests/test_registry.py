"""The checks of adapter folders: what is sound passes, every damage is an ArtifactError that names the file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import registry
from adapters.registry import CARD, CONFIG, WEIGHTS, AdapterCard
from adapters.specs import BaseModelRef
from store.errors import ArtifactError

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["v_proj", "q_proj"]}
HEADER = {
    "__metadata__": {"format": "pt"},
    "q.lora_A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    "q.lora_B.weight": {"dtype": "BF16", "shape": [4, 2], "data_offsets": [32, 48]},
}
THE_CARD = AdapterCard(
    base_digest="sha256-aaaa", quantisation="nf4", prompt="zero-shot@1", temperature=1.5, labels=["a", "b"]
)


def safetensors(header: Any, data: int = 48) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + bytes(data)


def adapter(folder: Path) -> Path:
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(LORA))
    (folder / WEIGHTS).write_bytes(safetensors(HEADER))
    (folder / "README.md").write_text("An adapter.")
    registry.write_card(folder, THE_CARD)
    return folder


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return adapter(tmp_path / "adapter")


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        registry.check(folder)
    assert caught.value.hint
    for word in words:
        assert word in caught.value.message


def test_a_sound_folder_is_described(sound: Path) -> None:
    info = registry.describe(sound)
    assert (info.kind, info.rank, info.targets) == ("LORA", 2, ["q_proj", "v_proj"])
    assert (info.tensors, info.parameters, info.card) == (2, 16, THE_CARD)
    assert info.bytes == sum(file.stat().st_size for file in sound.iterdir())


def test_a_folder_without_a_card_is_a_plain_adapter_but_belongs_to_no_base(sound: Path) -> None:
    (sound / CARD).unlink()
    assert registry.describe(sound).card is None
    with pytest.raises(ArtifactError, match="missing"):
        registry.read_card(sound)


def test_what_peft_writes_is_sound(tiny_model: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(tiny_model))
    for name, config in {
        "lora": peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        "prompt": peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    }.items():
        tuned = peft.get_peft_model(model, config)
        tuned.save_pretrained(str(tmp_path / name))
        info = registry.describe(tmp_path / name)
        assert info.parameters == sum(p.numel() for p in tuned.parameters() if p.requires_grad)
        model = tuned.unload() if name == "lora" else model


def test_missing_parts(tmp_path: Path, sound: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere", "no folder")
    refused(sound / CONFIG, "no folder")
    (sound / WEIGHTS).rename(tmp_path / "elsewhere")
    refused(sound, WEIGHTS)
    (tmp_path / "elsewhere").rename(sound / WEIGHTS)
    registry.check(sound)
    (sound / CONFIG).unlink()
    refused(sound, CONFIG)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"peft_type": 3}',
        b'{"peft_type": ""}',
        b'{"peft_type": "LORA", "r": -1}',
        b'{"peft_type": "LORA", "r": true}',
        b'{"peft_type": "LORA", "r": 1e9}',
        b'{"peft_type": "LORA", "r": 99999999999999999999999}',
        b'{"peft_type": "LORA", "target_modules": {"a": 1}}',
        b'{"peft_type": "LORA", "target_modules": [1]}',
        b'{"peft_type": "LORA", "note": "' + b"x" * registry.MAX_JSON + b'"}',
    ],
)
def test_damaged_configuration(sound: Path, content: bytes) -> None:
    (sound / CONFIG).write_bytes(content)
    refused(sound, CONFIG)


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**HEADER, name: {**HEADER[name], **fields}}


A, B = "q.lora_A.weight", "q.lora_B.weight"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x10",
        (1 << 63).to_bytes(8, "little"),
        b"\xff" * 64,
        safetensors({}, 0),
        safetensors({"__metadata__": {}}, 0),
        safetensors({"__metadata__": {"format": 3}, A: HEADER[A]}, 32),
        safetensors(b"not json"),
        safetensors(b"[]"),
        safetensors(b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        safetensors(b'{"\xff": {}}'),
        safetensors({"a": 1}),
        safetensors(HEADER, 47),
        safetensors(HEADER, 49),
        safetensors(changed(A, dtype="F33")),
        safetensors(changed(A, dtype=7)),
        safetensors(changed(A, shape=[2, 5])),
        safetensors(changed(A, shape=[-2, -4])),
        safetensors(changed(A, shape="2x4")),
        safetensors(changed(A, shape=[1 << 40, 1 << 40])),
        safetensors(changed(A, shape=[2, 4] + [1] * 40)),
        safetensors(changed(A, data_offsets=[0, 32, 48])),
        safetensors(changed(A, data_offsets=[32, 0])),
        safetensors(changed(A, data_offsets=[16, 48])),
        safetensors(changed(A, data_offsets=[-32, 0])),
        safetensors(changed(B, data_offsets=[36, 52]), 52),
        safetensors(changed(A, extra=1)),
        (registry.MAX_HEADER + 1).to_bytes(8, "little") + bytes(registry.MAX_HEADER + 1),
    ],
)
def test_damaged_weights(sound: Path, content: bytes) -> None:
    (sound / WEIGHTS).write_bytes(content)
    refused(sound, WEIGHTS)


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "a.PKL", "sub/scaler.pth", "x.npy", "m.joblib"])
def test_pickles_by_name(sound: Path, name: str) -> None:
    (sound / name).parent.mkdir(exist_ok=True)
    (sound / name).write_bytes(b"anything")
    refused(sound, name, "pickle")


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x04\x95", b"PK\x03\x04"])
def test_pickles_by_content(sound: Path, start: bytes) -> None:
    (sound / "notes.txt").write_bytes(start + b"rest")
    refused(sound, "notes.txt", "pickle")


def _link_weights(folder: Path) -> str:
    (folder / WEIGHTS).rename(folder.parent / "weights")
    (folder / WEIGHTS).symlink_to(folder.parent / "weights")
    return WEIGHTS


def _link_out(folder: Path) -> str:
    (folder / "more").symlink_to("../..")
    return "more"


def _dangling(folder: Path) -> str:
    (folder / "lost").symlink_to("/nowhere")
    return "lost"


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return "pipe"


def _folder_as_weights(folder: Path) -> str:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    return str(folder)


@pytest.mark.parametrize("change", [_link_weights, _link_out, _dangling, _pipe, _folder_as_weights])
def test_links_and_special_files(sound: Path, change: Callable[[Path], str]) -> None:
    refused(sound, change(sound))


def test_a_link_to_a_sound_folder_is_refused(sound: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(sound)
    refused(tmp_path / "link", "no folder")


def test_absurd_sizes(sound: Path) -> None:
    with (sound / "filler").open("wb") as file:
        file.truncate(registry.MAX_BYTES + 1)  # sparse: takes no room
    refused(sound, "too large")
    (sound / "filler").unlink()
    for number in range(registry.MAX_FILES):
        (sound / f"{number}.txt").touch()
    refused(sound, "too large")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\xff",
        b'{"base_digest": "a", "quantisation": "nf4", "prompt": "p", "temperature": 0}',
        b'{"base_digest": "a", "quantisation": "nf4", "prompt": "p", "temperature": "x"}',
        b'{"base_digest": "a", "quantisation": "nf4", "prompt": "p", "abstain_below": 1}',
        b'{"base_digest": 1, "quantisation": "nf4", "prompt": "p"}',
    ],
)
def test_damaged_card(sound: Path, content: bytes) -> None:
    (sound / CARD).write_bytes(content)
    refused(sound, CARD)


def test_an_adapter_belongs_to_its_base_as_served() -> None:
    registry.matches(THE_CARD, BaseModelRef(path="/anywhere", digest="sha256-aaaa"))
    with pytest.raises(ArtifactError, match="sha256-bbbb"):
        registry.matches(THE_CARD, BaseModelRef(path="/anywhere", digest="sha256-bbbb"))
    with pytest.raises(ArtifactError, match=r"nf4.*bf16") as caught:
        registry.matches(THE_CARD, BaseModelRef(path="/anywhere", digest="sha256-aaaa", quantisation="bf16"))
    assert "quantisation" in caught.value.hint


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_random_damage_is_found_or_harmless(data: st.DataObject) -> None:
    """Bytes of the header changed, cut or added: an ArtifactError, or tensors that still fill the file."""
    whole = bytearray(safetensors(HEADER))
    for _ in range(data.draw(st.integers(1, 6), label="damages")):
        place = data.draw(st.integers(0, len(whole)), label="place")
        kind = data.draw(st.sampled_from(["change", "cut", "add"]), label="kind")
        if kind == "change" and place < len(whole):
            whole[place] = data.draw(st.integers(0, 255), label="byte")
        elif kind == "cut":
            del whole[place : place + data.draw(st.integers(1, 20), label="length")]
        else:
            whole[place:place] = data.draw(st.binary(min_size=1, max_size=12), label="more")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, WEIGHTS)
        path.write_bytes(whole)
        try:
            tensors = registry.read_header(path)
        except ArtifactError as error:
            assert error.hint and WEIGHTS in error.message
        else:
            used = sum(tensor.data_offsets[1] - tensor.data_offsets[0] for tensor in tensors.values())
            assert 8 + int.from_bytes(whole[:8], "little") + used == len(whole)


@settings(max_examples=200, deadline=None)
@given(header=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "t"]), inner, max_size=4),
    max_leaves=20,
))  # fmt: skip
def test_any_json_as_header(header: Any) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = adapter(Path(scratch, "adapter"))
        (folder / WEIGHTS).write_bytes(safetensors(header, 0))
        refused(folder)
