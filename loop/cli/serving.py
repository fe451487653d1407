"""`serve`: engine and gateway in the foreground, without the daemon's decisions."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from loop.cli.driving import daemon_holder
from loop.cli.output import say

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.services import Endpoints, Services

log = logging.getLogger("tuneloop.serve")
LOOK_SECONDS = 1.0


def serve_here(app: App, *, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C. Beside a daemon only another gateway is started: its engine answers."""
    if daemon_holder(app.workspace.paths.run):
        say(f"a daemon runs: one more gateway for it on port {port or 'of its choice'}")
        command = [sys.executable, "-m", "loop.gateway", str(app.root), "--port", str(port), "--die-with-parent"]
        subprocess.run(command, check=False)
        return
    _engine_and_gateway(app, port)


def _engine_and_gateway(app: App, port: int) -> None:
    from loop import serving
    from loop.answerers import upstream
    from loop.services import Services
    from store.errors import TuneloopError

    _only_serving(app, port)
    services = Services(app.workspace.paths.run)
    serving.add_services(app, services)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if upstream(app.settings).url:
        say(f"prompts are answered by {upstream(app.settings).url}")
    shown = ""
    endpoints = services.tend()
    try:
        while not stopping.is_set():
            endpoints = services.tend()
            if endpoints.gateway and endpoints.gateway != shown:
                shown = endpoints.gateway
                say(f"POST {shown}/v1/chat/completions, model: {' or '.join(app.settings.tasks)}")
            try:
                serving.point_production(app, endpoints.engine)
            except TuneloopError as error:
                log.error("%s %s", error.message, error.hint)
            stopping.wait(LOOK_SECONDS)
    finally:
        _stop(app, services, endpoints)


def _only_serving(app: App, port: int) -> None:
    """This run's own port, and no mirror to Weights & Biases: nothing happens here that it could show."""
    settings = app.settings
    app.settings = settings.model_copy(
        update={
            "daemon": settings.daemon.model_copy(update={"gateway_port": port}),
            "wandb": settings.wandb.model_copy(update={"enabled": False}),
        }
    )


def _stop(app: App, services: Services, ours: Endpoints) -> None:
    from adapters.specs import write_json
    from loop.services import FILE, read_endpoints

    folder = app.workspace.paths.run
    current = read_endpoints(folder)
    services.stop()
    if current.pids and current.pids != ours.pids:
        write_json(folder / FILE, current)  # a daemon has started meanwhile: its addresses stay
