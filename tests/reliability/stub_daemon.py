"""The real daemon with children and an engine that need no torch: `stub_daemon.py ROOT rest|run [--take-over]`.

`rest` ends once nothing is left to do, `run` at SIGTERM.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from loop import daemon as daemon_module
from loop.bootstrap import App, open_app
from loop.daemon import Daemon
from loop.logs import configure
from loop.policy import decide
from loop.production import read_pointer
from loop.services import read_endpoints
from loop.steps import MODULES

CHILDREN = ("train", "evaluate", "fit")
STUBS = {**MODULES, **dict.fromkeys(CHILDREN, "stub_child"), "engine": "stub_engine", "gateway": "stub_engine"}
REAL = {**STUBS, **{name: MODULES[name] for name in CHILDREN}}


def rests(app: App) -> bool:
    """Whether nothing is left to do: no order, no file, and production is pointed at the champion."""
    state, paths = app.state(), app.workspace.paths
    waiting = [path for folder in (paths.inbox, paths.claimed) for path in folder.iterdir()]
    if waiting or decide(state, app.settings, app.now()):
        return False
    pointers = {name: read_pointer(paths.production, name) for name in app.settings.tasks}
    return all(
        pointer is not None and pointer.answerer == state.task(name).champion.answerer
        for name, pointer in pointers.items()
    )


def serve(root: Path, mode: str, *, take_over: bool = False, modules: Mapping[str, str] = STUBS) -> None:
    """Run the loop of a workspace in this process.

    Raises:
        DaemonRunning: another daemon holds the workspace and cannot, or is not to be, fenced off.
        StaleEpoch: another daemon has taken over (mode "rest"; mode "run" just ends).
    """
    os.environ["TUNELOOP_KILL_ROOT"] = str(os.getpid())
    configure()
    daemon_module.STEP_POLL_SECONDS = 0.05
    with open_app(root) as app:
        daemon = Daemon(app, take_over=take_over, modules=modules)
        if mode == "run":
            daemon.run()
            return
        try:
            while not read_endpoints(app.workspace.paths.run).engine:  # a step that needs it would pause for seconds
                daemon._services.tend()
                time.sleep(0.01)
            while daemon.tick().events or not rests(app):
                time.sleep(0.01)
        finally:
            daemon.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], take_over="--take-over" in sys.argv)
