"""`tuneloop run` as it is, but for its costly children: `security_daemon.py ROOT`.

Training, evaluation and engine are the torch-free ones of the reliability trials (on PYTHONPATH); gateway, mirror,
notifier and the asking step are the real ones.
"""

from __future__ import annotations

import sys

from loop import daemon, steps
from loop.cli.main import main

if __name__ == "__main__":
    steps.MODULES.update(train="stub_child", evaluate="stub_child", engine="stub_engine")  # type: ignore[attr-defined]
    daemon.STEP_POLL_SECONDS = 0.05
    sys.exit(main(["-w", sys.argv[1], "run"]))
