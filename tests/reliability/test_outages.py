"""For a simulated day Weights & Biases, the model's endpoint and the webhooks are down, slow, hanging or talk rubbish:
the loop hardly notices, and afterwards everybody has been told exactly what they would have been told without it.

The day is made of short spells between which the clocks of all processes go on. Weights & Biases itself cannot be
reached from a test: what is online is a server that misbehaves, and the catch-up is read from wandb's offline files.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kill_world as world
import msgspec
import pytest
from clock_world import DAY, HOUR, Clock, Timed, timed
from conftest import Trials
from notify_world import Manner, Receiver, receiver
from stub_daemon import rests

from adapters import wandb_segments
from loop.bootstrap import App, open_app
from loop.services import read_endpoints
from store.workspace import Workspace

BAD: tuple[Manner | str, ...] = ("down", "slow", "hanging", "dripping", "failing", "busy", "garbage", "closing")
SPELL = HOUR / 2  # of simulated time
TICK = 0.1
DELAY = 0.1  # seconds that an outage may cost a tick
VOLATILE = ("seconds", "latency_ms", "artifact", "control", "position", "up_to", "annotated_at")


class Outside:
    """Everything that the loop speaks to: an endpoint that answers rightly, W&B, two webhooks."""

    def __init__(self, endpoint: Receiver, wandb: Receiver, hooks: Sequence[Receiver]) -> None:
        self.endpoint, self.wandb, self.hooks = endpoint, wandb, hooks

    def settings(self) -> str:
        lines = []
        for name, kind, hook in zip(("ops", "team"), ("webhook", "slack"), self.hooks, strict=True):
            lines += [f"[notify.{name}]", f'kind = "{kind}"', f'url = "{hook.url}"', "timeout_seconds = 0.5"]
            lines += ['events = ["labels_needed", "training_failed", "verdict", "promotion", "rollback"]']
        return "\n".join(lines) + "\n"

    def told(self) -> list[list[str]]:
        """What each webhook has taken, in order: titles and texts, without times. One whose answer came too late was
        sent again, under the same key, by which the receiver knows it."""
        taken = [{headers["webhook-id"]: body for headers, body in hook.got} for hook in self.hooks]
        return [[_words(json.loads(body)) for body in one.values()] for one in taken]


def _words(message: dict[str, Any]) -> str:
    return json.dumps({name: message[name] for name in ("title", "text") if name in message}, sort_keys=True)


def behave(one: Receiver, manner: Manner | str) -> None:
    if manner == "down":
        one.down()
    else:
        one.up(manner)  # type: ignore[arg-type]


def answer(body: bytes) -> bytes:
    """As a chat model that knows the right answer to every second text."""
    asked = json.loads(body)
    words = asked["messages"][-1]["content"]
    said = world.answer_of(words) if len(words) % 2 else "fruit"
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [choice]}
    ).encode()


@contextmanager
def outside() -> Iterator[Outside]:
    with receiver(reply=answer) as endpoint, receiver() as wandb, receiver() as one, receiver() as two:
        yield Outside(endpoint, wandb, (one, two))


def make(root: Path, there: Outside, template: Path) -> Path:
    """The template's workspace, with these servers around it."""
    world.copy(template, root)
    path = root / "tuneloop.toml"
    text = path.read_text().replace("http://127.0.0.1:1/v1", f"http://127.0.0.1:{there.endpoint.port}/v1")
    path.write_text(text + there.settings())
    world.fill(root)
    return root


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rules = {
        "endpoint": {"url": "http://127.0.0.1:1/v1", "timeout_seconds": 0.5, "retries": 0, "concurrency": 2},
        "daemon": {"tick_seconds": TICK, "settle_seconds": 0.0, "rescan_seconds": 1.0, "batch": 20},
        "wandb": {"enabled": True, "mode": "online"},
        "alerts": {"labels_open": 5},
    }
    return world.make(tmp_path_factory.mktemp("outages") / "template", overrides=rules)


def wandb_environment(root: Path, there: Outside) -> dict[str, str]:
    return {
        "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{there.wandb.port}", "HOME": str(root),
        "WANDB_INIT_TIMEOUT": "5", "WANDB_HTTP_TIMEOUT": "2",
    }  # fmt: skip


def facts(root: Path) -> dict[str, Any]:
    """What the loop has come to, without what depends on how long an answer took, and on random ids."""
    ignored = ("LeaseAcquired", "TrainingProgressed")
    with Workspace.open(root) as workspace:
        said = Counter(
            json.dumps([one.type, "" if one.stream.startswith("record/") else one.stream, plain], sort_keys=True)
            for one in workspace.log.read()
            if one.type not in ignored and (plain := _plain(msgspec.to_builtins(one.event)))
        )
        files = [workspace.artifacts.path(one.address) / "predictions.jsonl" for one in workspace.artifacts.list()]
        lines = [json.loads(line) for file in files if file.exists() for line in file.read_bytes().splitlines()]
    return {"events": said, "predictions": [_plain(line) for line in lines]}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in (*VOLATILE, *world.VOLATILE)}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def mirrored(root: Path) -> list[int]:
    """Send the rest offline, and read the steps of all rows of the loop's run back from wandb's files."""
    env = {**world.environment(), "HOME": str(root)}
    command = [sys.executable, "-m", "adapters.tracking", str(root), "--once", "--mode", "offline"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    steps = []
    for folder in sorted((root / ".tuneloop" / "wandb").glob("offline-run-*-loop-*")):
        path = wandb_segments.file_of(folder)
        assert path is not None
        for record in wandb_segments.records(path):
            if record.WhichOneof("record_type") == "history":
                steps.append(record.history.step.num)
    return steps


def at_rest(app: App) -> bool:
    """Nothing is left to do or to tell."""
    boxes = [app.workspace.paths.notify / f"{name}.json" for name in ("ops", "team")]
    if not (read_endpoints(app.workspace.paths.run).engine and rests(app)):
        return False
    kept = [json.loads(box.read_bytes()) for box in boxes if box.exists()]
    head = app.workspace.log.head().position
    return len(kept) == 2 and all(not box.get("waiting") and box["position"] == head for box in kept)


class Lived(msgspec.Struct):
    """What came of a day."""

    ticks: list[tuple[float, float, float]]
    facts: dict[str, Any]
    told: list[list[str]]
    asked: list[int]  # requests that endpoint, W&B and webhooks have seen
    rows: int  # of the loop's W&B run

    @property
    def longest_wait(self) -> float:
        return max(waited for _, _, waited in self.ticks)


def lived(folder: Path, template: Path, real: float, *, harmed: bool) -> Lived:
    """A day of the loop, then its way to rest; `real` seconds of ours."""
    folder.mkdir()
    clock = Clock(folder)
    spells = int(DAY / SPELL)
    manners = itertools.cycle(BAD)
    with outside() as there:
        root = make(folder / "w", there, template)
        behave(there.wandb, "failing")  # nobody is there who would take the rows
        env = {**clock.environment(), **wandb_environment(root, there)}
        with open_app(root) as app, timed(root, folder / "ticks", **env) as running:
            for spell in range(spells if harmed else 0):
                late = spell > spells * 2 / 3  # the model comes back first: then there is news for the others
                behave(there.endpoint, "good" if late else next(manners))
                for one in (there.wandb, *there.hooks):
                    behave(one, next(manners))
                _pass(clock, SPELL, real / spells, running)
            for one in (there.endpoint, *there.hooks):
                behave(one, "good")
            deadline = time.monotonic() + 120
            while not at_rest(app):
                assert time.monotonic() < deadline, running.tail()
                _pass(clock, 60, 0.2, running)
            _pass(clock, 60, 1.0, running)
        no_process_is_left(root)
        steps = mirrored(root)
        with Workspace.open(root) as workspace:
            assert steps == list(range(1, workspace.log.head().position + 1)), "not every row once"
        asked = [one.asked for one in (there.endpoint, there.wandb, *there.hooks)]
        return Lived(running.ticks(), facts(root), there.told(), asked, len(steps))


def no_process_is_left(root: Path) -> None:
    """Also of those that others start, as wandb does: all have the workspace in their environment."""
    deadline = time.monotonic() + 10
    while left := [one.parent.name for one in Path("/proc").glob("[0-9]*/environ") if _names(one, root)]:
        assert time.monotonic() < deadline, [Path("/proc", one, "cmdline").read_bytes() for one in left]
        time.sleep(0.1)


def _names(environment: Path, root: Path) -> bool:
    try:
        return f"HOME={root}".encode() in environment.read_bytes().split(b"\0")
    except OSError:
        return False


def _pass(clock: Clock, seconds: float, real: float, running: Timed) -> None:
    time.sleep(real)
    assert running.child.poll() is None, running.tail()
    clock.pass_(seconds)


def test_a_day_of_outages(template: Path, tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]) -> None:
    real = trials(20, full=120, soak=1200)
    usual = lived(tmp_path / "unharmed", template, real, harmed=False)
    harmed = lived(tmp_path / "harmed", template, real, harmed=True)
    more = [one > other for one, other in zip(harmed.asked, usual.asked, strict=True)]
    # whether the endpoint is asked in one of its bad spells is a matter of moments: the others always are
    assert any(more[2:]) and harmed.asked[1], f"nobody met an outage: {usual.asked} {harmed.asked}"
    world.same(usual.facts, harmed.facts, "a day of outages")
    assert usual.told == harmed.told
    assert min(map(len, usual.told)) >= 3
    assert harmed.longest_wait < usual.longest_wait + DELAY, (harmed.longest_wait, usual.longest_wait)
    measured(
        f"W&B, model and two webhooks {', '.join(BAD)} for a simulated day",
        f"of {len(harmed.ticks)} ticks the longest waited {harmed.longest_wait * 1000:.0f} ms "
        f"({usual.longest_wait * 1000:.0f} ms unharmed); then the same events, {sum(map(len, harmed.told))} messages "
        f"in order, {harmed.rows} rows once each",
    )
