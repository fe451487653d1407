"""The part of `doctor` that looks at the machine: Python, packages, SQLite, cores, GPU. Nothing of it is imported."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import msgspec

from loop.cli.doctor import Check

PACKAGES = ("loop", "store", "adapters", "prompts")
CORE = (
    "apscheduler", "httpx", "msgspec", "openai", "pydantic-settings", "rich", "scikit-learn", "sqlmodel", "starlette",
    "typer", "uvicorn", "watchdog",
)  # fmt: skip
TRAINING = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "safetensors", "wandb")
MIN_PYTHON = (3, 11)
MEMORY_WARN = 4096  # MiB
TRIAL_SECONDS = 120.0
_QUERY = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits"]
# quantises a matrix to NF4 and back, as training and serving do
_TRIAL = """
import sys, torch, bitsandbytes.functional as f
x = torch.randn(64, 64, device=sys.argv[1])
q, s = f.quantize_4bit(x, quant_type="nf4")
error = (f.dequantize_4bit(q, s) - x).abs().mean().item()
print("%.4f" % error)
sys.exit(error > 0.2)
"""


def python() -> Iterator[Check]:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= MIN_PYTHON:
        yield Check("ok", "python", f"{version} ({sys.executable})")
    else:
        yield Check("fail", "python", version, f"tuneloop needs Python {'.'.join(map(str, MIN_PYTHON))} or newer.")


def packages() -> Iterator[Check]:
    """What is installed, without importing any of it."""
    missing = [name for name in CORE if _version(name) is None]
    if missing:
        yield Check("fail", "packages", f"missing: {', '.join(missing)}", "pip install tuneloop, or `make install`.")
    else:
        yield Check("ok", "packages", f"all {len(CORE)} for the loop itself")
    missing = [name for name in TRAINING if _version(name) is None]
    if missing:
        yield Check(
            "warn",
            "training stack",
            f"missing: {', '.join(missing)}",
            "Labelling works without it. To train and serve here: pip install 'tuneloop[train]'.",
        )
    else:
        shown = ", ".join(f"{name} {_version(name)}" for name in TRAINING[:5])
        yield Check("ok", "training stack", shown)


def layout() -> Iterator[Check]:
    """Our four packages have generic names: all must come from one place."""
    places: dict[str, str] = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            yield Check("fail", "layout", f"the package {name!r} cannot be found", "Install tuneloop anew.")
            return
        places[name] = str(Path(spec.origin).resolve().parent.parent)
    if len(set(places.values())) == 1:
        yield Check("ok", "layout", f"{', '.join(PACKAGES)} come from {places['loop']}")
    else:
        told = ", ".join(f"{name} from {place}" for name, place in places.items())
        yield Check(
            "fail", "layout", told, "Another package hides one of ours: give tuneloop an environment of its own."
        )


def sqlite() -> Iterator[Check]:
    """The SQLite that is linked, and whether its write-ahead log is safe."""
    from store import database

    told = f"{database.driver.sqlite_version} by {database.driver.__name__.split('.')[0]}"  # type: ignore[attr-defined]
    if database.WAL_IS_SAFE:
        yield Check("ok", "sqlite", f"{told}, write-ahead log")
    else:
        yield Check(
            "warn",
            "sqlite",
            f"{told}: before 3.51.3 its write-ahead log can be corrupted, so the slower rollback journal is used",
            "pip install 'pysqlite3>=0.6.1'",
        )


def machine() -> Iterator[Check]:
    """Cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = f"{cores} cores, {memory / 1024:.1f} GiB of memory"
    if multiplies_bf16(_processor()) is False:
        told += ", no bf16 instructions (models compute faster in fp32 on it)"
    if memory < MEMORY_WARN:
        yield Check("warn", "machine", told, f"The built-in model wants {MEMORY_WARN // 1024} GiB while it trains.")
    else:
        yield Check("ok", "machine", told)


def multiplies_bf16(processor: str) -> bool | None:
    """Whether a processor has instructions for products in bf16, from Linux's /proc/cpuinfo; None: it does not say."""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", processor, re.MULTILINE)
    if flags is None:
        return None
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.group(1).split())


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# ---------------------------------------------------------------- GPU


class Gpu(msgspec.Struct, frozen=True):
    """What nvidia-smi says of one GPU; memory in MiB."""

    name: str
    total: int
    free: int
    driver: str


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs of this machine; empty where there are none, or the driver does not answer."""
    try:
        asked = subprocess.run(_QUERY, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(asked.stdout)


def parse_gpus(told: str) -> list[Gpu]:
    """GPUs from nvidia-smi's CSV; lines that are none are left out."""
    found = []
    for line in told.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and fields[1].isdigit() and fields[2].isdigit():
            found.append(Gpu(fields[0], int(fields[1]), int(fields[2]), fields[3]))
    return found


def gpu() -> Iterator[Check]:
    """GPUs, and whether torch and bitsandbytes can use them."""
    here = gpus()
    if not here:
        yield Check("ok", "gpu", "none by NVIDIA: models run on the processor")
    for number, one in enumerate(here):
        told = f"{number}: {one.name}, {one.free} of {one.total} MiB free, driver {one.driver}"
        yield Check("ok", "gpu", told)
    if _version("torch") is None or _version("bitsandbytes") is None:
        return  # the training stack's own line says so
    cuda, libraries = torch_cuda(), _libraries()
    told = f"{_version('bitsandbytes')} with libraries for {', '.join(libraries) or 'nothing'}"
    if here and not cuda:
        yield Check(
            "warn",
            "bitsandbytes",
            f"{told}; this torch was built without CUDA, so the GPU is not used",
            "Install torch for CUDA in this environment (see pytorch.org), or leave it so.",
        )
    elif here and f"cuda{cuda.replace('.', '')}" not in libraries:
        advice = "Install the bitsandbytes that fits torch's CUDA, or set model.quantisation to bf16."
        yield Check("fail", "bitsandbytes", f"{told}, but torch uses CUDA {cuda}", advice)
    elif here:
        problem = try_bitsandbytes("cuda")
        if problem:
            yield Check("fail", "bitsandbytes", f"{told}; on the GPU it fails: {problem}", "Check driver and versions.")
        else:
            yield Check("ok", "bitsandbytes", f"{told}; quantises on the GPU")
    elif "cpu" not in libraries:
        yield Check("fail", "bitsandbytes", told, "Reinstall it: without its CPU library NF4 does not work here.")
    else:
        yield Check("ok", "bitsandbytes", told)


def torch_cuda() -> str:
    """The CUDA version that the installed torch was built for, e.g. "12.8"; empty for none. It is not imported."""
    folder = _folder("torch")
    try:
        text = (folder / "version.py").read_text(encoding="utf-8") if folder else ""
    except OSError:
        return ""
    found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found.group(1) if found else ""


def try_bitsandbytes(device: str) -> str:
    """Quantise a matrix on a device, in a process of its own; what went wrong, empty where nothing did."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL, device], capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no result within {TRIAL_SECONDS:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines() or [f"what was quantised differs by {done.stdout.strip()}"]
    return lines[-1]


def _libraries() -> list[str]:
    folder = _folder("bitsandbytes")
    names = (path.stem for path in folder.glob("libbitsandbytes_*.so")) if folder else ()
    known = (name.removeprefix("libbitsandbytes_") for name in names)
    return sorted(name for name in known if name.startswith(("cpu", "cuda")))


def _folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


CHECKS = (python, packages, layout, sqlite, machine, gpu)
