"""What the policy can order: imperative, frozen, and carrying all that the handler may not decide itself."""

from __future__ import annotations

import msgspec

from loop.state import Plan
from store.events import StepKind


class Command(msgspec.Struct, frozen=True, kw_only=True):
    task: str


class AdoptPrompt(Command, frozen=True, kw_only=True):
    """Score the prompt versions on the labelled examples and adopt the best one."""


class Harvest(Command, frozen=True, kw_only=True):
    """Look through what came in since the last harvest and ask for reviews."""


class FreezeDataset(Command, frozen=True, kw_only=True):
    run_id: str
    plan: Plan
    trigger: str


class StartTraining(Command, frozen=True, kw_only=True):
    run_id: str
    attempt: int


class WatchStep(Command, frozen=True, kw_only=True):
    """See how the child process of an open step is doing, and record its ending."""

    run_id: str
    kind: StepKind
    attempt: int


class RegisterAdapter(Command, frozen=True, kw_only=True):
    run_id: str


class StartEvaluation(Command, frozen=True, kw_only=True):
    run_id: str
    attempt: int
    look: int
    adapter: str
    artifact: str


class Judge(Command, frozen=True, kw_only=True):
    run_id: str


class Promote(Command, frozen=True, kw_only=True):
    run_id: str


class Reject(Command, frozen=True, kw_only=True):
    run_id: str
    reason: str


class Park(Command, frozen=True, kw_only=True):
    """Give a run up until people or new labels ask for it again."""

    run_id: str
    kind: StepKind
    reason: str


class RollBack(Command, frozen=True, kw_only=True):
    reason: str
