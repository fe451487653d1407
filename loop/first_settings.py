"""The commented tuneloop.toml that a new workspace begins with: every key, its default and what it means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from adapters.profiles import defaults
from loop.balance import Kind
from loop.settings import GATE_THRESHOLDS, PREFIX, NotifyEvent, Settings, TaskSettings, TrainingSettings, chosen

OF_LABELS = frozenset(("max_recall_drop", "max_invalid"))  # thresholds that answers in free words begin without
_BACKENDS_EXAMPLE = [
    "# Trainers in an environment of their own, for `backend` in a task's training; both need a GPU:",
    "#   [backends.axolotl]",
    '#   python = "/opt/axolotl/bin/python"',
    "#   [backends.unsloth]",
    '#   python = "/opt/unsloth/bin/python"',
]
_NOTIFY_EXAMPLE = [
    "# Who is told what happens: a section each; `tuneloop notify test` tries them. Without events all are told:",
    f"#   {', '.join(get_args(NotifyEvent))}",
    "#   [notify.team]",
    '#   kind = "slack"                # also Mattermost, and Discord with /slack at the end of its URL',
    '#   url_env = "TEAM_WEBHOOK"      # the environment variable that holds the URL; or url = "https://..."',
    "#   [notify.pager]",
    '#   kind = "webhook"              # JSON; or "command", with command = ["/usr/local/bin/page", "-q"]',
    '#   url_env = "PAGER_WEBHOOK"',
    '#   secret_env = "PAGER_KEY"      # signed: Standard Webhooks, HMAC-SHA256',
    '#   events = ["training_failed", "degraded"]',
]


def default_toml(
    labels: list[str],
    *,
    task: str = "tickets",
    description: str = "",
    label_descriptions: Mapping[str, str] | None = None,
    kind: Kind = "classification",
    json_schema: str = "",
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The commented tuneloop.toml that `tuneloop init` writes.

    Gate thresholds are written in; every other setting stands as a comment with its default. `overrides`
    writes chosen values: {"training": {"rank": 8}, "daemon": {...}}, task sections by their own name. A kind other than
    classification has no labels; extraction has the file name of a `json_schema`.
    """
    given = {name: dict(values) for name, values in (overrides or {}).items()}
    free = kind != "classification"
    thresholds = {name: value for name, value in GATE_THRESHOLDS.items() if not (free and name in OF_LABELS)}
    given["gate"] = {**thresholds, **given.get("gate", {})}
    lines = [
        "# tuneloop: settings of this workspace. What stands as a comment is the default.",
        "# Every key can be overridden by the environment, for example:",
        f"#   {PREFIX}TASKS__{task.upper().replace('-', '_')}__TRAINING__RANK=32",
    ]
    for name in ("model", "endpoint", "daemon", "wandb", "resources", "alerts"):
        lines += ["", f"[{name}]", *_section_lines(_section(Settings.model_fields[name]), given.get(name, {}))]
    lines += ["", *_NOTIFY_EXAMPLE, "", *_BACKENDS_EXAMPLE]
    own = {"labels": labels, "description": description, "label_descriptions": dict(label_descriptions or {})}
    own |= {"kind": kind, "json_schema": json_schema} if free else {}
    own.update(given.get("task", {}))
    lines += ["", f"[tasks.{task}]", *_section_lines(TaskSettings, {k: v for k, v in own.items() if v})]
    for name, field in TaskSettings.model_fields.items():
        section = _section(field)
        if section is not None:
            shown = _usual_training(given) if section is TrainingSettings else {}
            lines += ["", f"[tasks.{task}.{name}]", *_section_lines(section, given.get(name, {}), shown)]
    return "\n".join(lines) + "\n"


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _usual_training(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return defaults(*chosen(given.get("training", {})), built_in=not given.get("model", {}).get("base"))


def _section_lines(
    section: type[BaseModel] | None, given: Mapping[str, Any], shown: Mapping[str, Any] = {}
) -> list[str]:
    """`shown` are defaults that are not the fields' own."""
    lines = []
    for name, field in section.model_fields.items() if section else ():
        if _section(field) is not None:
            continue
        if name in given:
            text = f"{name} = {_toml(given[name])}"
        elif field.default is None or field.is_required():
            text = f"# {name} ="
        else:
            text = f"# {name} = {_toml(shown.get(name, field.default))}"
        lines.append(f"{text:<40}  # {field.description}")
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # JSON's strings, numbers and booleans are TOML's; DEL alone must be escaped by hand
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
