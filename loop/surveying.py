"""What erasing records would take with it, and what it cannot reach: a look that changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from loop import elsewhere, sweeping
from loop.bootstrap import App
from loop.elsewhere import Copied, Seen
from loop.sweeping import Sweep
from loop.traces import Victim, searched
from store import queries
from store.database import raw
from store.errors import InputError, UnknownRecord
from store.texts import StoredText

_CHUNK = 500  # texts of one query


class Report(msgspec.Struct, kw_only=True):
    """What is erased, or would be, and what people have to see to themselves."""

    records: list[str] = []
    already: list[str] = []  # were erased before
    customer: bool = False  # whether a customer's lines were looked for as well
    labels: int = 0  # that count no more
    places: dict[str, int] = {}  # area -> files that held one of the texts
    redacted: dict[str, list[str]] = {}  # artifact -> records because of which it lost files
    stopped: list[str] = []  # steps that had read the texts; they go on without them
    adapters: list[Seen] = []
    backups: list[Copied] = []
    uploaded: list[str] = []  # runs of W&B
    sessions: list[str] = []  # of W&B, changed in the queue: `wandb sync` may refuse them
    waiting: list[str] = []  # files of the spool with the same words under another id
    same_words: int = 0  # other records that say exactly the same, and stay
    yours: list[str] = []  # people's own files that hold one of the texts
    unread: list[str] = []  # files that could not be searched


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure would do."""

    victims: list[Victim]
    report: Report
    customer: str = ""


def survey(app: App, record_ids: Collection[str] = (), *, customer: str = "") -> Survey:
    """Look for everything that would have to go, and change nothing.

    Args:
        app: the workspace.
        record_ids: ours, in full.
        customer: all of their records, and lines that name them and are no records (yet).

    Raises:
        UnknownRecord: there is no such record; nothing else is looked at.
        InputError: nothing of the customer is here.
    """
    workspace = app.workspace
    workspace.projections.catch_up()
    chosen = sorted({*record_ids, *workspace.texts.of_customer(customer)})
    report = Report(customer=bool(customer))
    victims: list[Victim] = []
    stored = {one.record_id: one for one in workspace.texts.stored(chosen)}
    for record_id in chosen:
        row = queries.record(workspace.read, record_id)
        if row is None:
            raise UnknownRecord(f"there is no record {record_id!r}", hint="`tuneloop history` names all that came in.")
        if row.erased and record_id not in stored:
            report.already.append(record_id)
            continue
        known = stored.get(record_id)
        report.records.append(record_id)
        report.labels += row.label is not None
        # one without a text lost it without a word in the log
        victims += victims_of(known) if known else [Victim(record_id=record_id, task=row.task, text="")]
    if victims or customer:
        take_over(report, sweeping.sweep(app, victims, act=False, customer=customer))
    if customer and not victims and not report.places:
        raise InputError(
            f"nothing of a customer {customer!r} is here",
            hint="Customers are named as production names them; a record that was erased has lost its customer.",
        )
    report.adapters = elsewhere.adapters_that_saw(app, report.records)
    report.backups = elsewhere.backups_with(app, report.records)
    report.uploaded = elsewhere.uploaded(app, report.records, report.sessions)
    report.yours = elsewhere.peoples_files(app, victims)
    report.same_words = _same_words(app, victims)
    return Survey(victims=victims, report=report, customer=customer)


def take_over(report: Report, done: Sweep) -> None:
    """Add what a sweep found to what is known: a sweep that goes on after a kill finds less."""
    for area, files in done.places.items():
        report.places[area] = max(files, report.places.get(area, 0))
    for address, records in done.redacted.items():
        report.redacted[address] = sorted({*records, *report.redacted.get(address, [])})
    report.sessions = sorted({*report.sessions, *done.sessions})
    report.waiting = sorted({*report.waiting, *done.waiting})
    report.unread = sorted({*report.unread, *done.unread})


def _same_words(app: App, victims: Sequence[Victim]) -> int:
    """How many other records say exactly what one of these says."""
    own = {victim.record_id for victim in victims}
    texts = sorted({victim.text for victim in victims if victim.text})
    others: set[str] = set()
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        marks = ", ".join("?" * len(chunk))
        with app.workspace.database.reading() as connection:
            rows = raw(connection).execute(f"SELECT record_id FROM texts WHERE text IN ({marks})", chunk)  # noqa: S608
            others.update(row[0] for row in rows)
    return len(others - own)


def victims_of(stored: StoredText) -> list[Victim]:
    """A record as it is looked for: its text, and what was said about it where that is long enough to be told from
    other people's words ("yes")."""
    return [
        Victim(
            record_id=stored.record_id,
            task=stored.task,
            text=text,
            customer=stored.customer,
            external_id=str(stored.meta.get("id", "")),
        )
        for text in (stored.text, *(words for words in stored.said.values() if searched(words)))
    ]


def renewed(app: App, victims: Sequence[Victim]) -> list[Victim]:
    """The same with what was said about the records since they were surveyed."""
    ids = sorted({victim.record_id for victim in victims})
    now = [victim for stored in app.workspace.texts.stored(ids) for victim in victims_of(stored)]
    return [*victims, *(victim for victim in now if victim not in victims)]
