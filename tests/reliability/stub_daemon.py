"""The real daemon with children and an engine that need no torch: `stub_daemon.py ROOT rest|run`.

`rest` ends once nothing is left to do, `run` at SIGTERM.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ["TUNELOOP_KILL_ROOT"] = str(os.getpid())

from loop import daemon as daemon_module
from loop.bootstrap import App, open_app
from loop.cli.running import configure_logging
from loop.daemon import Daemon
from loop.policy import decide
from loop.production import read_pointer
from loop.services import read_endpoints
from loop.steps import MODULES

STUBS = {**MODULES, "train": "stub_child", "evaluate": "stub_child", "engine": "stub_engine", "gateway": "stub_engine"}


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


def main() -> None:
    root, mode = Path(sys.argv[1]), sys.argv[2]
    configure_logging()
    daemon_module.STEP_POLL_SECONDS = 0.05
    with open_app(root) as app:
        daemon = Daemon(app, modules=STUBS)
        if mode == "run":
            daemon.run()
            return
        try:
            while not read_endpoints(app.workspace.paths.run).engine:  # a step that needs it would pause for seconds
                daemon._services.tend()
                time.sleep(0.02)
            while daemon.tick().events or not rests(app):
                time.sleep(0.02)
        finally:
            daemon.close()


if __name__ == "__main__":
    main()
