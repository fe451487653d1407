"""Prompt versions scored on labelled examples, and the one that becomes the baseline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from store.errors import InputError, ModelError
from store.events import PromptScore
from store.prompting import PromptSpec


class Given(Protocol):
    """What a baseline needs of an answer; `prompts.client.Answer` is one."""

    @property
    def label(self) -> str | None: ...
    @property
    def error(self) -> str: ...


class Item(msgspec.Struct, frozen=True):
    """A labelled example that prompts are scored on."""

    text: str
    label: str


Answering = Callable[[PromptSpec, Sequence[str], Sequence[str]], Sequence[Given]]
_TOLERATED = 0.1  # share of requests that may fail before a score means nothing


def score_prompt(
    answer: Answering,
    prompt: PromptSpec,
    items: Sequence[Item],
    labels: Sequence[str],
    clock: Callable[[], float] = time.monotonic,
) -> PromptScore:
    """Answer all items under one prompt and count.

    Args:
        answer: (prompt, texts, labels) -> one answer per text, for example `Answerer.answer`.
        prompt: the version to score.
        items: labelled examples that are neither trained on nor part of the exam.
        labels: the task's labels.
        clock: seconds, monotonic.

    Raises:
        ModelError: more than a tenth of the requests failed: an outage is not a bad prompt.
    """
    if not items:
        raise InputError("there are no labelled examples to score prompts on", hint="Label a few records first.")
    start = clock()
    answers = answer(prompt, [item.text for item in items], labels)
    seconds = clock() - start
    failures = [given.error for given in answers if given.error]
    if len(failures) > _TOLERATED * len(items):
        raise ModelError(
            f"{len(failures)} of {len(items)} requests under {prompt.name} failed: {failures[0]}",
            hint="Check the endpoint with: tuneloop doctor",
        )
    return PromptScore(
        prompt=prompt.name,
        correct=sum(given.label == item.label for given, item in zip(answers, items, strict=True)),
        n=len(items),
        abstained=sum(given.label is None for given in answers),
        seconds=round(seconds, 3),
    )


def cost(prompt: PromptSpec) -> int:
    """What one answer costs, in characters read and written beside the text (written ones count five-fold)."""
    read = len(prompt.system) + len(prompt.user) + sum(len(turn.content) for turn in prompt.shots)
    return read + 5 * 4 * prompt.max_tokens


def choose(scores: Sequence[PromptScore], prompts: Mapping[str, PromptSpec]) -> tuple[str, str]:
    """The best prompt version and why, in one sentence.

    The highest share of right answers wins; of equals the one with fewer abstentions, then the cheaper one,
    then the first by name.

    Raises:
        InputError: nothing was scored.
    """
    if not scores:
        raise InputError("no prompt version was scored", hint="Name at least one in `prompts`.")

    def rank(score: PromptScore) -> tuple[float, float, int, str]:
        share = score.n or 1
        return (-score.correct / share, score.abstained / share, cost(prompts[score.prompt]), score.prompt)

    ordered = sorted(scores, key=rank)
    best = ordered[0]
    reason = f"{best.prompt} answers {best.correct} of {best.n} correctly"
    if len(ordered) > 1:
        second = ordered[1]
        reason += f", ahead of {second.prompt} with {second.correct} of {second.n}"
        if second.correct * best.n == best.correct * second.n:
            fewer = second.abstained * best.n != best.abstained * second.n
            reason += "; it abstains less" if fewer else "; it is the cheaper one"
    return best.prompt, reason
