"""A world in which the loop's commands come true at once: for tests of the policy over long times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from loop import commands as cmd
from loop.policy import decide
from loop.settings import Settings, TaskSettings
from loop.state import LoopState, evolve
from store import events as ev
from store.log import Recorded

START = datetime(2026, 1, 1, tzinfo=UTC)


def settings(**sections: dict[str, object]) -> Settings:
    """One task `t` with two labels; sections override its defaults."""
    return Settings(tasks={"t": TaskSettings.model_validate({"labels": ["a", "b"], **sections})})


class World:
    """State, clock and what the machines of this world answer."""

    def __init__(self, rules: Settings, verdict: Callable[[str, int], str] = lambda *_: "promote") -> None:
        self.rules = rules
        self.verdict = verdict
        self.state = LoopState()
        self.now = START
        self.log: list[Recorded] = []
        self.train_outcome: Callable[[int], str] = lambda _: "ok"
        self.forgetting = False

    def happen(self, event: ev.Event, stream: str = "x") -> None:
        position = len(self.log) + 1
        name = type(event).__name__
        recorded = Recorded(position, str(position), stream, position, name, 1, self.now, "", "", "", 1, b"", event)
        self.log.append(recorded)
        self.state = evolve(self.state, recorded)

    def label(self, record: str, label: str = "a", side: ev.Side = "train", previous: str | None = None) -> None:
        self.happen(
            ev.LabelGiven(
                task="t",
                record_id=record,
                label=label,
                side=side,
                audit=side == "exam",
                annotator="x",
                previous=previous,
            )
        )

    def run(self, limit: int = 200) -> list[cmd.Command]:
        """Carry out what is decided until nothing more is, and return it all."""
        done: list[cmd.Command] = []
        for _ in range(limit):
            commands = decide(self.state, self.rules, self.now)
            if not commands:
                return done
            before = len(self.log)
            for command in commands:
                self.carry_out(command)
                done.append(command)
            if len(self.log) == before:
                return done
        raise AssertionError(f"the loop does not come to rest: {done[-5:]}")

    def carry_out(self, command: cmd.Command) -> None:
        self.now += timedelta(seconds=1)
        task = self.state.task(command.task)
        match command:
            case cmd.AdoptPrompt():
                self.happen(ev.PromptAdopted(task="t", prompt="zero-shot@1", digest="d", scores=[], reason=""))
            case cmd.Harvest():
                self.happen(ev.HarvestCompleted(task="t", up_to=self.state.position, considered=0, requested={}))
            case cmd.FreezeDataset():
                self.happen(
                    ev.DatasetFrozen(
                        task="t", run_id=command.run_id, artifact="d", up_to=self.state.position,
                        labels_train=task.train_total, train=task.train_total, valid=0, exam=0, hard_exam=0,
                        per_class={}, curation=[], plan=command.plan,
                    )
                )  # fmt: skip
            case cmd.StartTraining():
                self.happen(
                    ev.TrainingStarted(
                        task="t", run_id=command.run_id, attempt=command.attempt, adapter="", method="qlora",
                        base_model="", base_digest="", quantisation="", prompt="", seed=1, hyperparameters={},
                    )
                )  # fmt: skip
            case cmd.WatchStep(kind="train"):
                self._end_training(command)
            case cmd.WatchStep():
                cycle = task.cycle
                assert cycle is not None
                self.happen(
                    ev.EvaluationSucceeded(
                        task="t", run_id=command.run_id, evaluation_id=cycle.evaluation_id, artifact="e", results=[],
                        paired=[], seconds=1,
                    )
                )  # fmt: skip
            case cmd.RegisterAdapter():
                self.happen(
                    ev.AdapterRegistered(
                        task="t", run_id=command.run_id, adapter="", artifact="", control="", method="", base_digest="",
                        quantisation="", prompt="", temperature=1.0,
                    )
                )  # fmt: skip
            case cmd.StartEvaluation():
                self.happen(
                    ev.EvaluationStarted(
                        task="t", run_id=command.run_id, evaluation_id=f"{command.adapter}-{command.look}",
                        attempt=command.attempt, candidate=command.adapter, champion="", baseline="",
                        exam=task.exam_total, hard_exam=0, look=command.look,
                    )
                )  # fmt: skip
            case cmd.Judge():
                cycle = task.cycle
                assert cycle is not None
                verdict = self.verdict(cycle.adapter, task.looks[cycle.adapter])
                self.happen(
                    ev.CandidateJudged(
                        task="t", run_id=command.run_id, evaluation_id=cycle.evaluation_id, candidate=cycle.adapter,
                        champion="", verdict=verdict, checks=[], summary="",
                    )
                )  # fmt: skip
            case cmd.Promote():
                cycle = task.cycle
                assert cycle is not None
                self.happen(
                    ev.AdapterPromoted(
                        task="t", answerer=cycle.adapter, kind="adapter", previous=task.champion.answerer,
                        run_id=command.run_id, gain=0.0,
                    )
                )  # fmt: skip
            case cmd.Reject():
                self.happen(
                    ev.CandidateRejected(
                        task="t", run_id=command.run_id, candidate="", reason=command.reason, forgetting=self.forgetting
                    )
                )
            case cmd.Park():
                self.happen(
                    ev.TrainingFailed(task="t", run_id=command.run_id, attempt=0, reason=command.reason, parked=True)
                )
            case cmd.RollBack():
                before = task.deployed[-2]
                self.happen(
                    ev.AdapterRolledBack(
                        task="t", answerer=before.answerer, kind=before.kind, rolled_back=task.champion.answerer
                    )
                )
            case _:
                raise AssertionError(command)

    def _end_training(self, command: cmd.WatchStep) -> None:
        outcome = self.train_outcome(command.attempt)
        if outcome == "ok":
            self.happen(
                ev.TrainingSucceeded(
                    task="t", run_id=command.run_id, artifact="a", steps=60, epochs=3, seconds=1, train_loss=1,
                    eval_accuracy=None, temperature=1, peak_memory_mb=1, stopped="steps",
                )
            )  # fmt: skip
        elif outcome.startswith("dies at "):
            checkpoint = int(outcome.removeprefix("dies at "))
            self.happen(
                ev.StepInterrupted(
                    task="t", run_id=command.run_id, kind="train", attempt=command.attempt, checkpoint=checkpoint,
                    reason="killed",
                )
            )  # fmt: skip
        else:
            self.happen(
                ev.TrainingFailed(
                    task="t", run_id=command.run_id, attempt=command.attempt, reason=outcome, parked=False
                )
            )
