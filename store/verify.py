"""Checks everything that can be checked: file, chain, streams, payloads, lease, texts, read tables, artifacts.

Nothing is changed. A finding names what is wrong and where: a log position, a file, or both.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import create_engine

from store.acknowledged import Loss
from store.codec import CODEC
from store.database import DRIVER, MIGRATIONS, raw
from store.errors import Corrupt, TuneloopError
from store.events import Archived, Event
from store.log import GENESIS, Head, chain_hash, payload_of
from store.projections import PAGE_QUERY, create, create_indexes, fold, read_cursor
from store.rows import BLANKS, KEYS
from store.segments import known_segments
from store.texts import row_checksum, text_digest
from store.wording import counted
from store.workspace import Workspace

Level = Literal["ok", "warn", "fail"]
Row = Sequence[Any]
MOST = 50  # findings of one check

_TRIGGERS = (
    "events_are_never_deleted", "events_are_never_updated", "segments_are_never_deleted", "segments_are_never_updated",
)  # fmt: skip
_ARTIFACT_FIELDS = ("artifact", "control")


class Finding(msgspec.Struct, frozen=True):
    """One line of the report. `position` is 0 and `file` empty where they do not apply."""

    level: Level
    check: str
    message: str
    position: int = 0
    file: str = ""


def verify(workspace: Workspace, *, anchor: Head | None = None) -> list[Finding]:
    """Run every check; what failed or deserves a look comes with its place, what holds as one line per check.

    Args:
        anchor: a head noted outside the database; a chain alone cannot see that its tail was rewritten.
    """
    artifacts: dict[str, int] = {}
    checks: list[tuple[str, Callable[[], Iterator[Finding | str]]]] = [
        ("database", lambda: _database(workspace)),
        ("log", lambda: _log(workspace, anchor, artifacts)),
        ("archive", lambda: _archive(workspace)),
        ("streams", lambda: _streams(workspace)),
        ("texts", lambda: _texts(workspace)),
        ("read tables", lambda: _read_tables(workspace)),
        ("artifacts", lambda: _artifacts(workspace, artifacts)),
    ]
    report: list[Finding] = []
    for name, check in checks:
        report += [_placed(one, workspace) for one in _run(name, check)]
    return report


def _placed(finding: Finding, workspace: Workspace) -> Finding:
    """A finding that names no file is about the database."""
    if finding.level == "ok" or finding.file:
        return finding
    return msgspec.structs.replace(finding, file=str(workspace.paths.database))


def sound(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed; warnings are allowed."""
    return all(finding.level != "fail" for finding in findings)


def check_chain(pages: Iterable[Sequence[Row]], head: Head) -> Iterator[Finding]:
    """Recompute the hashes of rows (`store.log.COLUMNS`) that should follow `head`; one finding per break.

    Of a row whose payload is None, because its segment cannot be read, only the place in the chain is checked.

    After a break the check goes on from what is stored, so that each change is named once.
    """
    position, previous = head.position, head.hash
    for page in pages:
        for row in page:
            position += 1
            if row[0] != position:
                yield _fail("log", f"events {position} to {row[0] - 1} are missing", position)
                position, previous = row[0], row[12]
            if row[11] is not None and chain_hash(row[:13]) != row[13]:
                yield _fail("log", f"event {position} was changed: its hash does not fit its columns", position)
            elif row[12] != previous:
                at = max(position - 1, 1)
                yield _fail("log", f"event {at} was rewritten: event {position} does not follow from it", at)
            previous = row[13]


def _fail(check: str, message: str, position: int = 0, file: str = "") -> Finding:
    return Finding("fail", check, message, position, file)


def _run(name: str, check: Callable[[], Iterator[Finding | str]]) -> list[Finding]:
    """The findings of one check; a check yields a text for what holds."""
    found: list[Finding] = []
    told = ""
    try:
        for finding in check():
            if isinstance(finding, str):
                told = finding
                continue
            found.append(finding)
            if len(found) >= MOST:
                found.append(Finding("warn", name, f"stopped after {MOST} findings"))
                return found
    except TuneloopError as error:
        found.append(_fail(name, error.message))
    except (DRIVER.Error, UnicodeDecodeError) as error:  # damage may surface at any read
        found.append(_fail(name, f"the database cannot be read: {error}"))
    if not any(finding.level == "fail" for finding in found):
        found.insert(0, Finding("ok", name, told))
    return found


# ---------------------------------------------------------------- the checks


def _database(workspace: Workspace) -> Iterator[Finding | str]:
    path = workspace.paths.database
    with workspace.database.reading() as connection:
        for (line,) in raw(connection).execute(f"PRAGMA integrity_check({MOST})").fetchall():
            if line != "ok":
                yield _fail("database", line, file=str(path))
        known = {name for (name,) in raw(connection).execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
        changed = list(_changed_schema(raw(connection)))
    for trigger in _TRIGGERS:
        if trigger not in known:
            yield _fail("database", f"the log is not append-only: trigger {trigger} is missing", file=str(path))
    for message in changed:
        yield _fail("database", message, file=str(path))
    for private in (path, workspace.paths.secret):
        if stat.S_IMODE(private.stat().st_mode) & 0o077:
            yield Finding("warn", "database", "others may read it: chmod 600", file=str(private))
    yield f"SQLite {DRIVER.sqlite_version}, pages and indexes are sound"


def _changed_schema(live: Any) -> Iterator[str]:
    """What of the log's own schema is not as the migrations make it; the read tables have a check of their own."""
    query = "SELECT name, lower(sql) FROM sqlite_master WHERE sql IS NOT NULL"
    there = dict(live.execute(query).fetchall())
    with contextlib.closing(DRIVER.connect(":memory:")) as memory:
        for statement in (each for migration in MIGRATIONS for each in migration.statements):
            memory.execute(statement)
        for name, sql in memory.execute(query).fetchall():
            if name not in _TRIGGERS and name not in there:
                yield f"{name} is missing from the schema"
            elif there.get(name, sql) != sql:
                yield f"the schema of {name} was changed"
    for name, table in live.execute("SELECT name, tbl_name FROM sqlite_master WHERE type = 'index' AND sql IS NULL"):
        if name.rpartition("_")[0] != f"sqlite_autoindex_{table}":
            yield f"the schema of {name} was changed"
    applied = live.execute("SELECT number, name FROM migrations ORDER BY number").fetchall()
    if applied != [(each.number, each.name) for each in MIGRATIONS]:
        yield f"the migrations that were applied are noted as {applied}"


def _log(workspace: Workspace, anchor: Head | None, artifacts: dict[str, int]) -> Iterator[Finding | str]:
    """Chain, payloads, lease, tail. Fills `artifacts`: address -> position of the first event that names it."""
    count, newest_lease = 0, 0
    lost = workspace.log.lost()
    problems: list[Finding] = []
    unreadable: dict[str, int] = {}  # what is wrong with a segment -> first position that it concerns

    def watched() -> Iterator[Sequence[Row]]:
        nonlocal count, newest_lease
        for stored in workspace.log.pages(as_stored=True):
            page = _filled(workspace, stored, unreadable)
            count = page[-1][0]
            for row in page:
                if row[11] is None:
                    continue
                try:
                    event = CODEC.decode(row[4], row[5], row[11], row[0])
                except Corrupt as error:
                    problems.append(_fail("log", error.message, row[0]))
                    continue
                newest_lease = max(newest_lease, getattr(event, "new_epoch", 0))
                for address in artifacts_of(event):
                    artifacts.setdefault(address, row[0])
            if anchor is not None and page[0][0] <= anchor.position <= page[-1][0]:
                at = next((row for row in page if row[0] == anchor.position), None)
                if at is None or at[13] != anchor.hash:
                    problems.append(_fail("log", "the log differs from its anchor here or before", anchor.position))
            yield page

    yield from check_chain(watched(), Head(0, GENESIS))
    yield from (_fail("log", message, position) for message, position in unreadable.items())
    yield from problems
    if lost is not None:
        yield _fail("log", _told(lost), lost.head + 1)
    with workspace.database.reading() as connection:
        last, lease = (
            raw(connection)
            .execute("SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'events'), (SELECT epoch FROM lease)")
            .fetchone()
        )
    if (last or 0) < count:
        yield _fail(
            "log", f"{last or 0} events were appended, as the database counts them, and {count} are there", count
        )
    if (last or 0) > workspace.log.head().position or (anchor is not None and anchor.position > count):
        yield _fail("log", f"the last events are missing: {last} were appended", count + 1)
    if lease != newest_lease and not unreadable and workspace.log.head().position == count:
        yield _fail("log", f"the lease says epoch {lease}, the log {newest_lease}")
    yield f"{counted(count, 'event')}, hashes and payloads hold; head {workspace.log.head().hash.hex()[:12]}"


def _told(lost: Loss) -> str:
    """What was lost, and how to say that nothing better is to be had."""
    return f"{lost}" + (f" (delete {lost.file} once you have seen to it)" if lost.file else "")


def _filled(workspace: Workspace, page: Sequence[Row], unreadable: dict[str, int]) -> list[Row]:
    """Rows with the payloads that were archived; None where a segment cannot be read, which is noted once."""
    if all(row[11] for row in page):
        return list(page)
    filled: list[Row] = []
    with workspace.database.reading() as connection:
        for row in page:
            payload = row[11]
            if not payload:
                try:
                    payload = workspace.segments.payload(raw(connection), row[0])
                except Corrupt as error:
                    unreadable.setdefault(error.message, row[0])
                    payload = None
            filled.append((*row[:11], payload, *row[12:]))
    return filled


def _archive(workspace: Workspace) -> Iterator[Finding | str]:
    """Segments cover the log's beginning without gap, as the events `Archived` say, and end where the chain is."""
    with workspace.database.reading() as connection:
        segments = known_segments(raw(connection))
        hashes = dict(
            raw(connection)
            .execute(
                "SELECT position, hash FROM events WHERE position IN (SELECT last FROM segments UNION SELECT first - 1 "
                "FROM segments)"
            )
            .fetchall()
        )
    told: dict[int, Archived] = {}
    for recorded in workspace.log.select("type = 'Archived'", []):
        if isinstance(recorded.event, Archived):
            told[recorded.event.first] = recorded.event
    end = 0
    for segment in segments:
        name = f"segment {segment.artifact[:19]} (events {segment.first} to {segment.last})"
        event = told.pop(segment.first, None)
        if segment.first != end + 1:
            yield _fail("archive", f"events {end + 1} to {segment.first - 1} lie in no segment", end + 1)
        end = segment.last
        if event is None or (event.last, event.artifact) != (segment.last, segment.artifact):
            yield _fail("archive", f"{name} is not what the log says", segment.first)
        elif (hashes.get(segment.first - 1, GENESIS).hex(), hashes.get(segment.last, b"").hex()) != (
            event.prev_hash,
            event.last_hash,
        ):
            yield _fail("archive", f"{name} does not fit the chain around it", segment.first)
    for event in told.values():
        yield _fail("archive", f"events {event.first} to {event.last} were archived, their segment is unknown")
    yield f"{counted(len(segments), 'segment')}, up to event {end}" if segments else "nothing was archived"


def _streams(workspace: Workspace) -> Iterator[Finding | str]:
    with workspace.database.reading() as connection:
        broken = (
            raw(connection)
            .execute(
                "SELECT stream, count(*), min(version), max(version), max(position) FROM events GROUP BY stream "
                "HAVING min(version) != 1 OR max(version) != count(*) LIMIT ?",
                (MOST,),
            )
            .fetchall()
        )
        (streams,) = raw(connection).execute("SELECT count(DISTINCT stream) FROM events").fetchone()
    for stream, count, first, last, position in broken:
        yield _fail("streams", f"{stream} has {count} events but versions {first} to {last}", position)
    yield f"{counted(streams, 'stream')} without gaps"


def _texts(workspace: Workspace) -> Iterator[Finding | str]:
    """Every text has the digest that its event says, and its row the checksum that was written with it; every record
    that was not erased has a text."""
    count = 0
    with workspace.database.reading() as connection:
        rows = raw(connection).execute(
            "SELECT t.record_id, t.task, t.text, t.salt, t.customer, t.meta, t.checksum, t.digest, e.position, "  # noqa: S608
            f"json_extract({payload_of('e')}, '$.text_digest') "
            "FROM texts t LEFT JOIN events e ON e.stream = 'record/' || t.record_id AND e.type = 'RecordReceived'"
        )
        for record_id, task, text, salt, customer, meta, checksum, digest, position, told in rows:
            count += text is not None
            if position is None:
                if text is not None:
                    yield Finding("warn", "texts", f"text of {record_id}, which the log does not know")
            elif digest != told or (text is not None and not _is_text(text, salt, digest)):
                yield _fail("texts", f"the text of {record_id} is not the one that was received", position)
            elif checksum is not None and (
                text is None or row_checksum(record_id, task, text, salt, customer, meta) != checksum
            ):
                yield _fail("texts", f"what is noted beside the text of {record_id} was changed", position)
        lost = (
            raw(connection)
            .execute(
                "SELECT e.stream, e.position FROM events e "
                "LEFT JOIN texts t ON t.record_id = substr(e.stream, 8) "
                "WHERE e.type = 'RecordReceived' AND t.text IS NULL AND NOT EXISTS ("
                "  SELECT 1 FROM events x WHERE x.stream = e.stream AND x.type = 'RecordErased') LIMIT ?",
                (MOST,),
            )
            .fetchall()
        )
    for stream, position in lost:
        yield Finding("warn", "texts", f"{stream} has no text, and was not erased", position)
    yield f"{counted(count, 'text')}, all as their digests say"


def _is_text(text: object, salt: bytes | None, digest: str) -> bool:
    return isinstance(text, str) and text_digest(salt or b"", text) == digest


def _read_tables(workspace: Workspace) -> Iterator[Finding | str]:
    """The tables equal what the log makes of them: folded again, in memory, up to their cursor."""
    engine = create_engine("sqlite://", module=DRIVER)
    try:
        with workspace.database.reading() as connection, engine.connect() as memory:
            live, fresh = raw(connection), raw(memory)
            position = read_cursor(live)
            if position is None:
                yield Finding("warn", "read tables", "not built yet: `tuneloop verify --rebuild` builds them")
                return
            create(memory, "")
            create_indexes(memory)
            after = 0
            while after < position:
                page = live.execute(PAGE_QUERY, (after, min(4096, position - after))).fetchall()
                if not page:
                    break
                fold(fresh.cursor(), workspace.log.decoded(page))
                after = page[-1][0]
            (head,) = live.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()
            if position > head:
                yield _fail("read tables", f"they stand at {position}, beyond the log's end {head}", head)
            rows = 0
            for table in KEYS:
                if _shape(live, table) != _shape(fresh, table):
                    yield _fail(
                        "read tables", f"{table} has other columns or indexes (mend: `tuneloop verify --rebuild`)"
                    )
                found = list(_differences(live, fresh, table))
                yield from found
                rows += fresh.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            behind = f", {counted(head - position, 'event')} behind" if position < head else ""
            yield f"{counted(rows, 'row')}, the same as in a rebuild{behind}"
    finally:
        engine.dispose()


def _shape(connection: Any, table: str) -> list[Any]:
    """Columns and indexes of a table: not the words that made it, which follow the version of a library."""
    indexes = sorted(
        name for _, name, *_ in connection.execute(f"PRAGMA index_list({table})") if "autoindex" not in name
    )
    return [
        connection.execute(f"PRAGMA table_info({table})").fetchall(),
        *[(name, connection.execute(f"PRAGMA index_info({name})").fetchall()) for name in indexes],
    ]


def _differences(live: Any, fresh: Any, table: str) -> Iterator[Finding]:
    """The first row that differs; one is enough, since a rebuild mends them all."""
    query = f"SELECT {', '.join(BLANKS[table])} FROM {table} ORDER BY {', '.join(KEYS[table])}"  # noqa: S608
    left, right = live.execute(query), fresh.execute(query)
    while True:
        one, two = left.fetchone(), right.fetchone()
        if one is None and two is None:
            return
        if one != two:
            key = (two or one)[: len(KEYS[table])]
            yield _fail(
                "read tables",
                f"{table}: row {', '.join(map(str, key))} is not what the log says (mend: `tuneloop verify --rebuild`)",
            )
            return


def _artifacts(workspace: Workspace, named: dict[str, int]) -> Iterator[Finding | str]:
    artifacts = workspace.artifacts
    here = artifacts.addresses()
    for address in here:
        for problem in artifacts.verify(address):
            file = artifacts.root / address
            yield _fail("artifacts", f"{address[:19]}: {problem}", named.get(address, 0), str(file))
    for address, position in named.items():
        if address not in here:
            file = artifacts.root / address
            yield _fail("artifacts", f"{address[:19]} is named by event {position}, but not here", position, str(file))
    for path in artifacts.leftovers():
        yield Finding("warn", "artifacts", "left over by an interrupted write; safe to delete", file=str(path))
    yield f"{counted(len(here), 'artifact')}, all as they were stored"


def artifacts_of(event: Event) -> Iterator[str]:
    """Addresses of the artifacts that an event names."""
    for field in _ARTIFACT_FIELDS:
        address = getattr(event, field, "")
        if isinstance(address, str) and address.startswith("sha256-"):
            yield address
