"""The evaluation step: `python -m adapters.evaluate RUN_FOLDER` (contract of the folder: adapters.specs).

Every answerer answers the same exam on one base model in memory, each under every decoding that it is asked for, so
that like is compared with like. What it answered in earlier looks is taken from there. Then the candidate's general
ability is measured beside the base model's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from adapters import base_model, forgetting
from adapters.bank import Bank
from adapters.child import Journal, Stopping, Threads, peak_memory_mb, run
from adapters.control import Control
from adapters.metrics import softmax
from adapters.scoring import TOLERANCE, Scorer
from adapters.specs import (
    KNOWN,
    AnswererSpec,
    Decoding,
    EvalResult,
    EvalSpec,
    ExamItem,
    Metric,
    Prediction,
    read_json,
    read_lines,
    write_json,
    write_lines,
)
from store.errors import StepError
from store.kill_points import reached
from store.labels import parse_answer
from store.prompting import PromptSpec

RAW_CHARS = 80


def evaluate(folder: Path, stopping: Stopping) -> None:
    """Evaluate what `folder` asks for. Nothing is kept of an interrupted attempt: it takes minutes, not hours.

    Raises:
        ModelError: the base model is missing or is not the recorded one.
        ArtifactError: an adapter or control is damaged or belongs to another base.
        StepError: spec or exam cannot be read.
    """
    spec = read_json(folder / "spec.json", EvalSpec)
    exam = read_lines(folder / "exam.jsonl", ExamItem)
    if not exam:
        raise StepError("exam.jsonl holds no items", hint="Label some audit draws: `tuneloop queue --side exam`.")
    threads = Threads(folder, spec.threads)
    journal = Journal(folder)
    work = _Work(spec, exam, read_lines(folder / KNOWN, Prediction), journal, threads)
    journal.write(Metric(phase="loading"))
    base_model.quiet()
    threads.adjust()
    bank = Bank.open(spec.base, spec.device)
    for one in spec.answerers:
        if one.kind == "adapter":
            bank.load(one.name, Path(one.adapter))
    scorer = Scorer(bank)
    predictions: list[Prediction] = []
    for one in spec.answerers:
        for decoding in one.decodings:
            predictions += work.answer(scorer, one, decoding)
        reached("evaluate.answered")
    write_lines(folder / "predictions.jsonl", predictions)
    reached("evaluate.predictions_written")
    ability = None
    if spec.forgetting is not None:
        said = work.progress("general ability")
        ability = forgetting.measure(bank, spec.base, spec.candidate, spec.forgetting, said)
    write_json(
        folder / "result.json",
        EvalResult(
            run_id=spec.run_id,
            evaluation_id=spec.evaluation_id,
            seconds=journal.seconds(),
            peak_memory_mb=round(peak_memory_mb(), 1),
            forgetting=ability,
        ),
    )
    reached("evaluate.result_written")


class _Work:
    def __init__(
        self,
        spec: EvalSpec,
        exam: Sequence[ExamItem],
        known: Sequence[Prediction],
        journal: Journal,
        threads: Threads,
    ) -> None:
        self._spec = spec
        self._exam = exam
        self._known = {(one.answerer, one.decoding, one.id): one for one in known}
        self._journal = journal
        self._threads = threads

    def progress(self, phase: str) -> Callable[[int, int], None]:
        def say(done: int, of: int) -> None:
            self._threads.adjust()
            self._journal.write(Metric(step=done, of=of, phase=phase))

        return say

    def answer(self, scorer: Scorer, one: AnswererSpec, decoding: Decoding) -> list[Prediction]:
        """One answerer on the whole exam."""
        if one.kind == "control":
            return self._classify(one)
        if one.prompt is None:
            raise StepError(f"{one.name} has no prompt", hint="spec.json is incomplete.")
        adapter = one.name if one.kind == "adapter" else ""
        say = self.progress(f"{one.name} by {decoding}")
        answer = self._generate if decoding == "generate" else self._score
        known = [self._known.get((one.name, decoding, item.id)) for item in self._exam]
        asked = [item for item, found in zip(self._exam, known, strict=True) if found is None]
        made = iter(answer(scorer, one, adapter, one.prompt, asked, say) if asked else ())
        return [found or next(made) for found in known]

    def _classify(self, one: AnswererSpec) -> list[Prediction]:
        model = Control.load(Path(one.control))
        started = time.perf_counter()
        shares = model.predict_proba([item.text for item in self._exam])
        each = (time.perf_counter() - started) * 1000 / len(self._exam)
        return [
            Prediction(
                id=item.id,
                answerer=one.name,
                decoding="classify",
                label=max(share, key=lambda label: share[label]),
                probabilities=_rounded(share),
                latency_ms=round(each, 3),
            )
            for item, share in zip(self._exam, shares, strict=True)
        ]

    def _generate(
        self,
        scorer: Scorer,
        one: AnswererSpec,
        adapter: str,
        prompt: PromptSpec,
        asked: Sequence[ExamItem],
        say: Callable[[int, int], None],
    ) -> list[Prediction]:
        said = scorer.generate(
            adapter,
            prompt,
            [item.text for item in asked],
            batch_size=self._spec.batch_size,
            on_progress=say,
        )
        return [
            Prediction(
                id=item.id,
                answerer=one.name,
                decoding="generate",
                label=parse_answer(words.text, prompt, self._spec.labels),
                raw=words.text[:RAW_CHARS] if self._spec.labels else words.text,
                latency_ms=round(words.seconds * 1000, 2),
            )
            for item, words in zip(asked, said, strict=True)
        ]

    def _score(
        self,
        scorer: Scorer,
        one: AnswererSpec,
        adapter: str,
        prompt: PromptSpec,
        asked: Sequence[ExamItem],
        say: Callable[[int, int], None],
    ) -> list[Prediction]:
        # a label's score follows the prompt at once: a prompt that asks to reason first is not scored as it is used
        direct = msgspec.structs.replace(prompt, reasoning=False)
        scored = scorer.score(
            adapter,
            direct,
            [item.text for item in asked],
            self._spec.labels,
            temperature=one.temperature,
            tolerance=TOLERANCE,
            batch_size=self._spec.batch_size,
            on_progress=say,
        )
        labels = self._spec.labels
        return [
            Prediction(
                id=item.id,
                answerer=one.name,
                decoding="score",
                label=found.answer(one.temperature, one.abstain_below),
                probabilities=_rounded(
                    dict(zip(labels, softmax([found.scores[label] for label in labels], one.temperature), strict=True))
                ),
                latency_ms=round(found.seconds * 1000, 2),
            )
            for item, found in zip(asked, scored, strict=True)
        ]


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {label: round(value, 6) for label, value in shares.items()}


def main() -> int:
    return run(evaluate, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
