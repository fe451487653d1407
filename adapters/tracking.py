"""The mirror to Weights & Biases, in a process of its own: it reads the log after its own cursor and sends what is new.

    python -m adapters.tracking WORKSPACE [--once] [--project NAME] [--entity NAME] [--mode MODE] [--send-text]
                                          [--die-with-parent]

One W&B run for the loop (a row per event, step = the event's position) and one per training (a row per optimiser
step). The daemon never waits for this process, and a W&B that hangs or is down delays this process alone.
Offline, each start opens a new folder of the same run id: `wandb sync .tuneloop/wandb/offline-run-*` uploads them
in order as one run.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import netrc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from adapters.child import OWNER_ONLY, die_with_parent
from adapters.tracking_mirror import Mirror, Mode, Options
from store.errors import DaemonRunning, TuneloopError
from store.keys import hide
from store.logs import log_to_stderr
from store.workspace import Workspace

log = logging.getLogger("tuneloop.tracking")

POLL_SECONDS = 2.0
IDLE_SECONDS = 600.0  # without news, runs are closed and wandb's own process ends
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds between tries while W&B fails
STOP_SECONDS = 4.0  # after SIGTERM; the daemon kills after five
LOCK_SECONDS = 3.0
_MODES: dict[str, Mode] = {
    "online": "online", "run": "online", "shared": "online", "offline": "offline", "dryrun": "offline",
    "disabled": "disabled",
}  # fmt: skip


def resolve_mode(mode: str, env: Mapping[str, str]) -> Mode:
    """What `mode` comes to: "auto" means WANDB_MODE where it is set, else online with a key and offline without."""
    wanted = env.get("WANDB_MODE", "") if mode == "auto" else mode
    return _MODES.get(wanted) or ("online" if env.get("WANDB_API_KEY") or _logged_in(env) else "offline")


def _logged_in(env: Mapping[str, str]) -> bool:
    """Whether `wandb login` has left a key for the server in ~/.netrc."""
    host = urlsplit(env.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    path = Path(env.get("NETRC") or Path(env.get("HOME") or "/", ".netrc"))
    try:
        found = netrc.netrc(str(path)).hosts.get(host)  # never the default entry
    except (OSError, netrc.NetrcParseError):
        return False
    return found is not None and bool(found[2])


@contextlib.contextmanager
def locked(home: Path, seconds: float, stopping: Callable[[], bool]) -> Iterator[None]:
    """Hold the workspace's mirror lock.

    Raises:
        DaemonRunning: another process still holds it after `seconds`.
    """
    with (home / "lock").open("ab") as file:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stopping() or time.monotonic() > deadline:
                    raise DaemonRunning(
                        "another process mirrors this workspace to Weights & Biases",
                        hint="The daemon does it by itself; stop `tuneloop run` first.",
                    ) from None
                time.sleep(0.1)
        yield


# ---------------------------------------------------------------- the process


def follow(mirror: Mirror, stop: threading.Event) -> None:
    """Mirror until told to stop; while W&B fails, try again with growing pauses."""
    failures, news = 0, time.monotonic()
    while not stop.is_set():
        pause = POLL_SECONDS
        try:
            if mirror.catch_up(stop.is_set):
                news = time.monotonic()
            elif mirror.is_open and time.monotonic() - news > IDLE_SECONDS:
                mirror.close()
            failures = 0
        except Exception as error:  # wandb raises many kinds; none of them may end the mirror
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 10))
            failures += 1
            log.warning("Weights & Biases: %s; next try in %.0f s", _one_line(error), pause)
            mirror.abandon()
        stop.wait(pause)
    if not failures:  # a last look; with W&B down it waits for the next start
        deadline = time.monotonic() + STOP_SECONDS / 2
        mirror.catch_up(lambda: time.monotonic() > deadline)
    mirror.close()


def _one_line(error: Exception) -> str:
    return hide((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]


def _leave() -> None:
    """End at once, with wandb's own process, which would else go on for minutes to seek a server that is down."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it may just have ended
            if int(status.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                os.kill(int(status.parent.name), signal.SIGKILL)
    os._exit(0)


def _environment(home: Path) -> None:
    """Keep wandb's own files in the workspace, and its error reports at home."""
    os.environ.setdefault("WANDB_CACHE_DIR", str(home / "cache"))
    os.environ.setdefault("WANDB_DATA_DIR", str(home / "data"))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # wandb's tables import numpy, whose threads take memory


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m adapters.tracking", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--once", action="store_true", help="send what is there, then end")
    parser.add_argument("--project", default="tuneloop")
    parser.add_argument("--entity", default="")
    parser.add_argument("--mode", default="auto", choices=["auto", "online", "offline", "disabled"])
    parser.add_argument("--send-text", action="store_true", help="also send the texts of sample outputs")
    parser.add_argument("--die-with-parent", action="store_true")
    given = parser.parse_args(arguments)
    os.umask(OWNER_ONLY)
    log_to_stderr("")
    if given.die_with_parent:
        die_with_parent(signal.SIGTERM)  # it closes its runs
    stop = threading.Event()

    def on_signal(*_: object) -> None:
        stop.set()
        # a call into wandb may hang for long: everything is safe at any moment, so do not wait for it
        last = threading.Timer(STOP_SECONDS, _leave)
        last.daemon = True
        last.start()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    options = Options(
        mode=resolve_mode(given.mode, os.environ),
        project=given.project,
        entity=given.entity,
        send_text=given.send_text,
    )
    if options.mode == "disabled":
        if not given.once:
            stop.wait()
        return 0
    try:
        with Workspace.open(given.workspace) as workspace:
            _environment(workspace.paths.wandb)
            with locked(workspace.paths.wandb, LOCK_SECONDS if given.once else float("inf"), stop.is_set):
                mirror = Mirror(workspace, options)
                if given.once:
                    mirror.catch_up(stop.is_set)
                    mirror.close()
                else:
                    with contextlib.suppress(OSError):
                        os.nice(10)
                    follow(mirror, stop)
    except TuneloopError as error:
        if stop.is_set():
            return 0
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if stop.is_set():
            return 0
        print(f"Weights & Biases: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
