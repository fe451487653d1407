"""Questions to the read tables, each over an index. Rows come back detached: they outlive their session."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from store.database import DRIVER, raise_told, raw
from store.log import Log, Recorded, payload_of
from store.tables import AdapterRow, DeploymentRow, EvaluationRow, RecordRow, RunRow, TaskRow

_LABEL_EVENTS = "('LabelGiven', 'LabelWithdrawn')"


class Labelled(msgspec.Struct, frozen=True):
    """A label that stands. `position` is that of its LabelGiven."""

    record_id: str
    label: str
    side: str
    audit: bool
    cluster: str
    annotator: str
    position: int


def queue(read: Engine, task: str, *, limit: int | None = None, side: str | None = None) -> list[RecordRow]:
    """Records open for review: highest priority first, then the oldest."""
    query = select(RecordRow).where(RecordRow.task == task, RecordRow.review == "open")
    if side is not None:
        query = query.where(RecordRow.side == side)
    query = query.order_by(col(RecordRow.priority).desc(), col(RecordRow.position)).limit(limit)
    with Session(read) as session:
        return list(session.exec(query))


def record(read: Engine, record_id: str) -> RecordRow | None:
    with Session(read) as session:
        return session.get(RecordRow, record_id)


def records(
    read: Engine,
    task: str,
    *,
    after: int = 0,
    limit: int | None = None,
    side: str | None = None,
    audit: bool | None = None,
    labelled: bool | None = None,
    erased: bool = False,
    ids: Sequence[str] | None = None,
) -> list[RecordRow]:
    """A task's records in order of arrival, above position `after`; erased ones only with `erased`."""
    query = select(RecordRow).where(RecordRow.task == task, RecordRow.position > after)
    if side is not None:
        query = query.where(RecordRow.side == side)
    if audit is not None:
        query = query.where(RecordRow.audit == audit)
    if labelled is not None:
        label = col(RecordRow.label)
        query = query.where(label.is_not(None) if labelled else label.is_(None))
    if ids is not None:
        query = query.where(col(RecordRow.record_id).in_(ids))
    if not erased:
        query = query.where(col(RecordRow.erased).is_(False))
    with Session(read) as session:
        return list(session.exec(query.order_by(col(RecordRow.position)).limit(limit)))


def unreviewed(read: Engine, task: str, *, limit: int) -> list[RecordRow]:
    """The newest records on a side of the split that carry no label and were never queued, newest first."""
    query = (
        select(RecordRow)
        # the planner would otherwise sort everything that was never queued
        .with_hint(RecordRow, "INDEXED BY records_by_position", "sqlite")
        .where(RecordRow.task == task, RecordRow.review == "", col(RecordRow.label).is_(None))
        .where(RecordRow.side != "none", col(RecordRow.erased).is_(False))
        .order_by(col(RecordRow.position).desc())
        .limit(limit)
    )
    with Session(read) as session:
        return list(session.exec(query))


def labelled(read: Engine, task: str, side: str | None = None, up_to: int | None = None) -> list[Labelled]:
    """The labels that stand now, or stood at log position `up_to`, in order of that position.

    Erased records are left out in both cases: nothing more is learnt from them.
    """
    now = f"""
        SELECT record_id, label, side, audit, cluster, annotator, label_position FROM records
        WHERE task = :task AND (:side IS NULL OR side = :side) AND NOT erased
          AND label IS NOT NULL AND label_position <= :up_to
        UNION ALL
        -- labelled, relabelled or withdrawn later: what stood then is in the record's stream
        SELECT r.record_id, json_extract({payload_of("e")}, '$.label'), r.side, r.audit, r.cluster,
               json_extract({payload_of("e")}, '$.annotator'), e.position
        FROM records r JOIN events e ON e.stream = 'record/' || r.record_id AND e.version = (
            SELECT max(version) FROM events
            WHERE stream = 'record/' || r.record_id AND position <= :up_to AND type IN {_LABEL_EVENTS})
        WHERE r.task = :task AND (:side IS NULL OR r.side = :side) AND NOT r.erased
          AND r.label_position > :up_to AND e.type = 'LabelGiven'
        ORDER BY 7"""  # noqa: S608
    last = (1 << 62) if up_to is None else up_to
    with read.connect() as connection:
        try:
            rows = raw(connection).execute(now, {"task": task, "side": side, "up_to": last}).fetchall()
        except DRIVER.Error as error:
            raise_told(error)
            raise
    return [
        Labelled(record_id, label, its_side, bool(audit), cluster, annotator, position)
        for record_id, label, its_side, audit, cluster, annotator, position in rows
    ]


def runs(read: Engine, task: str | None = None, *, limit: int | None = None) -> list[RunRow]:
    """Newest first."""
    query = select(RunRow).order_by(col(RunRow.position).desc()).limit(limit)
    if task is not None:
        query = query.where(RunRow.task == task)
    with Session(read) as session:
        return list(session.exec(query))


def run(read: Engine, run_id: str) -> RunRow | None:
    with Session(read) as session:
        return session.get(RunRow, run_id)


def adapters(read: Engine, task: str | None = None, *, status: str | None = None) -> list[AdapterRow]:
    """In order of registration."""
    query = select(AdapterRow).order_by(col(AdapterRow.position))
    if task is not None:
        query = query.where(AdapterRow.task == task)
    if status is not None:
        query = query.where(AdapterRow.status == status)
    with Session(read) as session:
        return list(session.exec(query))


def adapter(read: Engine, task: str, name: str) -> AdapterRow | None:
    with Session(read) as session:
        return session.get(AdapterRow, (task, name))


def evaluations(
    read: Engine, task: str | None = None, *, run_id: str | None = None, candidate: str | None = None
) -> list[EvaluationRow]:
    """Newest first."""
    query = select(EvaluationRow).order_by(col(EvaluationRow.position).desc())
    if task is not None:
        query = query.where(EvaluationRow.task == task)
    if run_id is not None:
        query = query.where(EvaluationRow.run_id == run_id)
    if candidate is not None:
        query = query.where(EvaluationRow.candidate == candidate)
    with Session(read) as session:
        return list(session.exec(query))


def deployments(read: Engine) -> list[DeploymentRow]:
    """Who answers each task now, by task."""
    with Session(read) as session:
        return list(session.exec(select(DeploymentRow).order_by(DeploymentRow.task)))


def deployment(read: Engine, task: str) -> DeploymentRow | None:
    with Session(read) as session:
        return session.get(DeploymentRow, task)


def tasks(read: Engine) -> list[TaskRow]:
    with Session(read) as session:
        return list(session.exec(select(TaskRow).order_by(TaskRow.task)))


def history(
    log: Log,
    *,
    task: str | None = None,
    types: Sequence[str] = (),
    stream: str | None = None,
    since: datetime | None = None,
    after: int = 0,
    limit: int | None = 50,
) -> list[Recorded]:
    """The newest `limit` events that meet every condition, oldest first.

    Args:
        stream: a stream's name, or everything below a prefix that ends with a slash ("run/").
        since: an aware time; compared with the events' own clock.
        after: only positions above it, to follow the log.
    """
    conditions, values = ["position > ?"], list[object]([after])
    if task is not None:
        conditions.append(f"json_extract({payload_of()}, '$.task') = ?")
        values.append(task)
    if types:
        conditions.append(f"type IN ({', '.join('?' * len(types))})")
        values.extend(types)
    if stream is not None and stream.endswith("/"):
        conditions.append("stream >= ? AND stream < ?")
        values.extend((stream, stream[:-1] + "0"))  # "0" follows "/" in every encoding
    elif stream is not None:
        conditions.append("stream = ?")
        values.append(stream)
    if since is not None:
        conditions.append("recorded_at >= ?")
        values.append(since.astimezone(UTC).isoformat(timespec="microseconds"))
    return log.select(" AND ".join(conditions), values, limit=limit)
