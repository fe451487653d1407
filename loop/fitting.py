"""The step that needs scikit-learn: `python -m loop.fitting RUN_FOLDER`, so that the daemon never loads it.

    spec.json        FreezeSpec or OpinionSpec: record ids and numbers, no text; written by the daemon
    dataset/         dataset.jsonl, left_out.jsonl, suspects.jsonl, and the control that was fitted on it  (freeze)
    opinions.jsonl   one Opinion a line                                      (opinions)
    result.json      Frozen or Opinions, written last
    error.json       StepFailure

The texts are those of the workspace that the folder lies in.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from adapters.child import Stopping, run
from adapters.control import Control
from adapters.specs import write_json, write_lines
from loop import curation, general, suspects
from loop.balance import Kind
from loop.bootstrap import App, open_app
from loop.embeddings import embedder
from loop.evaluations import CONTROL
from loop.state import Plan
from store import queries
from store.errors import InputError, StepError
from store.events import CurationCount
from store.kill_points import reached
from store.targets import is_seal

Measure = Literal["tfidf", "embeddings"]
NAMED_SUSPECTS = 100  # in the event; the dataset names all
DATASET = "dataset"  # folder of what becomes the artifact
OPINIONS = "opinions.jsonl"
LEFT_OUT, SUSPECTS = "left_out.jsonl", "suspects.jsonl"  # in a dataset, beside dataset.jsonl; no text either


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a dataset artifact: no text, so that a customer can be forgotten."""

    id: str  # a record, or one of the general examples
    label: str
    split: Literal["train", "valid"]
    kind: Literal["task", "general"] = "task"
    copies: int = 1  # how often it is trained on


class FreezeSpec(msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="freeze"):
    """Curate the labels that stood at `up_to`, and fit the control on them."""

    task: str
    plan: Plan
    trigger: str
    up_to: int  # log position
    labels_train: int  # training-side labels then
    labels: list[str]
    valid_share: float
    near_duplicate: float
    general_share: float
    general_file: str
    seed: int
    measure: Measure = "tfidf"
    threshold: float = 0.9  # of that measure; `near_duplicate` is that of arrival
    reweight: bool = False
    kind: Kind = "classification"


class OpinionSpec(msgspec.Struct, frozen=True, kw_only=True, tag_field="step", tag="opinions"):
    """What a control makes of records."""

    control: str  # artifact of the dataset that it was fitted on
    ids: list[str]


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """What `DatasetFrozen` says of a dataset, beside its spec and its address."""

    train: int
    valid: int
    exam: int
    hard_exam: int
    per_class: dict[str, int]
    curation: list[CurationCount]
    warnings: list[str]
    rare: list[str] = []
    suspects: list[str] = []  # the first of them


class Opinion(msgspec.Struct, frozen=True):
    """The control's label for a record, and how far its second choice lies behind (0..1)."""

    id: str
    label: str
    margin: float


class Opinions(msgspec.Struct, frozen=True):
    count: int


def fit(folder: Path, _: Stopping | None = None) -> None:
    """Do what the folder's spec says.

    Raises:
        InputError: fewer than two classes are left to train on, or no example where there are none.
        SettingsError: embeddings are wanted and not installed.
        StepError: the spec, or the file of general examples, cannot be read.
        ArtifactError: the control is damaged.
    """
    try:
        spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=FreezeSpec | OpinionSpec)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise StepError(f"spec.json cannot be read: {error}", hint=f"Look at {folder}.") from error
    with open_app(folder) as app:
        app.workspace.projections.catch_up()
        if isinstance(spec, FreezeSpec):
            _freeze(app, spec, folder)
        else:
            _ask(app, spec, folder)


# ---------------------------------------------------------------- a dataset


def _freeze(app: App, spec: FreezeSpec, folder: Path) -> None:
    examples = general.read(app.root, spec.general_file)
    exam = queries.labelled(app.workspace.read, spec.task, side="exam", up_to=spec.up_to)
    rows = training_labels(app, spec.task, spec.up_to)
    curated = curated_rows(app, spec, rows, [one.record_id for one in exam])
    labelled = spec.kind == "classification"
    if len({one.label for one in curated.train}) < (2 if labelled else 1):
        less = "fewer than two classes" if labelled else "nothing"
        raise InputError(f"{spec.task} has {less} to train on", hint="`tuneloop review` labels what is queued.")
    mixed, advice = general.choose(examples, curated.lines, spec.general_share, spec.seed)
    items = chosen_items(app, spec, curated, mixed)
    made = folder / DATASET
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(mode=0o700)
    write_lines(made / "dataset.jsonl", items)
    write_lines(made / LEFT_OUT, curated.left_out)
    write_lines(made / SUSPECTS, curated.suspects)
    texts, labels = [one.text for one in curated.train], [one.label for one in curated.train]
    if labelled:  # nothing but a language model writes free words
        Control.fit(texts, labels, seed=spec.seed).save(made / CONTROL)
    reached("freeze.dataset_written")
    hard = sum(not one.audit for one in exam)
    frozen = Frozen(
        train=len(curated.train),
        valid=len(curated.valid),
        exam=len(exam) - hard,
        hard_exam=hard,
        per_class=dict(Counter(labels)) if labelled else {},
        curation=[*curated.counts, general.counted(mixed)],
        warnings=[*curated.warnings, *advice],
        rare=curated.rare,
        suspects=[one.id for one in curated.suspects[:NAMED_SUSPECTS]],
    )
    write_json(folder / "result.json", frozen)


def chosen_items(app: App, spec: FreezeSpec, curated: curation.Curated, mixed: Sequence[str]) -> list[Item]:
    """The items of a dataset: what curation has left, and the general examples that are mixed in, by their ids."""
    times = curated.copies
    names = {one.record_id: one.label for one in queries.labelled(app.workspace.read, spec.task, up_to=spec.up_to)}
    items = [
        Item(id=one.id, label=names[one.id], split="train", copies=times.get(one.label, 1)) for one in curated.train
    ]
    items += [Item(id=identity, label="", split="train", kind="general") for identity in mixed]
    return [*items, *(Item(id=one.id, label=names[one.id], split="valid") for one in curated.valid)]


def curated_labels(app: App, spec: FreezeSpec) -> curation.Curated:
    """What curation makes of the labels that stand.

    Raises:
        SettingsError: embeddings are wanted and not installed.
    """
    exam = [one.record_id for one in queries.labelled(app.workspace.read, spec.task, side="exam", up_to=spec.up_to)]
    return curated_rows(app, spec, training_labels(app, spec.task, spec.up_to), exam)


def curated_rows(
    app: App, spec: FreezeSpec, rows: Sequence[curation.Labelled], exam: Sequence[str]
) -> curation.Curated:
    """What curation makes of rows; `exam` are the ids of what is never trained on.

    Raises:
        SettingsError: embeddings are wanted and not installed.
    """
    return curation.curate(
        rows,
        app.workspace.texts.many(list(exam)),
        spec.labels,
        valid_share=spec.valid_share,
        near_duplicate=spec.threshold,
        seed=spec.seed,
        plain=spec.near_duplicate,
        embed=embedder() if spec.measure == "embeddings" else None,
        out_of_fold=suspects.out_of_fold,
        reweight=spec.reweight,
        kind=spec.kind,
    )


def training_labels(app: App, task: str, up_to: int) -> list[curation.Labelled]:
    """Labels that stood on the training side at a log position, with their texts; erased ones are left out. What is
    right in free words is no class: those rows carry no label. Labels of another kind, which the task had once, are
    left out."""
    free = app.settings.task(task).free
    standing = queries.labelled(app.workspace.read, task, side="train", up_to=up_to)
    texts = app.workspace.texts.many([one.record_id for one in standing])
    answers = {
        row.record_id: row.answer for row in queries.records(app.workspace.read, task, side="train", labelled=True)
    }
    return [
        curation.Labelled(
            id=one.record_id,
            text=texts[one.record_id],
            label="" if free else one.label,
            cluster=one.cluster,
            position=one.position,
            failure=answers.get(one.record_id) not in (None, one.label),
        )
        for one in standing
        if one.record_id in texts and is_seal(one.label) == free
    ]


# ---------------------------------------------------------------- opinions


def _ask(app: App, spec: OpinionSpec, folder: Path) -> None:
    control = Control.load(app.workspace.artifacts.path(spec.control) / CONTROL)
    texts = app.workspace.texts.many(spec.ids)
    shares = control.predict_proba(list(texts.values()))
    write_lines(folder / OPINIONS, [_opinion(identity, one) for identity, one in zip(texts, shares, strict=True)])
    reached("harvest.opinions_written")
    write_json(folder / "result.json", Opinions(len(texts)))


def _opinion(identity: str, shares: dict[str, float]) -> Opinion:
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return Opinion(identity, ordered[0][0], ordered[0][1] - (ordered[1][1] if len(ordered) > 1 else 0.0))


if __name__ == "__main__":
    sys.exit(run(fit, sys.argv[1:]))
