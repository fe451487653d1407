"""Processes that write to a real workspace as the command line does, and tell what was acknowledged to them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event
from store_helpers import NOW, received

from store import database
from store import events as e
from store.log import Draft
from store.workspace import Workspace

Say = Callable[[str], object]


def take_in(workspace: Workspace, me: str, number: int, parts: int = 3) -> list[Any]:
    """Append records with their texts in one transaction, as intake does; gives the events as recorded."""
    names = [f"{me}-{number}-{part}" for part in range(parts)]
    seals = {name: workspace.texts.seal(text_of(name)) for name in names}

    def texts(connection: Any) -> None:
        for name, seal in seals.items():
            bands = [f"{number % 7}", f"{number % 11}"]
            workspace.texts.put(
                connection, name, "tickets", text_of(name), f"customer {number % 5}", {"n": number}, seal=seal,
                bands=bands,
            )  # fmt: skip

    drafts = [Draft(received(name, text_digest=seal.digest), f"record/{name}") for name, seal in seals.items()]
    return workspace.log.append(drafts, actor=me, now=NOW, correlation_id=f"{me}-{number}", within=texts)


def text_of(name: str) -> str:
    return f"The words of {name}: the invoice is wrong. " * 3


def weaken(workspace: Workspace, synchronous: str) -> None:
    """Set PRAGMA synchronous on every connection that writes from here on."""
    workspace.log.close()
    event.listen(
        workspace.database.write,
        "checkout",
        lambda connection, *_: connection.execute(f"PRAGMA synchronous = {synchronous}"),
    )


# ---------------------------------------------------------------- the traced writer


def traced(root: Path, acks: Path, turns: int, synchronous: str, journal: str) -> None:
    """Make a workspace and write in every way that the store knows; each acknowledgement is a line of `acks`."""
    if journal:
        database.JOURNAL_MODE = journal
    handle = os.open(acks, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def say(line: str) -> None:
        os.write(handle, f"{line}\n".encode())

    workspace = Workspace.create(root)
    say("created")
    if synchronous:
        weaken(workspace, synchronous)
    random_ = random.Random(5)  # noqa: S311
    second = None
    for turn in range(turns):
        if turn == turns // 2:
            arguments = [str(root), str(acks), str(turns), synchronous, journal]
            second = subprocess.Popen([sys.executable, __file__, "second", *arguments])
        _turn(workspace, "first", turn, say, random_)
        if turn % 10 == 9 and turn < turns // 2:
            workspace.close()
            workspace = Workspace.open(root)
            if synchronous:
                weaken(workspace, synchronous)
    assert second is None or second.wait(timeout=120) == 0
    workspace.close()


def second(root: Path, acks: Path, turns: int, synchronous: str, journal: str) -> None:
    """A second process beside the first."""
    if journal:
        database.JOURNAL_MODE = journal
    handle = os.open(acks, os.O_WRONLY | os.O_APPEND)
    with Workspace.open(root) as workspace:
        if synchronous:
            weaken(workspace, synchronous)
        for turn in range(turns // 2):
            recorded = take_in(workspace, "second", turn)
            os.write(handle, "".join(f"event {each.position} {each.event_id}\n" for each in recorded).encode())
            if turn % 5 == 0:
                workspace.projections.catch_up()


def _turn(workspace: Workspace, me: str, turn: int, say: Say, random_: random.Random) -> None:
    recorded = take_in(workspace, me, turn)
    say("\n".join(f"event {each.position} {each.event_id}" for each in recorded))
    if turn % 3 == 0:
        workspace.projections.catch_up(batch=7)
    if turn % 6 == 1:
        folder = workspace.root / "made"
        (folder / "deep").mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_bytes(random_.randbytes(3000))
        (folder / "deep" / "card").write_bytes(random_.randbytes(700))
        address = workspace.artifacts.put(folder, "adapter", {"turn": turn})
        promoted = e.AdapterPromoted(
            task="tickets", answerer=f"tickets-v{turn}", kind="adapter", previous="", artifact=address
        )
        (each,) = workspace.log.append([Draft(promoted, "deployment/tickets")], actor=me, now=NOW)
        say(f"event {each.position} {each.event_id}")
    if turn % 8 == 5:
        name = f"{me}-{turn - 2}-1"
        erased = e.RecordErased(task="tickets", record_id=name)
        (each,) = workspace.log.append(
            [Draft(erased, f"record/{name}")], actor=me, now=NOW,
            within=lambda connection: workspace.texts.erase_within(connection, [name]),
        )  # fmt: skip
        say(f"event {each.position} {each.event_id}")
        workspace.texts.scrub()
        say(f"erased {name}")
    if turn % 11 == 7:
        workspace.database.checkpoint()
    if turn % 20 == 13:
        workspace.projections.rebuild(batch=20)


if __name__ == "__main__":
    _, role, root, acks, turns, synchronous, journal = sys.argv
    {"first": traced, "second": second}[role](Path(root), Path(acks), int(turns), synchronous, journal)
