"""What handlers work with: the workspace, the lease, children and services, and an append that carries the lease."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loop import commands as cmd
from loop import manners
from loop.bootstrap import App
from loop.lease import Lease
from loop.services import Services
from loop.settings import TaskSettings
from loop.state import Cycle, TaskState
from loop.steps import Steps, forget_ending, forget_texts
from store.errors import StepError
from store.log import Draft, Recorded, step_id

ACTOR = "daemon"


@dataclass(frozen=True)
class Context:
    """What handlers work with."""

    app: App
    lease: Lease
    steps: Steps
    services: Services
    stopping: Callable[[], bool]

    def append(
        self, drafts: Sequence[Draft], *, expected: Mapping[str, int] | None = None, cause: str = ""
    ) -> list[Recorded]:
        return self.app.workspace.log.append(
            drafts, actor=ACTOR, now=self.app.now(), expected=expected, epoch=self.lease.epoch, correlation_id=cause
        )

    def task(self, name: str) -> tuple[TaskState, TaskSettings]:
        return self.app.state().task(name), self.app.settings.task(name)

    def cycle(self, command: cmd.Command) -> Cycle:
        """The open cycle that a command is about.

        Raises:
            StepError: there is none; the command was decided on an older state.
        """
        cycle = self.app.state().task(command.task).cycle
        if cycle is None:
            raise StepError(f"{command.task} has no open run")
        return cycle

    def folder(self, name: str) -> Path:
        return self.app.workspace.paths.runs / name

    def forget_ending(self, folder: Path) -> None:
        """See `steps.forget_ending`; raises StaleEpoch when the run is another daemon's by now."""
        with self.lease.fence():
            forget_ending(folder)

    def forget_texts(self, folder: Path) -> None:
        """See `steps.forget_texts`; raises StaleEpoch when the run is another daemon's by now."""
        with self.lease.fence():
            forget_texts(folder)


def run_draft(event: Any, *key: str | int) -> Draft:
    """An event of a run, under an id that a step which is done again has again."""
    return Draft(event, f"run/{event.run_id}", step_id(event.run_id, type(event).__name__, *key))


def gpu_is_short(context: Context) -> bool:
    """Whether less GPU memory is free than is kept for production."""
    kept = context.app.settings.resources.gpu_free_mb
    free = manners.gpu_free_mb() if kept else None
    return free is not None and free < kept
