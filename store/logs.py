"""Lines of a log: for people, or JSON for a collector; never with a key.

`TUNELOOP_LOG_FORMAT=json` in the environment makes every process of ours write JSON lines. A line that is written
within `about` carries the correlation id of the events that it is about.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from store.keys import hide

VARIABLE = "TUNELOOP_LOG_FORMAT"
FIELDS = ("event", "position", "stream", "correlation_id")  # what a line may carry beside its words, as `extra`

_about: ContextVar[str] = ContextVar("about", default="")


@contextlib.contextmanager
def about(correlation_id: str) -> Iterator[None]:
    """Lines that are written in this block are about the events with this correlation id."""
    token = _about.set(correlation_id)
    try:
        yield
    finally:
        _about.reset(token)


def wants_json(env: Mapping[str, str] | None = None) -> bool:
    """Whether the environment asks for JSON lines."""
    return (os.environ if env is None else env).get(VARIABLE, "") == "json"


class HumanFormatter(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and what `FIELDS` names where it is known."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": hide(record.getMessage()),
        }
        known = {name: getattr(record, name, None) for name in FIELDS}
        known["correlation_id"] = known["correlation_id"] or _about.get()
        entry |= {name: value for name, value in known.items() if value}
        if record.exc_info:
            entry["traceback"] = hide(self.formatException(record.exc_info))
        # every control character becomes an escape, so that no text can act on a terminal
        return json.dumps(entry, ensure_ascii=True)


def log_to_stderr(*names: str, level: int = logging.INFO) -> None:
    """Have the named loggers ("" is the root) write to stderr, and nowhere else."""
    human = HumanFormatter("%(asctime)s %(name)s %(levelname)s %(message)s")
    write_with(JsonFormatter() if wants_json() else human, *names, level=level)


def write_with(formatter: logging.Formatter, *names: str, level: int = logging.INFO) -> None:
    """Have the named loggers write to stderr in a format of the caller's."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
