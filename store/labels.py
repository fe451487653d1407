"""From a model's words to a label: one rule for every place where generated text becomes an answer.

The words may hold anything, an injected instruction included. Whatever they say, the answer is one of the given
labels, spelled as given, or None.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from store.prompting import PromptSpec

_LONGEST = 20_000  # characters that are looked at: half from the start, half from the end
_MARKER = re.compile(r"\b(?:label|category|class|answer)\b[ \t*_`\"']*[:=：][ \t*_`\"']*")
_FINAL = re.compile(r"\blabel\b[ \t*_`\"']*[:=：]", re.IGNORECASE)
_NEGATED = re.compile(r"(?:\b(?:not|never|no|nor|neither|without)|n['’]t)\s+(?:an?\s+|the\s+)?$")
_EDGES = " \t\r\n.,;:!?\"'`*_~#()[]{}<>|“”‘’«»-–—="


def parse_label(raw: str, labels: Sequence[str]) -> str | None:
    """The label that generated text stands for, or None: an abstention is better than a guess.

    In this order: the first line is exactly a label (letter case, quotes, punctuation, markdown and a leading
    "Label:" aside; what a model babbles after it does not count); the line after the last "Label:" is a label or
    mentions one; the whole text mentions exactly one label as a word of its own. Several different labels, a
    negated one ("not urgent"), or none: None. Space, hyphen and underscore are the same within a label.

    Args:
        raw: generated text, of any length.
        labels: the labels that may be answered.
    """
    if raw.strip() in labels:
        return raw.strip()
    known = _normalised(labels)
    text = _fold(raw if len(raw) <= _LONGEST else raw[: _LONGEST // 2] + "\n" + raw[-_LONGEST // 2 :])
    lines = [line for line in text.splitlines() if line.strip(_EDGES)]
    if not lines or not known:
        return None
    exact = known.get(_core(lines[0]))
    if exact is not None:
        return exact
    final = list(_FINAL.finditer(text))
    if final:
        after = [line for line in text[final[-1].end() :].splitlines() if line.strip(_EDGES)]
        return _only_mention(after[0], known) if after else None
    return _only_mention(text, known)


def parse_answer(raw: str, prompt: PromptSpec, labels: Sequence[str]) -> str | None:
    """The label that `raw` answers `prompt` with, or None: an abstention.

    A prompt that asks for reasoning is answered on the line of the last "Label:", else on the last line; what is
    weighed before it is no answer. Any other prompt is read by `parse_label` alone.
    """
    if not prompt.reasoning:
        return parse_label(raw, labels)
    marks = list(_FINAL.finditer(raw))
    lines = [line for line in (raw[marks[-1].end() :] if marks else raw).splitlines() if line.strip(_EDGES)]
    if not lines:
        return None
    return parse_label(lines[0] if marks else lines[-1], labels)


def _normalised(labels: Sequence[str]) -> dict[str, str]:
    """Normal form -> label; forms that two labels share are left out, only their exact spelling can mean them."""
    found: dict[str, str | None] = {}
    for label in labels:
        form = _core(_fold(label)) or _fold(label).strip()
        found[form] = None if form in found and found[form] != label else label
    return {form: label for form, label in found.items() if form and label is not None}


def _fold(text: str) -> str:
    """Compatibility form without invisible characters, letter case gone; line breaks stay."""
    plain = unicodedata.normalize("NFKC", text)
    plain = "".join(c for c in plain if c in "\n\t" or unicodedata.category(c) not in ("Cf", "Cc"))
    return plain.casefold()


def _core(line: str) -> str:
    marked = _MARKER.match(line.strip(_EDGES))
    inner = line.strip(_EDGES)[marked.end() :] if marked else line
    return re.sub(r"[\s_\-]+", " ", inner.strip(_EDGES))


def _only_mention(text: str, known: dict[str, str]) -> str | None:
    exact = known.get(_core(text))
    if exact is not None:
        return exact
    # the longest first, so that "card arrival" is not also a mention of "card"
    forms = sorted(known, key=len, reverse=True)
    any_form = "|".join(f"({re.escape(form)})".replace(r"\ ", r"[\s_\-]+") for form in forms)
    pattern = re.compile(rf"(?<![\w\-])(?:{any_form})(?![\w\-])")
    mentioned: set[str] = set()
    for match in pattern.finditer(text):
        if _NEGATED.search(text[max(0, match.start() - 24) : match.start()]):
            return None
        mentioned.add(known[forms[(match.lastindex or 1) - 1]])
    return mentioned.pop() if len(mentioned) == 1 else None
