"""The counters of the read tables, without SQLModel: what `tuneloop status` needs, at the price of one small query."""

from __future__ import annotations

from sqlalchemy.engine import Engine

from store.database import raw

Counts = dict[str, dict[str, int]]


def counts(read: Engine, task: str) -> Counts:
    """name -> key -> number, as listed in `store.rows.contributions`; zeros are left out.

    >>> counts(workspace.read, "tickets")["train_labels"]  # doctest: +SKIP
    {'billing': 31, 'urgent': 12}
    """
    with read.connect() as connection:
        rows = (
            raw(connection)
            .execute("SELECT name, key, value FROM counters WHERE task = ? AND value != 0 ORDER BY name, key", (task,))
            .fetchall()
        )
    found: Counts = {}
    for name, key, value in rows:
        found.setdefault(name, {})[key] = value
    return found


def total(found: Counts, name: str) -> int:
    """The sum over a name's keys."""
    return sum(found.get(name, {}).values())
