"""A training in several processes: `launcher` starts them, each runs `python -m adapters.backends.launched FOLDER`.

The process that the daemon started keeps the folder's lock and waits. Rank 0 writes everything; the others compute.
"""

from __future__ import annotations

import atexit
import os
import shlex
import sys
import tempfile
from pathlib import Path

from adapters import combinations
from adapters.backends import commands
from adapters.child import Stopping, Unrecoverable, die_with_parent, failure_of, keep_manners
from adapters.specs import StepFailure, TrainSpec, read_json, write_json
from store.errors import StepError

MODULE = "adapters.backends.launched"
WAITING = "TUNELOOP_LAUNCHED"


def is_rank() -> bool:
    """Whether a launcher has started this process: then it trains, and starts no further ones."""
    return WAITING in os.environ


def rank() -> int:
    """Of this process among those of a launcher; 0 without one."""
    return int(os.environ.get("RANK", "0")) if is_rank() else 0


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if is_rank() else 1


def local_world() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_rank() else 1


def scratch() -> Path:
    """A folder for what only rank 0 keeps; it goes with this process."""
    made = tempfile.TemporaryDirectory(prefix="tuneloop-rank-")
    atexit.register(made.cleanup)
    return Path(made.name)


def train(folder: Path, spec: TrainSpec) -> None:
    """Run the launcher and wait for it; the result lies in the folder then.

    Raises:
        StepError: it ended without one.
        Unrecoverable: a process said that trying again cannot help.
    """
    words = [*_found(shlex.split(spec.launcher)), "-m", MODULE, str(folder)]
    try:
        commands.run(words, Path.cwd(), lambda _: None, {WAITING: "1"})
    except StepError:
        if (folder / "error.json").exists():
            said = read_json(folder / "error.json", StepFailure)
            raise (StepError if said.retry else Unrecoverable)(said.message, hint=said.hint) from None
        raise
    if not (folder / "result.json").exists():
        raise StepError("the launcher ended without a result", hint="The run's log holds what it said.")


def _check_world(spec: TrainSpec) -> None:
    wanted = combinations.processes(spec.launcher)
    if wanted is None and spec.batch_size % (spec.micro_batch_size * world()):
        raise Unrecoverable(
            f"a batch of {spec.batch_size} cannot be made of micro-batches of {spec.micro_batch_size} from each of the "
            f"launcher's {world()} processes",
            hint="Let their product divide `batch_size`.",
        )
    if wanted is not None and world() != wanted:
        raise Unrecoverable(
            f"the launcher started {world()} processes instead of {wanted}",
            hint="`accelerate launch --multi_gpu` starts several on GPUs; on the CPU `torchrun --nproc_per_node` does.",
        )


def _found(words: list[str]) -> list[str]:
    """The launcher of this environment, where it has one of that name."""
    own = Path(sys.executable).parent / words[0]
    return [str(own), *words[1:]] if own.is_file() else words


def main(arguments: list[str]) -> int:
    from adapters.train import train as work

    folder = Path(arguments[0])
    die_with_parent()
    keep_manners()
    try:
        _check_world(read_json(folder / "spec.json", TrainSpec))
        work(folder, Stopping())
    except Exception as error:
        if rank() == 0:
            write_json(folder / "error.json", failure_of(error))
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
