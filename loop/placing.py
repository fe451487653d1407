"""Lines that have been read become events: identity, near-duplicates, side, audit draw, label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from sqlalchemy.engine import Connection

from loop.bootstrap import App
from loop.formats import Line
from loop.splits import Member, Placement, place
from loop.targets import Targets, targets_of
from store import queries
from store.events import LabelGiven, RecordReceived, ReviewReason, ReviewRequested, Side
from store.log import Draft, step_id
from store.targets import SAID, is_seal, sealed
from store.texts import Seal

_CANDIDATES = 50  # records that share a band and are compared exactly, at most
SEED_ANNOTATOR = "seed"
AUDIT_PRIORITY = 3.5  # below corrected answers, above what is only doubtful: the exam decides promotions


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    record_id: str
    task: str
    line: Line
    number: int
    seal: Seal | None = None  # of the text, where the line's answers are sealed under its salt
    said: dict[str, str] = {}  # these answers by their seal


class Drafted(msgspec.Struct, kw_only=True):
    """Events of one batch, how to store its texts in the same transaction, and what was refused (line, reason)."""

    drafts: list[Draft] = []
    expected: dict[str, int] = {}  # stream -> version
    put_texts: Callable[[Connection], object] | None = None
    refused: list[tuple[int, str]] = []
    received: int = 0
    known: int = 0
    labelled: int = 0


class _New(msgspec.Struct, frozen=True, kw_only=True):
    arrival: Arrival
    seal: Seal
    bands: list[bytes]
    placement: Placement


def draft_records(app: App, arrivals: Sequence[Arrival], *, source: str) -> Drafted:
    """Events for a batch of lines. Nobody else may take in meanwhile.

    A record that is known with the same text changes nothing, except that a label it lacked is taken over; one that is
    known with another text or another answer is refused.
    """
    from loop.similarity import band_keys_of

    arrivals = _sealed(app, arrivals)
    drafted = Drafted()
    kept: list[Arrival] = []  # known records that have been given words
    known = app.workspace.texts.known([one.record_id for one in arrivals])
    # versions before rows: a label that a person gives in between then makes the append a Conflict
    versions = {
        one.record_id: app.workspace.log.version(f"record/{one.record_id}")
        for one in arrivals
        if one.record_id in known and one.line.label is not None
    }
    app.workspace.projections.catch_up()
    given: dict[str, str] = {}
    fresh: dict[str, Arrival] = {}
    for one in arrivals:
        if one.record_id in known:
            before = drafted.labelled
            _meet_known(app, one, drafted, given, versions)
            if one.said and drafted.labelled > before:
                kept.append(one)
        elif one.record_id in fresh:
            _meet_twin(fresh[one.record_id], one, drafted)
        else:
            fresh[one.record_id] = one
    news: list[_New] = []
    in_batch: dict[tuple[str, bytes], list[int]] = {}
    bands = band_keys_of([one.line.text for one in fresh.values()])
    for one, keys in zip(fresh.values(), bands, strict=True):
        rules = app.settings.tasks[one.task].splits
        near = _near(app, one, keys, news, in_batch, rules.near_duplicate)
        placement = place(one.record_id, near, exam_share=rules.exam_share, seed=rules.seed)
        seal = one.seal or app.workspace.texts.seal(one.line.text, one.record_id)
        for key in keys:
            in_batch.setdefault((one.task, key), []).append(len(news))
        news.append(_New(arrival=one, seal=seal, bands=keys, placement=placement))
    for new in news:
        drafted.drafts += _events(new, source)
        drafted.received += 1
        drafted.labelled += new.arrival.line.label is not None

    def put(connection: Connection) -> None:
        for one in kept:
            app.workspace.texts.say(connection, one.record_id, one.said)
        for new in news:
            line = new.arrival.line
            meta: dict[str, object] = {SAID: new.arrival.said} if new.arrival.said else {}
            if line.external_id:
                meta["id"] = line.external_id
            if line.at:
                meta["at"] = line.at
            app.workspace.texts.put(
                connection,
                new.arrival.record_id,
                new.arrival.task,
                line.text,
                line.customer,
                meta,
                seal=new.seal,
                bands=new.bands,
            )

    drafted.put_texts = put if news or kept else None
    return drafted


def _sealed(app: App, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """The arrivals with seals in place of words, where their task's answers are words."""
    readers = {task: targets_of(app, task) for task in {one.task for one in arrivals}}
    seals: dict[tuple[str, str], Seal] = {}  # the same for the same record, should it come twice
    found = []
    for one in arrivals:
        targets = readers[one.task]
        if targets is not None:
            key = (one.record_id, one.line.text)
            seal = seals[key] if key in seals else app.workspace.texts.seal(one.line.text, one.record_id)
            one = _under(seals.setdefault(key, seal), targets, one)
        found.append(one)
    return found


def _under(seal: Seal, targets: Targets, one: Arrival) -> Arrival:
    said: dict[str, str] = {}

    def name(words: str | None) -> str | None:
        if words is None:
            return None
        named = sealed(seal.salt, targets.normal(words))
        said.setdefault(named, words)
        return named

    line = msgspec.structs.replace(one.line, label=name(one.line.label), answer=name(one.line.answer))
    return msgspec.structs.replace(one, line=line, seal=seal, said=said)


def _meet_known(app: App, one: Arrival, drafted: Drafted, given: dict[str, str], versions: Mapping[str, int]) -> None:
    """`given` holds the labels that this batch has given to known records already."""
    row = queries.record(app.workspace.read, one.record_id)
    text = app.workspace.texts.get(one.record_id)
    line = one.line
    if row is None or text is None:  # erased: it stays so
        drafted.known += 1
        return
    if text != line.text:
        drafted.refused.append((one.number, f"record {line.external_id!r} is known with another text"))
        return
    if line.answer is not None and row.answer is not None and line.answer != row.answer:
        drafted.refused.append((one.number, f"record {line.external_id!r} is known with another answer"))
        return
    drafted.known += 1
    standing = given.get(one.record_id, row.label)
    if line.label is None or standing == line.label:
        return
    if standing is not None:
        carried = "another target" if is_seal(standing) else f"the label {standing}"
        drafted.refused.append((one.number, f"record {line.external_id!r} carries {carried} already"))
        return
    stream = f"record/{one.record_id}"
    event = _label(one, row.side, row.audit)  # type: ignore[arg-type]
    drafted.drafts.append(Draft(event, stream, step_id("seed", one.record_id, row.label_position)))
    drafted.expected[stream] = versions[one.record_id]
    given[one.record_id] = line.label
    drafted.labelled += 1


def _meet_twin(first: Arrival, second: Arrival, drafted: Drafted) -> None:
    """The same id twice in one batch."""
    same = (first.line.text, first.line.answer, first.line.label) == (
        second.line.text,
        second.line.answer,
        second.line.label,
    )
    if same:
        drafted.known += 1
    else:
        drafted.refused.append((second.number, f"id {second.line.external_id!r} came before with other content"))


def _near(
    app: App,
    one: Arrival,
    keys: list[bytes],
    news: Sequence[_New],
    in_batch: dict[tuple[str, bytes], list[int]],
    threshold: float,
) -> list[Member]:
    """Near-duplicates among the stored records and among the batch's own."""
    from loop.similarity import near_duplicates

    members = []
    stored = near_duplicates(one.line.text, app.workspace.texts.candidates(one.task, keys, _CANDIDATES), threshold)
    if stored:
        for row in queries.records(app.workspace.read, one.task, ids=[name for name, _ in stored]):
            members.append(Member(cluster=row.cluster, side=row.side, position=row.position))  # type: ignore[arg-type]
    indices = sorted({index for key in keys for index in in_batch.get((one.task, key), ())})[:_CANDIDATES]
    beside = [(str(index), news[index].arrival.line.text) for index in indices]
    for index, _ in near_duplicates(one.line.text, beside, threshold):
        placement = news[int(index)].placement
        # later than everything that is stored
        members.append(Member(cluster=placement.cluster, side=placement.side, position=(1 << 62) + int(index)))
    return members


def _events(new: _New, source: str) -> list[Draft]:
    one, line, placement = new.arrival, new.arrival.line, new.placement
    stream = f"record/{one.record_id}"
    received = RecordReceived(
        task=one.task,
        record_id=one.record_id,
        text_digest=new.seal.digest,
        chars=len(line.text),
        source="seed" if line.label is not None else source,
        side=placement.side,
        audit=placement.audit,
        audit_probability=placement.audit_probability,
        cluster=placement.cluster,
        answer=line.answer,
        answered_by=line.answered_by,
        confidence=line.confidence,
        margin=line.margin,
    )
    drafts = [Draft(received, stream, step_id("received", one.record_id))]
    if line.label is not None:
        drafts.append(Draft(_label(one, placement.side, placement.audit), stream, step_id("seed", one.record_id, 0)))
    elif placement.audit:
        reason = ReviewReason(name="audit", detail=f"drawn with probability {placement.audit_probability:g}", score=1.0)
        asked = ReviewRequested(
            task=one.task,
            record_id=one.record_id,
            side=placement.side,
            reasons=[reason],
            priority=AUDIT_PRIORITY,
        )
        drafts.append(Draft(asked, stream, step_id("audit", one.record_id)))
    return drafts


def _label(one: Arrival, side: Side, audit: bool) -> LabelGiven:
    return LabelGiven(
        task=one.task,
        record_id=one.record_id,
        label=str(one.line.label),
        side=side,
        audit=audit,
        annotator=SEED_ANNOTATOR,
        via="seed",
    )
