"""Anything that people, production and the power plug may do to the loop, in any order: what must hold, holds."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import forked
import kill_world as world
import msgspec
from conftest import Trials
from hypothesis import HealthCheck, Phase, core, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from kill_texts import DIES_ONCE, FAILS, LABELS, TASK, answer_of, answered, seeds, text
from store_helpers import contents

from loop import actions, snapshot
from loop.bootstrap import App, open_app
from loop.production import read_pointer
from loop.state import LoopState, fold
from store import events as ev
from store import queries
from store.archive import archive, closed_by
from store.errors import TuneloopError
from store.verify import sound, verify

STEPS = 8  # of one run, at most
# where a daemon of this world may die; what it does not come to in a run kills nobody
DEADLY = (
    "log.written", "log.committed", "projections.folded", "artifacts.files_copied", "artifacts.renamed",
    "file.temporary_written", "lease.locked", "lease.raised", "services.started", "intake.file_claimed",
    "intake.batch_appended", "intake.progress_noted", "intake.file_read", "intake.file_deleted", "intake.line_kept",
    "harvest.chosen", "freeze.dataset_kept", "freeze.counted", "train.folder_prepared", "train.start_recorded",
    "train.child_started", "train.adapter_kept", "step.interruption_seen", "register.texts_forgotten",
    "evaluate.folder_prepared", "evaluate.start_recorded", "evaluate.predictions_kept", "judge.decided",
    "judge.texts_forgotten", "reject.decided", "promote.probed", "promote.recorded", "rollback.decided",
    "production.adapter_loaded", "production.pointer_moved", "train.step_done", "train.checkpoint_written",
    "train.adapter_renamed", "evaluate.answered", "evaluate.result_written",
)  # fmt: skip
ENDINGS = (
    ev.TrainingSucceeded, ev.AdapterRegistered, ev.EvaluationSucceeded, ev.ForgettingMeasured, ev.CandidateJudged,
    ev.CandidateRejected, ev.DatasetFrozen,
)  # fmt: skip
done: Counter[str] = Counter()


class LoopMachine(RuleBasedStateMachine):
    """One workspace. Every run of the loop is a real process with real children, every death a SIGKILL."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tuneloop-machine-"))
        self.root = world.copy(self.template, self.folder / "w")
        self.numbers = itertools.count(1000)
        self.dropped: set[str] = set()  # production's ids of good lines
        self.acknowledged: list[str] = []  # ids of events that people were told of
        self.answered: list[str] = []
        done["runs"] += 1

    def teardown(self) -> None:
        try:
            with open_app(self.root, env={}) as app:
                if app.state().paused:
                    actions.resume(app)
            self.run_to_rest()
            with open_app(self.root, env={}) as app:
                known = {json.loads(one)["id"] for one in _metas(app)}
                assert self.dropped <= known, f"these never came in: {sorted(self.dropped - known)}"
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------ what production does

    def _drop(self, lines: list[Any], ending: str = ".jsonl") -> None:
        number = next(self.numbers)
        world.drop(self.root, f"f{number}{ending}", lines)
        self.dropped |= {one["id"] for one in lines if isinstance(one, dict) and {"id", "text"} <= one.keys()}

    def _some(self, count: int) -> range:
        first = next(self.numbers) * 100
        return range(first, first + count)

    @rule(count=st.integers(5, 30))
    def examples_arrive(self, count: int) -> None:
        self._drop(seeds(count, self._some(1)[0]))

    @rule(count=st.integers(1, 12), adapter=st.integers(0, 3), wrong=st.booleans())
    def records_arrive(self, count: int, adapter: int, wrong: bool) -> None:
        by = f"{TASK}-v{adapter}" if adapter else "zero-shot@1"
        lines = answered(by, self._some(count), wrong)
        self.answered += [one["id"] for one in lines]
        self._drop(lines)

    @precondition(lambda self: self.answered)
    @rule(data=st.data())
    def corrections_arrive(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.answered), min_size=1, max_size=12, unique=True))
        lines = [{"id": one, "label": answer_of(text(int(one[1:])))} for one in chosen]
        self._drop([*lines, {"id": "nobody", "label": "fruit"}], ".feedback.jsonl")

    @rule()
    def rubbish_arrives(self) -> None:
        self._drop([b"not json\n", b"\xff\xfe\n", {"text": ""}])

    # ------------------------------------------------------------ what people do

    def _act(self, act: Callable[[App], Any]) -> None:
        """Something that may be refused; what is not, is acknowledged."""
        with open_app(self.root, env={}) as app:
            app.workspace.projections.catch_up()
            with suppress(TuneloopError):
                recorded = act(app)
                self.acknowledged += [one.event_id for one in recorded if hasattr(one, "event_id")]

    @rule(count=st.integers(1, 30), wrong=st.booleans())
    def people_label(self, count: int, wrong: bool) -> None:
        def act(app: App) -> list[Any]:
            recorded = []
            for row in queries.queue(app.workspace.read, TASK)[:count]:
                right = answer_of(app.workspace.texts.get(row.record_id) or "")
                other = next(label for label in LABELS if label != right)
                recorded += actions.label(app, row.record_id, other if wrong else right, annotator="kim")
            return recorded

        self._act(act)

    @rule(index=st.integers(0, 50), what=st.sampled_from(["relabel", "withdraw", "skip", "undo"]))
    def people_change_their_minds(self, index: int, what: str) -> None:
        def act(app: App) -> Any:
            rows = queries.records(app.workspace.read, TASK)
            if not rows:
                return []
            record = rows[index % len(rows)].record_id
            match what:
                case "relabel":
                    return actions.label(app, record, "metal", annotator="kim")
                case "withdraw":
                    return actions.withdraw(app, record, annotator="kim")
                case "skip":
                    return actions.skip(app, record, annotator="kim")
            actions.undo(app, annotator="kim")
            return []

        self._act(act)

    @rule(what=st.sampled_from(["pause", "resume", "train", "roll back"]))
    def people_order(self, what: str) -> None:
        orders: dict[str, Callable[[App], Any]] = {
            "pause": lambda app: actions.pause(app, "tea"),
            "resume": lambda app: actions.resume(app),
            "train": lambda app: actions.request_training(app, TASK, reason="now"),
            "roll back": lambda app: actions.rollback(app, TASK),
        }
        self._act(orders[what])

    @rule(flag=st.sampled_from([FAILS, DIES_ONCE]))
    def luck_turns(self, flag: str) -> None:
        path = self.root / flag
        path.unlink() if path.exists() else path.touch()

    @rule(share=st.floats(0.2, 1.0))
    def history_is_archived(self, share: float) -> None:
        def act(app: App) -> list[Any]:
            last = min(
                closed_by(app.workspace, app.now(), now=app.now()), int(share * app.workspace.log.head().position)
            )
            archive(app.workspace, last, actor="kim", now=app.now(), segment_events=40, shrink=False)
            return []

        self._act(act)

    # ------------------------------------------------------------ what the machine does

    @rule()
    def run_to_rest(self) -> None:
        assert world.run(self.root) == 0
        self._holds(at_rest=True)

    @initialize(count=st.integers(25, 40), point=st.sampled_from(DEADLY))
    def die_young(self, count: int, point: str) -> None:
        self.die(count, point, 1)

    @rule(count=st.integers(0, 30), point=st.sampled_from(DEADLY), nth=st.integers(1, 2))
    def die(self, count: int, point: str, nth: int) -> None:
        if count:
            self.examples_arrive(count)
        code = world.run(self.root, f"{point}:{nth}")
        done["deaths"] += code == -signal.SIGKILL
        self._holds(at_rest=code == 0)

    # ------------------------------------------------------------ what must hold

    def _holds(self, *, at_rest: bool) -> None:
        with open_app(self.root, env={}) as app:
            app.workspace.projections.catch_up()
            findings = verify(app.workspace)
            assert sound(findings), [one for one in findings if one.level == "fail"]
            recorded = list(app.workspace.log.read())
            done["events"] += len(recorded)
            ids = Counter(one.event_id for one in recorded)
            assert all(ids[one] == 1 for one in self.acknowledged), "an acknowledged event is lost or doubled"
            assert max(ids.values()) == 1
            state = app.state()
            assert state == fold(LoopState(), recorded)
            kept = snapshot.load(app.workspace.paths.run)
            assert fold(kept, [one for one in recorded if one.position > kept.position]) == state
            _steps_end_once(recorded)
            _counts(state, recorded)
            _exam_is_apart(app, recorded)
            _champion_was_judged(state, recorded)
            before = contents(app.workspace.database)
            app.workspace.projections.rebuild(batch=37)
            assert contents(app.workspace.database) == before, "a rebuild is not what was folded event by event"
            if at_rest:
                pointer = read_pointer(app.workspace.paths.production, TASK)
                assert pointer is not None
                assert pointer.answerer == state.task(TASK).champion.answerer


def _metas(app: App) -> list[str]:
    with app.workspace.database.reading() as connection:
        return [meta for (meta,) in connection.exec_driver_sql("SELECT meta FROM texts WHERE meta LIKE '%\"id\"%'")]


def _steps_end_once(recorded: list[Any]) -> None:
    endings = Counter(
        (one.type, one.stream, getattr(one.event, "evaluation_id", ""))
        for one in recorded
        if isinstance(one.event, ENDINGS)
    )
    assert not [key for key, count in endings.items() if count > 1], endings
    promoted = Counter(one.event.run_id for one in recorded if isinstance(one.event, ev.AdapterPromoted))
    assert not [run for run, count in promoted.items() if run and count > 1], promoted


def _counts(state: LoopState, recorded: list[Any]) -> None:
    """The counters, against a plain count of which label stands on which record."""
    standing: dict[str, tuple[str, str, bool]] = {}
    received = 0
    for one in recorded:
        event = one.event
        if isinstance(event, ev.RecordReceived):
            received += 1
        elif isinstance(event, ev.LabelGiven):
            standing[event.record_id] = (event.label, event.side, event.audit)
        elif isinstance(event, ev.LabelWithdrawn):
            standing.pop(event.record_id)
    task = state.task(TASK)
    assert task.records == received
    for found, side, audit in ((task.labels_train, "train", None), (task.labels_exam, "exam", True)):
        wanted = Counter(label for label, on, drawn in standing.values() if on == side and audit in (None, drawn))
        assert dict(found) == dict(wanted), side
    assert task.labels_hard == sum(side == "exam" and not audit for _, side, audit in standing.values())


def _exam_is_apart(app: App, recorded: list[Any]) -> None:
    """No dataset holds a record of the exam side, nor one of a cluster that the exam side has."""
    received = {one.event.record_id: one.event for one in recorded if isinstance(one.event, ev.RecordReceived)}
    exam = {event.cluster for event in received.values() if event.side == "exam"}
    for one in recorded:
        if isinstance(one.event, ev.DatasetFrozen):
            lines = (app.workspace.artifacts.path(one.event.artifact) / "dataset.jsonl").read_bytes().splitlines()
            items = [msgspec.json.decode(line) for line in lines]
            ids = [item["id"] for item in items if item.get("kind", "task") == "task"]
            assert all(received[name].side == "train" for name in ids), "the exam is trained on"
            assert not {received[name].cluster for name in ids} & exam


def _champion_was_judged(state: LoopState, recorded: list[Any]) -> None:
    task = state.task(TASK)
    judged = {one.event.candidate for one in recorded if isinstance(one.event, ev.CandidateJudged)}
    registered = {one.event.adapter for one in recorded if isinstance(one.event, ev.AdapterRegistered)}
    assert task.champion.answerer == task.baseline or task.champion.answerer in judged & registered


def explore(template: str, count: int, seed: int) -> dict[str, int]:
    """Let the machine run `count` times in this process; what it has been through."""
    LoopMachine.template = Path(template)
    done.clear()
    core.global_force_seed = seed  # as pytest's --hypothesis-seed does: the same runs every time
    rules = settings(
        max_examples=count, stateful_step_count=STEPS, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    run_state_machine_as_test(LoopMachine, settings=rules)
    return dict(done)


def ready(folder: str) -> str:
    """A workspace at rest that has adopted its prompt."""
    root = world.make(Path(folder) / "template", overrides={"trigger": {"first": 20, "every": 15}})
    assert world.run(root) == 0
    return str(root)


def test_whatever_happens_in_whatever_order(
    tmp_path: Path, trials: Trials, measured: Callable[[str, str], None]
) -> None:
    count = trials(50, full=100, soak=1000)
    with forked.workers() as pool:
        template = pool.submit(ready, str(tmp_path)).result()
        parts = [pool.submit(explore, template, count // 2, seed) for seed in (1, 2)]
        total: Counter[str] = Counter()
        for part in parts:
            total.update(part.result())
    assert total["deaths"] > count // 4
    measured(
        f"{total['runs']} random lives of the whole loop, with {total['deaths']} deaths by kill -9",
        "counts, exam, endings, champion, log, snapshot and rebuild as they must be, each time",
    )
