"""The step that asks a model what answers in free words are worth: `python -m loop.judging RUN_FOLDER`.

    spec.json           JudgeSpec, written by the daemon
    judged.jsonl        one Verdict a line, appended as they come; a later attempt asks only for what is missing
    result.json         Judged, written last
    error.json          StepFailure

The exam and its answers are those of the look that the step is about, in the run folder beside; the endpoint is the
workspace's. Nothing of what is said is kept, only scores.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from adapters.child import Stopping, run
from adapters.specs import ExamItem, Prediction, read_json, read_lines, write_json, write_lines
from loop.answerers import open_answerer
from loop.asking import TOLERATED
from loop.bootstrap import App, open_app
from loop.evaluations import GIVEN, VERDICTS, Verdict
from loop.services import read_endpoints
from loop.steps import Steps
from prompts import judge
from store.errors import ModelError, StepError

if TYPE_CHECKING:
    from prompts.client import Answerer

JUDGED = "judged.jsonl"
PAIRS_A_PART = 8  # that are asked between two writes


class JudgeSpec(msgspec.Struct, frozen=True, kw_only=True):
    task: str
    look: str  # name of the look's run folder


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    silent: int = 0  # answers that the judge gave no verdict on


def is_judged(app: App, steps: Steps, task: str, folder: Path) -> bool:
    """Whether the answers of a look have the judge's verdicts beside them, or need none; False while it is asked.

    Raises:
        ModelError: the endpoint is down, fails, or gives no verdicts; it is asked again by the next call.
    """
    aside = folder.with_name(f"{folder.name}-judging")
    rules = app.settings.task(task)
    if rules.free and rules.metric == "judge" and not (folder / VERDICTS).exists():
        spec = JudgeSpec(task=task, look=folder.name)
        if not (aside / "spec.json").exists():
            with steps.fence():
                aside.mkdir(mode=0o700, exist_ok=True)
                write_json(aside / "spec.json", spec)
        try:
            if not steps.carried_out("judge", aside):
                return False
        except StepError as error:
            raise ModelError(error.message, hint=error.hint) from error
        part = folder / f"{VERDICTS}.part"
        with steps.fence():
            write_lines(part, read_lines(aside / JUDGED, Verdict))
            part.replace(folder / VERDICTS)
    if aside.exists():
        with steps.fence():
            shutil.rmtree(aside, ignore_errors=True)
    return True


def judge_look(folder: Path, _: Stopping) -> None:
    """Ask for all verdicts that `folder` lacks.

    Raises:
        ModelError: the endpoint is down, refuses, or says too often something else than a verdict; what it has said
            is kept.
        StepError: the look is gone.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # what is judged is on disk: nothing is worth waiting for
        signal.signal(number, lambda *_: os._exit(0))
    spec = read_json(folder / "spec.json", JudgeSpec)
    with open_app(folder) as app:
        look = app.workspace.paths.runs / spec.look
        exam = {item.id: item for item in read_lines(look / "exam.jsonl", ExamItem)}
        answers = read_lines(look / GIVEN, Prediction) + read_lines(look / "predictions.jsonl", Prediction)
        if not exam or not answers:
            raise StepError(f"{spec.look} has no answers to judge", hint="`tuneloop evaluate` makes a new look.")
        # a killed writer leaves a torn last line, to which nothing may be appended
        _rewrite(folder, read_lines(folder / JUDGED, Verdict))
        known = {(one.answerer, one.id) for one in read_lines(folder / JUDGED, Verdict)}
        open_ones = [one for one in answers if one.id in exam and (one.answerer, one.id) not in known]
        rules = app.settings.task(spec.task)
        local = read_endpoints(app.workspace.paths.run)
        secret = app.workspace.texts.keyed(spec.look)
        with open_answerer(app.settings, local.engine, rules.judge_model, engine_token=local.engine_token) as answerer:
            for first in range(0, len(open_ones), PAIRS_A_PART):
                part = open_ones[first : first + PAIRS_A_PART]
                found = _asked(answerer, rules.description, part, exam, secret)
                with (folder / JUDGED).open("ab") as file:
                    file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in found))
                    file.flush()
                    os.fsync(file.fileno())
    told = read_lines(folder / JUDGED, Verdict)
    silent = sum(one.score is None for one in told)
    if silent > TOLERATED * len(answers):
        _rewrite(folder, [one for one in told if one.score is not None])  # the next attempt asks for the others again
        raise ModelError(
            f"the judge gave no verdict on {silent} of {len(answers)} answers",
            hint=f"It must reply {judge.FIRST}, {judge.SECOND} or {judge.TIE}: name a larger model in `judge_model`.",
        )
    write_json(folder / "result.json", Judged(silent=silent))


def _rewrite(folder: Path, verdicts: list[Verdict]) -> None:
    write_lines(folder / "judged.part", verdicts)
    (folder / "judged.part").replace(folder / JUDGED)


def _asked(
    answerer: Answerer, about: str, answers: Sequence[Prediction], exam: dict[str, ExamItem], secret: str
) -> list[Verdict]:
    """Verdicts on answers, each asked in both orders; the same words as the right ones, and none, need no question."""
    told: dict[int, float | None] = {}
    questions: list[str] = []
    asked: list[int] = []
    for place, one in enumerate(answers):
        item = exam[one.id]
        words, right = one.raw.strip(), item.target.strip()
        if not words or words == right:
            told[place] = 0.5 if words else 0.0
            continue
        asked.append(place)
        questions += [
            judge.question(item.text, words, right, secret),
            judge.question(item.text, right, words, secret),
        ]
    given = answerer.answer(judge.prompt(about), questions, []) if questions else []
    for number, place in enumerate(asked):
        first, second = (None if one.error else judge.verdict(one.raw) for one in given[2 * number : 2 * number + 2])
        told[place] = judge.worth(first, second)
    return [Verdict(id=one.id, answerer=one.answerer, score=told[place]) for place, one in enumerate(answers)]


if __name__ == "__main__":
    sys.exit(run(judge_look, sys.argv[1:]))
