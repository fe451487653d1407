"""The labelling screen in a real terminal, driven by tmux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import NASTY, History, lived_in, make

from loop.bootstrap import open_app
from store import events as ev

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
WAIT = 20.0


class Terminal:
    """One tmux session on a server of its own."""

    def __init__(self, folder: Path, command: list[str], *, columns: int = 100, lines: int = 30) -> None:
        self.socket = folder / "tmux"
        environment = {name: value for name, value in os.environ.items() if name != "TMUX"}
        subprocess.run(
            ["tmux", "-S", self.socket, "-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(lines),
             "sh", "-c", f"trap : INT; {' '.join(command)}; echo ended with $?; sleep 60"],
            check=True, env={**environment, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
        )  # fmt: skip

    def press(self, *keys: str) -> None:
        subprocess.run(["tmux", "-S", self.socket, "send-keys", *keys], check=True)

    def screen(self) -> str:
        done = subprocess.run(["tmux", "-S", self.socket, "capture-pane", "-p", "-J"], check=True, capture_output=True)
        return done.stdout.decode()

    def wait_for(self, *words: str) -> str:
        deadline = time.monotonic() + WAIT
        while True:
            shown = self.screen()
            if all(word in shown for word in words):
                return shown
            assert time.monotonic() < deadline, f"{words} did not appear:\n{shown}"
            time.sleep(0.05)

    def close(self) -> None:
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], check=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return lived_in(tmp_path / "w")


def review(workspace: Path, tmp_path: Path, *options: str, columns: int = 100, lines: int = 30) -> Iterator[Terminal]:
    command = [sys.executable, "-m", "loop.cli.main", "review", "-w", str(workspace), "--as", "maria", *options]
    terminal = Terminal(tmp_path, command, columns=columns, lines=lines)
    try:
        yield terminal
    finally:
        terminal.close()


def labels(workspace: Path) -> list[tuple[str, str]]:
    """What the log says of labels and skips, in order."""
    with open_app(workspace, env={}) as app:
        found = []
        for one in app.workspace.log.read():
            event = one.event
            if isinstance(event, ev.LabelGiven):
                assert (event.annotator, event.via) == ("maria", "review")
                found.append((event.record_id, event.label))
            elif isinstance(event, ev.ReviewSkipped):
                found.append((event.record_id, "skipped"))
            elif isinstance(event, ev.LabelWithdrawn):
                found.append((event.record_id, f"no longer {event.label}"))
    return found


def test_two_labels_a_skip_and_an_undo(workspace: Path, tmp_path: Path) -> None:
    for terminal in review(workspace, tmp_path):
        shown = terminal.wait_for("rec-001", "ticket number 1", "1 urgent", "4 general")
        assert "uncertain: margin 0.20" in shown
        assert "production said general (61% sure, margin 0.20), as zero-shot@1" in shown
        assert "5 waiting, 0 labelled" in shown
        terminal.press("2")
        terminal.wait_for("rec-002", "rec-001: billing", "4 waiting, 1 labelled")
        terminal.press("s")
        terminal.wait_for("rec-003", "rec-002 skipped")
        terminal.press("1")
        terminal.wait_for("rec-004", "rec-003: urgent")
        terminal.press("Up")  # an arrow key is no label
        terminal.press("u")
        terminal.wait_for("rec-003", "undone: rec-003 was urgent")
        terminal.press("3")
        terminal.wait_for("rec-004", "rec-003: technical")
        terminal.press("q")
        terminal.wait_for("2 labelled, 1 skipped; 2 still in the queue", "ended with 0")
    assert labels(workspace) == [
        ("rec-001", "billing"),
        ("rec-002", "skipped"),
        ("rec-003", "urgent"),
        ("rec-003", "no longer urgent"),
        ("rec-003", "technical"),
    ]


def test_help_explains_keys_and_sides_beside_the_ticket(workspace: Path, tmp_path: Path) -> None:
    for terminal in review(workspace, tmp_path):
        terminal.wait_for("rec-001")
        terminal.press("?")
        shown = terminal.wait_for(
            "training side", "exam side", "audit", "takes back your last label", "ticket number 1"
        )
        assert "? closes this help" in shown
        terminal.press("?")
        deadline = time.monotonic() + WAIT
        while "closes this help" in terminal.screen():
            assert time.monotonic() < deadline
        terminal.press("q")
        terminal.wait_for("ended with 0")
    assert labels(workspace) == []


def test_a_hostile_ticket_on_a_narrow_screen(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w")
    history = History(workspace)
    history.record("rec-evil", NASTY + "\n" + "\n".join(f"line {n}" for n in range(60)))
    history.ask("rec-evil")
    history.close()
    for terminal in review(workspace, tmp_path, "--blind", columns=34, lines=20):
        shown = terminal.wait_for("rec-evil", "page 1 of")
        assert "production" not in shown
        # the sequences are shown as the harmless letters that are left of them
        assert "[31mpay[0m me [bold]now[/bold]" in shown.replace("\n", "")
        terminal.press("Space")
        terminal.wait_for("page 2 of")
        terminal.press("4")
        terminal.wait_for("the queue is empty", "rec-evil: general")
        terminal.press("C-c")
        terminal.wait_for("ended with 130")


def test_an_empty_queue_and_no_terminal_are_told(tmp_path: Path) -> None:
    workspace = make(tmp_path / "w")
    for terminal in review(workspace, tmp_path):
        terminal.wait_for("the queue is empty", "ended with 0")
    done = subprocess.run(
        [sys.executable, "-m", "loop.cli.main", "-w", str(workspace), "review"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: review needs a terminal\nhint: ")
