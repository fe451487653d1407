"""Command → effect → events. Effects never change state: what they append is all that counts.

Every append carries a deterministic event id and the daemon's epoch, so that a step that is done again after
a crash leaves one record, and a daemon that was taken over leaves none. `HANDLERS` at the end says who does what;
what runs is followed in `loop.watching`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.objectives import examples_for
from adapters.specs import Example, read_lines
from adapters.train import plan
from loop import commands as cmd
from loop import datasets, evaluations, questions, serving
from loop.actions import rolled_back
from loop.answerers import upstream
from loop.handling import Context, gpu_is_short, run_draft
from loop.state import Cycle
from loop.watching import park, watch_step
from store import events as ev
from store import queries
from store.errors import StepError
from store.kill_points import reached
from store.log import Draft, Recorded, step_id
from store.tables import EvaluationRow

Work = Callable[[], list[Recorded]]


# ---------------------------------------------------------------- prompts and harvest


def adopt_prompt(context: Context, command: cmd.AdoptPrompt) -> list[Recorded]:
    """Have the prompt versions scored on labelled training-side examples; the best becomes the baseline."""
    if not upstream(context.app.settings).url and not context.services.tend().engine:
        return []  # not up yet; `tuneloop status` says so, the engine's log why
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
    return context.append([run_draft(event)], expected={f"run/{command.run_id}": 0}, cause=command.run_id)


def _wait_for_gpu(context: Context) -> None:
    if gpu_is_short(context):
        kept = context.app.settings.resources.gpu_free_mb
        raise StepError(f"less than {kept} MiB of GPU memory is free", hint="The step starts when there is more.")


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
    recorded = context.append([run_draft(event, command.attempt)], cause=command.run_id)
    reached("train.start_recorded")
    context.steps.start("train", folder)
    reached("train.child_started")
    return recorded


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
    return context.append([run_draft(event)], cause=command.run_id)


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
    recorded = context.append([run_draft(event, evaluation_id, command.attempt)], cause=command.run_id)
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
    return context.append([run_draft(event, cycle.evaluation_id)], cause=command.run_id)


def promote(context: Context, command: cmd.Promote) -> list[Recorded]:
    """Load the candidate into the engine, compare its served answers with the judged ones, then promote it."""
    engine_url = context.services.tend().engine
    if not engine_url:
        return []  # not up yet; `tuneloop status` says so, the engine's log why
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
        engine_url=engine_url,
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
    return context.append([run_draft(event, cycle.evaluation_id)], cause=command.run_id)


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
