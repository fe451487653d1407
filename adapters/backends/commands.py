"""Commands of other environments: started so that they die with us, their lines read while they work. No torch.

`python -m adapters.backends.commands WORD...` becomes the command after asking the kernel to be killed with its parent.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from adapters.child import die_with_parent
from store.errors import ModelError, StepError

QUIET = {
    "WANDB_MODE": "disabled",  # the loop's own mirror tells W&B
    "AXOLOTL_DO_NOT_TRACK": "1",
    "UNSLOTH_DISABLE_STATISTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
STOP_SECONDS = 15.0  # that a command gets to save its work when it is to end


def gpu_there() -> bool:
    """Whether this machine has a GPU that such a command could use (NVIDIA or AMD)."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def check_environment(name: str, python: str, package: str) -> None:
    """Refuse a command that cannot run here.

    Raises:
        ModelError: there is no GPU, no such interpreter, or it lacks the package.
    """
    if not gpu_there():
        raise ModelError(f"{name} needs a GPU and this machine has none", hint='Set `backend = "trl"`.')
    if not python or not os.access(python, os.X_OK):
        raise ModelError(
            f"there is no Python of {name}'s own at {python or '(nothing)'}",
            hint=f'Make one (python -m venv, pip install {package}) and set `[backends.{name}] python = "..."`.',
        )
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    if subprocess.run([python, "-c", code], capture_output=True, check=False, timeout=120).returncode:
        raise ModelError(
            f"{python} has no package {package}", hint=f"Install it there: {python} -m pip install {package}"
        )


def run(
    words: Sequence[str], folder: Path, on_line: Callable[[str], None], environment: Mapping[str, str] | None = None
) -> None:
    """Run a command in `folder` and hand on every line that it prints; they also go to our own output.

    Raises:
        StepError: it ended with another code than 0.
    """
    # from this environment's path it would import our packages instead of its own
    clean = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "adapters.backends.commands", str(folder), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**clean, **QUIET, "PYTHONUNBUFFERED": "1", **(environment or {})},
        text=True,
        errors="replace",
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            on_line(line.strip())
        process.wait()
    except BaseException:  # also: we were asked to stop
        process.terminate()
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    finally:
        process.stdout.close()
    if process.returncode:
        raise StepError(
            f"{Path(words[0]).name} ended with code {process.returncode}", hint="The run's log holds what it said."
        )


def main(arguments: list[str]) -> None:
    die_with_parent()
    os.chdir(arguments[0])
    os.execvp(arguments[1], arguments[1:])  # noqa: S606 - the words come from the settings


if __name__ == "__main__":
    main(sys.argv[1:])
