"""The gateway's /metrics: its own traffic, and what the workspace tells when it is asked.

The workspace is read by one thread of its own, so that a slow disk keeps no answer waiting, and at most once a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loop import gauges
from loop.bootstrap import App, open_app
from loop.exposition import page
from loop.settings import FILE_NAME
from loop.traffic import Traffic

log = logging.getLogger("tuneloop.metrics")

FRESH_SECONDS = 1.0


class Metrics:
    """The page over one workspace; `close` it in the end."""

    def __init__(self, root: Path, traffic: Traffic) -> None:
        self._root = root
        self._traffic = traffic
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._app: App | None = None
        self._changed = 0  # when the settings were written that it was opened with
        self._loop = ""  # the workspace's part of the page
        self._read_at = float("-inf")
        self._told = ""  # the last reason for which it could not be read

    async def page(self) -> str:
        """The text for Prometheus. A workspace that cannot be read is a metric, not an error."""
        about_the_loop = await asyncio.get_running_loop().run_in_executor(self._reader, self._read)
        return page(self._traffic.families()) + about_the_loop

    def _read(self) -> str:
        if time.monotonic() - self._read_at < FRESH_SECONDS:
            return self._loop
        try:
            changed = (self._root / FILE_NAME).stat().st_mtime_ns
            if changed != self._changed:  # settings that cannot be read are told before the next start needs them
                self._drop()
            self._app, self._changed = self._app or open_app(self._root), changed
            self._loop = page(gauges.families(self._app, self._app.now()))
            self._told = ""
        except Exception as error:  # a disk that fails, a restore that moved the workspace: the next one looks anew
            self._drop()
            self._loop = page(gauges.unreadable())
            if str(error) != self._told:
                log.error("the workspace cannot be read: %s", error)
                self._told = str(error)
        self._read_at = time.monotonic()
        return self._loop

    def _drop(self) -> None:
        app, self._app = self._app, None
        if app is not None:
            app.close()

    def close(self) -> None:
        self._reader.submit(self._drop)
        self._reader.shutdown()
