"""A step that runs: how far it is, and how it ended (done, failed, interrupted, given up, shut down)."""

from __future__ import annotations

from pathlib import Path

from adapters.specs import TrainResult, read_json
from loop import commands as cmd
from loop import evaluations, judging, targets
from loop.handling import Context, gpu_is_short, run_draft
from loop.state import GPU_NEEDED, SHUTDOWN, Cycle
from loop.steps import Progress
from store import events as ev
from store.disk import has_room
from store.errors import TuneloopError
from store.kill_points import reached
from store.log import Draft, Recorded

PROGRESS_STEPS = 5  # optimiser steps between two progress events


def watch_step(context: Context, command: cmd.WatchStep) -> list[Recorded]:
    """Record what a running step has reached, or how it ended."""
    cycle = context.cycle(command)
    folder = context.folder(command.run_id if command.kind == "train" else cycle.evaluation_id)
    progress = context.steps.look(folder)
    cause = command.run_id
    if progress.status == "running":
        if gpu_is_short(context):
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
    return [run_draft(event, command.attempt, metric.step)]


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
        compute=result.compute,
        stopped=result.stopped,
        samples=[
            {
                "id": one.id,
                "step": str(one.step),
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
    return [run_draft(event)]


def _finish_evaluation(context: Context, command: cmd.WatchStep, cycle: Cycle, folder: Path) -> list[Draft]:
    baseline = context.app.state().task(command.task).baseline
    events = evaluations.finish(context.app, folder, baseline)
    reached("evaluate.predictions_kept")
    return [run_draft(event, cycle.evaluation_id) for event in events]


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
    return run_draft(event, cycle.evaluation_id, cycle.attempt, int(parked))


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
    return run_draft(event, command.kind, command.attempt, *key)


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
