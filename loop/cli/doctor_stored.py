"""The part of `doctor` that reads everything which is stored: log, texts, read tables, artifacts, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loop.cli.doctor import Check

if TYPE_CHECKING:
    from loop.bootstrap import App
    from store.verify import Finding

SHOWN = 5  # findings of one check
_ADVICE = {
    "read tables": "They follow from the log: `tuneloop verify --rebuild` makes them anew.",
    "artifacts": "It is not used as long as it is so. Put its folder back from a backup.",
}
_NAMES = {"database": "pages"}  # beside doctor's own look at the connections
_RESTORE = "`tuneloop verify` says more; put the last backup in its place: `tuneloop restore BACKUP`."


def stored(app: App) -> Iterator[Check]:
    """Everything that is stored, to the last byte, and where it is not what was written."""
    from loop.health import note_verified
    from store.verify import verify

    shown: dict[str, int] = {}
    findings = verify(app.workspace)
    note_verified(app, findings)
    for finding in findings:
        shown[finding.check] = shown.get(finding.check, 0) + (finding.level != "ok")
        if shown[finding.check] <= SHOWN:
            advice = "" if finding.level != "fail" else _ADVICE.get(finding.check, _RESTORE)
            yield Check(finding.level, _NAMES.get(finding.check, finding.check), _placed(finding), advice)
    yield from _checkpoints(app)


def _placed(finding: Finding) -> str:
    place = f" (position {finding.position})" if finding.position else ""
    return f"{finding.message}{place}" + (f" [{finding.file}]" if finding.file else "")


def _checkpoints(app: App) -> Iterator[Check]:
    from adapters import checkpoints

    runs = app.workspace.paths.runs
    damaged = list(checkpoints.damaged(runs))
    for file, problem in damaged[:SHOWN]:
        advice = "Training goes on from an older one by itself; look at the disk."
        yield Check("warn", "checkpoints", f"{file} {problem}", advice)
    if not damaged:
        count = sum(len(checkpoints.marked(folder)) for folder in runs.glob("*/checkpoints"))
        yield Check("ok", "checkpoints", f"{count} of unfinished runs, as they were written")
