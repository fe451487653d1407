"""Processes to be killed, forked from one that has imported everything: as real as any other, ready a second sooner.

Only a process without threads may fork, so trials are given to `workers`, whose processes have none.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from store import kill_points

# what the daemon imports when it comes to need it
PRELOADED = ["stub_daemon", "loop.cli.main", "loop.gate", "adapters.control", "sklearn.linear_model", "store.tables"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def workers(count: int = 2) -> ProcessPoolExecutor:
    """Processes that run trials; each may call `start`."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_prepare)


def _prepare() -> None:
    os.environ |= ONE_THREAD  # a pool of threads would not live on in a fork
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # what is imported is no garbage: nobody need look at it, and its pages stay shared


def start(work: Callable[[], object], log: Path, env: Mapping[str, str], *, stop: bool = False) -> int:
    """Do `work` in a process of its own, armed as `TUNELOOP_KILL_AT` in `env` says; its id.

    Args:
        work: its exit code is 0 where it returns, else 1.
        log: what it prints is appended there.
        env: all of its environment.
        stop: at the point it is armed with it stops (SIGSTOP) instead of dying, and goes on at SIGCONT.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.environ.clear()
        os.environ.update(env)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for handle in (1, 2):
            os.dup2(output, handle)
        _arm(env.get("TUNELOOP_KILL_AT", ""), stop)
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _arm(wanted: str, stop: bool) -> None:
    """What `store.kill_points` does when it is imported."""
    name, _, nth = wanted.partition(":")
    kill_points._name, kill_points._left = name, int(nth or 1)
    if stop:
        os.environ.pop("TUNELOOP_KILL_AT", None)  # the children are not meant

        class Signals:
            SIGKILL = signal.SIGSTOP

        kill_points.signal = Signals  # type: ignore[assignment]


def wait(process: int, seconds: float) -> int:
    """The exit code of a process that `start` gave (-9: killed). One that takes longer is killed.

    Raises:
        TimeoutError: it took longer than `seconds`.
    """
    handle = os.pidfd_open(process)
    try:
        ready = select.poll()
        ready.register(handle, select.POLLIN)
        if not ready.poll(seconds * 1000):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise TimeoutError(f"no end after {seconds:.0f} s")
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def stopped(process: int, seconds: float) -> bool:
    """Wait until a process has stopped (SIGSTOP); False when it has ended or `seconds` are over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state in "TZ":
            return state == "T"
        time.sleep(0.01)
    return False
