"""What a target has still to be told: one durable file a target, `.tuneloop/notify/<name>.json`.

Its cursor and the messages that follow from the events up to it are written together, so a message is neither lost nor
queued twice, wherever a process dies. A message leaves the file after the target has taken it: one that was taken just
before a death is sent again, under the same key.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from adapters.specs import write_json
from loop.notify.messages import Message
from store.errors import StepError
from store.kill_points import reached

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds between tries
LONGEST_WAIT = 3600.0  # seconds that a target may ask us to wait
MOST_WAITING = 1000  # messages; beyond it the oldest ones are dropped


class Box(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How far a target is. It holds no address."""

    position: int = 0  # of the last event whose message is in here or was sent
    hash: str = ""  # of that event
    waiting: list[Message] = []
    failures: int = 0  # in a row
    failing_since: datetime | None = None
    tried_at: datetime | None = None  # the last time that failed
    failing_for: float = 0.0  # seconds, as far as the clock is believed: see `failed`
    next_try: datetime | None = None
    last_error: str = ""
    delivered: int = 0
    delivered_at: datetime | None = None
    dropped: int = 0  # given up
    dropped_reason: str = ""


class Outbox:
    """The file of one target. Safe to use from several threads of one process."""

    def __init__(self, path: Path, give_up_hours: float = 24.0) -> None:
        """Raises StepError when the file is there and cannot be read."""
        self._path = path
        self._patience = timedelta(hours=give_up_hours)
        self._lock = threading.Lock()
        # a new process tries at once: who restarts it may just have mended the address
        self._box = msgspec.structs.replace(
            read_box(path), failures=0, failing_since=None, tried_at=None, failing_for=0.0, next_try=None
        )

    @property
    def is_new(self) -> bool:
        return not self._path.exists()

    @property
    def cursor(self) -> tuple[int, str]:
        """Position and hash of the last event that was handled."""
        return self._box.position, self._box.hash

    def put(self, messages: Sequence[Message], position: int, digest: str) -> None:
        """Queue messages and move the cursor, in one write."""
        with self._lock:
            known = {one.key for one in self._box.waiting}
            waiting = [*self._box.waiting, *(one for one in messages if one.key not in known)]
            lost = max(0, len(waiting) - MOST_WAITING)
            if lost:
                self._drop(lost, f"more than {MOST_WAITING} messages were waiting")
            self._write(waiting=waiting[lost:], position=position, hash=digest)
        reached("notify.queued")

    def due(self, now: datetime) -> Message | None:
        """The oldest message, when it may be tried now; those that were tried for too long are given up first."""
        with self._lock:
            kept = self._box.waiting
            if self._box.failing_for and timedelta(seconds=self._box.failing_for) >= self._patience:
                kept = [one for one in kept if now - one.at < self._patience]
            if len(kept) < len(self._box.waiting):
                self._drop(len(self._box.waiting) - len(kept), self._box.last_error)
                self._write(waiting=kept)
            return kept[0] if kept and not self._pauses(now) else None

    def _pauses(self, now: datetime) -> bool:
        """Whether the next try is still to come. One that is far away was set by a clock that ran ahead."""
        left = (self._box.next_try - now).total_seconds() if self._box.next_try is not None else 0.0
        return 0 < left <= LONGEST_WAIT

    def sent(self, message: Message, now: datetime) -> None:
        """The target has taken the message."""
        reached("notify.sent")
        with self._lock:
            waiting = [one for one in self._box.waiting if one.key != message.key]
            self._write(
                waiting=waiting, failures=0, failing_since=None, tried_at=None, failing_for=0.0, next_try=None,
                last_error="",
                delivered=self._box.delivered + 1, delivered_at=now,
            )  # fmt: skip

    def failed(self, reason: str, now: datetime, retry_after: float | None = None) -> None:
        """The target has not taken it. `reason` must name no address.

        Between two tries no more than the longest pause can have passed: a clock that jumps ten years ahead, or a
        machine that slept, makes nobody give up.
        """
        with self._lock:
            passed = (now - self._box.tried_at).total_seconds() if self._box.tried_at else 0.0
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._box.failures, 10))
            pause = max(pause, min(LONGEST_WAIT, retry_after or 0.0))
            self._write(
                failures=self._box.failures + 1,
                failing_since=self._box.failing_since or now,
                tried_at=now,
                failing_for=self._box.failing_for + min(max(0.0, passed), LONGEST_WAIT),
                next_try=now + timedelta(seconds=pause),
                last_error=reason,
            )

    def _drop(self, count: int, reason: str) -> None:
        self._box.dropped += count
        self._box.dropped_reason = reason

    def _write(self, **changes: object) -> None:
        box = msgspec.structs.replace(self._box, **changes)
        write_json(self._path, box)
        self._box = box


def read_box(path: Path) -> Box:
    """The state of a target; a fresh one where nothing was ever queued for it.

    Raises:
        StepError: the file cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Box)
    except FileNotFoundError:
        return Box()
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise StepError(
            f"{path} cannot be read: {error}", hint="Delete it; the target is then told what happens from here on."
        ) from error
