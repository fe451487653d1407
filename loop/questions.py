"""The daemon's side of asking an endpoint: what is asked, and what follows from the answers. See `asking`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from adapters.specs import ExamItem, Prediction, read_json, read_lines, write_json, write_lines
from loop import asking
from loop.answerers import choose_shot_records, render, upstream
from loop.asking import AskItem, AskSpec
from loop.bootstrap import App
from loop.evaluations import GIVEN
from loop.settings import TaskSettings
from loop.state import TaskState
from loop.steps import Steps
from prompts import baseline, templates
from store import events as ev
from store import queries
from store.errors import ModelError, StepError
from store.kill_points import reached

PROMPT_ITEMS = 60  # labelled examples that prompt versions are compared on, at most


def compared(app: App, steps: Steps, task: str) -> ev.PromptAdopted | None:
    """The prompt version that becomes the baseline; None while the versions are still being asked.

    Raises:
        ModelError: the endpoint is down or fails; it is asked again by the next call.
        SettingsError: there is no such prompt.
    """
    rules = app.settings.task(task)
    names = _names(app, rules)
    scores: list[ev.PromptScore] = []
    if rules.prompt or len(names) == 1:
        best, reason = names[0], "named in tuneloop.toml" if rules.prompt else "the only one"
        shots = choose_shot_records(app, rules, queries.labelled(app.workspace.read, task, side="train"))
    else:
        folder = app.workspace.paths.runs / f"{task}-prompts"
        spec = _asked(steps, folder, asking.key(app, task), lambda key: _comparison(app, task, names, key))
        if spec is None:
            return None
        kept = app.workspace.texts.many(spec.shots)  # an example may have been erased since
        shots = [one for one in spec.shots if one in kept]
        scores = [_score(folder, name, spec.items) for name in spec.prompts]
        best, reason = baseline.choose(scores, {name: render(app, rules, name, shots) for name in spec.prompts})
    adopted = render(app, rules, best, shots)
    reached("prompt.chosen")
    return ev.PromptAdopted(
        task=task,
        prompt=best,
        digest=adopted.digest,
        scores=scores,
        reason=reason,
        shots=shots if adopted.shots else [],
    )


def _names(app: App, rules: TaskSettings) -> list[str]:
    own = app.root / "prompts"
    names = templates.resolve([rules.prompt] if rules.prompt else rules.prompts, own)
    if rules.shots or rules.prompt:
        return names
    return [name for name in names if not templates.read(name, own).shots] or names


def _comparison(app: App, task: str, names: list[str], key: str) -> AskSpec:
    """The examples are on the training side: the exam is spent by looks alone."""
    rows = queries.labelled(app.workspace.read, task, side="train")
    shots = choose_shot_records(app, app.settings.task(task), rows)
    held = [AskItem(row.record_id, row.label) for row in rows if row.record_id not in shots]
    return AskSpec(task=task, key=key, prompts=names, items=held[:PROMPT_ITEMS], shots=shots)


def forget_comparison(app: App, task: str) -> None:
    """Remove the folder of a comparison that is recorded."""
    shutil.rmtree(app.workspace.paths.runs / f"{task}-prompts", ignore_errors=True)


def exam_is_answered(app: App, steps: Steps, task: TaskState, folder: Path) -> bool:
    """Whether a remote baseline's answers to the exam of a look lie in its run folder; False while it is asked.

    Where the baseline runs on the local engine nothing is asked: the evaluation's child answers for it.

    Raises:
        ModelError: the endpoint is down or fails; it is asked again by the next call.
    """
    aside = folder.with_name(f"{folder.name}-asking")
    if upstream(app.settings).url and not (folder / GIVEN).exists():
        exam = read_lines(folder / "exam.jsonl", ExamItem)
        key = asking.key(app, task.task, task.baseline)
        items = [AskItem(item.id, item.label) for item in exam]
        question = AskSpec(task=task.task, key=key, prompts=[task.baseline], items=items, baseline=True)
        if _asked(steps, aside, key, lambda _: question) is None:
            return False
        answers, _ = asking.given(aside, task.baseline)
        part = folder / f"{GIVEN}.part"
        with steps.fence():
            write_lines(part, [_prediction(task.baseline, answers.get(item.id), item.id) for item in exam])
            part.replace(folder / GIVEN)  # it is never asked for again: whole or not at all
    if aside.exists():
        with steps.fence():
            shutil.rmtree(aside, ignore_errors=True)
    return True


def _asked(steps: Steps, folder: Path, key: str, prepare: Callable[[str], AskSpec]) -> AskSpec | None:
    """What was asked, once all of it is answered; None while it is being asked, which this starts.

    A question under the same key goes on, whatever has been labelled since; else `prepare(key)` gives a new one.
    """
    try:
        spec: AskSpec | None = read_json(folder / "spec.json", AskSpec)
    except StepError:
        spec = None
    if spec is None or spec.key != key:
        steps.stop(folder, "another question")
        if steps.look(folder).status == "running":
            return None
        spec = prepare(key)
        with steps.fence():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, mode=0o700)
            write_json(folder / "spec.json", spec)
        reached("ask.folder_prepared")
    try:
        return spec if steps.carried_out("ask", folder) else None
    except StepError as error:
        raise ModelError(error.message, hint=error.hint) from error


def _score(folder: Path, name: str, items: Sequence[AskItem]) -> ev.PromptScore:
    answers, seconds = asking.given(folder, name)
    labels = [answers[item.id].label if item.id in answers else None for item in items]
    return baseline.score(name, labels, [item.label for item in items], seconds)


def _prediction(answerer: str, answer: asking.Given | None, record: str) -> Prediction:
    return Prediction(
        id=record,
        answerer=answerer,
        decoding="generate",
        label=answer.label if answer else None,
        latency_ms=answer.latency_ms if answer else 0.0,
        raw=answer.raw if answer else "",
    )
