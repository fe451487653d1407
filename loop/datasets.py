"""Harvest and datasets: read tables and texts in, events and run folders out."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec

from adapters.specs import BaseModelRef, Example, Message, TrainSpec, read_json, read_lines, write_json, write_lines
from loop import curation
from loop.answerers import training_prompt
from loop.bootstrap import App
from loop.commands import FreezeDataset
from loop.evaluations import CONTROL
from loop.selection import PRIORITY, Candidate, corrected, select
from loop.settings import TaskSettings
from loop.state import Cycle, Plan, TaskState
from store import queries
from store.errors import InputError, StepError
from store.events import CurationCount, DatasetFrozen, HarvestCompleted, ReviewRequested
from store.kill_points import reached
from store.log import Draft
from store.tables import RecordRow

GENERAL = Path(__file__).parents[1] / "adapters" / "data" / "general.jsonl"
HARVEST_WINDOW = 1000  # newest records that a harvest looks at


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a dataset artifact: no text, so that a customer can be forgotten."""

    id: str  # a record, or a line of the general examples
    label: str
    split: Literal["train", "valid"]
    kind: Literal["task", "general"] = "task"


# ---------------------------------------------------------------- harvest


def harvest(app: App, task: TaskState, rules: TaskSettings, *, up_to: int) -> list[Draft]:
    """Drafts that ask for reviews, and the one that says how far the harvest has looked."""
    app.workspace.projections.catch_up()
    read = app.workspace.read
    queued = queries.queue(read, task.task)
    waiting = [row for row in queued if not row.audit]
    rows = queries.unreviewed(read, task.task, limit=HARVEST_WINDOW)
    counts = {label: task.labels_train.get(label, 0) for label in rules.labels}
    chosen = select(
        _candidates(app, task, rows),
        rules.harvest,
        labels=counts,
        room=max(0, rules.harvest.queue_size - len(waiting)),
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
        task=task.task, up_to=up_to, considered=len(rows), requested=dict(requested), dropped=chosen.dropped
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


def _candidates(app: App, task: TaskState, rows: list[RecordRow]) -> list[Candidate]:
    """Records with the opinion of the newest control, where there is one."""
    opinions: dict[str, tuple[str, float]] = {}
    control = _newest_control(app, task)
    if control is not None and rows:
        from adapters.control import Control

        texts = app.workspace.texts.many([row.record_id for row in rows])
        ids = list(texts)
        for identity, shares in zip(ids, Control.load(control).predict_proba([texts[i] for i in ids]), strict=True):
            ordered = sorted(shares.items(), key=lambda item: -item[1])
            opinions[identity] = (ordered[0][0], ordered[0][1] - (ordered[1][1] if len(ordered) > 1 else 0.0))
    return [
        Candidate(
            record_id=row.record_id,
            cluster=row.cluster,
            side=row.side,  # type: ignore[arg-type]
            answer=row.answer,
            margin=row.margin,
            feedback=row.feedback,
            opinion=opinions.get(row.record_id, (None, 0.0))[0],
            opinion_margin=opinions.get(row.record_id, (None, 0.0))[1],
        )
        for row in rows
    ]


def _newest_control(app: App, task: TaskState) -> Path | None:
    runs = queries.runs(app.workspace.read, task.task, limit=1)
    folder = app.workspace.artifacts.path(runs[0].dataset) / CONTROL if runs and runs[0].dataset else None
    return folder if folder is not None and (folder / "control.json").exists() else None  # it may have been erased


# ---------------------------------------------------------------- freezing


def freeze(app: App, task: TaskState, rules: TaskSettings, command: FreezeDataset) -> DatasetFrozen:
    """Curate the standing labels, fit the control on the same examples, keep both as one artifact.

    Raises:
        InputError: fewer than two classes are left to train on.
    """
    app.workspace.projections.catch_up()
    up_to = app.state().position
    rows = _training_labels(app, task.task, up_to)
    exam = queries.labelled(app.workspace.read, task.task, side="exam", up_to=up_to)
    exam_texts = app.workspace.texts.many([one.record_id for one in exam])
    seed = rules.training.seed
    curated = curation.curate(
        rows,
        list(exam_texts.values()),
        rules.labels,
        valid_share=rules.training.valid_share,
        near_duplicate=rules.splits.near_duplicate,
        seed=seed,
        out_of_fold=curation.control_out_of_fold,
    )
    if len({one.label for one in curated.train}) < 2:
        raise InputError(
            f"{task.task} has fewer than two classes to train on", hint="`tuneloop review` labels what is queued."
        )
    general = _general_ids(app, rules, command.plan, len(curated.train))
    items = [Item(id=one.id, label=one.label, split="train") for one in curated.train]
    items += [Item(id=identity, label="", split="train", kind="general") for identity in general]
    items += [Item(id=one.id, label=one.label, split="valid") for one in curated.valid]
    artifact = _keep(app, command.run_id, items, curated.train, seed)
    hard = sum(not one.audit for one in exam)
    return DatasetFrozen(
        task=task.task,
        run_id=command.run_id,
        artifact=artifact,
        up_to=up_to,
        labels_train=task.train_total,
        train=len(curated.train),
        valid=len(curated.valid),
        exam=len(exam) - hard,
        hard_exam=hard,
        per_class=dict(Counter(one.label for one in curated.train)),
        curation=[
            *curated.counts,
            CurationCount(step="general", count=len(general), detail="general examples mixed in, against forgetting"),
        ],
        warnings=curated.warnings,
        trigger=command.trigger,
        plan=command.plan,
    )


def _training_labels(app: App, task: str, up_to: int) -> list[curation.Labelled]:
    standing = queries.labelled(app.workspace.read, task, side="train", up_to=up_to)
    texts = app.workspace.texts.many([one.record_id for one in standing])
    answers = {
        row.record_id: row.answer for row in queries.records(app.workspace.read, task, side="train", labelled=True)
    }
    return [
        curation.Labelled(
            id=one.record_id,
            text=texts[one.record_id],
            label=one.label,
            cluster=one.cluster,
            position=one.position,
            failure=answers.get(one.record_id) not in (None, one.label),
        )
        for one in standing
        if one.record_id in texts
    ]


def _general_ids(app: App, rules: TaskSettings, plan: Plan, train: int) -> list[str]:
    share = rules.trigger.gentle_general_share if plan == "gentle" else rules.training.general_share
    available = [f"general:{number}" for number in range(len(_general_lines(app, rules)))]
    wanted = min(len(available), curation.general_count(train, share))
    return random.Random(rules.training.seed).sample(available, wanted)  # noqa: S311


class _Chat(msgspec.Struct, frozen=True):
    messages: list[Message]


def _general_lines(app: App, rules: TaskSettings) -> list[_Chat]:
    """The built-in general examples, or the user's file (OpenAI chat JSONL).

    Raises:
        StepError: the file is missing or a line is not a chat.
    """
    named = rules.training.general_file
    path = app.root / named if named else GENERAL
    if not path.exists():
        raise StepError(f"the general examples are not at {path}", hint="See training.general_file.")
    return read_lines(path, _Chat)


def _keep(app: App, run_id: str, items: list[Item], train: list[curation.Labelled], seed: int) -> str:
    from adapters.control import Control

    folder = app.workspace.paths.runs / f"{run_id}.dataset"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    write_lines(folder / "dataset.jsonl", items)
    Control.fit([one.text for one in train], [one.label for one in train], seed=seed).save(folder / CONTROL)
    reached("freeze.dataset_written")
    artifact = app.workspace.artifacts.put(folder, "dataset", {"run_id": run_id})
    reached("freeze.dataset_kept")
    shutil.rmtree(folder)
    return artifact


# ---------------------------------------------------------------- the training's run folder


def prepare_training(app: App, cycle: Cycle, rules: TaskSettings, base: BaseModelRef, folder: Path) -> TrainSpec:
    """Render a dataset into the run folder, with the prompt that the adapter will be deployed with.

    A folder that is already there keeps its spec, so that a resumed run goes on with the same one; texts that were
    erased in between are left out.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    spec_file = folder / "spec.json"
    if spec_file.exists():
        spec = read_json(spec_file, TrainSpec)
    else:
        spec = training_spec(app, rules, base, run_id=cycle.run_id, adapter=cycle.adapter, plan=cycle.plan)
        write_json(spec_file, spec)
    reached("train.spec_written")
    items = read_lines(app.workspace.artifacts.path(cycle.dataset, verify=True) / "dataset.jsonl", Item)
    general = _general_lines(app, rules)
    with app.workspace.rendering():
        texts = app.workspace.texts.many([item.id for item in items if item.kind == "task"])
        for split in ("train", "valid"):
            examples = [
                _example(item, spec, texts, general) for item in items if item.split == split and _known(item, texts)
            ]
            write_lines(folder / f"{split}.jsonl", examples)
    return spec


def hyperparameters(spec: TrainSpec) -> dict[str, float | int | str | bool]:
    """The scalar settings of a run, as its event records them."""
    named = msgspec.structs.asdict(spec)
    return {name: value for name, value in named.items() if isinstance(value, float | int | str | bool)}


def training_spec(
    app: App, rules: TaskSettings, base: BaseModelRef, *, run_id: str, adapter: str, plan: Plan
) -> TrainSpec:
    """What the settings ask of a training, changed as its plan says: gentler, or larger overnight."""
    chosen = rules.training.model_dump(exclude={"general_share", "general_file", "valid_share", "max_attempts"})
    if plan == "gentle":
        chosen["learning_rate"] *= rules.trigger.gentle_rate_factor
    if plan == "overnight":
        chosen["rank"] = rules.trigger.overnight_rank
    return TrainSpec(
        run_id=run_id,
        task=run_id.rpartition("-run-")[0],
        adapter=adapter,
        labels=rules.labels,
        prompt=training_prompt(app, rules),
        base=base,
        **chosen,
    )


def _known(item: Item, texts: dict[str, str]) -> bool:
    return item.kind == "general" or item.id in texts


def _example(item: Item, spec: TrainSpec, texts: dict[str, str], general: list[_Chat]) -> Example:
    if item.kind == "general":
        return Example(id=item.id, messages=general[int(item.id.removeprefix("general:"))].messages, kind="general")
    return Example(id=item.id, messages=spec.prompt.messages(texts[item.id], item.label), label=item.label)
