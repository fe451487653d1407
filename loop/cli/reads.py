"""Questions to the read tables, as plain dicts: importing SQLModel costs more than these commands themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from store.errors import InputError

if TYPE_CHECKING:
    from loop.bootstrap import App
    from store.workspace import Workspace

Row = dict[str, Any]

_JSON = {
    "reasons", "per_class", "curation", "warnings", "hyperparameters", "results", "paired", "forgetting", "checks",
    "prompt_scores",
}  # fmt: skip
KINDS = {"records": "record_id", "runs": "run_id", "adapters": "name", "evaluations": "evaluation_id"}
MOST_MATCHES = 6


def rows(workspace: Workspace, sql: str, values: Sequence[object] = ()) -> list[Row]:
    """What a SELECT gives, JSON columns decoded."""
    with workspace.database.reading() as connection:
        found = connection.exec_driver_sql(sql, tuple(values)).mappings().all()
    return [{name: _value(name, value) for name, value in row.items()} for row in found]


def listed(workspace: Workspace, table: str, **columns: str) -> list[Row]:
    """Rows of a table in the log's order; empty values do not narrow."""
    where, values = _only(**columns)
    return rows(workspace, f"SELECT * FROM {table}{where} ORDER BY position", values)  # noqa: S608


def last_evaluation(workspace: Workspace, task: str, candidate: str = "", *, judged: bool = False) -> Row | None:
    """The newest evaluation (of a candidate); with `judged`, the newest that has a verdict."""
    where, values = _only(task=task, candidate=candidate)
    extra = " AND verdict != ''" if judged else " AND state = 'evaluated'"
    found = rows(workspace, f"SELECT * FROM evaluations{where}{extra} ORDER BY position DESC LIMIT 1", values)  # noqa: S608
    return found[0] if found else None


def matches(workspace: Workspace, given: str) -> list[tuple[str, Row]]:
    """(table, row) of everything whose id is `given`; else of everything whose id begins with it."""
    found: list[tuple[str, Row]] = []
    for table, key in KINDS.items():
        found += [(table, row) for row in rows(workspace, f"SELECT * FROM {table} WHERE {key} = ?", [given])]  # noqa: S608
    if found or not given:
        return found
    after = given[:-1] + chr(min(ord(given[-1]) + 1, 0x10FFFF))
    for table, key in KINDS.items():
        sql = f"SELECT * FROM {table} WHERE {key} >= ? AND {key} < ? ORDER BY {key} LIMIT ?"  # noqa: S608
        found += [(table, row) for row in rows(workspace, sql, [given, after, MOST_MATCHES])]
    return found


def the_adapter(workspace: Workspace, task: str, name: str) -> Row:
    """An adapter by name or unique prefix; without a name the newest.

    Raises:
        InputError: there is none, or several fit.
    """
    known = listed(workspace, "adapters", task=task)
    fitting = [row for row in known if row["name"] == name] or [row for row in known if row["name"].startswith(name)]
    if not known:
        raise InputError(f"{task} has no adapter yet", hint="`tuneloop status` says what the loop waits for.")
    if not fitting:
        raise InputError(f"{task} has no adapter {name!r}", hint="`tuneloop adapters` lists them.")
    if name and len(fitting) > 1:
        raise InputError(f"{name!r} fits {len(fitting)} adapters", hint=_some(row["name"] for row in fitting))
    return fitting[-1]


def record_id(app: App, given: str) -> str:
    """Our id of a record that is named by it, by its beginning, or by the id that production gave it.

    What fits nothing is returned as it is: whoever acts on it tells that it is unknown.

    Raises:
        InputError: several records fit.
    """
    if _is_record(app, given):
        return given
    from loop.intake import external_record_id

    for task in app.settings.tasks:
        ours = external_record_id(task, given)
        if _is_record(app, ours):
            return ours
    fitting = [row["record_id"] for table, row in matches(app.workspace, given) if table == "records"]
    if len(fitting) > 1:
        raise InputError(f"{given!r} fits several records", hint=_some(fitting))
    return str(fitting[0]) if fitting else given


def _is_record(app: App, record: str) -> bool:
    return bool(rows(app.workspace, "SELECT 1 FROM records WHERE record_id = ?", [record]))


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return "For example: " + ", ".join(shown[:MOST_MATCHES]) + "."


def _only(**columns: str) -> tuple[str, list[str]]:
    chosen: Mapping[str, str] = {name: value for name, value in columns.items() if value}
    if not chosen:
        return " WHERE 1", []
    return " WHERE " + " AND ".join(f"{name} = ?" for name in chosen), list(chosen.values())


def _value(name: str, value: Any) -> Any:
    if name in _JSON and isinstance(value, str):
        return json.loads(value)
    return bool(value) if name in ("audit", "erased", "forced", "epoch_cap_exceeded", "paused") else value
