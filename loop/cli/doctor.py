"""What `doctor` looks at. Each check is a function that gives its lines; one that breaks is itself a finding.

The checks lie beside this module: `doctor_machine`, `doctor_workspace`, `doctor_outside`, `doctor_leftovers`,
`doctor_stored` and `doctor_copies`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from store.errors import TuneloopError
from store.keys import hide


class Check(msgspec.Struct, frozen=True):
    level: Literal["ok", "warn", "fail"]
    name: str
    detail: str
    advice: str = ""


class Report(msgspec.Struct, frozen=True):
    checks: list[Check]
    fixed: list[str]  # what was done about it, each a sentence


def examine(start: Path | None, *, fix: bool = False) -> Report:
    """All checks; those of the workspace only where there is one.

    Args:
        start: a folder in the workspace; None: the current one.
        fix: do what is safe first, and look afterwards.
    """
    from loop import bootstrap
    from loop.cli import (
        doctor_copies,
        doctor_leftovers,
        doctor_machine,
        doctor_outside,
        doctor_stored,
        doctor_workspace,
    )

    found = [line for check in doctor_machine.CHECKS for line in _run(check.__name__, check)]
    fixed: list[str] = []
    try:
        app = bootstrap.open_app(start)
    except TuneloopError as error:
        found.append(Check("warn" if error.exit_code == 2 else "fail", "workspace", error.message, error.hint))
        return Report(found, fixed)
    with app:
        if fix:
            fixed = doctor_leftovers.mend(app)
        found.append(Check("ok", "workspace", f"{app.root}, tasks: {', '.join(app.settings.tasks)}"))
        looks = (*doctor_workspace.CHECKS, *doctor_outside.CHECKS, *doctor_leftovers.CHECKS)
        for look in (*looks, doctor_stored.stored, doctor_copies.backups, doctor_copies.litestream):
            found += _run(look.__name__, lambda look=look: look(app))  # type: ignore[misc]
    return Report(found, fixed)


def _run(name: str, check: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(check())
    except TuneloopError as error:
        return [Check("fail", name, error.message, error.hint)]
    except Exception as error:
        return [Check("fail", name, hide(f"this could not be looked at: {type(error).__name__}: {error}"))]
