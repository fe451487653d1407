"""How the command line speaks: consoles that parse no markup, tables, JSON, and a few words for numbers.

rich is imported when the first line is printed, so that `--json` never pays for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from loop.cli.safe import json_text, plain
from store.keys import hide

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

FREE_WIDTH = 24  # columns that a wrapped cell gets at least
PIPE_WIDTH = 120  # columns where the output is no terminal and COLUMNS does not say
Cell = object  # a rich Text, or anything whose str() is shown


def console(*, stderr: bool = False, width: int | None = None, force_terminal: bool | None = None) -> Console:
    """A console on which text is only ever text: no markup, no emoji codes, no highlighting."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if width is None and not stream.isatty() and "COLUMNS" not in os.environ:
        width = PIPE_WIDTH
    return Console(
        stderr=stderr, markup=False, emoji=False, highlight=False, width=width, force_terminal=force_terminal
    )


def styled(text: object, style: str = "") -> Text:
    """Safe text in a style."""
    from rich.text import Text

    return Text(plain(text), style=style)


def say(*parts: object, style: str = "") -> None:
    """Print one line of safe text on stdout; parts that are rich objects keep their style."""
    from rich.text import Text

    line = Text(style=style)
    for part in parts:
        line.append_text(part if isinstance(part, Text) else styled(part))
    console().print(line, soft_wrap=not sys.stdout.isatty())


def note(text: object) -> None:
    """Print one line on stderr: progress and remarks that are not the command's result."""
    console(stderr=True).print(styled(hide(str(text)), "dim"), soft_wrap=True)


def complain(message: object, hint: object = "") -> None:
    """The error line, and the hint under it, on stderr."""
    screen = console(stderr=True)
    screen.print(styled(f"error: {plain(hide(str(message)))}", "red"), soft_wrap=True)
    if hint:
        screen.print(styled(f"hint: {plain(hide(str(hint)))}"), soft_wrap=True)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    title: str = "",
    right: Sequence[str] = (),
    free: Sequence[str] = (),
    least: Sequence[str] = (),
    header: bool = True,
) -> Table:
    """A plain table that fits the terminal.

    Args:
        columns: their headings.
        rows: cells, each a rich Text or anything with a str().
        title: a line above it.
        right: columns that are aligned to the right.
        free: columns that may be wrapped; without any, all may.
        least: columns that are left out first where the terminal is narrow; JSON always has them.
        header: whether the headings are shown.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    cells = [[cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row] for row in rows]
    widths = {
        name: max([len(name), *(max(map(cell_len, row[at].plain.split("\n"))) for row in cells)])
        for at, name in enumerate(columns)
    }
    kept, whole = _fitting(widths, set(free), least, console().width)
    made = Table(
        title=plain(title) or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD if header else None,
        show_header=header,
        pad_edge=False,
        header_style="bold",
    )
    for name in columns:
        if name in kept:
            made.add_column(
                name, justify="right" if name in right else "left", overflow="fold", no_wrap=whole and name not in free
            )
    for row in cells:
        made.add_row(*[cell for name, cell in zip(columns, row, strict=True) if name in kept])
    return made


def _fitting(widths: dict[str, int], free: set[str], least: Sequence[str], room: int) -> tuple[set[str], bool]:
    """Which columns are shown, and whether all but the free ones can be kept from wrapping."""

    def needed(names: set[str]) -> int:
        return sum(min(widths[name], FREE_WIDTH) if name in free else widths[name] for name in names) + 3 * len(names)

    kept = set(widths)
    for name in least:
        if needed(kept) <= room:
            break
        kept.discard(name)
    return kept, bool(free or least) and needed(kept) <= room


def show(*parts: Any) -> None:
    """Print rich objects on stdout."""
    screen = console()
    for part in parts:
        screen.print(part)


def emit(value: Any) -> None:
    """Print one JSON document on stdout, and nothing else."""
    sys.stdout.write(json_text(builtins(value)) + "\n")


def emit_stream(values: Iterable[Any]) -> None:
    """Print a JSON array, one element a line, without holding it in memory."""
    opening = "[\n"
    for value in values:
        sys.stdout.write(opening + json_text(builtins(value), indent=None))
        opening = ",\n"
    sys.stdout.write("\n]\n" if opening == ",\n" else "[]\n")


def builtins(value: Any) -> Any:
    """Structs, dates and paths as what JSON knows."""
    return msgspec.to_builtins(value, enc_hook=str)


def ago(moment: datetime | None, now: datetime) -> str:
    """A moment as a distance: "12 s ago", "3 h ago", "2 d ago"."""
    if moment is None:
        return "never"
    seconds = max(0.0, (now - moment).total_seconds())
    return f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """Seconds in the unit that a person would choose."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def when(moment: datetime | None) -> str:
    """A moment in local time, to the second."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""


def brief(identifier: str) -> str:
    """A long random id cut to its beginning, which `show` and `label` take as well; others as they are."""
    head, slash, last = identifier.rpartition("/")
    if len(last) == 36 and last.count("-") == 4:
        last = last[:13]
    return f"{head}{slash}{last}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent; an en dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def now() -> datetime:
    """The time, for what is only shown."""
    return datetime.now(UTC)


def progress_line() -> Callable[[str], None]:
    """A function that shows how far a long step is, on stderr: one line that rewrites itself on a terminal, and
    elsewhere a new line whenever the words change."""
    tty = sys.stderr.isatty()
    last = ""

    def write(text: str) -> None:
        nonlocal last
        words = plain(text)
        if words == last:
            return
        if tty:
            sys.stderr.write("\r\x1b[2K" + words[: (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1])
            if not words:
                sys.stderr.write("\r")
        elif words:
            sys.stderr.write(words + "\n")
        sys.stderr.flush()
        last = words

    return write
