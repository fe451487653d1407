"""General examples: a small share of a training set that keeps the model from forgetting what else it can do.

The mission's document, "Catastrophic Forgetting": 5 to 10% of the mix. They come with tuneloop (written for it), or
from a file of the user's (OpenAI chat JSONL). A dataset names them by a digest of their content, so that a file that
is edited between freezing and training changes no example under its name.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loop import chats
from loop.curation import general_count
from loop.formats import BadLine
from store.errors import StepError
from store.events import CurationCount
from store.prompting import Message

BUILT_IN = Path(__file__).parents[1] / "adapters" / "data" / "general.jsonl"
ADVISED = (0.05, 0.10)  # share of the mix
PREFIX = "general:"
_MOST_COMPLAINTS = 3


class General:
    """The general examples of a file. `ids` are in its order, without repeats."""

    def __init__(self, examples: Sequence[list[Message]]) -> None:
        self._by_id = {_identity(messages): messages for messages in examples}
        self.ids = list(self._by_id)
        # how older datasets name them
        self._by_id.update({f"{PREFIX}{number}": messages for number, messages in enumerate(examples)})

    def get(self, identity: str) -> list[Message] | None:
        """An example; None where the file has it no longer."""
        return self._by_id.get(identity)


def read(root: Path, named: str) -> General:
    """The built-in examples, or those of the file that `training.general_file` names in the workspace.

    Raises:
        StepError: the file cannot be read, a line is no finished conversation, or there is none.
    """
    path = root / named if named else BUILT_IN
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise StepError(
            f"the general examples at {path} cannot be read: {error.strerror}", hint="See training.general_file."
        ) from error
    examples: list[list[Message]] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                examples.append(chats.read(line).messages)
        except BadLine as error:
            problems.append(f"line {number}: {error}")
    if problems or not examples:
        more = f"; and {len(problems) - _MOST_COMPLAINTS} more" if len(problems) > _MOST_COMPLAINTS else ""
        told = "; ".join(problems[:_MOST_COMPLAINTS]) + more if problems else "it holds no line"
        raise StepError(
            f"the general examples at {path} cannot be used: {told}", hint="A line is an OpenAI chat with an answer."
        )
    return General(examples)


def choose(general: General, lines: int, share: float, seed: int) -> tuple[list[str], list[str]]:
    """(ids of the examples to mix in, warnings).

    Args:
        general: what there is.
        lines: training examples that they are mixed into, copies counted.
        share: wanted share of the mix.
        seed: of the choice.
    """
    wanted = general_count(lines, share)
    chosen = random.Random(seed).sample(general.ids, min(wanted, len(general.ids)))  # noqa: S311
    least, most = ADVISED
    advice = f"{least:.0%} to {most:.0%} keep a model from forgetting"
    if wanted > len(chosen):
        part = len(chosen) / (len(chosen) + lines)
        return chosen, [f"only {len(chosen)} general examples for {lines} of the task ({part:.1%}): {advice}"]
    if not least <= share <= most:
        return chosen, [f"general examples make up {share:.1%} of the mix: {advice}"]
    return chosen, []


def counted(chosen: Sequence[str]) -> CurationCount:
    """The step of curation that mixes them in."""
    return CurationCount(step="general", count=len(chosen), detail="general examples mixed in, against forgetting")


def _identity(messages: Sequence[Message]) -> str:
    return PREFIX + hashlib.blake2b(msgspec.json.encode(messages), digest_size=8).hexdigest()
