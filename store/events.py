"""What has happened, one frozen struct per kind of event, named in the past tense.

A payload never holds customer text: records are named by id, and their text lives in `store.texts`.
`SCHEMA` is the payload's version; a change of shape raises it and adds an upcaster to `store.codec`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

Side = Literal["train", "exam", "none"]
AnswererKind = Literal["prompt", "adapter", "control"]
Outcome = Literal["promote", "reject", "inconclusive"]
StepKind = Literal["train", "evaluate"]


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a payload."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all events. `task` is empty only for events of the whole workspace."""

    SCHEMA: ClassVar[int] = 1

    task: str = ""


# ---------------------------------------------------------------- records and labels


class RecordReceived(Event, frozen=True, kw_only=True):
    """A production record came in. Side and audit draw are decided here and never change."""

    record_id: str
    text_digest: str  # salted: see store.texts
    chars: int
    source: str  # where it came from: "inbox", "seed", "api"
    side: Side
    audit: bool
    audit_probability: float  # the chance that this record had of being drawn
    cluster: str  # id of the first record of its near-duplicate cluster
    answer: str | None = None  # what production answered; None for an abstention or for seed examples
    answered_by: str = ""  # name of the answerer, e.g. "few-shot@1" or "tickets-v1"
    confidence: float | None = None  # probability of the answer, 0..1
    margin: float | None = None  # first minus second probability, 0..1


class RecordQuarantined(Event, frozen=True, kw_only=True):
    """A line that could not be taken in; the line itself is kept in the quarantine folder."""

    source: str
    line: int
    reason: str
    kept_as: str


class RecordErased(Event, frozen=True, kw_only=True):
    """Its text and salt are gone from everything that tuneloop keeps. A label it carried counts no more."""

    record_id: str
    reason: str = ""
    side: Side = "none"
    audit: bool = False
    label: str | None = None  # that stood when it was erased
    places: dict[str, int] = {}  # where its text was found and taken out -> how many files, of all erased with it
    redacted: list[str] = []  # artifacts that lost files with pieces of it


class FeedbackReceived(Event, frozen=True, kw_only=True):
    """Production's late word on a record, for example from an agent who re-routed the ticket."""

    record_id: str
    label: str
    side: Side
    disagrees: bool  # with production's own answer
    answered_by: str = ""  # who had given that answer
    source: str = ""


class ReviewReason(Value, frozen=True, kw_only=True):
    name: Literal["misclassified", "disputed", "uncertain", "audit", "rare", "coverage", "suspect"]
    detail: str
    score: float = 0.0


class ReviewRequested(Event, frozen=True, kw_only=True):
    record_id: str
    side: Side
    reasons: list[ReviewReason]
    priority: float  # higher is shown first


class HarvestCompleted(Event, frozen=True, kw_only=True):
    """One pass of the harvest over all records up to `up_to` (a log position)."""

    up_to: int
    considered: int
    requested: dict[str, int]  # reason -> how many
    dropped: int = 0  # wanted, but the queue was full


class LabelGiven(Event, frozen=True, kw_only=True):
    """A person's label. `previous` is the label it replaces: counting needs no memory of records."""

    record_id: str
    label: str
    side: Side
    audit: bool
    annotator: str
    previous: str | None = None
    via: str = "review"  # review, label, seed, scripted
    note: str = ""


class LabelWithdrawn(Event, frozen=True, kw_only=True):
    record_id: str
    label: str  # the label that no longer stands
    side: Side
    audit: bool
    annotator: str
    reason: str = ""


class ReviewSkipped(Event, frozen=True, kw_only=True):
    record_id: str
    annotator: str
    reason: str = ""


# ---------------------------------------------------------------- prompts


class PromptScore(Value, frozen=True, kw_only=True):
    prompt: str  # name@version
    correct: int
    n: int
    abstained: int
    seconds: float


class PromptAdopted(Event, frozen=True, kw_only=True):
    """The best prompt version on the validation examples becomes the prompting baseline."""

    prompt: str
    digest: str
    scores: list[PromptScore]
    reason: str
    shots: list[str] = []  # record ids of the examples that it shows


# ---------------------------------------------------------------- a cycle: dataset, training, evaluation, verdict


class CurationCount(Value, frozen=True, kw_only=True):
    step: str
    count: int
    detail: str


class DatasetFrozen(Event, frozen=True, kw_only=True):
    """Opens a cycle. The artifact holds ids and labels, never text."""

    run_id: str
    artifact: str
    up_to: int  # log position it was frozen at
    labels_train: int  # training-side labels standing at that position
    train: int
    valid: int
    exam: int
    hard_exam: int
    per_class: dict[str, int]
    curation: list[CurationCount]
    warnings: list[str] = []
    trigger: str = ""
    plan: Literal["standard", "gentle", "overnight"] = "standard"
    rare: list[str] = []  # classes that more labels are asked for: less than a tenth of the largest
    suspects: list[str] = []  # records whose label is doubted, most of all first, 100 at most


class TrainingRequested(Event, frozen=True, kw_only=True):
    request_id: str
    reason: str = ""
    plan: Literal["standard", "gentle", "overnight"] = "standard"


class TrainingStarted(Event, frozen=True, kw_only=True):
    run_id: str
    attempt: int
    adapter: str  # the name it will be registered under, e.g. "tickets-v2"
    method: str
    base_model: str
    base_digest: str
    quantisation: str
    prompt: str
    seed: int
    hyperparameters: dict[str, float | int | str | bool]
    epoch_cap_exceeded: bool = False
    resumed_from: int = 0  # optimiser step of the checkpoint


class TrainingProgressed(Event, frozen=True, kw_only=True):
    run_id: str
    step: int
    of: int
    loss: float
    eval_loss: float | None = None
    eval_accuracy: float | None = None
    seconds: float = 0.0


class TrainingSucceeded(Event, frozen=True, kw_only=True):
    run_id: str
    artifact: str
    steps: int
    epochs: float
    seconds: float
    train_loss: float
    eval_accuracy: float | None
    temperature: float
    peak_memory_mb: float
    compute: str = ""  # precision of the products: bf16, fp32; empty: not told
    stopped: str  # why it ended: "steps", "plateau"
    samples: list[dict[str, str]] = []  # record id, step, expected, answered
    notes: list[str] = []  # what was done otherwise than asked for, and why
    truncated: int = 0  # examples whose ticket was shortened to fit
    tokens: dict[str, int] = {}  # examples, shortest, median, p95, longest, total, learned


class TrainingFailed(Event, frozen=True, kw_only=True):
    run_id: str
    attempt: int
    reason: str
    parked: bool  # no further attempt without new labels or a request


class StepInterrupted(Event, frozen=True, kw_only=True):
    """A step's process ended without a result: power, kill -9, shutdown."""

    run_id: str
    kind: StepKind
    attempt: int
    checkpoint: int = 0
    reason: str = ""


class AdapterRegistered(Event, frozen=True, kw_only=True):
    run_id: str
    adapter: str
    artifact: str
    control: str  # artifact of the control trained on the same labels
    method: str
    base_digest: str
    quantisation: str
    prompt: str
    temperature: float


class EvaluationRequested(Event, frozen=True, kw_only=True):
    """Look at the exam again for an adapter that is already registered."""

    request_id: str
    run_id: str
    adapter: str
    artifact: str
    reason: str = ""


class EvaluationStarted(Event, frozen=True, kw_only=True):
    """A look at the exam: it is spent, whatever comes of it."""

    run_id: str
    evaluation_id: str
    attempt: int
    candidate: str
    champion: str
    baseline: str
    exam: int
    hard_exam: int
    look: int  # 1, 2, 3 for this candidate


class AnswererResult(Value, frozen=True, kw_only=True):
    """How one answerer did on the exam under one decoding; intervals are 95% Wilson.

    With a `metric` answers are free words: `accuracy` is their mean score (interval: Student's t) and `correct` counts
    the wholly right ones; there is no recall."""

    answerer: str
    kind: AnswererKind
    decoding: Literal["generate", "score", "classify"]
    n: int
    correct: int
    accuracy: float
    low: float
    high: float
    recall: dict[str, float]
    abstained: int
    invalid: int
    latency_ms: float
    ece: float | None = None
    hard_n: int = 0
    hard_correct: int = 0
    support: dict[str, int] = {}  # exam items per label: what a recall stands on
    metric: str = ""  # "fields", "chrf", "judge"; empty: labels, right or wrong


class PairedResult(Value, frozen=True, kw_only=True):
    """Candidate against one opponent on the same items and decoding (exact McNemar, two-sided; with a `metric` the
    paired t test of scores)."""

    opponent: str
    decoding: str
    n: int
    gained: int  # right where the opponent was wrong
    lost: int
    difference: float
    low: float
    high: float
    p_value: float
    metric: str = ""  # see AnswererResult
    error: float | None = None  # standard error of the difference, with a metric


class EvaluationSucceeded(Event, frozen=True, kw_only=True):
    run_id: str
    evaluation_id: str
    artifact: str  # per-item predictions
    results: list[AnswererResult]
    paired: list[PairedResult]
    seconds: float


class EvaluationFailed(Event, frozen=True, kw_only=True):
    run_id: str
    evaluation_id: str
    attempt: int
    reason: str
    parked: bool


class ForgettingMeasured(Event, frozen=True, kw_only=True):
    """General ability of base and candidate on the same questions and passages."""

    run_id: str
    evaluation_id: str
    candidate: str
    suite: str
    questions: int
    base_accuracy: float
    accuracy: float
    accuracy_drop: float  # relative to the base
    drop_low: float
    drop_high: float
    base_bits_per_byte: float
    bits_per_byte: float
    bits_rise: float  # relative to the base
    seconds: float = 0.0


class GateCheck(Value, frozen=True, kw_only=True):
    name: str
    outcome: Literal["pass", "fail", "unsure", "warn"]
    detail: str
    value: float | None = None
    limit: float | None = None


class CandidateJudged(Event, frozen=True, kw_only=True):
    run_id: str
    evaluation_id: str
    candidate: str
    champion: str
    verdict: Outcome
    checks: list[GateCheck]
    summary: str


class CandidateRejected(Event, frozen=True, kw_only=True):
    run_id: str
    candidate: str
    reason: str
    forgetting: bool = False


class AdapterPromoted(Event, frozen=True, kw_only=True):
    """The answerer that production gets from here on (stream deployment/<task>)."""

    answerer: str
    kind: AnswererKind
    previous: str
    artifact: str = ""
    run_id: str = ""
    gain: float = 0.0  # accuracy over the champion it replaces, on the exam
    forced: bool = False
    reason: str = ""


class AdapterRolledBack(Event, frozen=True, kw_only=True):
    answerer: str  # serves from here on
    kind: AnswererKind
    rolled_back: str  # no longer serves
    artifact: str = ""
    reason: str = ""


# ---------------------------------------------------------------- experiments aside of the loop


class SweepTrial(Value, frozen=True, kw_only=True):
    """One choice of settings, trained on the same examples as the others; the interval is 95% Wilson."""

    name: str
    settings: dict[str, float | int | str | bool]
    steps: int = 0
    seconds: float = 0.0  # of the training
    train_loss: float | None = None  # mean over its steps, a token
    valid_loss: float | None = None  # mean negative log-probability of the right label, an example
    correct: int = 0
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    failure: str = ""  # why it could not be trained or scored


class SweepCompleted(Event, frozen=True, kw_only=True):
    """A few settings compared on the validation examples, which none of them was trained or stopped by."""

    sweep_id: str
    method: str
    base_model: str
    base_digest: str
    quantisation: str
    prompt: str
    seed: int
    up_to: int  # log position whose labels were taken
    train: int
    valid: int
    trials: list[SweepTrial]
    present: str  # the trial of the settings that are in force
    best: str
    lead: PairedResult | None = None  # of the best over the present one; None where they are the same, or one failed
    comparisons: int = 0  # that the best was chosen from: its p-value counts so many times
    beyond_noise: bool = False
    control_correct: int | None = None
    seconds: float = 0.0  # of everything


# ---------------------------------------------------------------- the loop itself


class LeaseAcquired(Event, frozen=True, kw_only=True):
    holder: str
    new_epoch: int
    taken_over: bool = False


class LoopPaused(Event, frozen=True, kw_only=True):
    reason: str = ""


class LoopResumed(Event, frozen=True, kw_only=True):
    reason: str = ""


# ---------------------------------------------------------------- copies of the log


class BackupCompleted(Event, frozen=True, kw_only=True):
    """A copy of the workspace, customer text included, lies elsewhere."""

    backup: str  # the name of its folder
    label: str  # where it lies, in the words of whoever made it; never a full path
    position: int  # of the last event in it
    hash: str  # of that event, hex: an anchor outside the database
    bytes: int
    problems: int = 0  # findings of `verify` in the copy; 0: it is sound


class BackupRemoved(Event, frozen=True, kw_only=True):
    """An older copy was deleted, because a number of newer ones is enough."""

    backup: str
    label: str


class Restored(Event, frozen=True, kw_only=True):
    """A new life of the log begins: it was put back from a backup, and goes on after the backup's last event."""

    backup: str
    position: int  # of the backup's last event
    hash: str
    left_behind: int = 0  # events of the old life after that one; 0 also where no old life was known
    erased_again: int = 0  # records that the old life had erased after the backup


class Archived(Event, frozen=True, kw_only=True):
    """The payloads of old events were moved out of the database, into a sealed segment that reads the same."""

    first: int  # positions, both included
    last: int
    artifact: str
    prev_hash: str  # of the event before `first`, hex
    last_hash: str
    bytes: int  # of the segment


def all_event_types() -> dict[str, type[Event]]:
    """Stable name -> class, for every kind of event there is."""
    return {kind.__name__: kind for kind in Event.__subclasses__()}
