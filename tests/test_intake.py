import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loop import intake
from loop.bootstrap import App, open_app
from loop.first_settings import default_toml
from store import queries
from store.errors import InputError, StaleEpoch
from store.events import (
    FeedbackReceived,
    LabelGiven,
    LeaseAcquired,
    RecordQuarantined,
    RecordReceived,
    ReviewRequested,
)
from store.log import Draft
from store.verify import verify
from store.workspace import Workspace

LABELS = ["urgent", "billing", "technical", "general"]
WORDS = [f"w{hash_ % 9973:x}{hash_ % 31:x}" for hash_ in range(7, 40_000, 13)]


def text(number: int) -> str:
    """A text that is near to no other number's."""
    return " ".join(WORDS[(number * 7 + step * 97 + step * step * number) % len(WORDS)] for step in range(9))


def make_workspace(root: Path, toml: str = "") -> Path:
    root.mkdir(exist_ok=True)
    (root / "tuneloop.toml").write_text(toml or default_toml(LABELS, overrides={"daemon": {"batch": 20}}))
    Workspace.create(root).close()
    return root


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with open_app(make_workspace(tmp_path / "workspace"), env={}) as opened:
        yield opened


def drop(app: App, name: str, content: bytes | list[dict[str, Any]], age: float = 60.0) -> Path:
    path = app.workspace.paths.inbox / name
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, list):
        content = b"".join(json.dumps(line).encode() + b"\n" for line in content)
    path.write_bytes(content)
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path


def records(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"r{n}", "text": text(n), "answer": LABELS[n % 4], "answered_by": "p@1", **more} for n in range(count)
    ]


def events(app: App, kind: type) -> list[Any]:
    return [one.event for one in app.workspace.log.read() if isinstance(one.event, kind)]


def reasons(app: App) -> list[str]:
    return [event.reason for event in events(app, RecordQuarantined)]


def rows(app: App) -> dict[str, Any]:
    app.workspace.projections.catch_up()
    return {row.record_id: row for row in queries.records(app.workspace.read, "tickets")}


def ours(external: str) -> str:
    return intake.external_record_id("tickets", external)


def test_a_file_becomes_records(app: App) -> None:
    drop(app, "a.jsonl", records(50, confidence=0.9, margin=0.8, customer="acme"))
    recorded = intake.take_in(app)
    found = rows(app)
    assert set(found) == {ours(f"r{n}") for n in range(50)}
    assert app.workspace.texts.get(ours("r7")) == text(7)
    row = found[ours("r7")]
    assert (row.answer, row.answered_by, row.confidence, row.margin, row.source) == (
        "general",
        "p@1",
        0.9,
        0.8,
        "a.jsonl",
    )
    drawn = [row for row in found.values() if row.audit]
    assert 5 <= len(drawn) <= 25
    assert all(row.side == "exam" and row.review == "open" and row.reasons[0]["name"] == "audit" for row in drawn)
    assert {row.audit_probability for row in found.values()} == {0.3}
    assert len(recorded) == 50 + len(drawn)
    assert not list(app.workspace.paths.claimed.iterdir())
    notes = list(app.workspace.paths.done.iterdir())
    assert [json.loads(note.read_bytes())["name"] for note in notes] == ["a.jsonl"]
    assert text(7) not in notes[0].read_text(), "a file that was read must leave its texts in one place only"
    assert intake.take_in(app) == []
    assert all(finding.level == "ok" for finding in verify(app.workspace))


def test_no_text_is_in_an_event(app: App) -> None:
    drop(app, "a.jsonl", [{"id": "x1", "text": "my secret number is 4711", "label": "billing"}])
    intake.take_in(app)
    assert b"4711" not in b"".join(repr(one).encode() for one in app.workspace.log.read())


def test_labelled_examples_are_seeds(app: App) -> None:
    drop(app, "seed.jsonl", [{"text": text(n), "label": LABELS[n % 4]} for n in range(40)])
    intake.take_in(app)
    given = events(app, LabelGiven)
    assert len(given) == 40
    assert {event.via for event in given} == {"seed"}
    assert not events(app, ReviewRequested)
    state = app.state().task("tickets")
    assert state.train_total + state.exam_total == 40
    assert state.exam_total > 0
    assert all(row.source == "seed" for row in rows(app).values())


def test_csv_chat_and_logs(app: App) -> None:
    drop(app, "a.csv", f'text,label\n"{text(1)}",urgent\n{text(2)},\n'.encode())
    chat = [{"role": "user", "content": text(3)}, {"role": "assistant", "content": "billing"}]
    drop(app, "b.jsonl", [{"messages": chat}])
    request = {"messages": [{"role": "user", "content": text(4)}]}
    response = {"id": "c-1", "model": "gpt", "choices": [{"message": {"content": "technical"}}]}
    drop(
        app,
        "c.log",
        [{"timestamp": "t", "workload_id": "x", "client_id": "c", "request": request, "response": response}],
    )
    intake.take_in(app)
    assert not reasons(app)
    found = rows(app)
    assert len(found) == 4
    assert Counter(row.label for row in found.values()) == {"urgent": 1, "billing": 1, None: 2}
    assert found[ours("c-1")].answer == "technical"


def test_near_duplicates_fall_on_one_side(app: App) -> None:
    base = [f"Ticket {n}: {text(n)}" for n in range(30)]
    drop(app, "a.jsonl", [{"id": f"a{n}", "text": value} for n, value in enumerate(base)])
    intake.take_in(app)
    copies = [{"id": f"b{n}", "text": value.upper() + "!"} for n, value in enumerate(base)]
    copies += [{"id": f"c{n}", "text": value + " "} for n, value in enumerate(base)]
    drop(app, "b.jsonl", copies)
    intake.take_in(app)
    found = rows(app)
    for n in range(30):
        first, *others = (found[ours(f"{letter}{n}")] for letter in "abc")
        for other in others:
            assert (other.side, other.cluster) == (first.side, first.cluster)
            assert not other.audit
            assert other.audit_probability == 0


def test_near_duplicates_within_one_batch(app: App) -> None:
    drop(app, "a.jsonl", [{"id": f"a{n}", "text": "The export stops at 100 rows" + "!" * (n % 3)} for n in range(9)])
    intake.take_in(app)
    assert {(row.cluster, row.side) for row in rows(app).values()} == {(ours("a0"), rows(app)[ours("a0")].side)}


def test_bad_lines_are_kept_with_a_reason(app: App) -> None:
    lines = [
        b'{"id": "ok", "text": "a fine ticket"}',
        b"{not json",
        b'{"id": "u", "text": "x", "label": "angry"}',
        b'{"text": "' + b"y" * 30_000 + b'"}',
        b'{"text": "\xff\xfe"}',
        b'{"text": "nul \\u0000 inside"}',
        b'{"id": "ok", "text": "the same id with other content"}',
        b"",
        b'{"id": "last", "text": "another fine ticket"}',
    ]
    drop(app, "a.jsonl", b"\n".join(lines) + b"\n")
    intake.take_in(app)
    assert set(rows(app)) == {ours("ok"), ours("last")}
    told = {event.line: event.reason for event in events(app, RecordQuarantined)}
    assert set(told) == {2, 3, 4, 5, 6, 7}
    assert "no JSON" in told[2]
    assert "angry" in told[3]
    assert "20000" in told[4]
    assert "UTF-8" in told[5]
    assert "NUL" in told[6]
    assert "other content" in told[7]
    (kept,) = app.workspace.paths.quarantine.iterdir()
    content = kept.read_bytes()
    for number in (2, 3, 4, 5, 6, 7):
        assert lines[number - 1] in content
    assert kept.stat().st_mode & 0o077 == 0


def test_a_known_record(app: App) -> None:
    drop(app, "a.jsonl", [{"id": "1", "text": "paid twice", "answer": "billing"}])
    intake.take_in(app)
    drop(
        app,
        "b.jsonl",
        [
            {"id": "1", "text": "paid twice", "answer": "billing"},
            {"id": "1", "text": "paid thrice"},
            {"id": "1", "text": "paid twice", "answer": "urgent"},
            {"id": "1", "text": "paid twice", "label": "urgent"},
            {"id": "1", "text": "paid twice", "label": "billing"},
        ],
    )
    intake.take_in(app)
    assert rows(app)[ours("1")].label == "urgent"
    assert len(events(app, RecordReceived)) == 1
    assert len(reasons(app)) == 3


def test_an_erased_record_does_not_come_back(app: App) -> None:
    drop(app, "a.jsonl", [{"id": "1", "text": "paid twice"}])
    intake.take_in(app)
    app.workspace.texts.erase([ours("1")])
    drop(app, "b.jsonl", [{"id": "1", "text": "paid twice"}])
    intake.take_in(app)
    assert app.workspace.texts.get(ours("1")) is None
    assert not reasons(app)


def test_feedback_follows_the_records(app: App) -> None:
    drop(
        app,
        "a.feedback.jsonl",
        [{"id": "r1", "label": "urgent"}, {"id": "r2", "label": "technical"}, {"id": "nobody", "label": "urgent"}],
    )
    drop(app, "b.jsonl", records(5))
    intake.take_in(app)
    given = {event.record_id: event for event in events(app, FeedbackReceived)}
    assert given[ours("r1")].disagrees  # production said billing
    assert not given[ours("r2")].disagrees
    assert given[ours("r1")].answered_by == "p@1"
    assert any("no record 'nobody'" in reason for reason in reasons(app))
    drop(app, "c.feedback.jsonl", [{"id": "r1", "label": "urgent"}, {"id": ours("r1"), "label": "urgent"}])
    assert intake.take_in(app) == []


def test_files_that_are_not_ready_wait(app: App) -> None:
    drop(app, "young.jsonl", records(1), age=0.0)
    drop(app, ".hidden.jsonl", records(1))
    drop(app, "half.jsonl.part", records(1))
    (app.workspace.paths.inbox / "folder").mkdir()
    (app.workspace.paths.inbox / "link.jsonl").symlink_to(app.workspace.paths.inbox / "young.jsonl")
    assert intake.take_in(app) == []
    assert intake.take_in(app, now=time.time() + 10)
    assert not (app.workspace.paths.inbox / "young.jsonl").exists()


def test_a_torn_last_line_waits_for_its_writer(app: App) -> None:
    path = drop(app, "a.jsonl", b'{"id": "1", "text": "first"}\n{"id": "2", "te', age=5.0)
    with path.open("ab") as writer:
        os.utime(path, (time.time() - 5, time.time() - 5))
        intake.take_in(app)
        assert set(rows(app)) == {ours("1")}
        assert len(list(app.workspace.paths.claimed.iterdir())) == 2  # the file, and how far it was read
        writer.write(b'xt": "second"}\n')
    intake.take_in(app)
    assert set(rows(app)) == {ours("1"), ours("2")}
    assert not list(app.workspace.paths.claimed.iterdir())
    drop(app, "b.jsonl", b'{"id": "3", "text": "third"}\n{"id": "4', age=5.0)
    intake.take_in(app)
    intake.take_in(app, now=time.time() + 100)
    assert "ends within this line" in reasons(app)[0]


def test_strange_files_are_put_aside(app: App) -> None:
    drop(app, "tickets.xlsx", b"PK\x03\x04")
    drop(app, "empty.jsonl", b"")
    drop(app, "binary.jsonl", bytes(range(256)) * 4)
    intake.take_in(app)
    assert any(".xlsx are not read" in reason for reason in reasons(app))
    assert not list(app.workspace.paths.claimed.iterdir())
    assert not rows(app)


def test_a_large_file_is_read_over_several_ticks(app: App) -> None:
    drop(app, "a.jsonl", records(130))
    drop(app, "b.csv", b"id,text\n" + b"".join(f"c{n},{text(500 + n)}\n".encode() for n in range(70)))
    seen = 0
    for _ in range(10):
        recorded = intake.take_in(app, limit=45)
        seen += sum(isinstance(one.event, RecordReceived) for one in recorded)
        assert len(recorded) <= 90
    assert seen == len(rows(app)) == 200


def test_two_tasks(tmp_path: Path) -> None:
    toml = '[tasks.tickets]\nlabels = ["a", "b"]\n[tasks.mails]\nlabels = ["c", "d"]\n'
    with open_app(make_workspace(tmp_path / "w", toml), env={}) as app:
        drop(app, "mails/x.jsonl", [{"id": "1", "text": "by folder", "label": "c"}])
        drop(app, "tickets.2026.jsonl", [{"id": "1", "text": "by name", "label": "a"}])
        drop(
            app,
            "y.jsonl",
            [{"id": "2", "text": "by field", "label": "d", "task": "mails"}, {"id": "3", "text": "by none"}],
        )
        intake.take_in(app)
        app.workspace.projections.catch_up()
        found = {t: len(queries.records(app.workspace.read, t)) for t in ("tickets", "mails")}
        assert found == {"tickets": 1, "mails": 2}
        assert ["no task" in reason for reason in reasons(app)] == [True]


def test_the_same_file_ingested_twice_changes_nothing(app: App, tmp_path: Path) -> None:
    path = tmp_path / "seed.csv"
    path.write_text("text,label\n" + "".join(f"{text(n)},{LABELS[n % 4]}\n" for n in range(30)) + "broken,angry\n")
    first = intake.ingest_file(app, "tickets", path)
    assert (first.received, first.labelled, first.quarantined) == (30, 30, 1)
    assert first.problems == [(32, "unknown label 'angry'; the labels are urgent, billing, technical, general")]
    head = app.workspace.log.head()
    second = intake.ingest_file(app, "tickets", path)
    assert (second.received, second.known, second.quarantined) == (0, 30, 1)
    assert app.workspace.log.head() == head
    assert path.exists()
    with pytest.raises(InputError, match="cannot be read"):
        intake.ingest_file(app, "tickets", tmp_path / "nowhere.jsonl")


def test_lines_from_a_pipe(app: App) -> None:
    report = intake.ingest_lines(app, "tickets", [b'{"text": "no end"}', b"torn {"], source="stdin")
    assert (report.received, report.quarantined) == (1, 1)
    report = intake.ingest_lines(app, "tickets", [b"id,label\n", b"x,urgent\n"], form="csv", feedback=True)
    assert "no record 'x'" in report.problems[0][1]


def test_a_stalled_daemon_cannot_take_in(app: App) -> None:
    app.workspace.log.append([Draft(LeaseAcquired(holder="other", new_epoch=5), "loop")], actor="d", now=app.now())
    drop(app, "a.jsonl", records(3))
    with pytest.raises(StaleEpoch):
        intake.take_in(app, epoch=4)
    assert not rows(app)
    intake.take_in(app, epoch=5)
    assert len(rows(app)) == 3


CHILD = """
import sys
from pathlib import Path
from loop import intake
from loop.bootstrap import open_app
app = open_app(Path(sys.argv[1]))
print("ready", flush=True)
while list(app.workspace.paths.inbox.glob("*.jsonl")) or list(app.workspace.paths.claimed.iterdir()):
    intake.take_in(app)
"""


def test_kill_9_loses_and_doubles_nothing(tmp_path: Path) -> None:
    lines = [
        {"id": f"r{n}", "text": text(n)} if n % 3 else {"text": text(n), "label": LABELS[n % 4]} for n in range(600)
    ]
    lines += [{"id": "r1", "text": "another text"}, {"text": ""}]
    root = make_workspace(tmp_path / "killed")
    with open_app(root, env={}) as app:
        drop(app, "a.jsonl", lines)
        drop(app, "b.feedback.jsonl", [{"id": f"r{n}", "label": "urgent"} for n in range(1, 300, 3)])
    kills = 0
    for delay in (0.0, 0.02, 0.05, 0.08, 0.12, 0.2, None):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(root)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        if delay is None:
            assert child.wait(timeout=120) == 0
        else:
            time.sleep(delay)
            kills += child.poll() is None
            child.send_signal(signal.SIGKILL)
            child.wait()
        child.stdout.close()
    assert kills >= 3
    with open_app(root, env={}) as app:
        assert len(events(app, RecordReceived)) == 600
        assert len({event.record_id for event in events(app, RecordReceived)}) == 600
        assert len(events(app, LabelGiven)) == 200
        assert len(events(app, FeedbackReceived)) == 100
        assert sorted(event.line for event in events(app, RecordQuarantined)) == [601, 602]
        assert len(events(app, ReviewRequested)) == sum(row.audit and row.label is None for row in rows(app).values())
        assert all(finding.level == "ok" for finding in verify(app.workspace))
