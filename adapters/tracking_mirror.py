"""The mirror itself: what of the log has been sent to Weights & Biases, and sending the rest.

Nothing is lost or sent twice, even after kill -9. wandb's writer keeps up to a block of rows in memory, so the cursor
remembers which session (a folder in .tuneloop/wandb) was open, and the next start reads from that folder, or online
asks the server, how far it really came.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from adapters import tracking_view as view
from adapters import wandb_segments
from adapters.specs import Metric, read_lines, write_json
from adapters.tracking_view import TaskCounts, TrainingView
from store.errors import ArtifactError, StepError
from store.kill_points import reached
from store.log import Recorded
from store.workspace import Workspace

log = logging.getLogger("tuneloop.tracking")

Mode = Literal["online", "offline", "disabled"]

BATCH = 500  # events between two writes of the cursor
ROTATE_ROWS = 100_000  # of one session of the loop's run: what a start after kill -9 has to read
INIT_SECONDS = 60.0


class RunMark(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How far one W&B run has come."""

    run_id: str = ""  # the training's; empty for the loop
    last: int = -1  # step of the last row sent
    artifact_at: int = 0  # see TrainingView.artifact_at, as sent
    session: str = ""  # folder of the session that is open; empty: it was closed cleanly
    base: int = -1  # `last` when that session began
    artifact_base: int = 0  # `artifact_at` when that session began


class Cursor(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What has been sent; `cursor.json`."""

    workspace: str = ""  # from the hash of the log's first event
    generation: int = 0  # rises when the log is found replaced, for example by an older backup
    position: int = 0  # of the last event handled
    hash: str = ""  # of that event
    counts: dict[str, TaskCounts] = {}  # at that position
    runs: dict[str, RunMark] = {}  # by W&B id


class Options(msgspec.Struct, frozen=True, kw_only=True):
    mode: Mode
    project: str = "tuneloop"
    entity: str = ""
    send_text: bool = False


class Mirror:
    """Brings W&B in line with the log. One process a workspace: see `tracking.locked`."""

    def __init__(self, workspace: Workspace, options: Options) -> None:
        self._workspace = workspace
        self._log = workspace.log
        self._options = options
        self._home = workspace.paths.wandb
        self._path = self._home / "cursor.json"
        self._open: dict[str, Any] = {}  # W&B id -> wandb's run
        self._sent: dict[str, tuple[Any, Any]] = {}  # W&B id -> (config, summary) as this process has sent them
        self._checked = False
        self.cursor = _read_cursor(self._path)

    # ------------------------------------------------------------ following the log

    def catch_up(self, stopping: Callable[[], bool] = lambda: False) -> int:
        """Send what is new, batch by batch; returns how many events were handled.

        Raises:
            StoreError: the log cannot be read.
            Exception: whatever wandb raises; call `abandon`, and again later.
        """
        if not self._checked and not self._same_log():
            return 0
        self._recover()
        handled = 0
        while not stopping():
            batch = list(self._log.read(self.cursor.position, BATCH))
            if not batch:
                break
            self._handle(batch)
            handled += len(batch)
        return handled

    def close(self) -> None:
        """Close all runs cleanly, and with them wandb's own process."""
        for wandb_id in list(self._open):
            self._close(wandb_id)
        self._teardown()

    def abandon(self) -> None:
        """Drop all sessions after a failure; what they really hold is found out by the next `catch_up`."""
        for run in self._open.values():
            with contextlib.suppress(Exception):
                run.finish()
        self._open.clear()
        with contextlib.suppress(Exception):
            self._teardown()
        self.cursor = _read_cursor(self._path)
        self._checked = False

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    def _handle(self, batch: Sequence[Recorded]) -> None:
        counts = self._send_loop(batch)
        reached("mirror.rows_sent")
        trainings: set[str] = set()
        for recorded in batch:
            task = recorded.event.task
            trainings |= view.touched(recorded, self._log.stream(f"deployment/{task}") if _deploys(recorded) else [])
        ended = [wandb_id for run_id in sorted(trainings) if (wandb_id := self._send_training(run_id))]
        self.cursor.position, self.cursor.hash = batch[-1].position, batch[-1].hash.hex()
        self.cursor.counts = counts
        reached("mirror.training_sent")
        self._save()
        reached("mirror.position_noted")
        for wandb_id in ended:
            self._close(wandb_id)
        loop = self.cursor.runs[self._loop_id]
        if loop.last - loop.base > ROTATE_ROWS:
            self._close(self._loop_id)

    def _send_loop(self, batch: Sequence[Recorded]) -> dict[str, TaskCounts]:
        counts = copy.deepcopy(self.cursor.counts)
        run, mark = self._session(self._loop_id, RunMark(), name="loop", job_type="loop")
        for recorded in batch:
            view.count(counts, recorded.event)
            if recorded.position > mark.last:
                run.log(view.loop_row(counts, recorded), step=recorded.position, commit=True)
                mark.last = recorded.position
        return counts

    def _send_training(self, run_id: str) -> str:
        """Bring a training's run up to date; returns its W&B id once nothing more is expected of it."""
        past = self._log.stream(f"run/{run_id}")
        task = past[0].event.task if past else ""
        metrics = _metrics(self._workspace.paths.runs / run_id / "metrics.jsonl")
        training = view.training_view(past, self._log.stream(f"deployment/{task}"), metrics)
        if training is None:
            return ""
        wandb_id = view.training_run_id(self.cursor.workspace, run_id)
        run, mark = self._session(
            wandb_id, RunMark(run_id=run_id), name=training.adapter, job_type="training", tags=[task]
        )
        config, summary = self._sent.get(wandb_id, (None, None))
        if training.config != config:
            run.config.update(training.config, allow_val_change=True)
        for step, row in training.rows:
            if step > mark.last:
                run.log(row, step=step, commit=True)
                mark.last = step
        if mark.last < training.samples_at:
            with self._workspace.rendering():
                run.log({"samples": self._table(training)}, step=training.samples_at, commit=True)
            mark.last = training.samples_at
        if training.artifact and training.artifact_at > mark.artifact_at:
            self._send_artifact(run, training)
            mark.artifact_at = training.artifact_at
        if training.summary != summary:
            run.summary.update(training.summary)
        self._sent[wandb_id] = training.config, training.summary
        return wandb_id if training.ended else ""

    def _table(self, training: TrainingView) -> Any:
        import wandb

        ids = [sample.get("id", "") for sample in training.samples]
        columns = ["record", "step", "expected", "answered", "correct"]
        rows: list[list[Any]] = [
            [sample.get("id", ""), sample.get("step", ""), expected, answered, expected == answered]
            for sample in training.samples
            for expected, answered in [(sample.get("expected", ""), sample.get("answered", ""))]
        ]
        if self._options.send_text:
            columns.append("text")
            texts = self._workspace.texts.many(ids)
            rows = [[*row, texts.get(row[0], "")] for row in rows]
        return wandb.Table(columns=columns, data=rows)

    def _send_artifact(self, run: Any, training: TrainingView) -> None:
        """Log the adapter. The same content again makes no new version, it only moves the aliases."""
        import wandb

        try:
            folder = self._workspace.artifacts.path(training.artifact)
        except ArtifactError as error:
            log.warning("%s is not sent: %s", training.adapter, error.message)
            return
        artifact = wandb.Artifact(
            f"{training.task}-adapter-{self.cursor.workspace}",
            "model",
            metadata={"adapter": training.adapter, "run_id": training.run_id, "address": training.artifact},
        )
        artifact.add_dir(str(folder), policy="immutable", skip_cache=True)  # content-addressed: needs no copy
        run.log_artifact(artifact, aliases=training.aliases)

    # ------------------------------------------------------------ sessions

    @property
    def _loop_id(self) -> str:
        return view.loop_run_id(self.cursor.workspace, self.cursor.generation)

    def _session(self, wandb_id: str, fresh: RunMark, **described: Any) -> tuple[Any, RunMark]:
        """The open run of an id, opened where it is not, and its mark."""
        mark = self.cursor.runs.setdefault(wandb_id, fresh)
        if wandb_id in self._open:
            return self._open[wandb_id], mark
        run = self._init(wandb_id, described)
        self._open[wandb_id] = run
        self._sent.pop(wandb_id, None)
        if mark.session and self._options.mode == "online":  # cut off: the server knows how far it came
            mark.last = run.starting_step - 1 if run.resumed else mark.base
            mark.artifact_at = mark.artifact_base
        mark.session, mark.base, mark.artifact_base = Path(run.dir).parent.name, mark.last, mark.artifact_at
        self._save()
        reached("mirror.session_noted")
        if self._options.mode == "online":
            log.info("%s is at %s", described.get("name", wandb_id), run.url)
        return run, mark

    def _init(self, wandb_id: str, described: Mapping[str, Any]) -> Any:
        import wandb

        # folders are named by the second: a second session within one would write into the first one's folder
        while any(self._home.glob(f"*run-{time.strftime('%Y%m%d_%H%M%S')}-{wandb_id}")):
            time.sleep(0.1)
        return wandb.init(
            project=self._options.project,
            entity=self._options.entity or None,
            id=wandb_id,
            group=f"tuneloop-{self.cursor.workspace}",
            dir=str(self._home.parent),  # wandb appends its own "wandb"
            mode=self._options.mode,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                init_timeout=INIT_SECONDS,
                save_code=False,
                silent=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
            **described,
        )

    def _close(self, wandb_id: str) -> None:
        run = self._open.pop(wandb_id, None)
        if run is None:
            return
        run.finish()
        reached("mirror.session_closed")
        mark = self.cursor.runs[wandb_id]
        _sync(wandb_segments.file_of(self._home / mark.session))
        mark.session = ""
        self._save()

    def _teardown(self) -> None:
        if "wandb" in sys.modules:
            import wandb

            wandb.teardown()

    # ------------------------------------------------------------ the cursor

    def _recover(self) -> None:
        """Find out how far sessions came that were not closed, and go on from there."""
        cut_off = {one: mark for one, mark in self.cursor.runs.items() if mark.session and one not in self._open}
        for wandb_id, mark in cut_off.items():
            folder = self._home / mark.session
            offline = mark.session.startswith("offline-")
            if offline and folder.is_dir():
                wandb_segments.wait_until_closed(folder, INIT_SECONDS)
                mark.last = max(mark.base, wandb_segments.last_step(folder))
                mark.artifact_at = mark.artifact_base
            if offline:
                mark.session = ""
            if mark.run_id:
                self._close(self._send_training(mark.run_id))
            elif wandb_id == self._loop_id:
                if not offline:
                    self._session(wandb_id, mark, name="loop", job_type="loop")
                if mark.last < self.cursor.position:
                    self._rewind(mark.last)
                self._save()

    def _rewind(self, position: int) -> None:
        """Put the cursor back; the counters of that position are counted anew."""
        self.cursor.position, self.cursor.hash, self.cursor.counts = 0, "", {}
        for recorded in self._log.read():
            if recorded.position > position:
                break
            view.count(self.cursor.counts, recorded.event)
            self.cursor.position, self.cursor.hash = recorded.position, recorded.hash.hex()

    def _same_log(self) -> bool:
        """Whether there is a log to follow; a log that is not the one of the cursor is followed from its start."""
        first = next(self._log.read(limit=1), None)
        if first is None:
            return False
        workspace = first.hash.hex()[:8]
        if self.cursor.workspace != workspace:
            self.cursor = Cursor(workspace=workspace)
        elif self.cursor.position:
            here = next(self._log.read(self.cursor.position - 1, 1), None)
            if here is None or here.hash.hex() != self.cursor.hash:
                log.warning("the log was replaced; the loop is sent again as a run of its own")
                self.cursor.generation += 1
                self.cursor.position, self.cursor.hash, self.cursor.counts = 0, "", {}
        self._checked = True
        return True

    def _save(self) -> None:
        write_json(self._path, self.cursor)


def _read_cursor(path: Path) -> Cursor:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cursor)
    except FileNotFoundError:
        return Cursor()
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise StepError(
            f"{path} cannot be read: {error}",
            hint="Delete it to send everything again; delete the runs it was sent to as well.",
        ) from error


def _metrics(path: Path) -> list[Metric]:
    try:
        return read_lines(path, Metric)
    except (StepError, OSError):  # the events hold enough
        return []


def _deploys(recorded: Recorded) -> bool:
    return recorded.stream.startswith("deployment/")


def _sync(path: Path | None) -> None:
    if path is not None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
