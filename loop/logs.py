"""The daemon's own log: its format, and the folder of its children's logs kept small.

The daemon writes to stderr, which systemd or docker keeps. Its children write to `.tuneloop/logs`, each to a file of
its own that is open for appending, so that a file that was cut is written on from its new end.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Literal

from loop.cli.safe import plain
from store.keys import hide
from store.logs import VARIABLE, JsonFormatter, wants_json, write_with

LogFormat = Literal["human", "json"]

LARGEST = 10 << 20  # bytes of one log; a larger one is copied to NAME.1.log and cut
MOST = 500  # files in the folder; beyond that the oldest ones go
ROTATED = ".1.log"


class PersonFormatter(logging.Formatter):
    """One safe line an entry, with the local time of day; a traceback stays on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        words = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():<7} {plain(record.getMessage())}"
        if record.exc_info:
            words += "\n" + plain(self.formatException(record.exc_info), lines=True)
        return hide(words)


def configure(form: str = "", *, level: int = logging.INFO) -> None:
    """Log to stderr, and have the children that are started from here on use the same format.

    Args:
        form: human or json; empty: as TUNELOOP_LOG_FORMAT says, else human.
        level: of our own loggers.
    """
    if form:
        os.environ[VARIABLE] = form
    formatter = JsonFormatter() if wants_json() else PersonFormatter()
    write_with(formatter, "tuneloop", level=level)
    if logging.lastResort is not None:  # what writes the warnings of libraries
        logging.lastResort.setFormatter(formatter)


def tidy(folder: Path, *, largest: int = LARGEST, most: int = MOST) -> list[str]:
    """Cut the logs in `folder` that are larger than `largest` bytes, and remove the oldest files beyond `most`.

    A line that is written between the copy and the cut is lost, as with logrotate's copytruncate.

    Returns:
        Names of the files that were cut or removed.

    Raises:
        OSError: the disk is full or the folder is not ours.
    """
    done: list[str] = []
    files = sorted((path for path in folder.iterdir() if path.is_file()), key=lambda path: path.stat().st_mtime)
    for path in files[: max(0, len(files) - most)]:
        path.unlink(missing_ok=True)
        done.append(path.name)
    for path in files[max(0, len(files) - most) :]:
        if path.suffix == ".log" and not path.name.endswith(ROTATED) and path.stat().st_size > largest:
            kept = path.with_name(path.name.removesuffix(".log") + ROTATED)
            shutil.copyfile(path, kept)
            kept.chmod(0o600)
            os.truncate(path, 0)
            done.append(path.name)
    return done
