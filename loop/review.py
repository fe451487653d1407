"""The labelling screen without a terminal: what is shown, what a key means, where the annotator is.

    key ──▶ press(session, key) ──▶ session, what to do ──▶ (effect) ──▶ settled(session, ...)

Everything here is pure. The terminal half is `loop.cli.review`, which also carries out what is to be done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from store.errors import UsageError
from store.events import ReviewReason

SKIP, UNDO, QUIT, HELP, PAGE = "s", "u", "q", "?", " "
CONTROLS = {SKIP: "skip", UNDO: "undo", QUIT: "quit", PAGE: "read on", HELP: "help"}
_LETTERS = "abcdefghijklmnoprtvwxyz"  # without s, u and q
_SINGLE = "1234567890" + _LETTERS + _LETTERS.upper()
MOST_LABELS = 1000
# what the keys of a task with answers in free words mean
EDIT, TAKE = "edit the right answer", "take what was said"
WORDS_KEYS = {"e": EDIT, "a": TAKE}
ANSWER_SHOWN = 400  # characters of an answer in free words
HELP_LINES = (
    "A label's key labels the record and goes on; every key is stored at once, so q loses nothing.",
    "s takes the record out of the queue without a label. space shows more of a long text.",
    "u takes back your last label or skip, u again the one before it; both stay in the log.",
    "training side: the record's label is learnt from. exam side: it only judges candidates, and is never learnt from.",
    "audit: drawn at random from production for the exam. A record's side was fixed when it arrived.",
    "Other reasons (uncertain, misclassified, rare ...) say why the record may be one that production gets wrong.",
    "In free words: e opens your editor on what production said, or was corrected to; a takes it as it is.",
    "? closes this help.",
)


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One record that waits for a label."""

    record_id: str
    text: str
    external_id: str = ""  # production's name for it
    reasons: list[ReviewReason] = []
    answer: str | None = None  # production's
    answered_by: str = ""
    confidence: float | None = None
    margin: float | None = None
    feedback: str | None = None
    audit: bool = False

    @property
    def name(self) -> str:
        """What people call it: production's id where there is one."""
        return self.external_id or self.record_id


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the session wants to have done."""

    kind: Literal["label", "skip", "undo", "quit"]
    record_id: str = ""
    label: str = ""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    item: Item
    label: str = ""  # empty: skipped


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Where one annotator is. `pending` is what was typed of a key of several characters."""

    keys: Mapping[str, str]  # key -> label
    items: tuple[Item, ...] = ()
    done: tuple[Done, ...] = ()
    page: int = 0
    pending: str = ""
    message: str = ""
    help: bool = False

    @property
    def current(self) -> Item | None:
        """What is shown; None when nothing is left."""
        return self.items[0] if self.items else None

    @property
    def labelled(self) -> int:
        return sum(1 for one in self.done if one.label)

    @property
    def skipped(self) -> int:
        return len(self.done) - self.labelled


def keys_for(labels: Sequence[str]) -> dict[str, str]:
    """A key for each label, in their order: digits, then letters; numbers of equal length where those run out.

    No key begins another one, and none is a control.

    Raises:
        UsageError: more labels than anybody can keep in mind.
    """
    if len(labels) <= len(_SINGLE):
        return dict(zip(_SINGLE, labels, strict=False))
    if len(labels) > MOST_LABELS:
        raise UsageError(
            f"{len(labels)} labels are too many for one key each", hint="Label with `tuneloop label RECORD LABEL`."
        )
    digits = len(str(len(labels) - 1))
    return {f"{number:0{digits}}": label for number, label in enumerate(labels)}


def opened(labels: Sequence[str], items: Sequence[Item]) -> Session:
    """A session at the queue's first item; without labels answers are free words."""
    return Session(keys=keys_for(labels) if labels else WORDS_KEYS, items=tuple(items))


def press(session: Session, key: str) -> tuple[Session, Act | None]:
    """What a key means here. The session only moves on in `settled`, once the act has really been done."""
    calm = replace(session, message="", help=False)
    if not session.pending:
        match key:
            case "q":
                return calm, Act(kind="quit")
            case "?":
                return replace(calm, help=not session.help), None
            case " ":
                return replace(calm, page=session.page + 1), None
            case "u":
                if not session.done:
                    return replace(calm, message="nothing to undo in this sitting"), None
                return calm, Act(kind="undo", record_id=session.done[-1].item.record_id)
            case "s" if session.current is not None:
                return calm, Act(kind="skip", record_id=session.current.record_id)
    typed = session.pending + key
    if typed in session.keys and session.current is not None:
        act = Act(kind="label", record_id=session.current.record_id, label=session.keys[typed])
        return replace(calm, pending=""), act
    if any(known.startswith(typed) for known in session.keys):
        return replace(calm, pending=typed), None
    shown = typed if typed.isprintable() else "that"
    return replace(calm, pending="", message=f"{shown} is no key here; ? lists them"), None


def settled(session: Session, act: Act) -> Session:
    """The session after its act succeeded."""
    if act.kind == "undo":
        if not session.done:
            return session
        last = session.done[-1]
        return replace(
            session,
            items=(last.item, *session.items),
            done=session.done[:-1],
            page=0,
            message=f"undone: {last.item.name} was {last.label or 'skipped'}",
        )
    if act.kind not in ("label", "skip") or session.current is None:
        return session
    finished = Done(item=session.current, label=act.label)
    said = f"{finished.item.name}: {act.label}" if act.label else f"{finished.item.name} skipped"
    return replace(session, items=session.items[1:], done=(*session.done, finished), page=0, message=said)


def refused(session: Session, reason: str, *, drop: bool = False) -> Session:
    """The session after its act failed. `drop`: the shown item is no longer to be had."""
    items = session.items[1:] if drop else session.items
    return replace(session, items=items, message=reason, page=0 if drop else session.page)


def refilled(session: Session, items: Sequence[Item]) -> Session:
    """More of the queue behind what is left; what this sitting has dealt with does not come again."""
    seen = {item.record_id for item in session.items} | {one.item.record_id for one in session.done}
    return replace(session, items=session.items + tuple(item for item in items if item.record_id not in seen))


def window(lines: Sequence[str], height: int, page: int) -> tuple[list[str], int, int]:
    """The lines of one screenful, its number and how many there are; pages wrap around.

    Args:
        height: lines that fit, at least 1.
    """
    height = max(1, height)
    pages = max(1, -(-len(lines) // height))
    number = page % pages
    return list(lines[number * height : (number + 1) * height]), number + 1, pages


def production_said(item: Item) -> str:
    """Production's answer in words."""
    if item.answer is None:
        said = "production gave no label"
    else:
        said = f"production said {_cut(item.answer)}"
        if item.confidence is not None:
            said += f" ({item.confidence:.0%} sure"
            said += f", margin {item.margin:.2f})" if item.margin is not None else ")"
    if item.answered_by:
        said += f", as {item.answered_by}"
    if item.feedback:
        said += f"; later corrected to {_cut(item.feedback)}" if item.feedback != item.answer else "; later confirmed"
    return said


def _cut(words: str) -> str:
    return words if len(words) <= ANSWER_SHOWN else words[:ANSWER_SHOWN] + " …"


def why(item: Item) -> list[str]:
    """The reasons why this record is asked for, each in words."""
    return [f"{reason.name}: {reason.detail}" if reason.detail else reason.name for reason in item.reasons]


def farewell(session: Session, waiting: int) -> str:
    """The last line: what was done, and what is left."""
    return f"{session.labelled} labelled, {session.skipped} skipped; {waiting} still in the queue"
