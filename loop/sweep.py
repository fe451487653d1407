"""A few settings compared: each trained on the same examples, all scored on the validation examples, never the exam.

The examples are those that the loop would freeze now. No trial sees the validation examples while it trains: it is
neither stopped by them nor does it keep the step at which they look best, so that a difference between two trials is
one between their settings. Whether the best one leads the present settings by more than noise is told by the exact
McNemar test, with Bonferroni's correction for having been chosen from several.
"""

from __future__ import annotations

import fcntl
import math
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import msgspec
from pydantic import ValidationError

from adapters import methods, metrics
from adapters.combinations import LORA, refusal
from adapters.specs import (
    AnswererSpec,
    BaseModelRef,
    EvalSpec,
    ExamItem,
    Metric,
    Prediction,
    StepFailure,
    TrainResult,
    TrainSpec,
    read_json,
    read_lines,
    write_json,
    write_lines,
)
from loop.aside import refuse_at_work, run_aside
from loop.bootstrap import App
from loop.curation import general_count
from loop.datasets import freeze_spec, rendered, training_spec
from loop.evaluations import CONTROL
from loop.fitting import DATASET, Item
from loop.serving import base_ref
from loop.settings import TaskSettings, TrainingSettings
from loop.steps import MODULES, is_locked
from store import queries
from store.errors import InputError, SettingsError, StepError, UsageError
from store.events import PairedResult, SweepCompleted, SweepTrial
from store.log import Draft, Recorded

LEAST_VALID = 20  # validation examples: with fewer, only a difference of a third could be told from noise
MORE = "Label more records, or raise training.valid_share."
LOCK = "sweep.lock"
LEAST_SHARE = 1e-6  # probabilities are written with six digits

Say = Callable[[str], object]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared: every combination of the values, and the present settings. An empty list: the present value."""

    ranks: list[int] = []
    rates: list[float] = []
    targets: list[str] = []
    steps: int = 0  # of every trial; 0: as many as the settings give
    limit: int = 0  # examples trained on, at most; 0: all
    seed: int | None = None  # None: the settings'


class Trial(msgspec.Struct, frozen=True):
    name: str
    training: TrainingSettings
    settings: dict[str, float | int | str | bool]  # those that tell trials apart


def trials(present: TrainingSettings, asked: Asked) -> list[Trial]:
    """The settings to compare, the present ones first. LoRA's scale, alpha / rank, stays what it is.

    Raises:
        UsageError: nothing is varied, or a value is out of its range, or the method has no use for it.
    """
    made = [_trial(present)]
    for rank, rate, targets in product(
        asked.ranks or [present.rank], asked.rates or [present.learning_rate], asked.targets or [present.targets]
    ):
        alpha = max(1, round(present.alpha * rank / present.rank))
        changes = {"rank": rank, "alpha": alpha, "learning_rate": rate, "targets": targets}
        try:
            training = TrainingSettings.model_validate({**present.model_dump(), **changes})
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            wanted = problem["msg"].removeprefix("Input should be ")
            raise UsageError(
                f"{problem['loc'][0]} is {problem['input']!r}, expected {wanted}",
                hint="The ranges are those of [tasks.NAME.training].",
            ) from None
        made.append(_trial(training))
    for name, given in (("rank", asked.ranks), ("targets", asked.targets)):
        if given and name not in made[0].settings:
            raise UsageError(f'{name} says nothing to method "{present.method}"', hint="Vary the rate.")
    unique = list({one.name: one for one in made}.values())
    if len(unique) < 2:
        raise UsageError("there is nothing to compare", hint="For example: tuneloop sweep --rank 8,16 --rate 2e-4,1e-3")
    return unique


def _trial(training: TrainingSettings) -> Trial:
    settings: dict[str, float | int | str | bool] = {"learning_rate": training.learning_rate}
    words = [f"rate {training.learning_rate:g}"]
    if training.method in LORA:
        settings = {"rank": training.rank, "alpha": training.alpha, **settings}
        words.insert(0, f"rank {training.rank}")
    if training.method in LORA or training.method == "ia3":
        settings["targets"] = training.targets
        words.append(training.targets)
    return Trial(", ".join(words), training, settings)


def sweep(app: App, task: str, asked: Asked, *, say: Say, modules: Mapping[str, str] = MODULES) -> Recorded:
    """Train and score every trial, and record the comparison as one event. Nothing else is left of it.

    While the loop has a step at work, the sweep waits. A trial that fails is recorded with its reason.

    Args:
        app: the workspace.
        task: its name.
        asked: what is compared.
        say: told again and again how far it is.
        modules: what is started for which kind of step.

    Raises:
        UsageError: see `trials`; or another sweep runs.
        SettingsError: a combination cannot be trained.
        InputError: there are fewer than 20 validation examples.
        ModelError: the base model or the training stack is missing.
        StepError: a step of the loop is running, or none of the trials could be trained.
    """
    rules = app.settings.task(task)
    if rules.free:
        raise UsageError(
            f"a sweep compares how many labels are right, and {task} has none",
            hint="Change one setting at a time: each candidate is compared with the champion.",
        )
    chosen = trials(rules.training, asked)
    for one in chosen:
        if (found := refusal(one.training, app.settings.model.quantisation)) is not None:
            raise SettingsError(f"{one.name}: {found.key}: {found.reason}", hint=found.hint)
    refuse_at_work(app, "Wait until it has ended; `tuneloop status --watch` shows how far it is.")
    with _alone(app.workspace.paths.run / LOCK):
        _clear(app, task, logs=True)
        failed = True
        try:
            event = _Sweep(app, task, rules, asked, say, modules).run(chosen)
            failed = any(one.failure for one in event.trials)
        except KeyboardInterrupt:
            failed = False
            raise
        finally:
            _clear(app, task, logs=not failed)
        return app.workspace.log.append([Draft(event, f"task/{task}")], actor="cli", now=app.now())[0]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError("another sweep runs on this workspace", hint="Wait until it has ended.") from None
        yield


def _prefix(task: str) -> str:
    return f"{task}.sweep-"  # no task and no run has a dot in its name


def leftovers(app: App) -> list[Path]:
    """Run folders of sweeps that were killed; none while one is at work."""
    if is_locked(app.workspace.paths.run / LOCK):
        return []
    return sorted(app.workspace.paths.runs.glob(f"{_prefix('*')}*"))


def remove_leftovers(app: App) -> list[Path]:
    """Remove them, with the customers' texts in them; those that were removed.

    Raises:
        UsageError: a sweep has just begun.
    """
    with _alone(app.workspace.paths.run / LOCK):
        found = sorted(app.workspace.paths.runs.glob(f"{_prefix('*')}*"))
        for folder in found:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def _clear(app: App, task: str, *, logs: bool) -> None:
    for folder in app.workspace.paths.runs.glob(f"{_prefix(task)}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for log in app.workspace.paths.logs.glob(f"{_prefix(task)}*.log") if logs else ():
        log.unlink(missing_ok=True)


class _Sweep:
    """One sweep at work, in run folders of its own."""

    def __init__(
        self, app: App, task: str, rules: TaskSettings, asked: Asked, say: Say, modules: Mapping[str, str]
    ) -> None:
        self._app, self._task, self._rules, self._asked, self._say = app, task, rules, asked, say
        self._modules = modules
        self._seed = rules.training.seed if asked.seed is None else asked.seed
        self._base: BaseModelRef = base_ref(app)
        self._predictions: list[Prediction] = []
        self._exam: list[ExamItem] = []  # of the last look, without texts

    def run(self, chosen: Sequence[Trial]) -> SweepCompleted:
        started = time.monotonic()
        specs = [self._spec(one) for one in chosen]
        for spec in specs:
            methods.check(spec)
        up_to = self._app.state().position
        items = self._items()
        made = [
            self._try(one, spec, items, f"setting {number} of {len(chosen)} ({one.name})", number)
            for number, (one, spec) in enumerate(zip(chosen, specs, strict=True), 1)
        ]
        made = scored(made, self._exam, self._predictions)
        if all(one.accuracy is None for one in made):
            raise StepError(f"none of the settings could be tried: {made[0].failure}", hint="Their logs say more.")
        present = chosen[0].name
        best = best_of(made, present)
        comparisons = sum(one.accuracy is not None for one in made) - 1
        lead = lead_of(best, present, self._exam, self._predictions)
        control = [one for one in self._predictions if one.answerer == CONTROL]
        truth = {one.id: one.label for one in self._exam}
        past = queries.history(self._app.workspace.log, task=self._task, types=["SweepCompleted"], limit=None)
        return SweepCompleted(
            task=self._task,
            sweep_id=f"{self._task}-sweep-{len(past) + 1}",
            method=specs[0].method,
            base_model=Path(self._base.path).name,
            base_digest=self._base.digest,
            quantisation=self._base.quantisation,
            prompt=specs[0].prompt.name,
            seed=self._seed,
            up_to=up_to,
            train=sum(one.split == "train" and one.kind == "task" for one in items),
            valid=len(self._exam),
            trials=made,
            present=present,
            best=best,
            lead=lead,
            comparisons=comparisons,
            beyond_noise=beyond_noise(lead, comparisons, self._rules.gate.p_value),
            control_correct=sum(one.label == truth.get(one.id) for one in control) if control else None,
            seconds=round(time.monotonic() - started, 1),
        )

    def _spec(self, one: Trial) -> TrainSpec:
        rules = self._rules.model_copy(update={"training": one.training})
        named = f"{self._task}-run-0", f"{self._task}-trial"
        spec = training_spec(self._app, rules, self._base, run_id=named[0], adapter=named[1], plan="standard")
        steps = {"min_steps": self._asked.steps, "max_steps": self._asked.steps} if self._asked.steps else {}
        return msgspec.structs.replace(spec, seed=self._seed, samples=0, **steps)

    def _items(self) -> list[Item]:
        """What the loop would freeze now."""
        folder = self._folder("data")
        state = self._app.state().task(self._task)
        if state.train_total < LEAST_VALID:  # whatever the split, too few are held out
            raise InputError(_too_few(self._task, 0), hint=MORE)
        write_json(folder / "spec.json", freeze_spec(self._app, state, self._rules, "standard", "sweep"))
        failure = run_aside(
            self._app, "fit", folder, waiting=lambda _: self._say("choosing the examples"), modules=self._modules
        )
        if failure is not None:
            raise InputError(failure.message, hint=failure.hint)
        items = read_lines(folder / DATASET / "dataset.jsonl", Item)
        valid = sum(one.split == "valid" for one in items)
        if valid < LEAST_VALID:
            raise InputError(_too_few(self._task, valid), hint=MORE)
        if not self._asked.limit:
            return items
        return limited(items, self._asked.limit, self._rules.training.general_share, self._seed)

    def _try(self, one: Trial, spec: TrainSpec, items: list[Item], what: str, number: int) -> SweepTrial:
        made = SweepTrial(name=one.name, settings=one.settings)
        folder = self._folder(str(number))
        with self._app.workspace.rendering():
            write_lines(folder / "train.jsonl", rendered(self._app, self._rules, spec, items)["train"])
            write_json(folder / "spec.json", spec)
        (folder / "valid.jsonl").touch()
        failure = self._child("train", folder, what)
        if failure is not None:
            return msgspec.structs.replace(made, failure=failure.message)
        result = read_json(folder / "result.json", TrainResult)
        made = msgspec.structs.replace(
            made, steps=result.steps, seconds=round(result.seconds, 1), train_loss=result.train_loss
        )
        failure = self._look(one.name, spec, items, folder, what)
        shutil.rmtree(folder)
        return made if failure is None else msgspec.structs.replace(made, failure=failure.message)

    def _look(self, name: str, spec: TrainSpec, items: Sequence[Item], trained: Path, what: str) -> StepFailure | None:
        """Score one trial, and the control with the first one, on the validation examples."""
        folder = self._folder(f"{trained.name.removeprefix(_prefix(self._task))}-look")
        answerers = [
            AnswererSpec(
                name=name, kind="adapter", prompt=spec.prompt, adapter=str(trained / "adapter"), decodings=["score"]
            )
        ]
        control = self._app.workspace.paths.runs / f"{_prefix(self._task)}data" / DATASET / CONTROL
        if not self._asked.limit and not self._predictions:  # it was fitted on all the examples
            answerers.append(AnswererSpec(name=CONTROL, kind="control", control=str(control), decodings=["classify"]))
        with self._app.workspace.rendering():
            labels = {one.id: one.label for one in items if one.split == "valid"}
            texts = self._app.workspace.texts.many(list(labels))
            exam = [ExamItem(id=one, text=text, label=labels[one]) for one, text in texts.items()]
            write_lines(folder / "exam.jsonl", exam)
            write_json(
                folder / "spec.json",
                EvalSpec(
                    run_id=spec.run_id,
                    evaluation_id=folder.name,
                    task=self._task,
                    labels=self._rules.labels,
                    base=self._base,
                    candidate=name,
                    answerers=answerers,
                    seed=self._seed,
                    threads=spec.threads,
                    device=spec.device,
                ),
            )
        failure = self._child("evaluate", folder, what)
        if failure is None:
            self._predictions += read_lines(folder / "predictions.jsonl", Prediction)
            self._exam = [ExamItem(id=one.id, text="", label=one.label) for one in exam]
        shutil.rmtree(folder)
        return failure

    def _folder(self, name: str) -> Path:
        folder = self._app.workspace.paths.runs / f"{_prefix(self._task)}{name}"
        folder.mkdir(mode=0o700)
        return folder

    def _child(self, kind: str, folder: Path, what: str) -> StepFailure | None:
        def waiting(metric: Metric | None) -> None:
            where = f"step {metric.step} of {metric.of}" if metric and metric.of else "begins"
            self._say(f"{what}: {metric.phase if metric and not metric.of else where}")

        return run_aside(
            self._app,
            kind,  # type: ignore[arg-type]
            folder,
            waiting=waiting,
            modules=self._modules,
            gives_way=True,
        )


def _too_few(task: str, valid: int) -> str:
    return f"{task} has {valid or 'too few'} validation examples; a sweep needs at least {LEAST_VALID}"


# ---------------------------------------------------------------- pure: which examples, which is best


def limited(items: Sequence[Item], limit: int, general_share: float, seed: int) -> list[Item]:
    """At most `limit` training examples in the classes' own proportions, every class first; general ones likewise."""
    task = [one for one in items if one.split == "train" and one.kind == "task"]
    random.Random(seed).shuffle(task)  # noqa: S311
    sizes, seen = Counter(one.label for one in task), Counter[str]()
    place: dict[str, float] = {}
    for one in task:
        place[one.id] = seen[one.label] / sizes[one.label]
        seen[one.label] += 1
    kept = {one.id for one in sorted(task, key=lambda one: place[one.id])[:limit]}
    general = [one.id for one in items if one.kind == "general"]
    kept |= set(general[: general_count(len(kept), general_share)])
    return [one for one in items if one.split == "valid" or one.id in kept]


def scored(made: Sequence[SweepTrial], exam: Sequence[ExamItem], predictions: Sequence[Prediction]) -> list[SweepTrial]:
    """The trials with what they got right."""
    truth = {one.id: one.label for one in exam}
    kinds = {one.answerer: "control" if one.answerer == CONTROL else "adapter" for one in predictions}
    results = {one.answerer: one for one in metrics.answerer_results(exam, predictions, kinds)}  # type: ignore[arg-type]
    losses: dict[str, list[float]] = {}
    for one in predictions:
        if one.id in truth:
            share = max(LEAST_SHARE, one.probabilities.get(truth[one.id], 0.0))
            losses.setdefault(one.answerer, []).append(-math.log(share))
    return [
        msgspec.structs.replace(
            one,
            correct=result.correct,
            accuracy=result.accuracy,
            low=result.low,
            high=result.high,
            valid_loss=round(math.fsum(losses[one.name]) / len(losses[one.name]), 4),
        )
        if (result := results.get(one.name)) is not None
        else one
        for one in made
    ]


def best_of(made: Sequence[SweepTrial], present: str) -> str:
    """Most answers right; of equals the present settings, then the smallest loss."""
    able = [one for one in made if one.accuracy is not None]
    return min(able, key=lambda one: (-one.correct, one.name != present, one.valid_loss or 0.0)).name


def lead_of(
    best: str, present: str, exam: Sequence[ExamItem], predictions: Sequence[Prediction]
) -> PairedResult | None:
    """The best against the present settings on the same examples; None where there is nothing to compare."""
    if best == present or not any(one.answerer == present for one in predictions):
        return None
    return metrics.paired_results(exam, predictions, best, [present])[0]


def beyond_noise(lead: PairedResult | None, comparisons: int, p_value: float) -> bool:
    """Whether a lead would still be rare by chance, having been chosen from so many comparisons (Bonferroni)."""
    return lead is not None and lead.difference > 0 and lead.p_value * comparisons <= p_value
