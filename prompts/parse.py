"""From a model's words to a label or an abstention, minding how the prompt asked for it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from store.labels import parse_label
from store.prompting import PromptSpec

_FINAL = re.compile(r"\blabel\b[ \t*_`\"']*[:=：]", re.IGNORECASE)


def parse_answer(raw: str, prompt: PromptSpec, labels: Sequence[str]) -> str | None:
    """The label that `raw` answers with, or None: an abstention.

    A prompt that asks for reasoning is answered on the line of the last "Label:", else on the last line; what is
    weighed before it is no answer. Any other prompt is read by `store.labels.parse_label` alone.
    """
    if not prompt.reasoning:
        return parse_label(raw, labels)
    marks = list(_FINAL.finditer(raw))
    lines = [line for line in (raw[marks[-1].end() :] if marks else raw).splitlines() if line.strip(" \t*_`\"'")]
    if not lines:
        return None
    return parse_label(lines[0] if marks else lines[-1], labels)
