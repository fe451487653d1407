"""Command → effect → events. Effects never change state: what they append is all that counts.

Every append carries a deterministic event id and the daemon's epoch, so that a step that is done again after
a crash leaves one record, and a daemon that was taken over leaves none. `HANDLERS` at the end says who does what.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.objectives import examples_for
from adapters.specs import Example, TrainResult, read_json, read_lines
from adapters.train import plan
from loop import commands as cmd
from loop import datasets, evaluations, judging, manners, questions, serving, targets
from loop.actions import rolled_back
from loop.bootstrap import App
from loop.lease import Lease
from loop.services import Services
from loop.settings import TaskSettings
from loop.state import GPU_NEEDED, SHUTDOWN, Cycle, TaskState
from loop.steps import Progress, Steps, forget_ending, forget_texts
from store import events as ev
from store import queries
from store.disk import has_room
from store.errors import ModelError, StepError, TuneloopError
from store.kill_points import reached
from store.log import Draft, Recorded, step_id
from store.tables import EvaluationRow

log = logging.getLogger("tuneloop.handlers")

Work = Callable[[], list[Recorded]]
ACTOR = "daemon"
PROGRESS_STEPS = 5  # optimiser steps between two progress events


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


def _run_draft(event: Any, *key: str | int) -> Draft:
    return Draft(event, f"run/{event.run_id}", step_id(event.run_id, type(event).__name__, *key))


# ---------------------------------------------------------------- prompts and harvest


def adopt_prompt(context: Context, command: cmd.AdoptPrompt) -> list[Recorded]:
    """Have the prompt versions scored on labelled training-side examples; the best becomes the baseline."""
    event = questions.compared(context.app, context.steps, command.task)
    if event is None:
        return []  # still being asked
    recorded = context.append([Draft(event, f"task/{command.task}")])
    questions.forget_comparison(context.app, command.task)
    return recorded


def harvest(context: Context, command: cmd.Harvest) -> list[Recorded]:
    """Ask for reviews of what came in since the last harvest."""
    state, rules = context.task(command.task)
    drafts = datasets.harvest(context.app, context.steps, state, rules)
    if drafts is None:
        return []  # the control is still being asked
    reached("harvest.chosen")
    return context.append(drafts)


# ---------------------------------------------------------------- dataset and training


def freeze_dataset(context: Context, command: cmd.FreezeDataset) -> list[Recorded]:
    """Curate the labels there are and keep the result by content address."""
    state, rules = context.task(command.task)
    event = datasets.freeze(context.app, context.steps, state, rules, command)
    if event is None:
        return []  # it is still being made
    reached("freeze.counted")
    return context.append([_run_draft(event)], expected={f"run/{command.run_id}": 0}, cause=command.run_id)


def start_training(context: Context, command: cmd.StartTraining) -> list[Recorded]:
    """Render the run folder, record the start, then start the child."""
    _wait_for_gpu(context)
    app = context.app
    cycle = context.cycle(command)
    _, rules = context.task(command.task)
    base = serving.base_ref(app)
    folder = context.folder(command.run_id)
    spec = datasets.prepare_training(app, cycle, rules, base, folder, context.lease.fence)
    progress = context.steps.look(folder)
    if progress.status == "running":
        raise StepError(f"{command.run_id} is still being worked on by another process")
    planned = plan(spec, examples=len(examples_for(spec, read_lines(folder / "train.jsonl", Example))))
    event = ev.TrainingStarted(
        task=command.task,
        run_id=command.run_id,
        attempt=command.attempt,
        adapter=spec.adapter,
        method=spec.method,
        base_model=Path(base.path).name,
        base_digest=base.digest,
        quantisation=base.quantisation,
        prompt=spec.prompt.name,
        seed=spec.seed,
        hyperparameters=datasets.hyperparameters(spec),
        epoch_cap_exceeded=planned.epoch_cap_exceeded,
        resumed_from=progress.checkpoint,
    )
    context.forget_ending(folder)
    reached("train.folder_prepared")
    recorded = context.append([_run_draft(event, command.attempt)], cause=command.run_id)
    reached("train.start_recorded")
    context.steps.start("train", folder)
    reached("train.child_started")
    return recorded


def watch_step(context: Context, command: cmd.WatchStep) -> list[Recorded]:
    """Record what a running step has reached, or how it ended."""
    cycle = context.cycle(command)
    folder = context.folder(command.run_id if command.kind == "train" else cycle.evaluation_id)
    progress = context.steps.look(folder)
    cause = command.run_id
    if progress.status == "running":
        if _gpu_is_short(context):
            context.steps.stop(folder, GPU_NEEDED)
        return context.append(_progress(command, cycle, progress), cause=cause)
    if progress.status == "done":
        if command.kind == "evaluate" and not judging.is_judged(context.app, context.steps, command.task, folder):
            return []  # a model is being asked what the answers are worth
        finish = _finish_training if command.kind == "train" else _finish_evaluation
        try:
            return context.append(finish(context, command, cycle, folder), cause=cause)
        except TuneloopError as error:
            if not has_room(folder):
                raise
            return context.append([_failed(context, command, cycle, error.message, retry=True)], cause=cause)
    if progress.failure is not None:
        reached("step.failure_seen")
        return context.append(
            [_failed(context, command, cycle, progress.failure.message, retry=progress.failure.retry)], cause=cause
        )
    reached("step.interruption_seen")
    reason = progress.stopped or "its process ended without a result"
    return context.append([_interrupted(command, cycle, progress, reason)], cause=cause)


def _gpu_is_short(context: Context) -> bool:
    kept = context.app.settings.resources.gpu_free_mb
    free = manners.gpu_free_mb() if kept else None
    return free is not None and free < kept


def _wait_for_gpu(context: Context) -> None:
    if _gpu_is_short(context):
        kept = context.app.settings.resources.gpu_free_mb
        raise StepError(f"less than {kept} MiB of GPU memory is free", hint="The step starts when there is more.")


def _progress(command: cmd.WatchStep, cycle: Cycle, progress: Progress) -> list[Draft]:
    metric = progress.metric
    if command.kind != "train" or metric is None or metric.loss is None or metric.step < cycle.step + PROGRESS_STEPS:
        return []
    event = ev.TrainingProgressed(
        task=command.task,
        run_id=command.run_id,
        step=metric.step,
        of=metric.of,
        loss=metric.loss,
        eval_loss=metric.eval_loss,
        eval_accuracy=metric.eval_accuracy,
        seconds=round(metric.seconds, 1),
    )
    return [_run_draft(event, command.attempt, metric.step)]


def _finish_training(context: Context, command: cmd.WatchStep, cycle: Cycle, folder: Path) -> list[Draft]:
    from adapters import registry

    result = read_json(folder / "result.json", TrainResult)
    free = context.app.settings.task(command.task).free
    registry.check(folder / "adapter")
    artifact = context.app.workspace.artifacts.put(
        folder / "adapter", "adapter", {"run_id": command.run_id, "adapter": cycle.adapter}
    )
    event = ev.TrainingSucceeded(
        task=command.task,
        run_id=command.run_id,
        artifact=artifact,
        steps=result.steps,
        epochs=round(result.epochs, 2),
        seconds=round(result.seconds, 1),
        train_loss=result.train_loss,
        eval_accuracy=result.eval_accuracy,
        temperature=result.temperature,
        peak_memory_mb=round(result.peak_memory_mb, 1),
        stopped=result.stopped,
        samples=[
            {
                "id": one.id,
                "expected": one.expected,
                "answered": targets.keep(context.app, command.task, one.id, one.answered) if free else one.answered,
            }
            for one in result.samples
        ],
        truncated=result.truncated,
        tokens=result.tokens,
        notes=result.notes,
    )
    reached("train.adapter_kept")
    return [_run_draft(event)]


def _finish_evaluation(context: Context, command: cmd.WatchStep, cycle: Cycle, folder: Path) -> list[Draft]:
    baseline = context.app.state().task(command.task).baseline
    events = evaluations.finish(context.app, folder, baseline)
    reached("evaluate.predictions_kept")
    return [_run_draft(event, cycle.evaluation_id) for event in events]


def _failed(context: Context, command: cmd.WatchStep, cycle: Cycle, reason: str, *, retry: bool) -> Draft:
    limit = context.app.settings.task(command.task).training.max_attempts
    parked = not retry or cycle.failures + 1 >= limit
    if parked:
        _forget_run(context, cycle)
    return _ending(command, cycle, reason, parked)


def _ending(command: cmd.WatchStep | cmd.Park, cycle: Cycle, reason: str, parked: bool) -> Draft:
    event: ev.Event
    if command.kind == "train":
        event = ev.TrainingFailed(
            task=command.task, run_id=command.run_id, attempt=cycle.attempt, reason=reason, parked=parked
        )
    else:
        event = ev.EvaluationFailed(
            task=command.task,
            run_id=command.run_id,
            evaluation_id=cycle.evaluation_id,
            attempt=cycle.attempt,
            reason=reason,
            parked=parked,
        )
    return _run_draft(event, cycle.evaluation_id, cycle.attempt, int(parked))


def _interrupted(command: cmd.WatchStep, cycle: Cycle, progress: Progress, reason: str) -> Draft:
    event = ev.StepInterrupted(
        task=command.task,
        run_id=command.run_id,
        kind=command.kind,
        attempt=command.attempt,
        checkpoint=progress.checkpoint,
        reason=reason,
    )
    # attempts are counted anew for each look
    key = [cycle.evaluation_id] if command.kind == "evaluate" else []
    return _run_draft(event, command.kind, command.attempt, *key)


def _forget_run(context: Context, cycle: Cycle) -> None:
    """Remove the texts of a run that is given up: before it is recorded, since nobody comes back afterwards."""
    for name in (cycle.run_id, cycle.evaluation_id):
        if name:
            context.forget_texts(context.folder(name))
    reached("park.texts_forgotten")


def park(context: Context, command: cmd.Park) -> list[Recorded]:
    """Give a run up, with the reason of its last failure."""
    cycle = context.cycle(command)
    _forget_run(context, cycle)
    return context.append([_ending(command, cycle, command.reason or "it kept failing", parked=True)])


def register_adapter(context: Context, command: cmd.RegisterAdapter) -> list[Recorded]:
    """Enter a trained adapter, after its files were checked once more, and drop the run's rendered texts."""
    workspace = context.app.workspace
    cycle = context.cycle(command)
    workspace.artifacts.path(cycle.artifact, verify=True)
    folder = context.folder(command.run_id)
    started = [one.event for one in workspace.log.stream(f"run/{command.run_id}")]
    spec = next(one for one in reversed(started) if isinstance(one, ev.TrainingStarted))
    done = next(one for one in reversed(started) if isinstance(one, ev.TrainingSucceeded))
    event = ev.AdapterRegistered(
        task=command.task,
        run_id=command.run_id,
        adapter=cycle.adapter,
        artifact=cycle.artifact,
        control=cycle.dataset,
        method=spec.method,
        base_digest=spec.base_digest,
        quantisation=spec.quantisation,
        prompt=spec.prompt,
        temperature=done.temperature,
    )
    context.forget_texts(folder)  # first: after the record nobody comes back for them
    reached("register.texts_forgotten")
    return context.append([_run_draft(event)], cause=command.run_id)


# ---------------------------------------------------------------- evaluation and verdict


def start_evaluation(context: Context, command: cmd.StartEvaluation) -> list[Recorded]:
    """Spend a look at the exam: write the run folder, record the start, start the child."""
    _wait_for_gpu(context)
    app = context.app
    state, rules = context.task(command.task)
    evaluation_id = f"{command.adapter}-look-{command.look}"
    folder = context.folder(evaluation_id)
    base = serving.base_ref(app)
    with app.workspace.rendering():
        evaluations.prepare(app, state, rules, command, base, folder, context.lease.fence)
    if not questions.exam_is_answered(app, context.steps, state, folder):
        return []  # a remote baseline is still being asked
    items = evaluations.read_exam(folder)
    event = ev.EvaluationStarted(
        task=command.task,
        run_id=command.run_id,
        evaluation_id=evaluation_id,
        attempt=command.attempt,
        candidate=command.adapter,
        champion=state.champion.answerer,
        baseline=state.baseline,
        exam=sum(not item.hard for item in items),
        hard_exam=sum(item.hard for item in items),
        look=command.look,
    )
    context.forget_ending(folder)
    reached("evaluate.folder_prepared")
    recorded = context.append([_run_draft(event, evaluation_id, command.attempt)], cause=command.run_id)
    reached("evaluate.start_recorded")
    context.steps.start("evaluate", folder)
    reached("evaluate.child_started")
    return recorded


def judge_candidate(context: Context, command: cmd.Judge) -> list[Recorded]:
    """Let the gate decide on the numbers of the last look."""
    from loop import gate

    cycle = context.cycle(command)
    rules = context.app.settings.task(command.task)
    past = [one.event for one in context.app.workspace.log.stream(f"run/{command.run_id}")]
    event = gate.judge(gate.evidence(past, cycle.evaluation_id), rules.gate)
    reached("judge.decided")
    context.forget_texts(context.folder(cycle.evaluation_id))
    reached("judge.texts_forgotten")
    return context.append([_run_draft(event, cycle.evaluation_id)], cause=command.run_id)


def promote(context: Context, command: cmd.Promote) -> list[Recorded]:
    """Load the candidate into the engine, compare its served answers with the judged ones, then promote it."""
    cycle = context.cycle(command)
    state, rules = context.task(command.task)
    stream = f"deployment/{command.task}"
    version = context.app.workspace.log.version(stream)
    evaluation = _evaluation(context, command.task, cycle)
    serving.load_and_probe(
        app=context.app,
        rules=rules,
        adapter=cycle.adapter,
        artifact=cycle.artifact,
        evaluation=evaluation.artifact if evaluation else "",
        engine_url=_engine_url(context),
    )
    reached("promote.probed")
    event = ev.AdapterPromoted(
        task=command.task,
        answerer=cycle.adapter,
        kind="adapter",
        previous=state.champion.answerer,
        artifact=cycle.artifact,
        run_id=command.run_id,
        gain=_gain(evaluation.paired if evaluation else [], state.champion.answerer),
        reason=cycle.reason,
    )
    draft = Draft(event, stream, step_id(command.run_id, "AdapterPromoted", cycle.evaluation_id))
    recorded = context.append([draft], expected={stream: version}, cause=command.run_id)
    reached("promote.recorded")
    return recorded


def reject(context: Context, command: cmd.Reject) -> list[Recorded]:
    """Close a cycle whose candidate does not serve."""
    cycle = context.cycle(command)
    past = [one.event for one in context.app.workspace.log.stream(f"run/{command.run_id}")]
    judged = next((one for one in reversed(past) if isinstance(one, ev.CandidateJudged)), None)
    failed = [check.name for check in judged.checks if check.outcome == "fail"] if judged else []
    event = ev.CandidateRejected(
        task=command.task,
        run_id=command.run_id,
        candidate=cycle.adapter,
        reason=command.reason,
        forgetting=bool(failed) and all(name in ("forgetting", "bits_per_byte") for name in failed),
    )
    reached("reject.decided")
    return context.append([_run_draft(event, cycle.evaluation_id)], cause=command.run_id)


def roll_back(context: Context, command: cmd.RollBack) -> list[Recorded]:
    """Put the answerer before the champion back."""
    stream = f"deployment/{command.task}"
    version = context.app.workspace.log.version(stream)
    deployed = context.app.state().task(command.task).deployed
    event = rolled_back(command.task, deployed, deployed[-2], command.reason)
    draft = Draft(event, stream, step_id(command.task, "AdapterRolledBack", version))
    reached("rollback.decided")
    return context.append([draft], expected={stream: version})


def _evaluation(context: Context, task: str, cycle: Cycle) -> EvaluationRow | None:
    context.app.workspace.projections.catch_up()
    rows = queries.evaluations(context.app.workspace.read, task, candidate=cycle.adapter)
    return next((row for row in rows if row.evaluation_id == cycle.evaluation_id), None)


def _gain(paired: Sequence[Mapping[str, Any]], champion: str) -> float:
    return next((float(one["difference"]) for one in paired if one["opponent"] == champion), 0.0)


def _engine_url(context: Context) -> str:
    url = context.services.tend().engine
    if not url:
        raise ModelError("the engine is not up yet", hint="It starts in the background.")
    return url


# ---------------------------------------------------------------- shutdown


def record_shutdown(context: Context) -> list[Recorded]:
    """After a clean stop: the steps that were cut short, each with the checkpoint it goes on from."""
    recorded: list[Recorded] = []
    for task in context.app.state().tasks.values():
        cycle = task.cycle
        if cycle is None or cycle.phase not in ("training", "evaluating"):
            continue
        kind: ev.StepKind = "train" if cycle.phase == "training" else "evaluate"
        folder = context.folder(cycle.run_id if kind == "train" else cycle.evaluation_id)
        progress = context.steps.look(folder)
        if progress.status in ("running", "done"):
            continue  # another daemon's, or its ending is recorded by the next one
        command = cmd.WatchStep(task=task.task, run_id=cycle.run_id, kind=kind, attempt=cycle.attempt)
        recorded += context.append([_interrupted(command, cycle, progress, SHUTDOWN)], cause=cycle.run_id)
    return recorded


HANDLERS: dict[type[cmd.Command], Callable[[Context, Any], list[Recorded]]] = {
    cmd.AdoptPrompt: adopt_prompt,
    cmd.Harvest: harvest,
    cmd.FreezeDataset: freeze_dataset,
    cmd.StartTraining: start_training,
    cmd.WatchStep: watch_step,
    cmd.RegisterAdapter: register_adapter,
    cmd.StartEvaluation: start_evaluation,
    cmd.Judge: judge_candidate,
    cmd.Promote: promote,
    cmd.Reject: reject,
    cmd.Park: park,
    cmd.RollBack: roll_back,
}
