"""kill -9 at random moments of everything that writes, all on one workspace: what was acknowledged is there, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import forked
import kill_lanes
import kill_world as world
from conftest import Trials
from kill_lanes import Acked
from kill_texts import TASK

from loop.intake import external_record_id
from store import events as ev
from store.log import Recorded
from store.workspace import Workspace


def test_random_kills(tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]) -> None:
    """Two lanes of writers, one of the daemon, one of the real command line, at the same time."""
    count = trials(200, full=1000, soak=5000)
    shares = {"writer-1": 0.36, "writer-2": 0.36, "daemon": 0.18, "verbs": 0.1}
    root = world.make(tmp_path / "w")
    lanes: dict[str, Future[Acked]] = {}
    with forked.workers(len(shares)) as pool:
        for number, (name, share) in enumerate(shares.items(), 1):
            run = getattr(kill_lanes, name.partition("-")[0])
            lanes[name] = pool.submit(run, root, name, round(count * share), number * 10_000_000)
        told = {name: lane.result() for name, lane in lanes.items()}
        deaths = sum(one.deaths for one in told.values())
        assert deaths == count
        world.gone(root)
        assert pool.submit(world.run, root).result() == 0, world.logs(root)
        end = pool.submit(world.outcome, root).result()  # sound, and each step ended once
    recorded = everything(root)
    events = sum(len(one.events) for one in told.values())
    for name, one in told.items():
        nothing_lost(recorded, one, name)
    nothing_doubled(recorded)
    records = sum(len(one.records) for one in told.values())
    assert len(end["texts"]) >= records
    labels = sum(len(one.labels) for one in told.values())
    measured(
        f"{deaths} random kills -9 of the daemon ({told['daemon'].deaths}), `tuneloop` ({told['verbs'].deaths}) "
        "and other writers, four at a time",
        f"{records:,} acknowledged records, {labels:,} labels and {events:,} events there, each once; "
        f"{len(recorded):,} positions and all versions without a gap",
    )


def everything(root: Path) -> list[Recorded]:
    """The log, whose positions and versions have no gap."""
    with Workspace.open(root) as workspace:
        recorded = list(workspace.log.read())
    assert [one.position for one in recorded] == list(range(1, len(recorded) + 1))
    versions: Counter[str] = Counter()
    for one in recorded:
        versions[one.stream] += 1
        assert one.version == versions[one.stream], one
    return recorded


def nothing_lost(recorded: list[Recorded], told: Acked, name: str) -> None:
    by_id = {one.event_id: one.position for one in recorded}
    assert {one: by_id.get(one) for one in told.events} == told.events, name
    received = {one.event.record_id for one in recorded if isinstance(one.event, ev.RecordReceived)}
    assert not [one for one in told.records if external_record_id(TASK, one) not in received], name
    labelled = {
        one.event.record_id for one in recorded if isinstance(one.event, ev.LabelGiven) and one.event.annotator == name
    }
    assert not [one for one in told.labels if external_record_id(TASK, one) not in labelled], name


def nothing_doubled(recorded: list[Recorded]) -> None:
    done = Counter(
        (one.type, one.event.record_id)
        for one in recorded
        if isinstance(one.event, ev.RecordReceived | ev.LabelGiven | ev.FeedbackReceived)
    )
    assert not [key for key, count in done.items() if count > 1]
    epochs = [one.event.new_epoch for one in recorded if isinstance(one.event, ev.LeaseAcquired)]
    assert epochs == list(range(1, len(epochs) + 1))
