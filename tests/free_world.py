"""A workspace with an extraction and a style task beside a classification, for the tests of answers in free words."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loop.bootstrap import App, open_app
from loop.intake import external_record_id, ingest_lines
from loop.reader import Report

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SCHEMA = {
    "type": "object",
    "properties": {"shop": {"type": "string"}, "total": {"type": "number"}},
    "required": ["shop", "total"],
    "additionalProperties": False,
}
TOML = """
[wandb]
enabled = false
[tasks.tickets]
labels = ["urgent", "billing"]
[tasks.invoices]
kind = "extraction"
json_schema = "invoice.schema.json"
description = "shop and total of the invoice"
gate = { better_than_baseline = true, min_exam = 4 }
[tasks.replies]
kind = "style"
description = "Answer the customer kindly."
"""


def build(root: Path, more: str = "") -> Path:
    """The workspace's folder; `more` goes to the end of its settings."""
    from store.workspace import Workspace

    root.mkdir()
    (root / "invoice.schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    (root / "tuneloop.toml").write_text(TOML + more, encoding="utf-8")
    with Workspace.create(root):
        pass
    return root


def opened(root: Path) -> App:
    return open_app(root, env={}, clock=lambda: NOW)


def ours(task: str, external: str) -> str:
    return external_record_id(task, external)


def take(app: App, task: str, *values: dict[str, Any], feedback: bool = False) -> Report:
    lines = [json.dumps(value).encode() + b"\n" for value in values]
    return ingest_lines(app, task, lines, claim=f"claim-{hash(str(values))}", feedback=feedback)
