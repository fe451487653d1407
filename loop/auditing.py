"""What curation would make of the labels that stand, or of a chat file, before anything is trained. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from adapters.specs import read_lines
from loop import chats, curation, general
from loop.answerers import training_prompt
from loop.bootstrap import App
from loop.datasets import freeze_spec
from loop.exchange import read_file
from loop.fitting import LEFT_OUT, SUSPECTS, FreezeSpec, curated_labels, curated_rows
from loop.suspects import Suspect
from store import queries
from store.errors import InputError
from store.events import CurationCount


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """A doubtful label: `where` is a record, or a line of the file."""

    where: str
    label: str
    likely: str
    doubt: float
    text: str


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    where: str
    step: str
    near: str


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The steps with their counts, and everything a person should look at. `problems`: (line, why it is no example)."""

    train: int
    valid: int
    per_class: dict[str, int]
    curation: list[CurationCount]
    warnings: list[str]
    rare: list[str]
    suspects: list[Doubt]
    left_out: list[Gone]
    problems: list[tuple[int, str]] = []


def audit_labels(app: App, task: str) -> Audit:
    """The labels that stand.

    Raises:
        SettingsError: embeddings are wanted and not installed.
        StepError: the file of general examples cannot be used.
    """
    rules = app.settings.task(task)
    spec = freeze_spec(app, app.state().task(task), rules, "standard", "")
    return _audit(app, spec, curated_labels(app, spec))


def audit_file(app: App, task: str, path: Path) -> Audit:
    """A chat file by itself, and whether it gives the exam away.

    Raises:
        InputError: the file cannot be read, or no line of it is an example.
        SettingsError, StepError: as for `audit_labels`.
    """
    rules = app.settings.task(task)
    spec = freeze_spec(app, app.state().task(task), rules, "standard", "")
    prompt = training_prompt(app, rules)
    rows: list[curation.Labelled] = []
    problems: list[tuple[int, str]] = []
    otherwise = longer = 0
    try:
        with path.open("rb") as file:
            for line in read_file(app, task, file):
                if line.chat is None:
                    problems.append((line.number, line.problem))
                    continue
                otherwise += not chats.as_deployed(prompt, line.chat)
                longer += line.chat.longer
                place = f"line {line.number}"
                rows.append(
                    curation.Labelled(
                        id=place,
                        text=line.text,
                        label="" if rules.free else line.label,
                        cluster=place,
                        position=line.number,
                        failure=None,
                    )
                )
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="Check the path.") from error
    if not rows:
        reason = f": line {problems[0][0]}: {problems[0][1]}" if problems else ""
        raise InputError(f"{path.name} holds no example{reason}", hint="A line is an OpenAI chat with a label.")
    exam = [one.record_id for one in queries.labelled(app.workspace.read, task, side="exam")]
    curated = curated_rows(app, spec, rows, exam)
    told = []
    if problems:
        told.append(f"{len(problems)} lines are no example")
    if otherwise:
        told.append(f"{otherwise} lines have another form than the deployed prompt ({prompt.name})")
    if longer:
        told.append(f"{longer} lines hold more than one question: only the last one counts")
    return _audit(app, spec, curated, told, problems)


def _audit(
    app: App,
    spec: FreezeSpec,
    curated: curation.Curated,
    told: list[str] | None = None,
    problems: list[tuple[int, str]] | None = None,
) -> Audit:
    mixed, advice = general.choose(
        general.read(app.root, spec.general_file), curated.lines, spec.general_share, spec.seed
    )
    texts = {one.id: one.text for one in (*curated.train, *curated.valid)}
    return Audit(
        train=len(curated.train),
        valid=len(curated.valid),
        per_class=dict(Counter(one.label for one in (*curated.train, *curated.valid) if one.label)),
        curation=[*curated.counts, general.counted(mixed)],
        warnings=[*(told or []), *curated.warnings, *advice],
        rare=curated.rare,
        suspects=_doubts(curated.suspects, texts),
        left_out=[Gone(where=one.id, step=one.step, near=one.near) for one in curated.left_out],
        problems=problems or [],
    )


def audit_frozen(app: App, artifact: str) -> tuple[list[Doubt], list[Gone]]:
    """The doubtful labels of a frozen dataset, and who was left out; both empty for one that is older than its lists.
    The text of a record that was erased is "".

    Raises:
        ArtifactError: the dataset is missing.
    """
    folder = app.workspace.artifacts.path(artifact)
    doubted = read_lines(folder / SUSPECTS, Suspect)
    texts = app.workspace.texts.many([one.id for one in doubted])
    left_out = read_lines(folder / LEFT_OUT, curation.LeftOut)
    return _doubts(doubted, texts), [Gone(where=one.id, step=one.step, near=one.near) for one in left_out]


def _doubts(suspects: Sequence[Suspect], texts: Mapping[str, str]) -> list[Doubt]:
    return [
        Doubt(where=one.id, label=one.label, likely=one.likely, doubt=one.doubt, text=texts.get(one.id, ""))
        for one in suspects
    ]
