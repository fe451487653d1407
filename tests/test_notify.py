"""Who is told what, once, whatever the target does: real logs, real servers, a real command, real kills."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from notify_world import Receiver, receiver

from loop.bootstrap import App, open_app
from loop.cli.main import main
from loop.first_settings import default_toml
from loop.notifier import Notifier, box_path
from loop.notify import health
from loop.notify.messages import Message, messages
from loop.notify.outbox import MOST_WAITING, Outbox, read_box
from loop.notify.targets import Undelivered, deliver
from loop.settings import AlertSettings, NotifySettings
from store import events as ev
from store.log import Draft
from store.workspace import Workspace

START = datetime(2026, 11, 24, 8, tzinfo=UTC)
TICKET = "My card 4111 was charged"


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def make(root: Path, sections: str) -> None:
    root.mkdir()
    (root / "tuneloop.toml").write_text(default_toml(["a", "b"], task="t") + sections)
    Workspace.create(root).close()


def append(app: App, *happened: ev.Event, actor: str = "daemon") -> None:
    for event in happened:
        app.workspace.log.append([Draft(event, "x")], actor=actor, now=app.now())


def asked(*records: str) -> list[ev.Event]:
    return [
        ev.ReviewRequested(task="t", record_id=one, side="train", reasons=[], priority=1.0) for one in records
    ]  # fmt: skip


def harvested() -> ev.Event:
    return ev.HarvestCompleted(task="t", up_to=1, considered=1, requested={})


def labelled(*records: str) -> list[ev.Event]:
    return [
        ev.LabelGiven(task="t", record_id=one, label="a", side="train", audit=False, annotator="Kim") for one in records
    ]


def promoted(answerer: str) -> ev.Event:
    return ev.AdapterPromoted(task="t", answerer=answerer, kind="adapter", previous="zero-shot@1", gain=0.1)


def failed(run: str, attempt: int, *, parked: bool) -> ev.Event:
    return ev.TrainingFailed(task="t", run_id=run, attempt=attempt, reason=TICKET, parked=parked)


@pytest.fixture
def clock() -> Clock:
    return Clock()


# ---------------------------------------------------------------- which messages follow


def told(app: App, **rules: Any) -> list[tuple[str, str]]:
    return [(one.event, one.title) for one in messages(app.workspace.log.read(), AlertSettings(**rules))]


def test_labels_are_asked_for_once_a_round_and_again_when_the_queue_doubles(tmp_path: Path, clock: Clock) -> None:
    make(tmp_path / "w", "")
    with open_app(tmp_path / "w", clock=clock) as app:
        append(app, *asked("r1", "r2"), harvested())
        assert told(app, labels_open=3) == []
        append(app, *asked("r3", "r3"), harvested(), harvested())
        append(app, *asked("r4"), harvested())
        once = [("labels_needed", "3 records of t wait for a label")]
        assert told(app, labels_open=3) == once
        append(app, *asked("r5", "r6"), harvested(), harvested())
        twice = [*once, ("labels_needed", "6 records of t wait for a label")]
        assert told(app, labels_open=3) == twice
        append(app, *labelled("r1", "r2", "r3", "r4"), harvested(), *asked("r7"), harvested())
        assert told(app, labels_open=3) == [*twice, *once]


def test_each_kind_of_event_is_told_without_words_of_customers_or_people(tmp_path: Path, clock: Clock) -> None:
    make(tmp_path / "w", "")
    with open_app(tmp_path / "w", clock=clock) as app:
        append(app, failed("t-run-1", 1, parked=False), failed("t-run-1", 2, parked=True), promoted("t-v1"))
        append(
            app,
            ev.AdapterRolledBack(task="t", answerer="z", kind="prompt", rolled_back="t-v1", reason=TICKET),
            actor="Kim",
        )
        append(
            app,
            ev.CandidateJudged(
                task="t", run_id="r", evaluation_id="e", candidate="t-v2", champion="z", verdict="reject", checks=[],
                summary="-3.0% against z",
            ),
        )  # fmt: skip
        found = list(messages(app.workspace.log.read(), AlertSettings()))
    assert [one.event for one in found] == ["training_failed", "training_failed", "promotion", "rollback", "verdict"]
    assert [one.position for one in found] == [1, 2, 3, 4, 5]
    assert "parked" in found[1].text
    assert "by a person" in found[3].text
    assert TICKET not in repr(found)


def test_a_fault_is_told_once_it_lasts_and_once_when_it_is_over() -> None:
    episodes: health.Episodes = {}
    said: list[tuple[int, str]] = []
    down = {"engine": "The engine is not up."}
    minutes = [*[down] * 2, {}, *[down] * 10, {}, *[down] * 3, *[{}] * 12, down]
    for minute, faults in enumerate(minutes):
        episodes, fresh = health.follow(episodes, faults, START + timedelta(minutes=minute), 300)
        said += [(minute, one.title) for one in fresh]
    assert said == [(8, "degraded: engine"), (22, "recovered: engine")]


def test_the_notifier_sees_a_parked_run_a_growing_quarantine_and_a_full_disk(tmp_path: Path, clock: Clock) -> None:
    with receiver() as target:
        make(tmp_path / "w", f'[notify.ops]\nkind = "webhook"\nurl = "{target.url}"\nevents = ["degraded"]\n')
        env = {"TUNELOOP_ALERTS__DISK_FREE_MB": str(2**40), "TUNELOOP_ALERTS__QUARANTINE_AN_HOUR": "3"}
        with open_app(tmp_path / "w", clock=clock, env={**env, "TUNELOOP_WANDB__ENABLED": "false"}) as app:
            notifier = Notifier(app)
            bad = ev.RecordQuarantined(task="t", source="inbox", line=1, reason="no JSON", kept_as="x")
            append(app, failed("t-run-1", 1, parked=True), bad, bad, bad)
            for _ in range(2):
                notifier.catch_up()
                notifier.look()
                clock.now += timedelta(minutes=6)
            while notifier.send("ops"):
                pass
            first = {json.loads(body)["data"]["fault"] for _, body in target.got}
            assert first == {"engine", "gateway", "disk", "parked-t", "quarantine"}
            clock.now += timedelta(hours=2)
            append(app, ev.TrainingStarted(
                task="t", run_id="t-run-1", attempt=2, adapter="t-v1", method="qlora", base_model="", base_digest="",
                quantisation="", prompt="", seed=1, hyperparameters={},
            ))  # fmt: skip
            again = Notifier(app)  # a restart remembers what was told
            for _ in range(2):
                again.catch_up()
                again.look()
                clock.now += timedelta(minutes=6)
            while again.send("ops"):
                pass
            rest = [json.loads(body)["title"] for _, body in target.got[5:]]
            assert sorted(rest) == ["recovered: parked-t", "recovered: quarantine"]


# ---------------------------------------------------------------- delivery


MESSAGE = Message(key="k-1", event="promotion", at=START, title="t-v1 <answers> t & now", text="Before: z.", task="t")


def test_a_webhook_is_json_signed_as_standard_webhooks_say() -> None:
    key = base64.b64encode(b"0123456789abcdef").decode()
    with receiver() as target:
        settings = NotifySettings(kind="webhook", url_env="HOOK", secret_env="KEY")
        deliver(settings, MESSAGE, {"HOOK": target.url, "KEY": f"whsec_{key}"}, START)
    headers, body = target.got[0]
    assert json.loads(body)["key"] == headers["webhook-id"] == "k-1"
    signed = f"k-1.{int(START.timestamp())}.".encode() + body
    expected = base64.b64encode(hmac.new(base64.b64decode(key), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_slack_gets_a_text_in_which_nothing_is_markup() -> None:
    with receiver() as target:
        deliver(NotifySettings(kind="slack", url=target.url), MESSAGE, {}, START)
    assert json.loads(target.got[0][1]) == {"text": "*t-v1 &lt;answers&gt; t &amp; now*\nBefore: z."}


def test_a_command_reads_the_message_and_its_failure_and_stalling_are_told(tmp_path: Path) -> None:
    kept = tmp_path / "said; rm -rf x"
    program = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())"
    deliver(NotifySettings(kind="command", command=[sys.executable, "-c", program, str(kept)]), MESSAGE, {}, START)
    assert json.loads(kept.read_bytes())["title"] == MESSAGE.title
    with pytest.raises(Undelivered, match="code 3"):
        deliver(NotifySettings(kind="command", command=["sh", "-c", "cat >/dev/null; exit 3"]), MESSAGE, {}, START)
    with pytest.raises(Undelivered, match="cannot be started"):
        deliver(NotifySettings(kind="command", command=["/no/such/program"]), MESSAGE, {}, START)
    marker = f"31536{os.getpid()}"
    stalling = NotifySettings(kind="command", command=["sh", "-c", f"sleep {marker} & wait"], timeout_seconds=0.3)
    with pytest.raises(Undelivered, match="did not end"):
        deliver(stalling, MESSAGE, {}, START)
    assert not subprocess.run(["pgrep", "-f", f"sleep {marker}"], capture_output=True).stdout  # nothing is left behind


@pytest.mark.parametrize("manner", ["hanging", "dripping", "failing", "busy", "garbage", "closing"])
def test_a_bad_target_is_given_up_in_time_and_its_address_is_not_told(manner: Any) -> None:
    with receiver(manner) as target:
        settings = NotifySettings(kind="slack", url=target.url, timeout_seconds=0.5)
        with pytest.raises(Undelivered) as caught:
            deliver(settings, MESSAGE, {}, START)
    told = f"{caught.value} {caught.value.__cause__} {caught.value.retry_after}"
    assert "hush" not in told
    assert str(target.port) not in told
    if manner in ("hanging", "dripping"):
        assert str(caught.value) == "no answer within 0.5 s"
    if manner == "busy":
        assert caught.value.retry_after == 7.0


# ---------------------------------------------------------------- the outbox


def test_messages_wait_through_an_outage_with_growing_pauses_and_come_in_order(tmp_path: Path, clock: Clock) -> None:
    with receiver("failing") as target:
        make(tmp_path / "w", f'[notify.ops]\nkind = "webhook"\nurl = "{target.url}"\n')
        with open_app(tmp_path / "w", clock=clock) as app:
            append(app, promoted("t-v0"))
            notifier = Notifier(app)  # a first start does not send the past
            append(app, promoted("t-v1"), promoted("t-v2"))
            notifier.catch_up()
            tries = []
            for _ in range(3600):
                if notifier.send("ops"):
                    tries.append(clock.now)
                clock.now += timedelta(seconds=1)
            pauses = [(b - a).total_seconds() for a, b in pairwise(tries)]
            assert pauses[:7] == [5, 10, 20, 40, 80, 160, 300]
            assert set(pauses[7:]) == {300}
            target.manner = "busy"
            target.retry_after = "1800"
            clock.now += timedelta(seconds=300)
            assert notifier.send("ops")
            clock.now += timedelta(seconds=1799)
            assert not notifier.send("ops")
            assert main(["-w", str(tmp_path / "w"), "notify", "status"]) == 0
            target.manner = "good"
            clock.now += timedelta(seconds=1)
            while notifier.send("ops"):
                pass
            Notifier(app).catch_up()
            assert not Notifier(app).send("ops")
    assert [json.loads(body)["data"]["answerer"] for _, body in target.got] == ["t-v1", "t-v2"]


def test_a_message_is_given_up_after_its_time_and_status_says_why(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "w"
    with receiver("failing") as target:
        make(root, f'[notify.ops]\nkind = "webhook"\nurl = "{target.url}"\ngive_up_hours = 2.0\n')
        with open_app(root, clock=clock) as app:
            notifier = Notifier(app)
            append(app, promoted("t-v1"))
            notifier.catch_up()
            for _ in range(30):
                notifier.send("ops")
                clock.now += timedelta(minutes=6)
            append(app, promoted("t-v2"))
            notifier.catch_up()
            target.manner = "good"
            assert notifier.send("ops")
            assert not notifier.send("ops")
        assert [json.loads(body)["data"]["answerer"] for _, body in target.got] == ["t-v2"]
    assert main(["-w", str(root), "notify", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["ops"]
    assert (said["dropped"], said["dropped_reason"], said["delivered"]) == (1, "HTTP 500", 1)
    assert main(["-w", str(root), "status"]) == 0
    assert "1 given up (HTTP 500)" in capsys.readouterr().out


def test_a_full_outbox_drops_the_oldest_messages(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "ops.json")
    many = [Message(key=f"k{n}", event="promotion", at=START, title="x") for n in range(MOST_WAITING + 3)]
    box.put(many, 5, "ab")
    box.put(many[-2:], 6, "cd")  # queued again under their keys: nothing is doubled
    kept = read_box(tmp_path / "ops.json")
    assert [kept.waiting[0].key, kept.waiting[-1].key] == ["k3", f"k{MOST_WAITING + 2}"]
    assert (kept.dropped, kept.position, len(kept.waiting)) == (3, 6, MOST_WAITING)


def test_after_an_older_backup_was_put_back_nothing_is_told_again(tmp_path: Path, clock: Clock) -> None:
    with receiver() as target:
        make(tmp_path / "w", f'[notify.ops]\nkind = "webhook"\nurl = "{target.url}"\n')
        with open_app(tmp_path / "w", clock=clock) as app:
            Notifier(app)
            append(app, promoted("t-v1"), promoted("t-v2"))
            notifier = Notifier(app)
            notifier.catch_up()
            while notifier.send("ops"):
                pass
        for file in (tmp_path / "w" / ".tuneloop").glob("tuneloop.sqlite*"):
            file.unlink()
        Workspace.create(tmp_path / "w").close()  # stands for a backup from before any event
        with open_app(tmp_path / "w", clock=clock) as app:
            append(app, promoted("t-v1"))
            notifier = Notifier(app)
            append(app, promoted("t-v9"))
            notifier.catch_up()
            while notifier.send("ops"):
                pass
    assert [json.loads(body)["data"]["answerer"] for _, body in target.got] == ["t-v1", "t-v2", "t-v9"]


# ---------------------------------------------------------------- the process and the command line


def start(root: Path, *, kill_at: str = "") -> subprocess.Popen[bytes]:
    log = (root / ".tuneloop" / "logs" / "notifier.log").open("ab")
    env = {**os.environ, **({"TUNELOOP_KILL_AT": kill_at} if kill_at else {})}
    return subprocess.Popen([sys.executable, "-m", "loop.notifier", str(root)], stdout=log, stderr=log, env=env)


def wait_for(ready: Any, root: Path) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline, (root / ".tuneloop" / "logs" / "notifier.log").read_text()
        time.sleep(0.02)


def take(target: Receiver) -> list[tuple[str, str]]:
    return [(headers["webhook-id"], json.loads(body)["data"]["answerer"]) for headers, body in target.got]


def test_killed_where_it_hurts_most_it_repeats_at_most_one_message_under_its_key(tmp_path: Path) -> None:
    root = tmp_path / "w"
    with receiver() as target, receiver("hanging") as stuck:
        only = 'events = ["promotion"]\n'
        make(
            root,
            f'[notify.ops]\nkind = "webhook"\nurl = "{target.url}"\n{only}'
            f'[notify.stuck]\nkind = "slack"\nurl = "{stuck.url}"\n{only}',
        )
        with open_app(root) as app:
            Notifier(app)  # the targets begin here
            append(app, *[promoted(f"t-v{n}") for n in range(6)])
            for kill_at in ("notify.queued:1", "notify.sent:1", "notify.sent:2"):
                child = start(root, kill_at=kill_at)
                assert child.wait(timeout=60) == -signal.SIGKILL
            child = start(root)
            names = [f"t-v{n}" for n in range(6)]
            wait_for(lambda: read_box(box_path(app.workspace.paths.notify, "ops")).delivered == 6, root)
            # a target that hangs keeps nobody from ending
            child.terminate()
            assert child.wait(timeout=20) == 0
        found = take(target)
        assert [name for _, name in dict.fromkeys(found)] == names
        assert len({key for key, _ in found}) == 6
        assert len(found) == 8  # both kills after a delivery repeated that one
        assert stuck.asked > 0
        assert "hush" not in (root / ".tuneloop" / "logs" / "notifier.log").read_text()
        assert not any(b"hush" in file.read_bytes() for file in (root / ".tuneloop").rglob("*") if file.is_file())


def test_the_command_line_sends_a_test_message_and_names_no_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "w"
    with receiver() as good, receiver("failing") as bad:
        monkeypatch.setenv("GOOD_HOOK", good.url)
        make(
            root,
            '[notify.good]\nkind = "slack"\nurl_env = "GOOD_HOOK"\n'
            f'[notify.bad]\nkind = "webhook"\nurl = "{bad.url}"\n',
        )
        assert main(["-w", str(root), "notify", "test", "good"]) == 0
        assert main(["-w", str(root), "notify", "test"]) == 1
        assert main(["-w", str(root), "notify", "test", "nobody"]) == 2
        assert main(["-w", str(root), "notify"]) == 0
    said = "".join(capsys.readouterr())
    assert "good: has taken the test message" in said
    assert "bad: HTTP 500" in said
    assert "hush" not in said
    assert len(good.got) == 2
