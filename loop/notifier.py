"""Tells people what happens, in a process of its own: `python -m loop.notifier WORKSPACE [--once] [--die-with-parent]`.

    log ──▶ messages (pure) ──▶ outbox of each target (durable) ──▶ delivery, a thread a target

The daemon never waits for it, and a target that is slow, hangs or is down delays that target alone.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import msgspec

from adapters.child import OWNER_ONLY, die_with_parent
from adapters.specs import write_json
from loop.bootstrap import App, open_app
from loop.notify import health
from loop.notify.messages import Message, Teller
from loop.notify.observe import faults
from loop.notify.outbox import Outbox
from loop.notify.targets import Undelivered, deliver
from store.errors import TuneloopError
from store.logs import log_to_stderr

log = logging.getLogger("tuneloop.notifier")

BATCH = 500  # events between two writes of the outboxes
POLL_SECONDS = 1.0
LOOK_SECONDS = 15.0  # between two looks at what is wrong
STOP_SECONDS = 3.0  # after SIGTERM; the daemon kills after five
FAULTS = "_faults.json"  # no target's name begins so


class _Faults(msgspec.Struct):
    episodes: health.Episodes = {}


class Notifier:
    """The outboxes of a workspace's targets, filled from its log."""

    def __init__(self, app: App, env: Mapping[str, str] | None = None) -> None:
        """Raises StepError when a target's file cannot be read, StoreError when the log cannot."""
        self.app = app
        self._env = os.environ if env is None else env
        self._folder = app.workspace.paths.notify
        self._teller = Teller(app.settings.alerts)
        self._told_to = 0  # of the teller
        self._workspace = ""
        self.boxes = {
            name: Outbox(box_path(self._folder, name), target.give_up_hours)
            for name, target in app.settings.notify.items()
        }
        self._episodes = _read_episodes(self._folder / FAULTS)
        self._align()

    def _align(self) -> None:
        """A target that is new, or whose log was replaced by another one, is told what happens from here on."""
        journal = self.app.workspace.log
        head = journal.head()
        for box in self.boxes.values():
            position, digest = box.cursor
            here = next(journal.read(position - 1, 1), None) if position else None
            if box.is_new or (position and (here is None or here.hash.hex() != digest)):
                box.put([], head.position, head.hash.hex())

    def catch_up(self) -> None:
        """Queue the messages of all events that are new."""
        while batch := list(self.app.workspace.log.read(self._told_to, BATCH)):
            self._workspace = self._workspace or batch[0].hash.hex()[:8]  # of the log's first event
            told = [message for one in batch if (message := self._teller.tell(one)) is not None]
            last = batch[-1]
            for name, box in self.boxes.items():
                position = box.cursor[0]
                if last.position > position:
                    fresh = [one for one in told if one.position > position]
                    box.put(self._addressed(name, fresh), last.position, last.hash.hex())
            self._told_to = last.position

    def look(self) -> None:
        """Queue what is to be told of faults."""
        now = self.app.now()
        rules = self.app.settings.alerts
        found = faults(self.app, self._teller, now)
        episodes, told = health.follow(self._episodes, found, now, rules.after_seconds)
        for name, box in self.boxes.items():
            if addressed := self._addressed(name, told):
                box.put(addressed, *box.cursor)
        if episodes != self._episodes:
            write_json(self._folder / FAULTS, _Faults(episodes))
        self._episodes = episodes

    def _addressed(self, name: str, told: Sequence[Message]) -> list[Message]:
        """The messages that a target wants, their keys made unique among workspaces and targets."""
        wanted = self.app.settings.notify[name].events
        return [
            msgspec.structs.replace(one, key=f"{self._workspace}-{name}-{one.key}")
            for one in told
            if one.event in wanted
        ]

    def send(self, name: str) -> bool:
        """Try the oldest message of a target, when it is due. Returns whether there was one."""
        box = self.boxes[name]
        message = box.due(self.app.now())
        if message is None:
            return False
        try:
            deliver(self.app.settings.notify[name], message, self._env, self.app.now())
        except Undelivered as error:
            log.warning("%s has not taken %s: %s", name, message.key, error)
            box.failed(str(error), self.app.now(), error.retry_after)
        else:
            box.sent(message, self.app.now())
        return True


def box_path(folder: Path, name: str) -> Path:
    """The file of a target."""
    return folder / f"{name}.json"


def _read_episodes(path: Path) -> health.Episodes:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Faults).episodes
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return {}  # what lasts is told once more


# ---------------------------------------------------------------- the process


def run(notifier: Notifier, stop: threading.Event) -> None:
    """Tell until told to stop."""
    for name in notifier.boxes:
        threading.Thread(target=_send_on, args=(notifier, name, stop), daemon=True, name=f"to-{name}").start()
    looked = LOOK_SECONDS
    while not stop.is_set():
        try:
            notifier.catch_up()
            if looked >= LOOK_SECONDS:
                notifier.look()
                looked = 0.0
        except TuneloopError as error:
            log.error("%s", error.line)
        stop.wait(POLL_SECONDS)
        looked += POLL_SECONDS


def _send_on(notifier: Notifier, name: str, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            if notifier.send(name):
                continue
        except Exception as error:  # a full disk, for example; none may end the thread
            log.error("%s: %s", name, type(error).__name__)
        stop.wait(POLL_SECONDS)


def lock(folder: Path, stop: threading.Event) -> IO[bytes]:
    """Wait for the right to be the workspace's notifier; it ends with the process."""
    file = (folder / "lock").open("ab")
    while not stop.is_set():
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            stop.wait(0.5)
    return file


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loop.notifier", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--once", action="store_true", help="try what is due once, then end")
    parser.add_argument("--die-with-parent", action="store_true")
    given = parser.parse_args(arguments)
    if given.die_with_parent:
        die_with_parent()
    os.umask(OWNER_ONLY)
    log_to_stderr(log.name)  # httpx would log addresses, which hold keys: only our own lines are shown
    stop = threading.Event()

    def on_signal(*_: object) -> None:
        stop.set()
        # a delivery may hang; everything is on disk, so nobody need wait for it
        last = threading.Timer(STOP_SECONDS, os._exit, (0,))
        last.daemon = True
        last.start()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    try:
        with open_app(given.workspace) as app, lock(app.workspace.paths.notify, stop):
            notifier = Notifier(app)
            if given.once:
                notifier.catch_up()
                notifier.look()
                for name in notifier.boxes:
                    while notifier.send(name):
                        pass
            else:
                run(notifier, stop)
    except TuneloopError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
