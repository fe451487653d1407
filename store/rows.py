"""The shape of the read tables' rows as the folds see them: keys, blank rows, and what a record counts for.

A row is a dict of the values as they are stored: times as ISO text, JSON as text.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

import msgspec

from store.targets import as_class

Row = dict[str, Any]
Key = tuple[str, ...]

KEYS: dict[str, Key] = {
    "records": ("record_id",),
    "runs": ("run_id",),
    "adapters": ("task", "name"),
    "evaluations": ("evaluation_id",),
    "deployments": ("task",),
    "tasks": ("task",),
    "counters": ("task", "name", "key"),
}

BLANKS: dict[str, Row] = {
    "records": {
        "record_id": "", "task": "", "position": 0, "received_at": "", "side": "none", "audit": False,
        "audit_probability": 0.0, "cluster": "", "source": "", "chars": 0, "text_digest": "", "answer": None,
        "answered_by": "", "confidence": None, "margin": None, "feedback": None, "label": None, "annotator": "",
        "labelled_at": None, "label_position": 0, "via": "", "review": "", "reasons": "[]", "priority": 0.0,
        "erased": False,
    },
    "runs": {
        "run_id": "", "task": "", "position": 0, "state": "", "plan": "", "trigger": "", "dataset": "",
        "labels_train": 0, "train": 0, "valid": 0, "exam": 0, "hard_exam": 0, "per_class": "{}", "curation": "[]",
        "warnings": "[]", "adapter": "", "method": "", "prompt": "", "base_model": "", "base_digest": "",
        "quantisation": "", "seed": 0, "hyperparameters": "{}", "epoch_cap_exceeded": False, "attempt": 0,
        "resumed_from": 0, "evaluation_id": "", "step": 0, "of": 0, "loss": None, "eval_loss": None,
        "eval_accuracy": None, "seconds": 0.0, "peak_memory_mb": 0.0, "stopped": "", "artifact": "",
        "verdict": "", "reason": "", "started_at": None, "ended_at": None,
    },
    "adapters": {
        "task": "", "name": "", "position": 0, "run_id": "", "artifact": "", "control": "", "method": "",
        "base_digest": "", "quantisation": "", "prompt": "", "temperature": 1.0, "status": "candidate",
        "registered_at": "",
    },
    "evaluations": {
        "evaluation_id": "", "run_id": "", "task": "", "position": 0, "state": "", "attempt": 0, "candidate": "",
        "champion": "", "baseline": "", "exam": 0, "hard_exam": 0, "look": 0, "artifact": "", "results": "[]",
        "paired": "[]", "forgetting": None, "verdict": "", "checks": "[]", "summary": "", "seconds": 0.0,
        "reason": "", "started_at": None, "ended_at": None,
    },
    "deployments": {
        "task": "", "answerer": "", "kind": "", "previous": "", "artifact": "", "run_id": "", "forced": False,
        "reason": "", "position": 0, "at": "",
    },
    "tasks": {
        "task": "", "prompt": "", "prompt_digest": "", "prompt_scores": "[]", "harvested_up_to": 0,
        "paused": False, "paused_reason": "",
    },
    "counters": {"task": "", "name": "", "key": "", "value": 0},
}  # fmt: skip


class Rows(Protocol):
    """The rows a batch of events works on."""

    def get(self, table: str, *key: str) -> Row | None:
        """The row as the batch left it so far; treat it as read-only."""

    def put(self, table: str, row: Row) -> None:
        """Insert or replace by the table's key."""


def contributions(row: Row) -> Counter[tuple[str, str, str]]:
    """What one record adds to the counters, as (task, name, key):

    received/<side>, answered/<answer>, disagreed/<answer>, erased, open/<reason>, queue/<side>, skipped,
    labelled/<label>, train_labels/<label>, exam_labels/<label>, audit_labels/<label>.
    An erased record counts only as received and erased: nothing is learnt from it any more.
    """
    task = row["task"]
    found: Counter[tuple[str, str, str]] = Counter()
    found[task, "received", row["side"]] = 1
    if row["erased"]:
        found[task, "erased", ""] = 1
        return found
    if row["answer"] is not None:
        answer = as_class(row["answer"])
        found[task, "answered", answer] = 1
        truth = row["label"] if row["label"] is not None else row["feedback"]
        if truth is not None and truth != row["answer"]:
            found[task, "disagreed", answer] = 1
    if row["review"] == "open":
        found[task, "queue", row["side"]] = 1
        for reason in msgspec.json.decode(row["reasons"]):
            found[task, "open", reason["name"]] = 1
    elif row["review"] == "skipped":
        found[task, "skipped", ""] = 1
    if row["label"] is not None:
        label = as_class(row["label"])
        found[task, "labelled", label] = 1
        if row["side"] in ("train", "exam"):
            found[task, f"{row['side']}_labels", label] = 1
        if row["audit"]:
            found[task, "audit_labels", label] = 1
    return found
