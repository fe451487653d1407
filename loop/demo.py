"""The demo: a day of production in a few minutes, driving the real daemon by the doors that everybody uses.

    production stand-in ──HTTP──▶ gateway ──▶ engine          (asks for answers, drops records into the inbox)
    late corrections    ──file──▶ inbox                       (agents who re-route a ticket)
    scripted labeller   ──actions─▶ log                       (the code path of `tuneloop label`)
    the daemon          does everything else

Nothing here decides anything: thresholds, sizes and seeds go into the workspace's tuneloop.toml, and what is
shown is read back from the log and the read tables.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from loop import actions, demo_report
from loop.bootstrap import App, open_app
from loop.first_settings import default_toml
from loop.intake import external_record_id
from loop.memory import PeakMemory
from loop.policy import waits
from loop.services import Endpoints, read_endpoints
from prompts.client import Answer, Answerer
from store import queries
from store.errors import InputError, StepError
from store.prompting import PromptSpec
from store.workspace import Workspace

TASK = "tickets"
DESCRIPTION = "the support ticket"
DEFINITIONS = {
    "urgent": "harm happening now or within a day",
    "billing": "money, invoices, payments, prices",
    "technical": "something is broken or must be set up",
    "general": "questions, requests, everything else",
}
PRODUCTION = PromptSpec(name="production", digest="", system="", user="{text}")
CHUNK = 25  # tickets per file that production writes
CORRECTED = 0.5  # share of wrong answers that an agent corrects later
START_SECONDS = 180.0
SILENCE_SECONDS = 240.0  # without any new event the loop counts as stuck


class Ticket(msgspec.Struct, frozen=True):
    id: str
    text: str
    label: str


class Size(msgspec.Struct, frozen=True):
    """How much of everything a demo uses; the rest of its settings are the product's defaults."""

    examples: int  # labelled ones that a team has when it writes its prompts
    rounds: tuple[int, ...]  # tickets per round
    exam_share: float
    min_exam: int
    first: int
    every: int
    min_steps: int
    prompts: tuple[str, ...]


DEFAULT = Size(
    examples=40,
    rounds=(150, 110),
    exam_share=0.4,
    min_exam=50,
    first=50,
    every=20,
    min_steps=60,
    prompts=("zero-shot", "few-shot", "chain-of-thought"),
)
FAST = Size(
    examples=32,
    rounds=(100,),
    exam_share=0.4,
    min_exam=30,
    first=40,
    every=15,
    min_steps=30,
    prompts=("zero-shot@1", "few-shot@1"),
)


def run(*, fast: bool = False, keep: Path | None = None, seed: int = 1, console: Console | None = None) -> Path:
    """Play the demo and print its summary.

    Args:
        fast: a smaller one.
        keep: the workspace to make; default: a new `demo-workspace-N` in the current folder.
        seed: of the tickets' order, the splits and the training.
        console: where to print.

    Returns:
        The workspace, ready for `tuneloop -w`.

    Raises:
        TuneloopError: a step failed; the workspace stays for inspection.
    """
    console = console or Console()
    size = FAST if fast else DEFAULT
    tickets = load_tickets()
    random.Random(seed).shuffle(tickets)  # noqa: S311
    root = _make_workspace(keep, size, seed)
    console.print(
        f"workspace [bold]{root}[/] · seed {seed} · tickets from {tickets_file().name}, labels known from there"
    )
    with open_app(root) as app, _daemon(root, console) as child, PeakMemory(child.pid) as memory:
        play = _Play(app, child, console, tickets, size, seed)
        started = time.monotonic()
        play.start()
        for number, count in enumerate(size.rounds, 1):
            play.round(number, count)
        seconds = time.monotonic() - started
        console.rule("summary")
        demo_report.print_summary(app, TASK, console, seconds=seconds, peak_mb=memory.peak_mb, root=root)
    return root


def tickets_file() -> Path:
    """The tickets: inside an installed wheel, or in the checkout's examples."""
    packaged = Path(__file__).parent / "demo_data" / "tickets.jsonl"
    return packaged if packaged.exists() else Path(__file__).parents[1] / "examples" / "tickets" / "tickets.jsonl"


def load_tickets() -> list[Ticket]:
    """All tickets with their labels.

    Raises:
        InputError: the file is not there.
    """
    path = tickets_file()
    if not path.exists():
        raise InputError(f"the demo's tickets are not at {path}", hint="Install the wheel or use a checkout.")
    decoder = msgspec.json.Decoder(Ticket)
    return [decoder.decode(line) for line in path.read_bytes().splitlines() if line]


class _Play:
    """The people and programs around the loop."""

    def __init__(
        self,
        app: App,
        child: subprocess.Popen[bytes],
        console: Console,
        tickets: Sequence[Ticket],
        size: Size,
        seed: int,
    ) -> None:
        self.app = app
        self.child = child
        self.console = console
        self.stream = iter(tickets)
        self.truth = {external_record_id(TASK, ticket.id): ticket.label for ticket in tickets}
        self.size = size
        self.chance = random.Random(seed)  # noqa: S311
        self.files = 0

    # ------------------------------------------------------------ scenes

    def start(self) -> None:
        """Bring the services up and let the prompt versions compete on the first labelled examples."""
        self.console.rule("start")
        with self._waiting("engine and gateway"):
            self._until(lambda: bool(self._endpoints().gateway), START_SECONDS, "the gateway to come up")
        examples = [next(self.stream) for _ in range(self.size.examples)]
        self._drop("examples", [{"text": one.text, "label": one.label, "id": one.id} for one in examples])
        with self._waiting("prompt versions compete for the baseline"):
            self._until(lambda: bool(self._pointer()), START_SECONDS, "a prompt to be adopted")
        demo_report.print_prompts(self.app, TASK, self.console)

    def round(self, number: int, count: int) -> None:
        """Tickets, late corrections, reviews, and what the loop makes of them."""
        self.console.rule(f"round {number}")
        before = self.app.state().task(TASK)
        answered = self._production(count)
        self._corrections(answered)
        with self._waiting("harvest"):
            self._until(self._harvested, SILENCE_SECONDS, "the harvest")
        demo_report.print_queue(self.app, TASK, self.console)
        self._label()
        self._cycle(before.datasets)

    def _production(self, count: int) -> list[tuple[Ticket, Answer]]:
        """Ask the gateway as any OpenAI client would, and write what it answered into the inbox."""
        pairs: list[tuple[Ticket, Answer]] = []
        with (
            Answerer(f"{self._endpoints().gateway}/v1", "", TASK, timeout=120, concurrency=8) as production,
            self._bar(f"production asks {self.app.state().task(TASK).champion.answerer}", count) as advance,
        ):
            while len(pairs) < count:
                tickets = [next(self.stream) for _ in range(min(CHUNK, count - len(pairs)))]
                answers = production.answer(
                    PRODUCTION, [one.text for one in tickets], self.labels, on_progress=lambda *_: advance(1)
                )
                chunk = list(zip(tickets, answers, strict=True))
                self._drop("production", [_record(ticket, answer) for ticket, answer in chunk])
                pairs += chunk
        right = sum(answer.label == ticket.label for ticket, answer in pairs)
        self.console.print(f"{count} tickets answered, {right} of them right (known from the tickets' file)")
        return pairs

    def _corrections(self, answered: Sequence[tuple[Ticket, Answer]]) -> None:
        wrong = [ticket for ticket, answer in answered if answer.label != ticket.label]
        late = [ticket for ticket in wrong if self.chance.random() < CORRECTED]
        self._drop("corrections", [{"id": one.id, "label": one.label} for one in late], suffix=".feedback.jsonl")
        self.console.print(f"{len(late)} late corrections arrived")

    def _label(self) -> None:
        """Work through the queue as it is shown to people, by the code path of `tuneloop label`."""
        counts: Counter[str] = Counter()
        rows = queries.queue(self.app.workspace.read, TASK)
        self.console.print(
            f"a scripted labeller works through the queue; it knows the truth from {tickets_file().name}"
        )
        with self._bar("labels", len(rows)) as advance:
            for row in rows:
                actions.label(self.app, row.record_id, self.truth[row.record_id], annotator="scripted", via="scripted")
                counts[row.side] += 1
                advance(1)
        self.console.print(f"{counts['train']} labels for training, {counts['exam']} for the exam")

    def _cycle(self, datasets_before: int) -> None:
        """Wait until the loop has nothing left to do, showing what it does."""
        shown = self.app.state().position
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=self.console
        ) as progress:
            bar = progress.add_task("waiting for the loop", total=None)
            deadline = time.monotonic() + SILENCE_SECONDS
            while True:
                for recorded in self.app.workspace.log.read(after=shown):
                    shown = recorded.position
                    deadline = time.monotonic() + SILENCE_SECONDS
                    demo_report.print_event(recorded, progress.console)
                task = self.app.state().task(TASK)
                cycle = task.cycle
                if cycle is not None and cycle.phase == "parked":
                    raise StepError(f"{cycle.run_id} was parked: {cycle.reason}", hint=f"See {self.app.root}.")
                if cycle is not None:
                    progress.update(bar, **demo_report.cycle_progress(self.app, cycle))
                resting = cycle is None or cycle.undecided or cycle.phase == "registered"
                if resting and task.datasets > datasets_before and not self._due():
                    return
                if time.monotonic() > deadline:
                    raise StepError(
                        f"nothing happened for {SILENCE_SECONDS:.0f} s; the loop waits for: "
                        f"{'; '.join(waits(self.app.state(), self.app.settings, TASK))}",
                        hint=f"See {self.app.workspace.paths.logs}.",
                    )
                self._alive()
                time.sleep(0.5)

    def _due(self) -> bool:
        """Whether the policy would still do something by itself, or production is not pointed yet."""
        from loop import commands as cmd
        from loop.policy import decide

        state = self.app.state()
        due = decide(state, self.app.settings, self.app.now())
        pointer = self._pointer()
        behind = pointer is None or pointer.answerer != state.task(TASK).champion.answerer
        return behind or any(not isinstance(command, cmd.Harvest) for command in due)

    # ------------------------------------------------------------ small parts

    @property
    def labels(self) -> list[str]:
        return self.app.settings.tasks[TASK].labels

    def _endpoints(self) -> Endpoints:
        return read_endpoints(self.app.workspace.paths.run)

    def _pointer(self) -> Any:
        from loop.production import read_pointer

        return read_pointer(self.app.workspace.paths.production, TASK)

    def _harvested(self) -> bool:
        self.app.workspace.projections.catch_up()
        task = self.app.state().task(TASK)
        inbox = [path for path in self.app.workspace.paths.inbox.iterdir() if path.is_file()]
        return not inbox and task.fresh_records == 0 and task.fresh_feedback == 0

    def _drop(self, name: str, lines: Sequence[dict[str, Any]], suffix: str = ".jsonl") -> None:
        """Write a file beside the inbox and rename it in, as a careful producer does."""
        if not lines:
            return
        self.files += 1
        target = self.app.workspace.paths.inbox / f"{self.files:03d}-{name}{suffix}"
        temporary = self.app.root / f".{target.name}"
        temporary.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        temporary.replace(target)

    def _until(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            self._alive()
            if time.monotonic() > deadline:
                raise StepError(f"waited {seconds:.0f} s for {what}", hint=f"See {self.app.workspace.paths.logs}.")
            time.sleep(0.2)

    def _alive(self) -> None:
        if self.child.poll() is not None:
            raise StepError(
                f"the daemon ended with code {self.child.returncode}",
                hint=f"See {self.app.workspace.paths.logs / 'daemon.log'}.",
            )

    @contextlib.contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        with self.console.status(what):
            yield
        self.console.print(f"{what}: {time.monotonic() - started:.0f} s")

    @contextlib.contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            bar = progress.add_task(what, total=total)
            yield lambda by: progress.advance(bar, by)


def _record(ticket: Ticket, answer: Answer) -> dict[str, Any]:
    return {
        "id": ticket.id,
        "text": ticket.text,
        "answer": answer.label,
        "answered_by": answer.answered_by,
        "confidence": answer.confidence,
        "margin": answer.margin,
    }


def _make_workspace(keep: Path | None, size: Size, seed: int) -> Path:
    root = keep
    if root is None:
        numbers = range(1, 10_000)
        root = next(path for path in (Path(f"demo-workspace-{number}") for number in numbers) if not path.exists())
    if root.exists() and any(root.iterdir()):
        raise InputError(f"{root} is not empty", hint="Name another folder with --keep.")
    root.mkdir(parents=True, exist_ok=True)
    text = default_toml(
        list(DEFINITIONS),
        task=TASK,
        description=DESCRIPTION,
        label_descriptions=DEFINITIONS,
        overrides={
            "task": {"prompts": list(size.prompts)},
            "daemon": {"tick_seconds": 1.0, "settle_seconds": 0.2, "rescan_seconds": 2.0},
            "splits": {"exam_share": size.exam_share, "seed": seed},
            "harvest": {"min_new": 10, "every_seconds": 3.0, "seed": seed},
            "trigger": {"first": size.first, "every": size.every},
            # a model of 135M parameters learns in few steps only at a rate above the document's (see the README)
            "training": {
                "min_steps": size.min_steps,
                "learning_rate": 1e-3,
                "batch_size": 8,
                "micro_batch_size": 8,
                "seed": seed,
            },
            "wandb": {"mode": "offline"},
            "gate": {"min_exam": size.min_exam, "exam_growth": 20},
        },
    )
    (root / "tuneloop.toml").write_text(text)
    Workspace.create(root).close()
    return root.resolve()


@contextlib.contextmanager
def _daemon(root: Path, console: Console) -> Iterator[subprocess.Popen[bytes]]:
    """The real daemon, as `tuneloop run` starts it; its log goes to a file."""
    log = root / ".tuneloop" / "logs" / "daemon.log"
    # the demo is about the built-in base model on loopback, whatever the caller's environment says
    env = {name: value for name, value in os.environ.items() if name not in ("OPENAI_API_KEY", "OPENAI_BASE_URL")}
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "loop.cli.main", "-w", str(root), "run"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            with console.status("stopping the daemon"):
                try:
                    child.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
