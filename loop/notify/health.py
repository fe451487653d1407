"""Faults that do not stand in the log: each is told once when it has lasted, and once when it is over. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from loop.notify.messages import Message


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """A fault from its first sight on."""

    detail: str
    since: datetime
    told: bool = False
    clear_since: datetime | None = None  # not seen since then; it is over once that has lasted as well


Episodes = dict[str, Episode]


def follow(
    episodes: Mapping[str, Episode], faults: Mapping[str, str], now: datetime, after_seconds: float
) -> tuple[Episodes, list[Message]]:
    """The episodes after a look at `now`, and what is to be told of them.

    Args:
        episodes: those after the last look.
        faults: what is wrong now, name -> one sentence.
        now: aware.
        after_seconds: how long a fault, or its absence, has to last before it counts.
    """
    left: Episodes = {}
    told: list[Message] = []
    for name in [*episodes, *(one for one in faults if one not in episodes)]:
        one = episodes.get(name) or Episode(detail=faults[name], since=now)
        if one.since > now:  # the clock was set back
            one = msgspec.structs.replace(one, since=now)
        if name in faults:
            one = msgspec.structs.replace(one, detail=faults[name], clear_since=None)
            if not one.told and _lasted(one.since, now, after_seconds):
                one = msgspec.structs.replace(one, told=True)
                told.append(_message(name, one, now, over=False))
            left[name] = one
            continue
        if not one.told:
            continue  # it passed before anybody was told
        clear_since = min(one.clear_since or now, now)
        if _lasted(clear_since, now, after_seconds):
            told.append(_message(name, one, now, over=True))
        else:
            left[name] = msgspec.structs.replace(one, clear_since=clear_since)
    return left, told


def _lasted(since: datetime, now: datetime, seconds: float) -> bool:
    return (now - since).total_seconds() >= seconds


def _message(name: str, episode: Episode, now: datetime, *, over: bool) -> Message:
    end = "recovered" if over else "degraded"
    since = f"{episode.since:%Y-%m-%d %H:%M} UTC"
    return Message(
        key=f"{name}-{episode.since:%Y%m%dT%H%M%S%f}-{end}",
        event="degraded",
        at=now,
        title=f"recovered: {name}" if over else f"degraded: {name}",
        text=f"It began {since}." if over else f"{episode.detail} Since {since}.",
        data={"fault": name, "state": end, "since": episode.since.isoformat()},
    )
