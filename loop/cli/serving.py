"""`serve`: engine and gateway in the foreground, without the daemon's decisions."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from loop.cli.output import say

if TYPE_CHECKING:
    from loop.bootstrap import App
    from loop.services import Endpoints, Services

log = logging.getLogger("tuneloop.serve")
LOOK_SECONDS = 1.0


def serve_here(app: App, *, port: int, host: str = "", token_file: Path | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C. Beside a daemon only another gateway is started: its engine answers.

    Raises:
        SettingsError: the address can be reached from elsewhere and there is no token.
    """
    from loop.lease import holder
    from loop.serving import gateway_arguments

    _only_serving(app, port, host, token_file)
    arguments = gateway_arguments(app)
    if holder(app.workspace.paths.run):
        say(f"a daemon runs: one more gateway for it on port {port or 'of its choice'}")
        subprocess.run([sys.executable, "-m", "loop.gateway", *arguments, "--die-with-parent"], check=False)
        return
    _engine_and_gateway(app)


def _engine_and_gateway(app: App) -> None:
    from loop import serving
    from loop.answerers import upstream
    from loop.services import Services
    from store.errors import TuneloopError

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
                log.error("%s", error.line)
            stopping.wait(LOOK_SECONDS)
    finally:
        _stop(app, services, endpoints)


def _only_serving(app: App, port: int, host: str, token_file: Path | None) -> None:
    """This run's own address, and no mirror to Weights & Biases: nothing happens here that it could show."""
    settings = app.settings
    own: dict[str, object] = {"gateway_port": port}
    own |= {"gateway_host": host} if host else {}
    own |= {"gateway_token_file": str(token_file.resolve())} if token_file else {}
    app.settings = settings.model_copy(
        update={
            "daemon": settings.daemon.model_copy(update=own),
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
