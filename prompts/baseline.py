"""Prompt versions scored on labelled examples, and the one that becomes the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from store.errors import InputError
from store.events import PromptScore
from store.prompting import PromptSpec


def score(prompt: str, answers: Sequence[str | None], labels: Sequence[str], seconds: float) -> PromptScore:
    """Count the answers under one prompt.

    Args:
        prompt: name@version.
        answers: the label that was answered, or None, per example.
        labels: the right ones, in the same order.
        seconds: that the answers took.

    Raises:
        InputError: there are no examples.
    """
    if not labels:
        raise InputError("there are no labelled examples to score prompts on", hint="Label a few records first.")
    return PromptScore(
        prompt=prompt,
        correct=sum(answer == label for answer, label in zip(answers, labels, strict=True)),
        n=len(labels),
        abstained=sum(answer is None for answer in answers),
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
