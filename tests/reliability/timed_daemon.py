"""The stub daemon that notes when its ticks begin and end: `timed_daemon.py ROOT TICKS`.

TICKS gets three floats a tick, in seconds: begin and end by a clock that nobody sets (CLOCK_MONOTONIC_RAW), and for how
long the tick only waited: neither computing nor queueing for a core.
"""

from __future__ import annotations

import struct
import sys
import time
from pathlib import Path

import stub_daemon

from loop.daemon import Daemon, TickReport

NOTE = struct.Struct("=ddd")  # begin, end, waited


def _raw() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC_RAW)


def _busy() -> float:
    """Seconds that this thread has computed or queued for a core (Linux)."""
    computed, queued, _ = Path("/proc/thread-self/schedstat").read_text().split()
    return (int(computed) + int(queued)) / 1e9


class TimedDaemon(Daemon):
    ticks: Path

    def tick(self) -> TickReport:
        begin, busy = _raw(), _busy()
        try:
            return super().tick()
        finally:
            end = _raw()
            waited = max(0.0, end - begin - (_busy() - busy))
            with self.ticks.open("ab") as file:
                file.write(NOTE.pack(begin, end, waited))


if __name__ == "__main__":
    TimedDaemon.ticks = Path(sys.argv[2])
    stub_daemon.Daemon = TimedDaemon  # type: ignore[misc]
    stub_daemon.serve(Path(sys.argv[1]), "run")
