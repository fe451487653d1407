"""Harvest and datasets: read tables and texts in, events and run folders out.

What needs the control, which is scikit-learn, is done by a child process: see `fitting`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import msgspec

from adapters import objectives, registry
from adapters.methods import unused
from adapters.specs import BaseModelRef, Example, TrainSpec, read_json, read_lines, write_json, write_lines
from loop import fitting, general
from loop.answerers import training_prompt
from loop.bootstrap import App
from loop.commands import FreezeDataset
from loop.evaluations import CONTROL
from loop.fitting import FreezeSpec, Frozen, Opinion, OpinionSpec
from loop.fitting import Item as Item
from loop.selection import PRIORITY, Candidate, corrected, select
from loop.settings import TaskSettings
from loop.state import Cycle, Plan, TaskState
from loop.steps import Fence, Steps
from store import queries
from store.errors import ArtifactError, StepError
from store.events import DatasetFrozen, HarvestCompleted, ReviewRequested
from store.kill_points import reached
from store.log import Draft
from store.tables import RecordRow
from store.texts import StoredText

HARVEST_WINDOW = 1000  # newest records that a harvest looks at


# ---------------------------------------------------------------- harvest


def harvest(app: App, steps: Steps, task: TaskState, rules: TaskSettings) -> list[Draft] | None:
    """Drafts that ask for reviews, and the one that says how far the harvest has looked; None while the control is
    still being asked.

    Raises:
        StepError: the control cannot be asked; the next call tries again.
    """
    app.workspace.projections.catch_up()
    read = app.workspace.read
    queued = queries.queue(read, task.task)
    rows = queries.unreviewed(read, task.task, limit=HARVEST_WINDOW)
    room = max(0, rules.harvest.queue_size - sum(not row.audit for row in queued))
    opinions = _opinions(app, steps, task, rows) if room else {}  # with a full queue nothing is chosen
    if opinions is None:
        return None
    chosen = select(
        [_candidate(row, opinions.get(row.record_id)) for row in rows],
        rules.harvest,
        labels={label: task.labels_train.get(label, 0) for label in rules.labels} or task.labels_train,
        room=room,
        taken_clusters=frozenset(row.cluster for row in queued),
    )
    drafts = [
        Draft(
            ReviewRequested(
                task=task.task, record_id=one.record_id, side=one.side, reasons=one.reasons, priority=one.priority
            ),
            f"record/{one.record_id}",
        )
        for one in chosen.wanted
    ]
    drafts += _corrected_since(task.task, queued)
    requested = Counter[str](one.reasons[0].name for one in chosen.wanted)
    done = HarvestCompleted(
        task=task.task,
        up_to=app.state().position,
        considered=len(rows),
        requested=dict(requested),
        dropped=chosen.dropped,
    )
    return [*drafts, Draft(done, f"task/{task.task}")]


def _corrected_since(task: str, queued: list[RecordRow]) -> list[Draft]:
    """Records that were corrected while they already waited: the reason joins theirs, and they move up."""
    drafts = []
    for row in queued:
        known = any(reason["name"] == "misclassified" for reason in row.reasons)
        if row.feedback is None or row.feedback == row.answer or known:
            continue
        reason = corrected(row.answer, row.feedback)
        event = ReviewRequested(
            task=task,
            record_id=row.record_id,
            side=row.side,  # type: ignore[arg-type]
            reasons=[reason],
            priority=max(row.priority, PRIORITY["misclassified"] + reason.score),
        )
        drafts.append(Draft(event, f"record/{row.record_id}"))
    return drafts


def _candidate(row: RecordRow, opinion: Opinion | None) -> Candidate:
    return Candidate(
        record_id=row.record_id,
        cluster=row.cluster,
        side=row.side,  # type: ignore[arg-type]
        answer=row.answer,
        margin=row.margin,
        feedback=row.feedback,
        opinion=opinion.label if opinion else None,
        opinion_margin=opinion.margin if opinion else 0.0,
    )


def _opinions(app: App, steps: Steps, task: TaskState, rows: list[RecordRow]) -> dict[str, Opinion] | None:
    """The newest control's opinion of records, by id, where there is a control; None while it is being asked.

    A record that has come in since it was asked goes without.
    """
    control = _newest_control(app, task)
    if not control or not rows:
        return {}
    folder = app.workspace.paths.runs / f"{task.task}-opinions"
    known = _spec(folder)
    if not isinstance(known, OpinionSpec) or known.control != control:
        _begin(steps, folder, OpinionSpec(control=control, ids=[row.record_id for row in rows]))
    if not _carried_out(steps, folder):
        return None
    found = {one.id: one for one in read_lines(folder / fitting.OPINIONS, Opinion)}
    with steps.fence():
        shutil.rmtree(folder)
    return found


def _newest_control(app: App, task: TaskState) -> str:
    """Address of the newest dataset that holds a control; empty where there is none."""
    runs = queries.runs(app.workspace.read, task.task, limit=1)
    if not runs or not runs[0].dataset:
        return ""
    folder = app.workspace.artifacts.path(runs[0].dataset) / CONTROL
    return runs[0].dataset if (folder / "control.json").exists() else ""  # it may have been erased


# ---------------------------------------------------------------- freezing


def freeze(
    app: App, steps: Steps, task: TaskState, rules: TaskSettings, command: FreezeDataset
) -> DatasetFrozen | None:
    """Have the standing labels curated and the control fitted on the same examples; both become one artifact. None
    while that is being done.

    Raises:
        StepError: it failed, for example because fewer than two classes are left; the next call begins anew.
    """
    folder = app.workspace.paths.runs / f"{command.run_id}.dataset"
    spec = freeze_spec(app, task, rules, command.plan, command.trigger)
    known = _spec(folder)
    # what was begun goes on, whatever was labelled since, unless something else is wanted now
    if isinstance(known, FreezeSpec) and spec == msgspec.structs.replace(
        known, up_to=spec.up_to, labels_train=spec.labels_train, trigger=spec.trigger
    ):
        spec = known
    else:
        _begin(steps, folder, spec)
    if not _carried_out(steps, folder):
        return None
    frozen = read_json(folder / "result.json", Frozen)
    artifact = app.workspace.artifacts.put(folder / fitting.DATASET, "dataset", {"run_id": command.run_id})
    reached("freeze.dataset_kept")
    with steps.fence():
        shutil.rmtree(folder)
    return DatasetFrozen(
        task=task.task,
        run_id=command.run_id,
        artifact=artifact,
        up_to=spec.up_to,
        labels_train=spec.labels_train,
        train=frozen.train,
        valid=frozen.valid,
        exam=frozen.exam,
        hard_exam=frozen.hard_exam,
        per_class=frozen.per_class,
        curation=frozen.curation,
        warnings=frozen.warnings,
        rare=frozen.rare,
        suspects=frozen.suspects,
        trigger=spec.trigger,
        plan=spec.plan,
    )


def freeze_spec(app: App, task: TaskState, rules: TaskSettings, plan: Plan, trigger: str) -> FreezeSpec:
    """What is asked of `fitting` for a dataset of the labels that stand now."""
    gentle = plan == "gentle"
    return FreezeSpec(
        task=task.task,
        plan=plan,
        trigger=trigger,
        up_to=app.state().position,
        labels_train=task.train_total,
        labels=rules.labels,
        valid_share=rules.training.valid_share,
        near_duplicate=rules.splits.near_duplicate,
        general_share=rules.trigger.gentle_general_share if gentle else rules.training.general_share,
        general_file=rules.training.general_file,
        seed=rules.training.seed,
        measure=rules.curation.measure,
        threshold=rules.curation.threshold,
        reweight=rules.curation.reweight,
        kind=rules.kind,
    )


# ---------------------------------------------------------------- the child that does both


def _spec(folder: Path) -> FreezeSpec | OpinionSpec | None:
    try:
        return msgspec.json.decode((folder / "spec.json").read_bytes(), type=FreezeSpec | OpinionSpec)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return None


def _begin(steps: Steps, folder: Path, spec: FreezeSpec | OpinionSpec) -> None:
    """Write a folder anew.

    Raises:
        StepError: a child still works in it on what is wanted no longer.
    """
    steps.stop(folder, "something else is wanted")
    if steps.look(folder).status == "running":
        raise StepError(f"{folder.name} is still being worked on", hint="It begins anew when that has ended.")
    with steps.fence():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        write_json(folder / "spec.json", spec)
    reached("fit.folder_prepared")


def _carried_out(steps: Steps, folder: Path) -> bool:
    """Whether the child has ended well; False while it works. After a failure nothing of it is left.

    Raises:
        StepError: it failed.
    """
    try:
        return steps.carried_out("fit", folder)
    except StepError:
        with steps.fence():
            shutil.rmtree(folder, ignore_errors=True)
        raise


# ---------------------------------------------------------------- the training's run folder


def prepare_training(
    app: App, cycle: Cycle, rules: TaskSettings, base: BaseModelRef, folder: Path, fence: Fence = nullcontext
) -> TrainSpec:
    """Render a dataset into the run folder, with the prompt that the adapter will be deployed with.

    A folder that is already there keeps its spec, so that a resumed run goes on with the same one; texts that were
    erased in between are left out.
    """
    spec_file = folder / "spec.json"
    fresh = not spec_file.exists()
    if fresh:
        spec = training_spec(app, rules, base, run_id=cycle.run_id, adapter=cycle.adapter, plan=cycle.plan)
    else:
        spec = read_json(spec_file, TrainSpec)
    items = read_lines(app.workspace.artifacts.path(cycle.dataset, verify=True) / "dataset.jsonl", Item)
    with app.workspace.rendering():
        examples = rendered(app, rules, spec, items)
        if fresh:
            spec = objectives.settle(spec, examples["train"])
        with fence():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if fresh:
                write_json(spec_file, spec)
            reached("train.spec_written")
            for split, rows in examples.items():
                write_lines(folder / f"{split}.jsonl", rows)
    return spec


def rendered(app: App, rules: TaskSettings, spec: TrainSpec, items: list[Item]) -> dict[str, list[Example]]:
    """Examples with their texts, by split ("train", "valid"), erased ones left out. The caller is `rendering`.

    Raises:
        StepError: the file of general examples cannot be read.
    """
    mixed = general.read(app.root, rules.training.general_file)
    answers = _answers(app, spec.task)
    texts = {one.record_id: one for one in app.workspace.texts.stored([one.id for one in items if one.kind == "task"])}
    return {
        split: [
            example
            for item in items
            if item.split == split and (example := _example(item, spec, texts, mixed, answers)) is not None
            for _ in range(item.copies)
        ]
        for split in ("train", "valid")
    }


def _answers(app: App, task: str) -> dict[str, str]:
    """What production answered to the labelled records of the training side."""
    rows = queries.records(app.workspace.read, task, side="train", labelled=True)
    return {row.record_id: row.answer for row in rows if row.answer is not None}


def hyperparameters(spec: TrainSpec) -> dict[str, float | int | str | bool]:
    """The scalar settings of a run, as its event records them; none that says nothing about its method."""
    named, idle = msgspec.structs.asdict(spec), unused(spec)
    return {
        name: value for name, value in named.items() if name not in idle and isinstance(value, float | int | str | bool)
    }


def training_spec(
    app: App, rules: TaskSettings, base: BaseModelRef, *, run_id: str, adapter: str, plan: Plan
) -> TrainSpec:
    """What the settings ask of a training, changed as its plan says: gentler, or larger overnight."""
    chosen = rules.training.model_dump(exclude={"general_share", "general_file", "valid_share", "max_attempts"})
    if plan == "gentle":
        chosen["learning_rate"] *= rules.trigger.gentle_rate_factor
    if plan == "overnight":
        rank = max(chosen["rank"], rules.trigger.overnight_rank)
        chosen |= {"rank": rank, "alpha": round(chosen["alpha"] * rank / chosen["rank"])}
    spec = TrainSpec(
        run_id=run_id,
        task=run_id.rpartition("-run-")[0],
        adapter=adapter,
        labels=rules.labels,
        prompt=training_prompt(app, rules),
        base=base,
        built_in=not app.settings.model.base,
        backend_python=app.settings.backends[rules.training.backend].python if rules.training.backend != "trl" else "",
        **chosen,
    )
    return spec if spec.objective == "sft" else _from_champion(app, spec)


def _from_champion(app: App, spec: TrainSpec) -> TrainSpec:
    """`spec` begun from the adapter that answers production, which preferences and rewards improve on; without a
    fitting one the same training by sft."""
    champion = app.state().task(spec.task).champion
    if champion.kind != "adapter":
        return objectives.fall_back(spec, "no adapter answers production yet, and it begins from one")
    folder = app.workspace.artifacts.path(champion.artifact)
    try:
        registry.matches(registry.read_card(folder), spec.base)
        kind = registry.describe(folder).kind
    except ArtifactError as error:
        return objectives.fall_back(spec, f"{champion.answerer} cannot be begun from: {error.message}")
    if kind != "LORA":
        return objectives.fall_back(spec, f"{champion.answerer} is no LoRA adapter")
    return msgspec.structs.replace(spec, init_adapter=str(folder))


def _example(
    item: Item, spec: TrainSpec, texts: Mapping[str, StoredText], mixed: general.General, answers: dict[str, str]
) -> Example | None:
    """None for a text that was erased since, or a general example that its file has no longer."""
    if item.kind == "general":
        messages = mixed.get(item.id)
        return None if messages is None else Example(id=item.id, messages=messages, kind="general")
    if item.id not in texts:
        return None
    stored, answer = texts[item.id], answers.get(item.id, "")
    return Example(
        id=item.id,
        messages=spec.prompt.messages(stored.text, stored.said.get(item.label, item.label)),
        label=item.label,
        rejected=answer if answer != item.label and spec.labels else "",
    )
