"""The read tables: what the log says, arranged for questions. All of them can be dropped and rebuilt.

`store.folds` fills them; a column added here needs its blank value in `store.rows`. Times are aware UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Dialect, Index, MetaData, String, Table
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time, stored as ISO text with microseconds, as in the log."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


class ReadTable(SQLModel):
    """Base of the read tables, with a metadata of their own."""

    metadata = MetaData()


class RecordRow(ReadTable, table=True):
    """One production record."""

    __tablename__ = "records"
    __table_args__ = (
        Index("records_by_queue", "task", "review", "priority", "position"),
        Index("records_by_label", "task", "side", "label_position"),
        Index("records_by_cluster", "task", "cluster"),
        Index("records_by_position", "task", "position"),
    )

    record_id: str = Field(primary_key=True)
    task: str
    position: int  # of its RecordReceived
    received_at: datetime = Field(sa_type=UtcTime)
    side: str  # train, exam, none
    audit: bool
    audit_probability: float
    cluster: str
    source: str
    chars: int
    text_digest: str
    answer: str | None
    answered_by: str
    confidence: float | None
    margin: float | None
    feedback: str | None
    label: str | None
    annotator: str
    labelled_at: datetime | None = Field(sa_type=UtcTime)
    label_position: int  # of the last LabelGiven or LabelWithdrawn; 0: never
    via: str
    review: str  # "", open, done, skipped
    reasons: list[dict[str, Any]] = Field(sa_type=JSON)  # name, detail, score
    priority: float
    erased: bool


class RunRow(ReadTable, table=True):
    """One cycle: dataset, training, evaluation, verdict."""

    __tablename__ = "runs"
    __table_args__ = (Index("runs_by_task", "task", "position"),)

    run_id: str = Field(primary_key=True)
    task: str
    position: int
    state: str  # frozen, training, interrupted, failed, parked, trained, evaluating, evaluated, or the verdict
    plan: str
    trigger: str
    dataset: str  # artifact
    labels_train: int
    train: int
    valid: int
    exam: int
    hard_exam: int
    per_class: dict[str, int] = Field(sa_type=JSON)
    curation: list[dict[str, Any]] = Field(sa_type=JSON)
    warnings: list[str] = Field(sa_type=JSON)
    adapter: str
    method: str
    prompt: str
    base_model: str
    base_digest: str
    quantisation: str
    seed: int
    hyperparameters: dict[str, Any] = Field(sa_type=JSON)
    epoch_cap_exceeded: bool
    attempt: int
    resumed_from: int
    evaluation_id: str  # of the latest look at the exam
    step: int
    of: int
    loss: float | None
    eval_loss: float | None
    eval_accuracy: float | None
    seconds: float
    peak_memory_mb: float
    stopped: str
    artifact: str  # of the trained adapter
    verdict: str  # "", promote, reject, inconclusive
    reason: str  # why it failed, was interrupted or was judged so
    started_at: datetime | None = Field(sa_type=UtcTime)
    ended_at: datetime | None = Field(sa_type=UtcTime)


class AdapterRow(ReadTable, table=True):
    """One registered adapter."""

    __tablename__ = "adapters"

    task: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    position: int
    run_id: str
    artifact: str
    control: str
    method: str
    base_digest: str
    quantisation: str
    prompt: str
    temperature: float
    status: str  # candidate, production, former, retired (rolled back), rejected
    registered_at: datetime = Field(sa_type=UtcTime)


class EvaluationRow(ReadTable, table=True):
    """One look at the exam, with forgetting and verdict where they followed."""

    __tablename__ = "evaluations"
    __table_args__ = (Index("evaluations_by_task", "task", "position"),)

    evaluation_id: str = Field(primary_key=True)
    run_id: str
    task: str
    position: int
    state: str  # evaluating, evaluated, interrupted, failed, parked
    attempt: int
    candidate: str
    champion: str
    baseline: str
    exam: int
    hard_exam: int
    look: int
    artifact: str  # predictions
    results: list[dict[str, Any]] = Field(sa_type=JSON)  # AnswererResult
    paired: list[dict[str, Any]] = Field(sa_type=JSON)  # PairedResult
    forgetting: dict[str, Any] | None = Field(sa_type=JSON(none_as_null=True))  # ForgettingMeasured
    verdict: str
    checks: list[dict[str, Any]] = Field(sa_type=JSON)  # GateCheck
    summary: str
    seconds: float
    reason: str
    started_at: datetime | None = Field(sa_type=UtcTime)
    ended_at: datetime | None = Field(sa_type=UtcTime)


class DeploymentRow(ReadTable, table=True):
    """Who answers a task in production now."""

    __tablename__ = "deployments"

    task: str = Field(primary_key=True)
    answerer: str
    kind: str
    previous: str
    artifact: str
    run_id: str
    forced: bool
    reason: str
    position: int
    at: datetime = Field(sa_type=UtcTime)


class TaskRow(ReadTable, table=True):
    """What holds for a whole task; the row of task "" is the workspace's."""

    __tablename__ = "tasks"

    task: str = Field(primary_key=True)
    prompt: str  # the adopted baseline, name@version
    prompt_digest: str
    prompt_scores: list[dict[str, Any]] = Field(sa_type=JSON)
    harvested_up_to: int
    paused: bool
    paused_reason: str


class CounterRow(ReadTable, table=True):
    """Numbers that would be slow to count: see `store.rows.contributions` for the names."""

    __tablename__ = "counters"

    task: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    value: int


def read_tables() -> list[Table]:
    """All read tables, by name."""
    return sorted(ReadTable.metadata.tables.values(), key=lambda table: table.name)
