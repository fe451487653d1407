"""Manners of costly steps beside production: when they may start, how they run, and when they give way."""

from __future__ import annotations

import re
import subprocess
from datetime import datetime, time
from zoneinfo import ZoneInfo

from adapters.child import MEMORY, NICE

WINDOW = r"(\d\d):(\d\d)-(\d\d):(\d\d)"
_QUERY = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
_QUERY_SECONDS = 5.0


def parse_window(window: str) -> tuple[time, time]:
    """Start and end of "22:00-06:00".

    Raises:
        ValueError: it is no such window, or it is empty (start and end are the same).
    """
    found = re.fullmatch(WINDOW, window)
    try:
        if found is None:
            raise ValueError
        hours = [int(part) for part in found.groups()]
        start, end = time(hours[0], hours[1]), time(hours[2], hours[3])
    except ValueError:
        raise ValueError(f"{window!r} is no window; write it as 22:00-06:00") from None
    if start == end:
        raise ValueError(f"{window!r} is an empty window; leave it out for the whole day")
    return start, end


def in_window(window: str, timezone: str, now: datetime) -> bool:
    """Whether a costly step may start at `now` (aware). An empty window is always open; an empty timezone is the
    machine's. A window whose end lies before its start goes over midnight; the end itself is outside."""
    if not window:
        return True
    start, end = parse_window(window)
    here = now.astimezone(ZoneInfo(timezone) if timezone else None).time().replace(tzinfo=None)
    if start < end:
        return start <= here < end
    return here >= start or here < end


def step_environment(nice: int, memory_limit_mb: int) -> dict[str, str]:
    """What tells a step's process its manners (read by `adapters.child.keep_manners`)."""
    return {NICE: str(nice), MEMORY: str(memory_limit_mb)}


def gpu_free_mb() -> int | None:
    """Free memory of the fullest GPU in MiB, by nvidia-smi; None where there is no GPU to ask about."""
    try:
        asked = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True)
        return min((int(line) for line in asked.stdout.split()), default=None)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
