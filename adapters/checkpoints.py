"""A training's checkpoints on disk: which are whole, and which are not what was written.

    checkpoints/checkpoint-<step>/      weights, optimiser, random state
    checkpoints/best-<step>/            the weights that validation liked best so far

Each folder is finished by the file COMPLETE, which holds the sha256 of every other file; an empty one was written by
an earlier version and is taken at its word. Without torch: the daemon and `tuneloop doctor` look as well.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from adapters.specs import write_json
from store.disk import sha256_of, sync

COMPLETE = "COMPLETE"
STEERING = "steering.json"


class Mark(msgspec.Struct, frozen=True):
    """What COMPLETE holds: file name -> hex sha256, and the sha256 of that, so that it is known to be whole itself."""

    files: dict[str, str]
    own: str


class _Steering(msgspec.Struct):
    best_step: int = 0


def finish(folder: Path) -> None:
    """Sync every file of a folder and mark it as whole, durably and last."""
    files = {}
    for file in sorted(folder.iterdir()):
        sync(file)
        files[file.name] = sha256_of(file)
    write_json(folder / COMPLETE, Mark(files, _digest(files)))
    sync(folder)


def marked(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints that were finished, ascending; what they hold is not looked at."""
    names = [path.parent.name.removeprefix("checkpoint-") for path in checkpoints.glob(f"checkpoint-*/{COMPLETE}")]
    return sorted(int(name) for name in names if name.isdigit())


def whole(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints that training can go on from, ascending: every byte of them is as it was written, and
    so are the best weights that they speak of. Reads all of it."""
    return [step for step in marked(checkpoints) if not list(problems(checkpoints, step))]


def problems(checkpoints: Path, step: int) -> Iterator[tuple[Path, str]]:
    """What is wrong with a finished checkpoint: files, and how they differ from what was written."""
    folder = checkpoints / f"checkpoint-{step}"
    yield from damage(folder)
    best = best_of(checkpoints, step)
    if best:
        yield from damage(checkpoints / f"best-{best}")


def damage(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files of a finished folder that are not what was written; nothing for one of an earlier version."""
    if not folder.is_dir():
        yield folder, "is missing"
        return
    file = folder / COMPLETE
    try:
        content = file.read_bytes()
        if not content:
            return
        mark = msgspec.json.decode(content, type=Mark)
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        yield file, f"cannot be read: {error}"
        return
    if mark.own != _digest(mark.files):
        yield file, "was changed (sha256 differs)"
        return
    for name, digest in mark.files.items():
        try:
            if "/" in name or sha256_of(folder / name) != digest:
                yield folder / name, "was changed (sha256 differs)"
        except OSError as error:
            yield folder / name, f"cannot be read: {error.strerror or error}"


def damaged(runs: Path) -> Iterator[tuple[Path, str]]:
    """What `problems` says of all finished checkpoints below the run folders; those removed meanwhile are left out."""
    seen: set[Path] = set()
    for checkpoints in sorted(runs.glob("*/checkpoints")):
        for step in marked(checkpoints):
            for file, problem in problems(checkpoints, step):
                if file not in seen and (checkpoints / f"checkpoint-{step}").is_dir():
                    seen.add(file)
                    yield file, problem


def _digest(files: dict[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode(sorted(files.items()))).hexdigest()


def best_of(checkpoints: Path, step: int) -> int:
    """Step of the best weights that a checkpoint speaks of; 0 for none, or where it cannot be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return msgspec.json.decode(
            (checkpoints / f"checkpoint-{step}" / STEERING).read_bytes(), type=_Steering
        ).best_step
    return 0
