"""A workspace with a history, made through the real log: what the tests of the command line look at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from loop.bootstrap import App, open_app
from loop.cli.main import main
from store import events as ev
from store.log import Draft

LABELS = "urgent,billing,technical,general"
START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
NASTY = "\x1b[31mpay\x1b[0m me [bold]now[/bold] \u202eevil\x9b1m"


def make(root: Path, *extra: str) -> Path:
    """An empty workspace."""
    assert main(["init", str(root), "--labels", LABELS, *extra]) == 0
    return root


class History:
    """Appends what the loop would, one minute after the other."""

    def __init__(self, root: Path, task: str = "tickets") -> None:
        self.app: App = open_app(root, env={}, clock=lambda: self.now)
        self.now = START
        self.task = task

    def close(self) -> None:
        self.app.workspace.projections.catch_up()
        self.app.close()

    def add(self, event: ev.Event, stream: str) -> None:
        self.now += timedelta(minutes=1)
        self.app.workspace.log.append([Draft(event, stream)], actor="daemon", now=self.now)

    def record(self, record_id: str, text: str, *, side: ev.Side = "train", answer: str | None = "general") -> None:
        self.now += timedelta(minutes=1)
        texts = self.app.workspace.texts
        seal = texts.seal(text)
        event = ev.RecordReceived(
            task=self.task, record_id=record_id, text_digest=seal.digest, chars=len(text), source="inbox", side=side,
            audit=side == "exam", audit_probability=0.3, cluster=record_id, answer=answer, answered_by="zero-shot@1",
            confidence=0.61, margin=0.2,
        )  # fmt: skip
        self.app.workspace.log.append(
            [Draft(event, f"record/{record_id}")],
            actor="daemon",
            now=self.now,
            within=lambda connection: texts.put(connection, record_id, self.task, text, seal=seal),
        )

    def ask(self, record_id: str, *, side: ev.Side = "train", priority: float = 1.0, why: str = "uncertain") -> None:
        reason = ev.ReviewReason(name=why, detail="margin 0.20", score=0.2)  # type: ignore[arg-type]
        event = ev.ReviewRequested(task=self.task, record_id=record_id, side=side, reasons=[reason], priority=priority)
        self.add(event, f"record/{record_id}")

    def adopt(self, prompt: str = "zero-shot@1") -> None:
        score = ev.PromptScore(prompt=prompt, correct=30, n=60, abstained=2, seconds=4.0)
        event = ev.PromptAdopted(task=self.task, prompt=prompt, digest="d" * 8, scores=[score], reason="the best")
        self.add(event, f"task/{self.task}")

    def candidate(self, number: int, verdict: ev.Outcome, *, accuracy: float = 0.8, promote: bool = False) -> str:
        """A whole cycle, from the dataset to the verdict; the adapter's name."""
        adapter, run, task = f"{self.task}-v{number}", f"{self.task}-run-{number}", self.task
        champion = self.app.state().task(task).champion.answerer
        stream, look = f"run/{run}", f"{adapter}-look-1"
        folder = self.app.root / f"made-{number}"
        folder.mkdir()
        lines = [
            '{"id":"rec-001","label":"billing","split":"train"}',
            '{"id":"general-7","label":"","split":"train","kind":"general"}',
        ]
        (folder / "dataset.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        dataset = self.app.workspace.artifacts.put(folder, "dataset", {"run": run})
        (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
        artifact = self.app.workspace.artifacts.put(folder, "adapter", {"run": run})
        for event in (
            ev.DatasetFrozen(
                task=task, run_id=run, artifact=dataset, up_to=self.app.state().position, labels_train=50, train=42,
                valid=8, exam=40, hard_exam=6, per_class={"billing": 20, "general": 22},
                curation=[ev.CurationCount(step="near-duplicates", count=2, detail="removed")],
                warnings=["urgent has 1 example"], trigger="50 labels",
            ),
            ev.TrainingStarted(
                task=task, run_id=run, attempt=1, adapter=adapter, method="qlora", base_model="SmolLM2",
                base_digest="sha256-" + "b" * 64, quantisation="nf4", prompt="zero-shot@1", seed=1,
                hyperparameters={"rank": 16, "learning_rate": 2e-4},
            ),
            ev.TrainingProgressed(task=task, run_id=run, step=30, of=60, loss=1.5),
            ev.TrainingSucceeded(
                task=task, run_id=run, artifact=artifact, steps=60, epochs=3.0, seconds=41.0, train_loss=0.9,
                eval_accuracy=0.75, temperature=1.2, peak_memory_mb=900.0, stopped="steps",
                samples=[{"id": "rec-001", "step": "20", "expected": "billing", "answered": "urgent"},
                         {"id": "rec-001", "step": "60", "expected": "billing", "answered": "billing"}],
            ),
            ev.AdapterRegistered(
                task=task, run_id=run, adapter=adapter, artifact=artifact, control=dataset, method="qlora",
                base_digest="sha256-" + "b" * 64, quantisation="nf4", prompt="zero-shot@1", temperature=1.2,
            ),
            ev.EvaluationStarted(
                task=task, run_id=run, evaluation_id=look, attempt=1, candidate=adapter, champion=champion,
                baseline="zero-shot@1", exam=40, hard_exam=6, look=1,
            ),
            ev.EvaluationSucceeded(
                task=task, run_id=run, evaluation_id=look, artifact=dataset, seconds=12.0,
                results=[_result("zero-shot@1", "prompt", 0.5), _result(adapter, "adapter", accuracy)],
                paired=[
                    ev.PairedResult(
                        opponent="zero-shot@1", decoding="score", n=40, gained=14, lost=2, difference=0.3, low=0.1,
                        high=0.5, p_value=0.004,
                    )
                ],
            ),
            ev.CandidateJudged(
                task=task, run_id=run, evaluation_id=look, candidate=adapter, champion=champion, verdict=verdict,
                checks=[ev.GateCheck(name="better than baseline", outcome="pass", detail="+30 points", value=0.3)],
                summary=f"{adapter} gains 30 points over zero-shot@1",
            ),
        ):  # fmt: skip
            self.add(event, stream)
        if verdict == "reject":
            self.add(ev.CandidateRejected(task=task, run_id=run, candidate=adapter, reason="too weak"), stream)
        if promote:
            event = ev.AdapterPromoted(
                task=task, answerer=adapter, kind="adapter", previous=champion, artifact=artifact, run_id=run, gain=0.3
            )
            self.add(event, f"deployment/{task}")
        return adapter


def _result(answerer: str, kind: ev.AnswererKind, accuracy: float) -> ev.AnswererResult:
    return ev.AnswererResult(
        answerer=answerer, kind=kind, decoding="score", n=40, correct=round(40 * accuracy), accuracy=accuracy,
        low=accuracy - 0.1, high=accuracy + 0.1, recall={"billing": accuracy}, abstained=0, invalid=0,
        latency_ms=21.0, ece=0.05, hard_n=6, hard_correct=3,
    )  # fmt: skip


def lived_in(root: Path) -> Path:
    """A workspace with records, a queue, a promoted adapter and a rejected one."""
    make(root)
    history = History(root)
    for number in range(1, 9):
        side: ev.Side = "exam" if number % 4 == 0 else "train"
        history.record(f"rec-{number:03}", f"ticket number {number}\nplease help", side=side)
    history.record("rec-evil", NASTY)
    history.adopt()
    for number in (1, 2, 3, 4):
        history.ask(f"rec-{number:03}", side="exam" if number == 4 else "train", priority=10.0 - number)
    history.ask("rec-evil", priority=0.1, why="misclassified")
    history.candidate(1, "promote", promote=True)
    history.candidate(2, "reject", accuracy=0.4)
    history.close()
    return root
