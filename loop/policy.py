"""What to do next. Pure: a function of the folded state, the settings and the time.

`decide` gives commands, `waits` says in words what the loop is waiting for; both read the same rules.
"""

from __future__ import annotations

import math
from datetime import datetime

from adapters.metrics import independent_difference
from loop import commands as cmd
from loop.manners import in_window
from loop.settings import Settings, TaskSettings
from loop.state import Cycle, LoopState, Plan, TaskState
from store.events import StepKind
from store.wording import counted

BUSY_PHASES = ("training", "evaluating")
STARTING_PHASES = ("frozen", "interrupted", "registered")
Z99 = 2.5758293035489004  # two-sided 99% of the standard normal
PROMPT_EXAMPLES = 12  # labelled examples that a choice between prompts needs at least


def decide(state: LoopState, settings: Settings, now: datetime) -> list[cmd.Command]:
    """The commands that are due. At most one step has the machine: of several that would start one (`is_busy`) the
    first that can start now does, so that a task that waits for an endpoint, or keeps failing, holds nobody up.

    While the loop is paused only running steps are watched; nothing new starts.
    """
    watched: list[cmd.Command] = [watch for task in state.tasks.values() if (watch := _watch(task)) is not None]
    if state.paused:
        return watched
    free = not watched
    window = in_window(settings.resources.window, settings.resources.timezone, now)
    orders: list[cmd.Command] = []
    for name, task_settings in settings.tasks.items():
        task = state.task(name)
        if _harvest_is_due(task, task_settings, now):
            orders.append(cmd.Harvest(task=name))
        if (reason := _rollback_reason(task, task_settings)) is not None:
            orders.append(cmd.RollBack(task=name, reason=reason))
        command = _cycle_step(task, task_settings)
        if command is not None and (not is_busy(command) or (free and (window or _was_asked_for(task)))):
            orders.append(command)
    return watched + orders


def waits(state: LoopState, settings: Settings, name: str) -> list[str]:
    """What the loop waits for in one task, each a short clause for a person ("7 more labels until training")."""
    task, rules = state.task(name), settings.tasks[name]
    texts: list[str] = []
    if state.paused:
        texts.append("paused: " + (state.pause_reason or "`tuneloop resume` goes on"))
    if not task.baseline:
        missing = max(0, PROMPT_EXAMPLES - task.train_total)
        compared = "the daemon to compare the prompt versions (`tuneloop run`)"
        more = counted(missing, "more label")
        texts.append(f"{more} until the prompt versions are compared" if missing else compared)
    cycle = task.cycle
    if cycle is not None and cycle.phase == "parked":
        texts.append(f"{cycle.run_id} is parked ({cycle.reason}); `tuneloop train` tries again")
    if cycle is not None and (missing := _exam_missing(task, rules, cycle)) > 0:
        again = " again" if cycle.undecided else ""
        texts.append(f"{counted(missing, 'more audit label')} until {cycle.adapter} is judged{again}")
    elif cycle is not None and cycle.phase in STARTING_PHASES and settings.resources.window and not cycle.asked:
        texts.append(f"a free machine within {settings.resources.window}")
    if cycle is None or cycle.undecided or cycle.phase == "parked":
        missing = labels_missing(task, rules)
        more = counted(missing, "more label")
        texts.append(f"{more} until training" if missing > 0 else "a free machine for training")
    return texts


def is_plateau(task: TaskState, rules: TaskSettings) -> bool:
    """Whether the last candidates in a row gained less than the delta over their champion."""
    last = task.gains[-rules.trigger.plateau_rounds :]
    return len(last) == rules.trigger.plateau_rounds and all(gain < rules.trigger.plateau_delta for gain in last)


def is_busy(command: cmd.Command) -> bool:
    """Whether a command keeps the machine busy, if it starts."""
    return isinstance(command, cmd.StartTraining | cmd.StartEvaluation | cmd.AdoptPrompt)


def _was_asked_for(task: TaskState) -> bool:
    """Whether a person ordered the step: their word stands above the window."""
    return task.evaluation_request is not None or (task.cycle is not None and task.cycle.asked)


def _watch(task: TaskState) -> cmd.WatchStep | None:
    cycle = task.cycle
    if cycle is None or cycle.phase not in BUSY_PHASES:
        return None
    kind: StepKind = "train" if cycle.phase == "training" else "evaluate"
    return cmd.WatchStep(task=task.task, run_id=cycle.run_id, kind=kind, attempt=cycle.attempt)


def _harvest_is_due(task: TaskState, rules: TaskSettings, now: datetime) -> bool:
    if task.fresh_feedback > 0 or task.fresh_records >= rules.harvest.min_new:
        return True
    if task.fresh_records == 0:
        return False
    # a clock that was set back makes the last harvest one of the future: only the distance counts
    since = abs((now - task.harvested_at).total_seconds()) if task.harvested_at else math.inf
    return since >= rules.harvest.every_seconds


def _rollback_reason(task: TaskState, rules: TaskSettings) -> str | None:
    """Production disagrees with the champion clearly more often than with the one before it.

    It is looked at after every answer, at which 95% would take back too many that are as good: at 99% it is about one
    in twenty within 300 answers, and an adapter that is wrong on 40% instead of 10% goes after 30 to 50 of them
    (tests/test_policy.py).
    """
    if len(task.deployed) < 2 or not rules.rollback.enabled:
        return None
    now, before = task.deployed[-1].answerer, task.deployed[-2].answerer
    if before in task.rolled_back or now not in task.served or before not in task.served:
        return None
    here, there = task.served[now], task.served[before]
    needed = rules.rollback.min_feedback
    if here.disagreements == 0 or min(here.records, there.records) < needed:
        return None
    wrong_here, wrong_there = (min(one.disagreements, one.records) for one in (here, there))
    worse = independent_difference(wrong_here, here.records, wrong_there, there.records, Z99)
    if worse.difference <= rules.rollback.drop or worse.low <= 0:
        return None
    return f"production corrected {now} {worse.difference:.0%} more often than {before}"


def _cycle_step(task: TaskState, rules: TaskSettings) -> cmd.Command | None:
    name, cycle = task.task, task.cycle
    if cycle is None or cycle.phase == "parked":
        return _new_cycle(task, rules)
    match cycle.phase:
        case "frozen" | "interrupted":
            if cycle.failures >= rules.training.max_attempts:
                return cmd.Park(task=name, run_id=cycle.run_id, kind="train", reason=cycle.reason)
            return cmd.StartTraining(task=name, run_id=cycle.run_id, attempt=cycle.attempt + 1)
        case "trained":
            return cmd.RegisterAdapter(task=name, run_id=cycle.run_id)
        case "registered":
            if cycle.failures >= rules.training.max_attempts:
                return cmd.Park(task=name, run_id=cycle.run_id, kind="evaluate", reason=cycle.reason)
            return None if _exam_missing(task, rules, cycle) > 0 else _look(task, cycle)
        case "evaluated":
            return cmd.Judge(task=name, run_id=cycle.run_id)
        case "judged":
            return _after_verdict(task, rules, cycle)
        case _:
            return None


def _after_verdict(task: TaskState, rules: TaskSettings, cycle: Cycle) -> cmd.Command | None:
    if cycle.verdict == "promote":
        return cmd.Promote(task=task.task, run_id=cycle.run_id)
    if cycle.verdict == "reject":
        return cmd.Reject(task=task.task, run_id=cycle.run_id, reason=cycle.reason)
    if _new_cycle(task, rules) is not None:
        return cmd.Reject(task=task.task, run_id=cycle.run_id, reason="undecided when newer labels came in")
    return None if _exam_missing(task, rules, cycle) > 0 else _look(task, cycle)


def _look(task: TaskState, cycle: Cycle) -> cmd.StartEvaluation:
    """The next look at the exam; a retry after an interruption is the same look."""
    spent = task.looks.get(cycle.adapter, 0)
    return cmd.StartEvaluation(
        task=task.task,
        run_id=cycle.run_id,
        attempt=cycle.attempt + 1,
        look=spent if cycle.attempt > 0 else spent + 1,
        adapter=cycle.adapter,
        artifact=cycle.artifact,
    )


def _exam_missing(task: TaskState, rules: TaskSettings, cycle: Cycle) -> int:
    """Audit labels that the next look still needs; 0 where no look is waiting for any."""
    if cycle.undecided:
        return max(0, cycle.exam + rules.gate.exam_growth - task.exam_total)
    if cycle.phase == "registered" and cycle.attempt == 0:
        return max(0, rules.gate.min_exam - task.exam_total)
    return 0


def labels_missing(task: TaskState, rules: TaskSettings) -> int:
    """Training-side labels until the next run; 0 or less means that one is due."""
    since = max(task.trained_at, task.parked_at)
    needed = since + rules.trigger.every if since > 0 else rules.trigger.first
    if is_plateau(task, rules):
        needed = max(needed, rules.trigger.overnight_examples)
    return needed - task.train_total


def _new_cycle(task: TaskState, rules: TaskSettings) -> cmd.Command | None:
    name = task.task
    if not task.baseline:
        named = bool(rules.prompt)
        return cmd.AdoptPrompt(task=name) if named or task.train_total >= PROMPT_EXAMPLES else None
    if task.shots_erased and task.train_total >= PROMPT_EXAMPLES:
        return cmd.AdoptPrompt(task=name)
    run_id = f"{name}-run-{task.datasets + 1}"
    plan: Plan = "overnight" if is_plateau(task, rules) else "standard"
    if task.request is not None:
        plan = task.request.plan if task.request.plan != "standard" else plan
        return cmd.FreezeDataset(task=name, run_id=run_id, plan=plan, trigger=task.request.reason or "requested")
    if task.evaluation_request is not None:
        request = task.evaluation_request
        return cmd.StartEvaluation(
            task=name,
            run_id=request.run_id,
            attempt=1,
            look=task.looks.get(request.adapter, 0) + 1,
            adapter=request.adapter,
            artifact=request.artifact,
        )
    if task.retry_gently:
        return cmd.FreezeDataset(task=name, run_id=run_id, plan="gentle", trigger="general ability dropped")
    if labels_missing(task, rules) > 0:
        return None
    trigger = f"{task.train_total} training-side labels, {task.trained_at} at the last training"
    return cmd.FreezeDataset(task=name, run_id=run_id, plan=plan, trigger=trigger)
