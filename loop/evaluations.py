"""A look at the exam: its run folder, and what its results say in events."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path

import msgspec

from adapters import free_form, mean_scores, metrics, registry
from adapters.specs import (
    KNOWN,
    AnswererKind,
    AnswererSpec,
    BaseModelRef,
    Decoding,
    EvalResult,
    EvalSpec,
    ExamItem,
    ForgettingResult,
    ForgettingSpec,
    Prediction,
    read_json,
    read_lines,
    write_json,
    write_lines,
)
from loop.answerers import baseline_prompt, training_prompt, upstream
from loop.bootstrap import App
from loop.commands import StartEvaluation
from loop.settings import TaskSettings, schema_of
from loop.state import TaskState
from loop.steps import Fence
from loop.targets import Targets, targets_of
from store import queries
from store.errors import ArtifactError
from store.events import EvaluationSucceeded, Event, ForgettingMeasured
from store.kill_points import reached
from store.targets import is_seal

IDENTITIES = "answerers.json"  # in a kept look: name -> identity
LOOKED_BACK = 10  # looks whose answers are taken again
VERDICTS = "verdicts.jsonl"  # of the judge, without a word
GIVEN = "given.jsonl"  # predictions made before the child starts: answers of a remote endpoint
CONTROL = "control"  # the name the control competes under, and its folder in a dataset artifact


def exam_items(app: App, task: str) -> list[ExamItem]:
    """The exam as it stands: labelled audit draws, and harvested failures of the exam side marked as hard. Labels of
    another kind, which the task had once, are left out."""
    free = app.settings.task(task).free
    rows = queries.records(app.workspace.read, task, side="exam", labelled=True)
    texts = {one.record_id: one for one in app.workspace.texts.stored([row.record_id for row in rows])}
    return [
        ExamItem(
            id=row.record_id,
            text=one.text,
            label=str(row.label),
            hard=not row.audit,
            target=one.said.get(str(row.label), ""),
        )
        for row in rows
        # beside the draws only failures: near-copies of a draw would count it twice
        if (one := texts.get(row.record_id)) is not None
        and is_seal(row.label) == free
        and (row.audit or row.answer not in (None, row.label))
    ]


def prepare(
    app: App,
    task: TaskState,
    rules: TaskSettings,
    command: StartEvaluation,
    base: BaseModelRef,
    folder: Path,
    fence: Fence = nullcontext,
) -> EvalSpec:
    """Write the run folder of a look; a folder that is already there is kept, so a retry sees the same exam.

    Raises:
        StaleEpoch: `fence` refuses; nothing was written.
    """
    if (folder / "spec.json").exists():
        return read_json(folder / "spec.json", EvalSpec)
    app.workspace.projections.catch_up()
    artifacts = app.workspace.artifacts
    remote = bool(upstream(app.settings).url)
    deployed = training_prompt(app, rules)
    decodings: list[Decoding] = ["generate"] if rules.free else ["generate", "score"]
    answerers = []
    if not remote:
        prompt = baseline_prompt(app, rules, task)
        answerers.append(AnswererSpec(name=task.baseline, kind="prompt", prompt=prompt, decodings=decodings))
    wanted = [command.adapter]
    if task.champion.kind == "adapter" and task.champion.answerer != command.adapter:
        wanted.insert(0, task.champion.answerer)
    control = ""
    for name in wanted:
        row = queries.adapter(app.workspace.read, task.task, name)
        artifact = row.artifact if row else command.artifact
        control = row.control if row else control
        path = artifacts.path(artifact, verify=True)
        answerers.append(
            AnswererSpec(
                name=name,
                kind="adapter",
                prompt=deployed,
                adapter=str(path),
                temperature=row.temperature if row else 1.0,
                abstain_below=registry.read_card(path).abstain_below,
                decodings=decodings,
            )
        )
    if control:
        path = artifacts.path(control) / CONTROL
        if (path / "control.json").exists():  # it may have been erased
            answerers.append(AnswererSpec(name=CONTROL, kind="control", control=str(path), decodings=["classify"]))
    spec = EvalSpec(
        run_id=command.run_id,
        evaluation_id=folder.name,
        task=task.task,
        labels=rules.labels,
        base=base,
        candidate=command.adapter,
        answerers=answerers,
        forgetting=ForgettingSpec(cache=str(app.workspace.paths.cache / "forgetting.json")),
        seed=rules.training.seed,
        threads=rules.training.threads,
        device=rules.training.device,
    )
    exam = exam_items(app, task.task)
    with fence():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        write_lines(folder / "exam.jsonl", exam)
        if not rules.free:  # free answers are kept without their words
            write_lines(folder / KNOWN, known(app, spec, {item.id for item in exam}))
        reached("evaluate.exam_written")
        write_json(folder / "spec.json", spec)
    return spec


def known(app: App, spec: EvalSpec, exam: Collection[str]) -> list[Prediction]:
    """What the answerers of a look answered in earlier ones to records of `exam`.

    Nothing is drawn by chance in an answer, and a record's text never changes; so an answerer with the same model,
    weights, prompt and labels gives the same one again.
    """
    wanted = {identity(spec, one) for one in spec.answerers if one.kind != "control"}
    found: dict[tuple[str, str, str], Prediction] = {}
    looks = [row.artifact for row in queries.evaluations(app.workspace.read, spec.task) if row.artifact]
    for address in looks[:LOOKED_BACK]:
        try:
            folder = app.workspace.artifacts.path(address, verify=True)
        except ArtifactError:
            continue  # `verify` tells of it; the answers are made anew
        if not (folder / IDENTITIES).exists():
            continue
        same = {name for name, told in json.loads((folder / IDENTITIES).read_bytes()).items() if told in wanted}
        for one in read_lines(folder / "predictions.jsonl", Prediction):
            if one.answerer in same and one.id in exam:
                found.setdefault((one.answerer, one.decoding, one.id), one)
    return list(found.values())


def identity(spec: EvalSpec, answerer: AnswererSpec) -> str:
    """A digest of all that an answer follows from but the text: model, weights, prompt, labels, and this program."""
    weights = Path(answerer.adapter).name  # the address of its content
    plain = msgspec.structs.replace(answerer, adapter=weights, control="", decodings=[])
    model = (spec.base.digest, spec.base.quantisation, spec.base.compute, spec.device)
    about = (*model, spec.labels, metadata.version("tuneloop"), plain)
    return hashlib.blake2b(msgspec.json.encode(about), digest_size=16).hexdigest()


def read_exam(folder: Path) -> list[ExamItem]:
    """The items of a look, from its run folder."""
    return read_lines(folder / "exam.jsonl", ExamItem)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the judge makes of one answer: 1 better than the right one, 0.5 as good, 0 worse; None: it did not say."""

    id: str
    answerer: str
    score: float | None


def verdicts(folder: Path) -> dict[tuple[str, str], float]:
    """(answerer, item) -> the judge's score, where it gave one; empty where there is no judge."""
    found = read_lines(folder / VERDICTS, Verdict)
    return {(one.answerer, one.id): one.score for one in found if one.score is not None}


def finish(app: App, folder: Path, baseline: str) -> list[Event]:
    """The events of a look whose child has ended well; its predictions become an artifact, without texts.

    Raises:
        StepError: a file of the folder cannot be read.
    """
    spec = read_json(folder / "spec.json", EvalSpec)
    result = read_json(folder / "result.json", EvalResult)
    exam = read_lines(folder / "exam.jsonl", ExamItem)
    predictions = read_lines(folder / GIVEN, Prediction) + read_lines(folder / "predictions.jsonl", Prediction)
    kinds: dict[str, AnswererKind] = {baseline: "prompt"}
    kinds.update({one.name: one.kind for one in spec.answerers})
    opponents = [name for name in kinds if name != spec.candidate]
    rules = app.settings.task(spec.task)
    if rules.free:
        metric = rules.metric or "chrf"
        predictions = free_form.scored(metric, exam, predictions, schema_of(app.root, rules), verdicts(folder))
        results = mean_scores.results(exam, predictions, kinds, metric)
        paired = mean_scores.paired_results(exam, predictions, spec.candidate, opponents, metric)
        predictions = _sealed(app, spec.task, predictions)
    else:
        results = metrics.answerer_results(exam, predictions, kinds)
        paired = metrics.paired_results(exam, predictions, spec.candidate, opponents)
    artifact = _keep(app, folder, spec, exam, predictions)
    events: list[Event] = [
        EvaluationSucceeded(
            task=spec.task,
            run_id=spec.run_id,
            evaluation_id=spec.evaluation_id,
            artifact=artifact,
            results=results,
            paired=paired,
            seconds=round(result.seconds, 1),
        )
    ]
    if result.forgetting is not None:
        events.append(_forgetting(spec, result.forgetting))
    return events


def _sealed(app: App, task: str, predictions: Sequence[Prediction]) -> list[Prediction]:
    """Predictions with the seal of their first words as their label, by which served answers are compared with them."""
    targets = targets_of(app, task)
    known = app.workspace.texts.many([one.id for one in predictions])
    seal = app.workspace.texts.seal_words
    return [
        msgspec.structs.replace(one, label=seal(one.id, targets.beginning(one.raw)))
        for one in predictions
        if targets is not None and one.id in known  # else it was erased meanwhile
    ]


def probe_items(app: App, artifact: str, adapter: str, count: int) -> list[tuple[str, str]]:
    """(text, label) of exam items as the adapter answered them when it was evaluated, for comparing what is
    served with what was judged. The clearest answers are taken: in bf16 a near tie may fall either way with the
    size of the batch."""
    predictions = read_lines(app.workspace.artifacts.path(artifact) / "predictions.jsonl", Prediction)
    mine = [one for one in predictions if one.answerer == adapter and one.decoding == "score" and one.label]
    texts = app.workspace.texts.many([one.id for one in mine])
    mine = sorted((one for one in mine if one.id in texts), key=_margin, reverse=True)
    return [(texts[one.id], str(one.label)) for one in mine[:count]]


class WordsProbe(msgspec.Struct, frozen=True):
    """An exam item, and whether words begin as the answer that was judged."""

    text: str
    begins: Callable[[str], bool]


def probe_words(app: App, rules: TaskSettings, artifact: str, adapter: str, count: int) -> list[WordsProbe]:
    """The same of answers in free words: those that were worth most, of items that are still here."""
    predictions = read_lines(app.workspace.artifacts.path(artifact) / "predictions.jsonl", Prediction)
    mine = [one for one in predictions if one.answerer == adapter and one.label]
    texts = app.workspace.texts.many([one.id for one in mine])
    mine = sorted((one for one in mine if one.id in texts), key=lambda one: -(one.score or 0.0))
    how = Targets.of(app.root, rules, app.settings.daemon.max_text_chars)

    def probe(one: Prediction) -> WordsProbe:
        seal = app.workspace.texts.seal_words
        return WordsProbe(texts[one.id], lambda words: seal(one.id, how.beginning(words)) == one.label)

    return [probe(one) for one in mine[:count]]


def _margin(prediction: Prediction) -> float:
    first, second = [*sorted(prediction.probabilities.values(), reverse=True), 0.0, 0.0][:2]
    return first - second


def _keep(app: App, folder: Path, spec: EvalSpec, exam: Sequence[ExamItem], predictions: Sequence[Prediction]) -> str:
    kept = folder / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    identities = {one.name: identity(spec, one) for one in spec.answerers if one.kind != "control"}
    (kept / IDENTITIES).write_bytes(msgspec.json.encode(identities))
    write_lines(kept / "exam.jsonl", [ExamItem(id=one.id, text="", label=one.label, hard=one.hard) for one in exam])
    # what was generated may echo the ticket: only answers that are labels, or nothing, are kept
    write_lines(kept / "predictions.jsonl", [_without_raw(one) for one in predictions])
    return app.workspace.artifacts.put(kept, "evaluation", {"evaluation_id": folder.name})


def _without_raw(prediction: Prediction) -> Prediction:
    return Prediction(
        id=prediction.id,
        answerer=prediction.answerer,
        decoding=prediction.decoding,
        label=prediction.label,
        probabilities=prediction.probabilities,
        latency_ms=prediction.latency_ms,
        score=prediction.score,
        invalid=prediction.invalid,
    )


def _forgetting(spec: EvalSpec, result: ForgettingResult) -> ForgettingMeasured:
    """Relative drops against the base model on the same items, with a 95% interval for the accuracy's."""
    n = len(result.correct)
    base = sum(result.base_correct) / n if n else 0.0
    mine = sum(result.correct) / n if n else 0.0
    gained = sum(now and not before for now, before in zip(result.correct, result.base_correct, strict=True))
    lost = sum(before and not now for now, before in zip(result.correct, result.base_correct, strict=True))
    paired = metrics.paired_difference(lost, gained, n) if n else None
    scale = 1 / base if base else 0.0
    total = sum(result.bytes) or 1
    base_bits = sum(bits * size for bits, size in zip(result.base_bits, result.bytes, strict=True)) / total
    bits = sum(bits * size for bits, size in zip(result.bits, result.bytes, strict=True)) / total
    return ForgettingMeasured(
        task=spec.task,
        run_id=spec.run_id,
        evaluation_id=spec.evaluation_id,
        candidate=spec.candidate,
        suite=result.suite,
        questions=n,
        base_accuracy=base,
        accuracy=mine,
        accuracy_drop=(base - mine) * scale,
        drop_low=paired.low * scale if paired else 0.0,
        drop_high=paired.high * scale if paired else 0.0,
        base_bits_per_byte=base_bits,
        bits_per_byte=bits,
        bits_rise=bits / base_bits - 1 if base_bits else 0.0,
        seconds=result.seconds,
    )
