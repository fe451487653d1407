"""What wakes the daemon: a timer and the inbox. Both only set a flag; what is due is read from the log.

A lost or doubled wake-up therefore changes nothing but the moment of the next look.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver


class Wakeups:
    """Sets `flag` every `seconds` and when a file in `inbox` has been written or moved in."""

    def __init__(self, flag: threading.Event, inbox: Path, *, seconds: float, polling: bool = False) -> None:
        self._scheduler = BackgroundScheduler(timezone="UTC")
        self._scheduler.add_job(
            flag.set,
            _Every(seconds),
            misfire_grace_time=None,  # a late tick is still a tick
            coalesce=True,
            max_instances=1,
        )
        self._observer: BaseObserver = PollingObserver() if polling else Observer()
        self._observer.schedule(_InboxHandler(flag), str(inbox), recursive=False)

    def start(self) -> None:
        self._scheduler.start()
        self._observer.start()

    def stop(self) -> None:
        self._scheduler.shutdown(wait=False)
        self._observer.stop()
        self._observer.join(timeout=5)


class _Every(BaseTrigger):  # type: ignore[misc]
    """So many seconds from now. APScheduler's own interval lists every moment that a jump of the wall clock passed
    over: 60 million and some gigabytes for ten years."""

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, _previous: datetime | None, now: datetime) -> datetime:
        return now + self._interval


class _InboxHandler(FileSystemEventHandler):
    """A file is complete when its writer closed it, or when it was renamed into the folder."""

    def __init__(self, flag: threading.Event) -> None:
        self._flag = flag

    def on_any_event(self, event: FileSystemEvent) -> None:
        if isinstance(event, FileClosedEvent | FileMovedEvent):
            self._flag.set()
