"""What an adapter folder must be before anything loads it: a plain PEFT folder, whole, and without code in it.

    adapter_config.json         what PEFT needs to rebuild the adapter
    adapter_model.safetensors   its weights; the header is read here, without torch, and must fit the file
    tuneloop.json               our card: the base model it was trained on, as it was served (see `AdapterCard`)

Full fine-tuning leaves a whole model instead: config.json and model.safetensors (one file), with the same card.
Other plain files (README.md, a tokenizer) may lie beside them. Pickles may not: reading one runs its code.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from adapters.specs import BaseModelRef, write_json
from store.errors import ArtifactError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MODEL_CONFIG = "config.json"  # of a whole model
MODEL_WEIGHTS = "model.safetensors"
WHOLE = "FULL"  # kind of a whole model
CARD = "tuneloop.json"

MAX_FILES = 200
MAX_JSON = 1 << 20  # bytes of adapter_config.json and of tuneloop.json
MAX_HEADER = 16 << 20  # bytes of the safetensors header: 100,000 tensors fit in
MAX_BYTES = 16 << 30  # of all files together
MAX_RANK = 4096
MAX_DIMENSIONS = 16

_PICKLES = {".bin", ".ckpt", ".dill", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
_CODE = ("auto_mapping", "megatron_config")  # entries by which PEFT imports modules that the file names
_PICKLE_STARTS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_ZIP_START = b"PK\x03\x04"  # what torch.save writes
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
_TRAIN_AGAIN = "Train it again, or restore the folder from a backup."


class AdapterCard(msgspec.Struct, frozen=True, kw_only=True):
    """What the folder itself says of where it belongs; written by training."""

    base_digest: str  # see adapters.base_model
    quantisation: str
    prompt: str  # name@version that it was trained with
    temperature: float = 1.0  # of its label probabilities
    abstain_below: float = 0.0  # a best label of less probability is no answer
    labels: list[str] = []


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that passed `check`."""

    kind: str  # PEFT's own name: "LORA", "PREFIX_TUNING", ...; WHOLE for a model of its own
    rank: int  # 0 where the method has none
    targets: list[str]
    tensors: int
    parameters: int
    bytes: int  # of all files
    card: AdapterCard | None


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of a safetensors header; offsets count from the end of the header."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def check(folder: Path) -> None:
    """Refuse a folder that is no plain, whole PEFT adapter.

    Raises:
        ArtifactError: says which file is wrong and how.
    """
    describe(folder)


def describe(folder: Path) -> AdapterInfo:
    """Check a folder as `check` does and say what is in it. Weights are not read, only their header.

    Raises:
        ArtifactError: says which file is wrong and how.
    """
    whole = is_whole(folder)
    weights = folder / (MODEL_WEIGHTS if whole else WEIGHTS)
    try:
        total = sum(_plain_files(folder, (MODEL_CONFIG, MODEL_WEIGHTS) if whole else (CONFIG, WEIGHTS)))
        config = _model_config(folder) if whole else _config(folder)
        tensors = read_header(weights)
        card = read_card(folder) if (folder / CARD).exists() else None
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read: {error.strerror or error}", hint=_TRAIN_AGAIN) from error
    if not tensors:
        raise ArtifactError(f"{weights} holds no tensor", hint=_TRAIN_AGAIN)
    targets = config.get("target_modules") or []
    return AdapterInfo(
        kind=config["peft_type"],
        rank=config.get("r") or 0,
        targets=[targets] if isinstance(targets, str) else sorted(targets),
        tensors=len(tensors),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        bytes=total,
        card=card,
    )


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a whole model (full fine-tuning) instead of an adapter."""
    return (folder / MODEL_CONFIG).exists() and not (folder / CONFIG).exists()


def write_card(folder: Path, card: AdapterCard) -> None:
    """Put the card into the folder, atomically."""
    write_json(folder / CARD, card)


def read_card(folder: Path) -> AdapterCard:
    """The folder's card.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    path = folder / CARD
    if not path.exists():
        raise ArtifactError(
            f"{path} is missing: nothing says which base model the adapter belongs to",
            hint="Only adapters trained here carry it; train again with `tuneloop train`.",
        )
    try:
        card = msgspec.json.decode(_small(path), type=AdapterCard)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", hint=_TRAIN_AGAIN) from error
    if not math.isfinite(card.temperature) or card.temperature <= 0:
        raise ArtifactError(f"{path}: the temperature is {card.temperature}, not above 0", hint=_TRAIN_AGAIN)
    if not 0 <= card.abstain_below < 1:
        raise ArtifactError(f"{path}: abstain_below is {card.abstain_below}, not 0 to 1", hint=_TRAIN_AGAIN)
    return card


def matches(card: AdapterCard, ref: BaseModelRef) -> None:
    """Refuse to put an adapter on another base than its own, or on its own with other quantisation.

    Raises:
        ArtifactError: they differ. (NF4-trained weights on the bf16 base lost 3 to 13 points of accuracy.)
    """
    if card.base_digest != ref.digest:
        raise ArtifactError(
            f"the adapter was trained on base model {card.base_digest[:19]}, not on {ref.digest[:19]}",
            hint="Serve its own base model (`[model] base` in tuneloop.toml), or train again on this one.",
        )
    if card.quantisation != ref.quantisation:
        raise ArtifactError(
            f"the adapter was trained on a base in {card.quantisation}, which is served in {ref.quantisation}",
            hint=f'Set `[model] quantisation = "{card.quantisation}"` in tuneloop.toml, or train again.',
        )


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; their data must fill the file exactly, without holes.

    Raises:
        ArtifactError: the header is damaged or does not fit the file.
        OSError: the file cannot be read.
    """
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise _damaged(path, f"it is cut off: {size} bytes, its header alone says {length}")
        if length > MAX_HEADER:
            raise _damaged(path, f"its header says {length} bytes, more than {MAX_HEADER}")
        header = file.read(length)
    try:
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        metadata = entries.pop("__metadata__", None)
        if metadata is not None:
            msgspec.json.decode(metadata, type=dict[str, str])
        tensors = {name: msgspec.json.decode(entry, type=Tensor) for name, entry in entries.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, f"its header is no list of tensors ({error})") from error
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        _check_tensor(path, name, tensor)
        if tensor.data_offsets[0] != end:
            raise _damaged(path, f"{name!r} does not begin where the tensor before it ends")
        end = tensor.data_offsets[1]
    if 8 + length + end != size:
        raise _damaged(path, f"its tensors need {8 + length + end} bytes and it has {size}")
    return tensors


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    bits = _BITS.get(tensor.dtype)
    if bits is None:
        raise _damaged(path, f"{name!r} has the unknown type {tensor.dtype!r}")
    if len(tensor.shape) > MAX_DIMENSIONS or any(length < 0 for length in tensor.shape):
        raise _damaged(path, f"{name!r} has no possible shape: {tensor.shape[:MAX_DIMENSIONS]}")
    first, last = tensor.data_offsets
    if last - first != math.prod(tensor.shape) * bits // 8:
        raise _damaged(path, f"{name!r} of shape {tensor.shape} does not fit its {last - first} bytes")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(_small(path))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is no JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str) or not config["peft_type"]:
        raise ArtifactError(f"{path} is no PEFT configuration: it names no peft_type", hint=_TRAIN_AGAIN)
    if named := sorted(name for name in _CODE if config.get(name)):
        raise ArtifactError(f"{path} names code to import ({named[0]})", hint="Remove that entry; no adapter needs it.")
    rank = config.get("r")
    if rank is not None and (type(rank) is not int or not 0 <= rank <= MAX_RANK):
        raise _damaged(path, f"r is {str(rank)[:40]}, not a whole number up to {MAX_RANK}")
    targets = config.get("target_modules")
    names = [] if targets is None else [targets] if isinstance(targets, str) else targets
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _damaged(path, "target_modules is no list of names")
    return config


def _model_config(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_CONFIG
    try:
        config = json.loads(_small(path))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is no JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ArtifactError(f"{path} is no model's configuration: it names no model_type", hint=_TRAIN_AGAIN)
    if "auto_map" in config:
        raise ArtifactError(f"{path} names code of its own (auto_map)", hint="Only architectures of transformers load.")
    return {"peft_type": WHOLE}


def _plain_files(folder: Path, wanted: tuple[str, ...]) -> Iterator[int]:
    """Sizes of the folder's files, each checked to be plain, inside it, and no pickle; those `wanted` must be there."""
    if folder.is_symlink() or not folder.is_dir():
        raise ArtifactError(
            f"{folder} is no folder", hint="An adapter is a folder as PEFT's save_pretrained writes it."
        )
    for name in wanted:
        if not (folder / name).exists() and not (folder / name).is_symlink():
            raise ArtifactError(
                f"{folder} has no {name}", hint="An adapter is a folder as PEFT's save_pretrained writes it."
            )
    files, total = 0, 0
    for parent, folders, names in os.walk(folder, onerror=_raise):
        for name in (*folders, *names):
            path = Path(parent, name)
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode):
                raise ArtifactError(
                    f"{path} is a link or special file", hint="Put the file itself there; links could lead anywhere."
                )
            files, total = files + 1, total + status.st_size
            if files > MAX_FILES or total > MAX_BYTES:
                raise ArtifactError(
                    f"{folder} is too large for an adapter ({files} files, {total} bytes)",
                    hint="Keep checkpoints and the base model out of it.",
                )
            if path.suffix.lower() in _PICKLES or _looks_pickled(path):
                raise ArtifactError(
                    f"{path} may be a pickle, which runs code when it is read",
                    hint="Remove it; weights belong into adapter_model.safetensors.",
                )
            yield status.st_size


def _looks_pickled(path: Path) -> bool:
    if path.suffix == ".safetensors":  # begins with a length, which may be any bytes
        return False
    with _open(path) as file:
        start = file.read(4)
    return start.startswith(_PICKLE_STARTS) or start == _ZIP_START


def _small(path: Path) -> bytes:
    with _open(path) as file:
        content = file.read(MAX_JSON + 1)
    if len(content) > MAX_JSON:
        raise _damaged(path, f"it is larger than {MAX_JSON} bytes")
    return content


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _raise(error: OSError) -> None:
    raise error


def _damaged(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: {what}", hint=_TRAIN_AGAIN)
