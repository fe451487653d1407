"""What the next training would take: the estimate of `adapters.planning` beside a few measured steps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from adapters import objectives, planning
from adapters.probe import FILE, Probe
from adapters.specs import TrainSpec, read_json, write_json, write_lines
from loop import general
from loop.aside import refuse_at_work, run_aside
from loop.bootstrap import App
from loop.datasets import freeze_spec, hyperparameters, rendered, training_spec
from loop.fitting import Item, chosen_items, curated_labels
from loop.serving import base_ref
from loop.settings import TaskSettings
from loop.state import Plan
from store import queries
from store.errors import InputError, StepError

MARGIN = 0.9  # share of the free memory that a plan may fill


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes, times in seconds. `measured` is None where no steps were to be made."""

    task: str
    plan: Plan
    settings: dict[str, float | int | str | bool]
    parameters: int
    trainable: int
    memory: planning.Memory
    probe: Probe
    fits: bool
    seconds: float  # of the whole training; 0: not known


def make_plan(
    app: App, task: str, kind: Plan = "standard", *, measure: bool = True, waiting: Callable[[], object] = lambda: None
) -> TrainingPlan:
    """Plan a training on what curation makes of the labels there are, without recording or starting anything.

    Args:
        app: the workspace.
        task: its name.
        kind: standard, gentle or overnight.
        measure: whether to make a few steps on this machine; without, no time is told.
        waiting: called again and again meanwhile.

    Raises:
        InputError: there are no labels to train on.
        SettingsError: embeddings are wanted and not installed.
        StepError: a step is running (two would slow each other up to five times), or the probe failed.
        ModelError: the base model is missing, or the settings cannot be trained.
    """
    from adapters import methods

    rules = app.settings.task(task)
    if measure:
        refuse_at_work(app, "Wait for it, or plan with --no-probe.")
    items = _items(app, task, rules, kind)
    if not items:
        raise InputError(f"{task} has no labels to train on", hint="`tuneloop review` gives some.")
    base = base_ref(app)
    spec = training_spec(app, rules, base, run_id=f"{task}-run-0", adapter=f"{task}-plan", plan=kind)
    methods.check(spec)
    shape = planning.read_shape(Path(base.path))
    folder = app.workspace.paths.runs / f"{task}-plan"
    try:
        spec, probe = _probe(app, spec, items, folder, measure=measure, waiting=waiting)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    gpu = probe.device.startswith("cuda")
    needed = planning.memory(shape, spec, probe.tokens, learned=probe.learned, compute=probe.compute, gpu=gpu)
    return TrainingPlan(
        task=task,
        plan=kind,
        settings=hyperparameters(spec),
        parameters=shape.parameters,
        trainable=planning.trainable_parameters(shape, spec),
        memory=needed,
        probe=probe,
        fits=max(needed.total, probe.peak) <= MARGIN * probe.free,
        seconds=probe.loading_seconds + probe.steps * probe.step_seconds,
    )


def _probe(
    app: App,
    spec: TrainSpec,
    items: list[Item],
    folder: Path,
    *,
    measure: bool,
    waiting: Callable[[], object],
) -> tuple[TrainSpec, Probe]:
    """`spec` as it would be trained, and what was measured of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    with app.workspace.rendering():
        examples = rendered(app, app.settings.task(spec.task), spec, items)["train"]
        spec = objectives.settle(spec, examples)
        if not measure:
            from adapters.probe import layout

            return spec, layout(spec, examples)
        write_lines(folder / "train.jsonl", examples)
        write_json(folder / "spec.json", spec)
    (folder / "valid.jsonl").touch()
    failure = run_aside(app, "train", folder, waiting=lambda _: waiting(), done=FILE, modules=_MODULES)
    if failure is not None:
        raise StepError(failure.message, hint=failure.hint)
    return spec, read_json(folder / FILE, Probe)


def _items(app: App, task: str, rules: TaskSettings, kind: Plan) -> list[Item]:
    app.workspace.projections.catch_up()
    if not queries.labelled(app.workspace.read, task, side="train"):
        return []
    frozen = freeze_spec(app, app.state().task(task), rules, kind, "")
    curated = curated_labels(app, frozen)
    known = general.read(app.root, frozen.general_file)
    mixed, _ = general.choose(known, curated.lines, frozen.general_share, frozen.seed)
    return chosen_items(app, frozen, curated, mixed)


_MODULES = {"train": "adapters.probe"}
