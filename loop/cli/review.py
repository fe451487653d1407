"""The labelling screen on a terminal: draw, read a key, do what it means, again."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from loop import review as screen
from loop.cli.context import Annotator, TaskName, annotator_name, choose_task, open_app
from loop.cli.output import say
from loop.cli.safe import plain
from store.errors import Conflict, InputError, TuneloopError, UnknownRecord, UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from loop.bootstrap import App

BATCH = 20  # items that are fetched at once
ESCAPE_SECONDS = 0.02  # within which the rest of an escape sequence arrives
PASTE_ON, PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"
CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def review(
    ctx: typer.Context,
    task: TaskName = "",
    annotator: Annotator = "",
    side: Annotated[str, typer.Option("--side", help="Only records of this side: train or exam.")] = "",
    blind: Annotated[
        bool, typer.Option("--blind", help="Hide what production said, so that it cannot sway you.")
    ] = False,
) -> None:
    """Label what waits in the queue, one key per label: s skips, u undoes, q quits, ? explains keys and sides. Where
    answers are free words, e opens $EDITOR on what was said and a takes it as it is."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("review needs a terminal", hint="`tuneloop queue --json` and `tuneloop label` work without.")
    with open_app(ctx) as app:
        name = choose_task(app.settings, task)
        person = annotator_name(annotator)
        session = screen.refilled(screen.opened(app.settings.task(name).labels, []), _fetch(app, name, side))
        if session.current is None:
            say("the queue is empty: nothing waits for a label")
            return
        with _raw_keys() as next_key:
            session = _converse(app, name, side, person, session, next_key, blind=blind)
        say(screen.farewell(session, _waiting(app, name, side)))


def _converse(
    app: App, task: str, side: str, person: str, session: screen.Session, next_key: _Keys, *, blind: bool
) -> screen.Session:
    while True:
        _draw(session, _waiting(app, task, side), blind=blind)
        key = next_key()
        if not key:
            return session  # the terminal is gone
        session, act = screen.press(session, key)
        if act is not None:
            if act.kind == "quit":
                return session
            if act.kind == "label" and act.label in screen.WORDS_KEYS.values() and session.keys is screen.WORDS_KEYS:
                session = _in_words(app, task, person, session, act, next_key)
            else:
                session = _carry_out(app, person, session, act)
        if session.current is None:
            session = screen.refilled(session, _fetch(app, task, side))
        if session.current is None and not session.done:
            return session


def _in_words(
    app: App, task: str, person: str, session: screen.Session, act: screen.Act, next_key: _Keys
) -> screen.Session:
    """Take an answer in free words, as it was said or from the person's editor. What is no answer is told, and the
    next editor opens on it."""
    from loop.cli.editor import edited

    item = session.current
    assert item is not None  # noqa: S101  there is no act of this kind without one
    said = item.feedback or item.answer or ""
    if act.label == screen.TAKE:
        if not said:
            return screen.refused(session, "production gave no answer: e opens your editor")
        words = said
    else:
        try:
            with next_key.paused():
                words = edited(app.workspace.paths.run, next_key.drafts.get(item.record_id, said))
        except InputError as error:
            return screen.refused(session, error.message)
        next_key.drafts[item.record_id] = words
    worded = screen.Act(kind="label", record_id=item.record_id, label=words)
    after = _carry_out(app, person, session, worded)
    if after.current == item:
        return after
    next_key.drafts.pop(item.record_id, None)
    return msgspec.structs.replace(after, message=f"{item.name}: the right answer is kept")


def _carry_out(app: App, person: str, session: screen.Session, act: screen.Act) -> screen.Session:
    """Do what the key meant. What was refused is told on the screen and changes nothing."""
    from loop import actions

    try:
        match act.kind:
            case "label":
                actions.label(app, act.record_id, act.label, annotator=person, via="review")
            case "skip":
                actions.skip(app, act.record_id, annotator=person)
            case "undo":
                undone = actions.undo(app, annotator=person)
                if not undone.startswith(act.record_id):  # done elsewhere under the same name, later than ours
                    return screen.refused(session, undone)
    except (UnknownRecord, Conflict) as error:
        return screen.refused(session, error.message, drop=act.kind != "undo")
    except InputError as error:
        return screen.refused(session, error.message, drop=act.kind == "skip")
    except TuneloopError as error:
        return screen.refused(session, error.message)
    app.workspace.projections.catch_up()
    return screen.settled(session, act)


def _fetch(app: App, task: str, side: str) -> list[screen.Item]:
    from loop.cli.queue import items

    return items(app, task, side=side, limit=BATCH)


def _waiting(app: App, task: str, side: str) -> int:
    from loop.cli.queue import waiting

    return waiting(app, task, side=side)


# ---------------------------------------------------------------- drawing


def _draw(session: screen.Session, waiting: int, *, blind: bool) -> None:
    from loop.cli.output import console

    size = shutil.get_terminal_size()
    out = console(width=max(20, size.columns))
    lines = _lines(session, waiting, width=max(20, size.columns), height=size.lines, blind=blind)
    sys.stdout.write(CLEAR)
    for line in lines:
        out.print(line, overflow="fold")
    sys.stdout.flush()


def _lines(session: screen.Session, waiting: int, *, width: int, height: int, blind: bool) -> list[Text]:
    from rich.console import Console
    from rich.text import Text

    from loop.cli.output import brief, styled

    item = session.current
    head = styled(f"{waiting} waiting, {session.labelled} labelled, {session.skipped} skipped in this sitting", "dim")
    foot = _keys_line(session)
    said = styled(session.message or " ", "yellow")
    if item is None:
        return [head, Text(), styled("the queue is empty", "bold"), Text(), *foot, said]
    facts = [styled(f"why: {reason}", "cyan") for reason in screen.why(item)]
    if not blind:
        facts.append(styled(screen.production_said(item), "dim"))
    measure = Console(width=width, markup=False, emoji=False, highlight=False)
    body = [
        line
        for paragraph in plain(item.text, lines=True).split("\n")
        for line in (Text(paragraph).wrap(measure, width) or [Text()])
    ]
    if session.help:
        facts += [Text(), *(styled(line, "dim") for line in screen.HELP_LINES)]
    around = [head, styled(brief(item.name), "bold"), *facts, *foot, said]
    used = sum(max(1, len(line.wrap(measure, width))) for line in around) + 3
    shown, page, pages = screen.window([line.plain for line in body], height - used, session.page)
    more = [styled(f"page {page} of {pages}, space reads on", "dim")] if pages > 1 else []
    return [head, styled(brief(item.name), "bold"), *facts, Text(), *map(Text, shown), *more, Text(), *foot, said]


def _keys_line(session: screen.Session) -> list[Text]:
    from rich.text import Text

    from loop.cli.output import styled

    line = Text()
    if len(session.keys) <= 12 or session.help:
        for key, label in session.keys.items():
            line.append_text(styled(f"{key} ", "bold")).append_text(styled(f"{label}   "))
    else:
        line.append_text(styled(f"{len(session.keys)} labels: ? lists their keys   "))
    if session.pending:
        line.append_text(styled(f"[{session.pending}…]   ", "bold"))
    controls = Text(style="dim")
    for key, meaning in screen.CONTROLS.items():
        controls.append(f"{'space' if key == ' ' else key} {meaning}   ")
    return [line, controls]


# ---------------------------------------------------------------- keys


class _Keys:
    """Reads one key a call from a terminal in cbreak mode; escape sequences and pastes are no keys."""

    def __init__(self, descriptor: int, before: list[Any]) -> None:
        self._descriptor = descriptor
        self._before = before
        self._buffer = b""
        self.drafts: dict[str, str] = {}  # what editors were left with that was no answer, by record

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The terminal as another program wants it, for as long as that runs."""
        import termios
        import tty

        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
        sys.stdout.write(PASTE_OFF)
        sys.stdout.flush()
        try:
            yield
        finally:
            tty.setcbreak(self._descriptor)
            sys.stdout.write(PASTE_ON)
            sys.stdout.flush()

    def __call__(self) -> str:
        """The next key; empty when the terminal is closed."""
        while True:
            byte = self._read()
            if not byte:
                return ""
            if byte == b"\x1b":
                self._drop_sequence()
                continue
            if byte in b"\x03\x04":
                return screen.QUIT
            more = self._following(byte[0])
            return (byte + b"".join(self._read() for _ in range(more))).decode("utf-8", "replace")

    def _read(self) -> bytes:
        if not self._buffer:
            try:
                self._buffer = os.read(self._descriptor, 1024)
            except OSError:
                return b""
        byte, self._buffer = self._buffer[:1], self._buffer[1:]
        return byte

    def _drop_sequence(self) -> None:
        """Swallow an arrow key, a function key, or a whole paste (bracketed, see PASTE_ON)."""
        sequence = b""
        while self._buffer or select.select([self._descriptor], [], [], ESCAPE_SECONDS)[0]:
            byte = self._read()
            if not byte:
                return
            sequence += byte
            if sequence.startswith(b"[200~"):
                if sequence.endswith(b"\x1b[201~"):
                    return
            elif sequence[:1] not in b"[O" or (len(sequence) > 1 and 0x40 <= byte[0] <= 0x7E):
                return

    @staticmethod
    def _following(first: int) -> int:
        """Bytes that follow the first one of a UTF-8 character."""
        return 3 if first >= 0xF0 else 2 if first >= 0xE0 else 1 if first >= 0xC0 else 0


@contextlib.contextmanager
def _raw_keys() -> Iterator[_Keys]:
    """Single keys without echo; the terminal is as it was afterwards, whatever happens."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        sys.stdout.write(PASTE_ON)
        sys.stdout.flush()
        yield _Keys(descriptor, before)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        sys.stdout.write(PASTE_OFF + "\n")
        sys.stdout.flush()
