"""The log against its peers, on the same disk in the same run: python ops/bench/store.py [--events N] [--check].

Peers: raw sqlite3 (the same SQLite, columns, indexes and pragmas, rows made beforehand: no hashing, no codec, no
checks) and the `eventsourcing` library (its SQLite application recorder with its JSON mapper, as it comes).
Ours and theirs take turns in short rounds, so that a slow moment of the disk falls on all of them. Ratios are
medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from store import events as e
from store.database import DRIVER, MIGRATIONS, Database, raw
from store.log import COLUMNS, GENESIS, Draft, Head, Log, chain_hash
from store.projections import Projections
from store.verify import check_chain

START = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = ("urgent", "billing", "technical", "general")
INSERT = f"INSERT INTO events ({COLUMNS}) VALUES ({', '.join('?' * 14)})"  # noqa: S608


class Line(msgspec.Struct):
    """One line of the result. `ratio` is ours to the peer's; `goal` its bound, from below or from above."""

    what: str
    ours: str
    peer: str
    theirs: str
    ratio: float
    goal: str = ""
    met: bool = True


def draft(number: int, random_: random.Random) -> Draft:
    """The mix of a working loop: of ten events six arrivals, and one each of feedback, request, label, progress."""
    record = f"tickets-2026-{number:07d}"
    side: e.Side = "train" if random_.random() < 0.7 else "exam"
    kind = number % 10
    if kind < 6:
        received = e.RecordReceived(
            task="tickets", record_id=record, text_digest=f"{random_.getrandbits(256):064x}",
            chars=random_.randrange(20, 900), source="inbox", side=side, audit=kind == 0, audit_probability=0.05,
            cluster=record, answer=random_.choice(LABELS), answered_by="few-shot@1", confidence=random_.random(),
            margin=random_.random(),
        )  # fmt: skip
        return Draft(received, f"record/{record}")
    earlier = f"tickets-2026-{number // 10 * 10 + random_.randrange(6):07d}"
    if kind == 6:
        return Draft(
            e.FeedbackReceived(task="tickets", record_id=earlier, label="billing", side=side, disagrees=True),
            f"record/{earlier}",
        )
    if kind == 7:
        reason = e.ReviewReason(name="uncertain", detail="margin 0.08 is below 0.15", score=0.92)
        asked = e.ReviewRequested(task="tickets", record_id=earlier, side=side, reasons=[reason], priority=0.92)
        return Draft(asked, f"record/{earlier}")
    if kind == 8:
        label = e.LabelGiven(
            task="tickets", record_id=earlier, label="technical", side=side, audit=False, annotator="kim"
        )
        return Draft(label, f"record/{earlier}")
    run = f"run-{number // 1000}"
    progress = e.TrainingProgressed(
        task="tickets", run_id=run, step=number % 1000, of=1000, loss=random_.random(), eval_loss=random_.random()
    )
    return Draft(progress, f"run/{run}")


class Ours:
    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "ours.sqlite")
        self.log = Log(self.database)
        self.size = 0
        self.random = random.Random(1)  # noqa: S311

    def drafts(self, count: int) -> list[Draft]:
        made = [draft(self.size + index, self.random) for index in range(count)]
        self.size += count
        return made

    def append(self, drafts: Sequence[Draft]) -> None:
        self.log.append(drafts, actor="daemon", now=START + timedelta(seconds=self.size), correlation_id="cycle-7")


class RawSqlite:
    """Writes finished rows: what any log on this SQLite has to pay."""

    def __init__(self, folder: Path) -> None:
        self.connection = DRIVER.connect(str(folder / "raw.sqlite"), isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            self.connection.execute(f"PRAGMA {pragma}")
        for migration in MIGRATIONS:
            for statement in migration.statements:
                if "events" in statement and "TRIGGER" not in statement:
                    self.connection.execute(statement)
        self.position = 0
        self.versions: dict[str, int] = {}
        self.random = random.Random(1)  # noqa: S311
        self.size = 0

    def rows(self, count: int) -> list[tuple[Any, ...]]:
        made = []
        for _ in range(count):
            one = draft(self.size, self.random)
            self.size += 1
            version = self.versions[one.stream] = self.versions.get(one.stream, 0) + 1
            columns = (
                self.size, f"01a20a55-215f-714a-b44b-{self.size:012x}", one.stream, version,
                type(one.event).__name__, 1, START.isoformat(timespec="microseconds"), "daemon", "cycle-7", "", 0,
                msgspec.json.encode(one.event).decode(), GENESIS,
            )  # fmt: skip
            made.append((*columns, chain_hash(columns)))
        return made

    def append(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(INSERT, rows)
        self.connection.execute("COMMIT")


class Eventsourcing:
    """The library's own way: domain events through its mapper into its recorder."""

    def __init__(self, folder: Path) -> None:
        from eventsourcing.domain import DomainEvent as LibraryEvent
        from eventsourcing.persistence import DatetimeAsISO, JSONTranscoder, Mapper, UUIDAsHex
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

        transcoder = JSONTranscoder()
        transcoder.register(UUIDAsHex())
        transcoder.register(DatetimeAsISO())
        self.mapper: Any = Mapper(transcoder)
        self.recorder = SQLiteApplicationRecorder(SQLiteDatastore(str(folder / "eventsourcing.sqlite")))
        self.recorder.create_table()
        self.kind: Any = library_event(LibraryEvent)
        self.versions: dict[UUID, int] = {}
        self.random = random.Random(1)  # noqa: S311
        self.size = 0

    def domain_events(self, count: int) -> list[Any]:
        made = []
        for _ in range(count):
            one = draft(self.size, self.random)
            self.size += 1
            originator = uuid5(NAMESPACE_URL, one.stream)
            version = self.versions[originator] = self.versions.get(originator, 0) + 1
            made.append(
                self.kind(
                    originator_id=originator,
                    originator_version=version,
                    timestamp=START,
                    name=type(one.event).__name__,
                    fields=msgspec.to_builtins(one.event),
                    actor="daemon",
                    correlation_id="cycle-7",
                )
            )
        return made

    def append(self, domain_events: Sequence[Any]) -> None:
        self.recorder.insert_events([self.mapper.to_stored_event(each) for each in domain_events])

    def replay(self) -> int:
        count = 0
        while True:
            page = self.recorder.select_notifications(count + 1, 5000)
            for each in page:
                self.mapper.to_domain_event(each)
            count += len(page)
            if len(page) < 5000:
                return count


def library_event(base: Any) -> Any:
    """A domain event of the library; it finds the class again by its import path, so it must be importable."""
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Happened(base):  # type: ignore[misc]
        name: str
        fields: dict[str, Any]
        actor: str
        correlation_id: str

    Happened.__qualname__ = "Happened"
    Happened.__module__ = __name__
    globals()["Happened"] = Happened
    return Happened


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def append_rounds(ours: Ours, plain: RawSqlite, library: Eventsourcing, *, size: int, each: int, rounds: int) -> Any:
    """Seconds per event of the three, one list of rounds each; `each` transactions of `size` events a round."""
    times: dict[str, list[float]] = {"ours": [], "raw": [], "library": []}
    for _ in range(rounds):
        mine = [ours.drafts(size) for _ in range(each)]
        rows = [plain.rows(size) for _ in range(each)]
        theirs = [library.domain_events(size) for _ in range(each)]
        count = size * each
        times["raw"].append(timed(lambda: [plain.append(batch) for batch in rows]) / count)  # noqa: B023
        times["ours"].append(timed(lambda: [ours.append(batch) for batch in mine]) / count)  # noqa: B023
        times["library"].append(timed(lambda: [library.append(batch) for batch in theirs]) / count)  # noqa: B023
    return times


def append_lines(times: dict[str, list[float]], what: str, goal: float) -> list[Line]:
    def rate(name: str) -> str:
        return f"{1 / statistics.median(times[name]):,.0f} events/s"

    def ratio(name: str) -> float:
        return statistics.median(peer / mine for peer, mine in zip(times[name], times["ours"], strict=True))

    against_raw = ratio("raw")
    return [
        Line(what, rate("ours"), "raw sqlite3", rate("raw"), against_raw, f"≥ {goal}", against_raw >= goal),
        Line(what, rate("ours"), "eventsourcing", rate("library"), ratio("library")),
    ]


def bare_scan(connection: Any) -> int:
    """All columns of all rows, fetched and dropped."""
    cursor = connection.execute(f"SELECT {COLUMNS} FROM events ORDER BY position")  # noqa: S608
    cursor.arraysize = 1000
    count = 0
    while rows := cursor.fetchmany():
        count += len(rows)
    return count


def read_lines(ours: Ours, library: Eventsourcing, rounds: int) -> list[Line]:
    scan, replay, verify = [], [], []
    with ours.database.reading() as connection:
        scanner = raw(connection)
        bare_scan(scanner)  # the page cache is as warm for the first as for the last
        for _ in range(rounds):
            scan.append(timed(lambda: bare_scan(scanner)))
            replay.append(timed(lambda: sum(1 for _ in ours.log.read())))
            verify.append(timed(lambda: list(check_chain(ours.log.pages(), Head(0, GENESIS)))))
    theirs = timed(library.replay) / library.size * ours.size
    many = f"{ours.size:,} events"
    base = statistics.median(scan)

    def line(what: str, times: list[float], goal: float) -> Line:
        ratio = statistics.median(one / other for one, other in zip(times, scan, strict=True))
        seconds = statistics.median(times)
        return Line(what, f"{seconds:.2f} s", "bare scan", f"{base:.2f} s", ratio, f"≤ {goal}", ratio <= goal)

    own = statistics.median(replay)
    return [
        line(f"replay, {many}", replay, 2.5),
        Line(f"replay, {many}", f"{own:.2f} s", "eventsourcing", f"{theirs:.2f} s (scaled)", own / theirs),
        line(f"hash verification, {many}", verify, 8.0),
    ]


def projection_lines(folder: Path, ours: Ours) -> list[Line]:
    """Folding ten new events must cost the same over a long log as over a short one."""
    small = Ours(folder / "small")
    small.append(small.drafts(1000))
    times: dict[int, float] = {}
    for side in (small, ours):
        projections = Projections(side.database, side.log)
        started = time.perf_counter()
        folded = projections.catch_up()
        rate = folded / (time.perf_counter() - started)
        rounds = []
        for _ in range(9):
            side.append(side.drafts(10))
            rounds.append(timed(projections.catch_up))
        times[side.size] = statistics.median(rounds)
    few, many = sorted(times)
    ratio = times[many] / times[few]
    return [
        Line(
            "10 new events into the read tables", f"{times[many] * 1e3:.1f} ms over {many:,}",
            "itself", f"{times[few] * 1e3:.1f} ms over {few:,}", ratio, "≤ 2", ratio <= 2,
        ),
        Line("first fill of the read tables", f"{rate:,.0f} events/s", "—", "", 0.0),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, help="length of the log that is replayed")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the append comparison")
    parser.add_argument("--dir", type=Path, default=Path("build"), help="where to write (its disk is what is measured)")
    parser.add_argument("--json", action="store_true", help="print the lines as JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-store-", dir=options.dir))
    console = Console(stderr=True)
    try:
        with console.status("appending"):
            ours, plain, library = Ours(folder), RawSqlite(folder), Eventsourcing(folder)
            single = append_rounds(ours, plain, library, size=1, each=20, rounds=options.rounds)
            batches = append_rounds(ours, plain, library, size=1000, each=2, rounds=options.rounds)
            lines = append_lines(single, "append, 1 event a transaction", 0.5)
            lines += append_lines(batches, "append, 1,000 a transaction", 0.35)
        with console.status(f"filling the log to {options.events:,} events"):
            while ours.size < options.events:
                ours.append(ours.drafts(min(10_000, options.events - ours.size)))
            ours.database.checkpoint()
        with console.status("reading"):
            lines += read_lines(ours, library, rounds=3)
        with console.status("folding"):
            lines += projection_lines(folder, ours)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(msgspec.to_builtins(lines), indent=1))
    else:
        show(lines)
    return int(options.check and not all(line.met for line in lines))


def show(lines: Sequence[Line]) -> None:
    table = Table(title=f"store, SQLite {DRIVER.sqlite_version}, Python {sys.version.split()[0]}")
    for name in ("", "tuneloop", "peer", "its figure", "ratio", "goal", ""):
        table.add_column(name, justify="right" if name in ("ratio", "its figure", "tuneloop") else "left")
    for line in lines:
        ratio = f"{line.ratio:.2f}" if line.ratio else ""
        mark = "" if not line.goal else "[green]met[/]" if line.met else "[red]missed[/]"
        table.add_row(line.what, line.ours, line.peer, line.theirs, ratio, line.goal, mark)
    Console(width=130).print(table)


if __name__ == "__main__":
    sys.exit(main())
