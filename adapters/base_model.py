"""The base model: brought in once, identified by a digest, loaded as it will be served.

Without a path the base is the built-in one (`adapters.builtin_model`). A local folder in that layout is used as it is;
where a hub can be reached, a hub id works too.

`python -m adapters.base_model [PATH_OR_HUB_ID]` brings the model in ahead of time and prints where it lies.
torch and transformers are imported only where they are used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapters.builtin_model import NAME as NAME
from adapters.builtin_model import convert
from adapters.child import trim_memory
from adapters.specs import BaseModelRef, Compute, Quantisation
from store.disk import sha256_of
from store.errors import ModelError

if TYPE_CHECKING:
    import torch

COMPLETE = "COMPLETE"  # written last: a folder without it was interrupted
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_VOLATILE = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")  # of config.json; they change no answer

Say = Callable[[str], None]


def cache_folder() -> Path:
    """Where models are kept: `$TUNELOOP_MODELS`, else ~/.cache/tuneloop/models (honouring XDG_CACHE_HOME)."""
    chosen = os.environ.get("TUNELOOP_MODELS")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "tuneloop" / "models"


def ensure(path_or_hub_id: str = "", *, cache: Path | None = None, say: Say | None = None) -> Path:
    """The folder of a base model, brought in when it is not there yet (safe to call from several processes).

    Args:
        path_or_hub_id: a folder with config.json and safetensors, a hub id (`org/name`), or "" for the built-in.
        cache: folder that models are kept in; default `cache_folder()`.
        say: told, in a few words, what is going on.

    Raises:
        ModelError: the folder holds no model, or the model could not be brought in.
    """
    say = say or _silent
    cache = cache or cache_folder()
    if not path_or_hub_id:
        return _kept(cache / NAME, lambda folder: _builtin(folder, say))
    folder = Path(path_or_hub_id).expanduser()
    if folder.is_dir():
        problem = _incomplete(folder)
        if problem:
            raise ModelError(
                f"{folder} holds no base model: {problem}",
                hint="Give a folder with config.json, safetensors and tokenizer, or leave `model.base` empty.",
            )
        return folder.resolve()
    if not _HUB_ID.match(path_or_hub_id):
        raise ModelError(
            f"there is no base model at {path_or_hub_id}",
            hint="Give an existing folder or a hub id (org/name), or leave `model.base` empty for the built-in.",
        )
    name = path_or_hub_id.replace("/", "--")
    return _kept(cache / name, lambda folder: _download(path_or_hub_id, folder, say))


def is_here(path_or_hub_id: str = "") -> bool:
    """Whether `ensure` would answer at once: with the model's folder, or with why there is none."""
    if path_or_hub_id and not _HUB_ID.match(path_or_hub_id):
        return True
    if path_or_hub_id and Path(path_or_hub_id).expanduser().is_dir():
        return True
    return (cache_folder() / (path_or_hub_id.replace("/", "--") or NAME) / COMPLETE).is_file()


def digest(folder: Path | str) -> str:
    """Identity of a base model, "sha256-...": weights, tokenizer, and config without its volatile entries.

    The files are hashed once; the result is kept beside the models, keyed by path, size and time of change.

    Raises:
        ModelError: the folder holds no base model.
    """
    folder = Path(folder).expanduser().resolve()
    problem = _incomplete(folder)
    if problem:
        raise ModelError(f"{folder} holds no base model: {problem}", hint=_BRING_IN)
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    files += [folder / name for name in ("tokenizer.json", "chat_template.jinja") if (folder / name).is_file()]
    seen = hashlib.sha256()
    for file in files:
        status = file.stat()
        seen.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    kept = cache_folder() / ".digests" / seen.hexdigest()
    with contextlib.suppress(OSError):
        known = kept.read_text()
        if known.startswith("sha256-"):
            return known
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0".encode())
        total.update(bytes.fromhex(sha256_of(file)) if file.name != "config.json" else _stable_config(file))
    result = f"sha256-{total.hexdigest()}"
    with contextlib.suppress(OSError):  # a read-only home costs a second each time, nothing else
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".{os.getpid()}")
        temporary.write_text(result)
        temporary.replace(kept)
    return result


def reference(folder: Path | str, quantisation: Quantisation = "nf4", compute: Compute = "auto") -> BaseModelRef:
    """What a spec says of its base model.

    Raises:
        ModelError: the folder holds no base model.
    """
    path = Path(folder).expanduser().resolve()
    return BaseModelRef(path=str(path), digest=digest(path), quantisation=quantisation, compute=compute)


def load(ref: BaseModelRef, device: str = "auto", *, training: bool = False) -> tuple[Any, Any]:
    """The base model in evaluation mode and its tokenizer, on `device` ("auto": CUDA where there is one).

    nf4 is bitsandbytes NF4 with double quantisation; products are made in `precision(ref, device)`. With `training`,
    every 4-bit layer is kept from repacking its weights, see `keep_differentiable`.

    Raises:
        ModelError: the folder is missing, is not the model of `ref.digest`, or cannot be loaded.
    """
    folder = Path(ref.path)
    found = digest(folder)
    if ref.digest and found != ref.digest:
        raise ModelError(
            f"{folder} is not the base model that was recorded ({found[:19]}, not {ref.digest[:19]})",
            hint="Restore the model, or train again on this one: an adapter belongs to its base.",
        )
    quiet()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    where = resolve_device(device)
    kind = torch.bfloat16 if precision(ref, where) == "bf16" else torch.float32
    options: dict[str, Any] = {"dtype": torch.float32 if ref.quantisation == "fp32" else torch.bfloat16}
    if ref.quantisation == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=kind,
        )
        options["device_map"] = {"": where}
    try:
        # weights from safetensors only, and no code that a model brings along
        plain = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **plain)
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), use_safetensors=True, attn_implementation="sdpa", **plain, **options
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"the base model in {folder} cannot be loaded: {error}", hint="Look at the folder, or bring it in again."
        ) from error
    if ref.quantisation != "nf4":
        model = model.to(where)
        if kind == torch.float32:
            model.float()
    else:
        if kind == torch.float32:
            widen(model)
        elif where == "cpu":
            leave_file(model)
        if training:
            keep_differentiable(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    trim_memory()
    return model.eval(), tokenizer


def leave_file(model: torch.nn.Module) -> None:
    """Copy the weights that were not quantised out of the mapped file.

    They are views of it, and a single one keeps all of its pages in the process: 207 MB of SmolLM2-135M's 269.
    """
    from bitsandbytes.nn import Params4bit

    for tensor in (*model.parameters(), *model.buffers()):
        if not isinstance(tensor, Params4bit):
            tensor.data = tensor.data.clone()


def widen(model: torch.nn.Module) -> None:
    """Have a 4-bit model multiply in fp32. It was quantised from bf16, as everywhere: its weights are the same."""
    import torch
    from bitsandbytes.nn import Params4bit

    for tensor in (*model.parameters(), *model.buffers()):
        if isinstance(tensor, Params4bit):
            tensor.quant_state.dtype = torch.float32
        elif tensor.is_floating_point():
            tensor.data = tensor.data.float()


def keep_differentiable(model: torch.nn.Module) -> int:
    """Keep every 4-bit layer of `model` trainable after an evaluation; returns how many there are.

    On a CPU with AVX512-BF16 the first forward in evaluation mode repacks a layer's weights for a matmul that has
    no gradient: from then on the gradients of everything below are noise, without an error. The flag only
    chooses the packed layout, never the result.
    """
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def resolve_device(device: str) -> str:
    """ "auto" becomes "cuda:0" where CUDA can be used, else "cpu"; anything else is returned as it is.

    Raises:
        ModelError: a CUDA device is asked for and there is none.
    """
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("there is no CUDA device here", hint='Set `device = "auto"` or "cpu".')
    return device


def precision(ref: BaseModelRef, device: str) -> Literal["bf16", "fp32"]:
    """What products are made in on `device` (resolved): bf16, as the document wants, where the device multiplies in
    it, else fp32; `ref.compute` decides otherwise. The weights have the values of `ref.quantisation` either way.

    A CPU without bf16 instructions (AVX512-BF16, AMX) takes several times as long for a product in bf16 as in fp32.
    """
    if ref.quantisation == "fp32":
        return "fp32"
    if ref.compute != "auto":
        return ref.compute
    import torch

    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if not torch.backends.mkldnn.is_available():
        return "fp32"
    able = torch.cpu.get_capabilities()
    return "bf16" if any(name.endswith("bf16") and there for name, there in able.items()) else "fp32"


def quiet() -> None:
    """Silence what the libraries print about optional parts, and keep them from looking for updates."""
    import logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


_BRING_IN = "Bring the built-in model in with `python -m adapters.base_model`."


def _silent(_: str) -> None:
    pass


def _incomplete(folder: Path) -> str:
    """What keeps `folder` from being a model; "" when nothing does."""
    if not folder.is_dir():
        return "there is no such folder"
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    if not any(folder.glob("*.safetensors")):
        return "there are no safetensors"
    return ""


def _stable_config(file: Path) -> bytes:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return json.dumps({k: v for k, v in config.items() if k not in _VOLATILE}, sort_keys=True).encode()
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{file} is not a model's config: {error}", hint=_BRING_IN) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made by `make` into a temporary sibling and renamed when it is complete."""
    if (folder / COMPLETE).is_file():
        return folder.resolve()
    try:
        with _locked(folder):
            if (folder / COMPLETE).is_file():
                return folder.resolve()
            temporary = folder.with_name(f".{folder.name}.part")
            for leftover in (temporary, folder):
                if leftover.exists():
                    shutil.rmtree(leftover)
            temporary.mkdir()
            make(temporary)
            problem = _incomplete(temporary)
            if problem:
                raise ModelError(f"{folder.name} arrived incomplete: {problem}", hint="Try again.")
            for file in temporary.iterdir():
                _synced(file)
            (temporary / COMPLETE).write_text("1\n")
            _synced(temporary / COMPLETE)
            temporary.rename(folder)
            _synced(folder.parent)
    except OSError as error:
        raise ModelError(
            f"the base model cannot be kept in {folder.parent}: {error}",
            hint="Make room there, or set TUNELOOP_MODELS to another folder.",
        ) from error
    return folder.resolve()


def _synced(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _builtin(folder: Path, say: Say) -> None:
    quiet()
    convert(folder, say, _VOLATILE)


def _download(hub_id: str, folder: Path, say: Say) -> None:
    say(f"downloading {hub_id} from the hub")
    try:
        from huggingface_hub import snapshot_download

        snapshot_download(
            hub_id,
            local_dir=folder,
            allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*"],
        )
    except Exception as error:  # the hub client raises many kinds, none of them ours
        raise ModelError(
            f"{hub_id} cannot be downloaded: {str(error).splitlines()[0][:200]}",
            hint="Check the id and the network, give a local folder, or leave `model.base` empty for the built-in.",
        ) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def main() -> int:
    """Bring a model in, with progress on stderr and its folder on stdout; returns the exit code."""
    from rich.console import Console

    console = Console(stderr=True)
    try:
        with console.status("looking for the base model") as status:
            folder = ensure(sys.argv[1] if len(sys.argv) > 1 else "", say=status.update)
            status.update("computing its digest")
            found = digest(folder)
    except ModelError as error:
        console.print(f"[red]{error.message}[/red]\n{error.hint}", highlight=False)
        return error.exit_code
    print(folder)
    console.print(f"base model ready, {found[:23]}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
