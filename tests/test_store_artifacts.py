"""Artifacts: content addresses, idempotent put, every kind of damage, nothing outside the folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.artifacts import MANIFEST, Artifacts
from store.errors import ArtifactError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "deep" / "deeper" / "weights.safetensors").write_bytes(bytes(range(256)) * 300)
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


def test_a_folder_comes_back_under_its_address(artifacts: Artifacts, folder: Path) -> None:
    address = artifacts.put(folder, "adapter", {"task": "tickets"})
    path = artifacts.path(address, verify=True)
    assert (path / "deep/deeper/weights.safetensors").read_bytes() == bytes(range(256)) * 300
    assert (path / "empty").read_bytes() == b""
    (info,) = artifacts.list()
    assert (info.address, info.kind, info.meta, info.files) == (address, "adapter", {"task": "tickets"}, 3)
    assert info.bytes == 256 * 300 + 2
    modes = {stat.S_IMODE(each.stat().st_mode) for each in path.rglob("*") if each.is_file()}
    assert modes == {0o600} and stat.S_IMODE(path.stat().st_mode) == 0o700


def test_put_is_idempotent_and_the_content_decides(artifacts: Artifacts, folder: Path) -> None:
    first = artifacts.put(folder, "adapter", {"b": 1, "a": 2})
    assert artifacts.put(folder, "adapter", {"a": 2, "b": 1}) == first
    assert artifacts.put(folder, "dataset", {"a": 2, "b": 1}) != first
    assert artifacts.put(folder, "adapter", {}) != first
    (folder / "empty").write_bytes(b"x")
    assert artifacts.put(folder, "adapter", {"a": 2, "b": 1}) != first
    assert len(artifacts.addresses()) == 4
    assert artifacts.leftovers() == ()


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("flip")
    folder = root / "a"
    folder.mkdir()
    (folder / "x").write_bytes(b"some weights")
    artifacts = Artifacts(root / "artifacts")
    address = artifacts.put(folder, "adapter", {"a": 1})
    path = artifacts.path(address) / data.draw(st.sampled_from(["x", MANIFEST]))
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    assert artifacts.verify(address)
    with pytest.raises(ArtifactError) as caught:
        artifacts.path(address, verify=True)
    assert path.name in caught.value.message and caught.value.hint


def test_missing_extra_and_cut_files_are_found(artifacts: Artifacts, folder: Path) -> None:
    address = artifacts.put(folder, "adapter", {})
    path = artifacts.path(address)
    (path / "extra.bin").write_bytes(b"x")
    assert artifacts.verify(address) == ["extra.bin does not belong to it"]
    (path / "extra.bin").unlink()
    (path / "empty").unlink()
    assert artifacts.verify(address) == ["empty is missing or no plain file"]
    (path / "empty").symlink_to("/etc/passwd")
    assert any("empty" in problem for problem in artifacts.verify(address))
    (path / "empty").unlink()
    (path / "empty").write_bytes(b"")
    (path / "adapter_config.json").write_text("{")
    with pytest.raises(ArtifactError, match="1 bytes instead of 2"):  # without reading every byte
        artifacts.path(address)


def test_a_damaged_copy_is_replaced_by_a_new_put(artifacts: Artifacts, folder: Path) -> None:
    address = artifacts.put(folder, "adapter", {})
    (artifacts.path(address) / "adapter_config.json").write_text("[]")
    assert artifacts.put(folder, "adapter", {}) == address
    assert artifacts.verify(address) == []
    (aside,) = artifacts.leftovers()
    assert (aside / "adapter_config.json").read_text() == "[]"


def test_links_and_special_files_are_refused(artifacts: Artifacts, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    for make in (
        lambda path: path.symlink_to(tmp_path / "outside"),
        lambda path: path.symlink_to(tmp_path),
        lambda path: path.symlink_to("nowhere"),
        lambda path: os.mkfifo(path),
    ):
        path = folder / "deep" / "odd"
        make(path)
        with pytest.raises(ArtifactError, match="odd is a link or special file"):
            artifacts.put(folder, "adapter", {})
        path.unlink()
    (tmp_path / "link").symlink_to(folder)
    for bad in (tmp_path / "link", tmp_path / "nothing", folder / "empty"):
        with pytest.raises(ArtifactError):
            artifacts.put(bad, "adapter", {})
    assert artifacts.addresses() == () and artifacts.leftovers() == ()


def test_nothing_to_store_and_a_manifest_of_its_own_are_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ArtifactError, match="holds no file"):
        artifacts.put(empty, "adapter", {})
    (empty / MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match="manifest"):
        artifacts.put(empty, "adapter", {})


@pytest.mark.parametrize(
    "address", ["", "..", "../../etc", "sha256-zz", "sha256-" + "0" * 64, "sha256-" + "0" * 64 + "/.."]
)
def test_only_addresses_are_looked_up(artifacts: Artifacts, address: str) -> None:
    with pytest.raises(ArtifactError):
        artifacts.path(address)
    with pytest.raises(ArtifactError):
        artifacts.manifest(address)


def test_an_interrupted_put_leaves_a_leftover_and_no_artifact(artifacts: Artifacts, folder: Path) -> None:
    (artifacts.root / ".tmp-0123").mkdir(parents=True)
    (artifacts.root / ".tmp-0123" / "part").write_text("half")
    artifacts.put(folder, "adapter", {})
    assert [path.name for path in artifacts.leftovers()] == [".tmp-0123"]
    assert len(artifacts.list()) == 1
