"""Taking erased texts out of the files of a workspace, area by area. `loop.traces` knows how they may be written.

Every function may be repeated: it finds what is left. With `act` unset nothing is changed, only counted. What another
record says in the same words stays where a line says whose it is.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from adapters.samples import FILE as SAMPLES
from adapters.specs import EvalSpec
from loop import traces
from loop.asking import ANSWERS
from loop.blanking import BESIDE, files, overwrite, read, replace
from loop.bootstrap import App
from loop.datasets import Item
from loop.evaluations import CONTROL
from loop.production import Pointer, read_pointer, write_pointer
from loop.reader import SEPARATOR
from loop.sources import CSV_ENDINGS
from loop.steps import LOCK, is_locked
from loop.traces import Victim
from prompts.templates import shot_content
from store.events import DatasetFrozen
from store.kill_points import reached
from store.prompting import Message, PromptSpec
from store.workspace import ERASING

ERASED = b"[erased]"
_UNFINISHED = (".tmp", ".part")  # a writer was killed beside the file's place, or is at it
_SESSIONS = ("run-", "offline-run-")  # begin the names of W&B's folders of runs
SPOOLED = {"train.jsonl", "valid.jsonl", "exam.jsonl"}
_ANSWERED = {"given.jsonl", "predictions.jsonl"}


class Sweep(msgspec.Struct, kw_only=True):
    """What was found, and what must be told."""

    act: bool
    places: dict[str, int] = {}  # area -> files
    running: list[str] = []  # steps that have read the texts and work on
    redacted: dict[str, list[str]] = {}  # artifact -> records because of which it lost files
    waiting: list[str] = []  # files of the spool that hold the same words under another id
    sessions: list[str] = []  # of W&B, whose files held the texts
    unread: list[str] = []  # files that could not be searched

    def count(self, area: str) -> None:
        self.places[area] = self.places.get(area, 0) + 1


def sweep(app: App, victims: Sequence[Victim], *, act: bool, customer: str = "") -> Sweep:
    """Go through every place outside the database. `customer`: lines of the spool that name them go as well."""
    done = Sweep(act=act)
    _production(app, victims, done)
    if act:
        reached("erase.production_swept")
    sweep_runs(app, victims, done)
    if act:
        reached("erase.runs_swept")
    _spool(app, victims, done, customer)
    if act:
        reached("erase.spool_swept")
    _artifacts(app, victims, done)
    if act:
        reached("erase.artifacts_swept")
    _rest(app, victims, done)
    if act:
        reached("erase.rest_swept")
    return done


# ---------------------------------------------------------------- production and runs


def _production(app: App, victims: Sequence[Victim], done: Sweep) -> None:
    folder = app.workspace.paths.production
    for task in sorted({victim.task for victim in victims}):
        pointer = read_pointer(folder, task)
        damaged = pointer is None and (folder / f"{task}.json").exists()
        if not damaged and _without_shots(pointer, victims) is None:
            continue
        done.count("production")
        if done.act:
            with app.workspace.log.fenced(None):  # nobody moves the pointer between our reading and writing
                pointer = read_pointer(folder, task)
                if pointer is None:  # whatever it shows; the daemon writes it anew
                    (folder / f"{task}.json").unlink(missing_ok=True)
                elif (without := _without_shots(pointer, victims)) is not None:
                    write_pointer(folder, without)


def _without_shots(pointer: Pointer | None, victims: Sequence[Victim]) -> Pointer | None:
    """The pointer without examples that show one of the texts; None where it shows none."""
    if pointer is None or (prompt := without_shots(pointer.prompt, victims)) is pointer.prompt:
        return None
    return msgspec.structs.replace(pointer, prompt=prompt)


def without_shots(prompt: PromptSpec, victims: Sequence[Victim]) -> PromptSpec:
    """The prompt without the examples that show one of the texts; itself where there is none."""
    if not prompt.shots:
        return prompt
    shown = {shot_content(prompt.user, victim.text) for victim in victims if victim.text}
    kept: list[Message] = []
    turns = list(prompt.shots)
    while turns:
        size = 2 if len(turns) > 1 and turns[1].role == "assistant" else 1
        if not (turns[0].role == "user" and turns[0].content in shown):
            kept += turns[:size]
        del turns[:size]
    return prompt if len(kept) == len(prompt.shots) else msgspec.structs.replace(prompt, shots=kept)


def sweep_runs(app: App, victims: Sequence[Victim], done: Sweep) -> None:
    """The run folders; names in `running` those whose step is still at work on what it has read."""
    ids = {victim.record_id for victim in victims}
    for folder in sorted(app.workspace.paths.runs.iterdir()):
        if not folder.is_dir():
            continue
        found = False
        for path in files(folder):
            change = _changes(_finished(path.name), ids, victims)
            found |= change is not None and _rewrite(path, victims, done, change)
        if found:
            done.count("runs")
        if found and is_locked(folder / LOCK):
            done.running.append(folder.name)


Change = Callable[[bytes], bytes]  # Raises MsgspecError: it cannot be read


def _finished(name: str) -> str:
    """The name that a file gets, or would have got, once it is written."""
    return next((name.removesuffix(ending) for ending in _UNFINISHED if name.endswith(ending)), name)


def _changes(name: str, ids: set[str], victims: Sequence[Victim]) -> Change | None:
    """How a file of a run folder loses the texts; None for one that holds none, or is looked at as any other."""
    if name in SPOOLED:
        return lambda data: _lines(data, victims, lambda value: None if value.get("id") in ids else value)
    if name in _ANSWERED:
        return lambda data: _lines(data, victims, lambda value: _unsaid(value, ids, "raw"))
    if name == ANSWERS:
        return lambda data: _lines(data, victims, lambda value: _parts_unsaid(value, ids))
    if name == "spec.json":
        return lambda data: _spec(data, victims)
    if name == SAMPLES:
        return lambda data: _lines(data, victims, lambda value: _unsaid(value, ids, "answered"))
    if name == "result.json":
        return lambda data: _result(data, ids)
    return None


def _rewrite(path: Path, victims: Sequence[Victim], done: Sweep, change: Change) -> bool:
    """Write a file anew as `change` has it, or delete it where it was torn by a kill. Whether it held a text."""
    before = read(path, done.unread)
    try:
        after = change(before)
    except msgspec.MsgspecError:
        found = _holds(before, victims)
        if found and done.act:
            path.unlink(missing_ok=True)
        return found
    if after == before:
        return False
    if done.act:
        replace(path, after)
    return True


def _holds(data: bytes, victims: Sequence[Victim]) -> bool:
    """Whether one of the texts, however short, stands in a piece that cannot be read."""
    short = [json.dumps(victim.text)[1:-1].encode() for victim in victims if victim.text.strip()]
    short += [victim.text.strip().encode("utf-8", "surrogatepass") for victim in victims if victim.text.strip()]
    long = [form for victim in victims if traces.searched(victim.text) for form in traces.fragments(victim.text)]
    return any(form in data for form in short) or bool(traces.spans(data, long))


def _unsaid(value: dict[str, Any], ids: set[str], field: str) -> dict[str, Any]:
    return {**value, field: ""} if value.get("id") in ids and value.get(field) else value


def _parts_unsaid(value: dict[str, Any], ids: set[str]) -> dict[str, Any]:
    """Answers of an endpoint as `loop.asking` keeps them."""
    given = [_unsaid(one, ids, "raw") for one in value.get("given") or []]
    return value if given == (value.get("given") or []) else {**value, "given": given}


def _lines(data: bytes, victims: Sequence[Victim], change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> bytes:
    """JSONL without what `change` drops, and without torn lines that hold one of the texts."""
    kept: list[bytes] = []
    before = data.splitlines(keepends=True)
    for line in before:
        try:
            value = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError:
            if not _holds(line, victims):
                kept.append(line)
            continue
        changed = change(value)
        if changed is not None:
            kept.append(line if changed == value else msgspec.json.encode(changed) + b"\n")
    return b"".join(kept)


def _spec(data: bytes, victims: Sequence[Victim]) -> bytes:
    value = msgspec.json.decode(data, type=dict[str, Any])
    if "answerers" not in value:  # a training's, whose prompt shows no examples, or a question's, which holds ids
        return data
    spec = msgspec.convert(value, EvalSpec)
    answerers = [
        one if one.prompt is None else msgspec.structs.replace(one, prompt=without_shots(one.prompt, victims))
        for one in spec.answerers
    ]
    if answerers == spec.answerers:
        return data
    return msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(spec, answerers=answerers)), indent=1)


def _result(data: bytes, ids: set[str]) -> bytes:
    value = msgspec.json.decode(data, type=dict[str, Any])
    samples = [_unsaid(one, ids, "answered") for one in value.get("samples") or []]
    return data if samples == (value.get("samples") or []) else msgspec.json.encode({**value, "samples": samples})


# ---------------------------------------------------------------- what came in


def _spool(app: App, victims: Sequence[Victim], done: Sweep, customer: str) -> None:
    paths = app.workspace.paths
    tasks = app.settings.tasks
    sought = traces.wanted(victims, [*tasks, *(victim.task for victim in victims)], customer)
    # in the order in which a file moves on, so that none escapes by it
    for folder in (paths.inbox, paths.claimed, paths.done, paths.quarantine):
        for path in files(folder) if folder.is_dir() else ():
            # rows that were put aside have lost their header
            table = path.suffix.lower() in CSV_ENDINGS and folder != paths.quarantine
            data = read(path, done.unread)
            hits, others = _lines_about(data, sought, _task_of(path, folder, tasks), table=table)
            if folder == paths.done:  # all of it was taken in: nobody else loses anything
                hits, others = sorted(hits + others), []
            if others:
                done.waiting.append(str(path.relative_to(app.root)))
            if hits:
                done.count(folder.name)
                if done.act:
                    overwrite(path, data, hits)


def _task_of(path: Path, folder: Path, tasks: Mapping[str, object]) -> str:
    """The task that intake gives to a file's lines; empty where only they can tell."""
    if path.parent != folder and path.parent.name in tasks:
        return path.parent.name
    name = path.name.partition(SEPARATOR)[2] or path.name
    for start in (name.rpartition("~")[0], name.partition(".")[0]):
        if start in tasks:
            return start
    return next(iter(tasks)) if len(tasks) == 1 else ""


def _lines_about(
    data: bytes, sought: traces.Wanted, task: str, *, table: bool
) -> tuple[list[traces.Span], list[traces.Span]]:
    """(lines to blank, lines with the same words under another id)."""
    places = traces.spans(data, sought.needles)
    starts = [start for start, _ in places]
    ends = list(accumulate((end for _, end in places), max))  # the furthest end of all places up to each
    hits: list[traces.Span] = []
    others: list[traces.Span] = []
    for span, value in traces.entries(data, table=table):
        before = bisect.bisect_left(starts, span[1])
        quoted = before > 0 and ends[before - 1] > span[0]
        line = data[slice(*span)]
        match traces.judged(line, value, sought, task=task, quoted=quoted):
            case "about":
                hits.append(span)
            case "another":
                others.append(span)
    return hits, others


# ---------------------------------------------------------------- artifacts


def _artifacts(app: App, victims: Sequence[Victim], done: Sweep) -> None:
    """Controls of the first format hold n-grams of the texts that they were fitted on."""
    artifacts = app.workspace.artifacts
    ids = {victim.record_id for victim in victims}
    for address in datasets(app):
        folder = artifacts.root / address
        about = _decoded(folder / CONTROL / "control.json")
        if not isinstance(about, dict) or "vocabularies" not in about:
            continue
        seen = sorted(ids.intersection(members(folder)))
        if not seen:
            continue
        done.redacted[address] = seen
        done.count("artifacts")
        if done.act:
            artifacts.redact(address, [f"{CONTROL}/control.json", f"{CONTROL}/weights.npz"])
    for leftover in artifacts.leftovers():
        for path in files(leftover) if done.act and leftover.is_dir() else ():
            path.unlink(missing_ok=True)


def datasets(app: App) -> dict[str, str]:
    """Address of every frozen dataset that is here -> its run."""
    frozen = app.workspace.log.select("type = ?", [DatasetFrozen.__name__])
    here = set(app.workspace.artifacts.addresses())
    return {one.event.artifact: one.event.run_id for one in frozen if isinstance(one.event, DatasetFrozen)
            and one.event.artifact in here}  # fmt: skip


def members(folder: Path) -> dict[str, str]:
    """Ids of the records in a dataset artifact, each with its part (train, valid)."""
    found: dict[str, str] = {}
    for line in read(folder / "dataset.jsonl", []).splitlines():
        item = msgspec.json.decode(line, type=Item)
        if item.kind == "task":
            found[item.id] = item.split
    return found


# ---------------------------------------------------------------- logs, W&B, and whatever else lies there


def _rest(app: App, victims: Sequence[Victim], done: Sweep) -> None:
    """Every other file below .tuneloop: quoting lines of logs, cells of tables, and the texts as they stand."""
    paths = app.workspace.paths
    ids = {victim.record_id for victim in victims}
    long = {victim.text for victim in victims if traces.searched(victim.text)}
    whole = [form for text in long for form in traces.forms(text)]
    pieces = [piece for text in long for piece in traces.fragments(text)]
    for path in files(paths.home):
        if path.name.endswith(BESIDE):  # ours, of a call that was killed
            if done.act:
                path.unlink(missing_ok=True)
            continue
        if _looked_after(app, path):
            continue
        data = read(path, done.unread)
        session = _session(path, paths.wandb)
        if session and (rows := _table(data)) is not None:
            cleaned = _without_rows(*rows, ids)
            if cleaned is None:
                continue
            done.count("wandb")
            if done.act:
                replace(path, cleaned)
        else:
            quoting = path.suffix in (".log", ".txt")
            failure = path.name == "error.json"
            needles = [*whole, *pieces] if quoting or failure else whole
            hits = traces.quoting_lines(data, needles) if quoting else traces.spans(data, needles)
            if not hits:
                continue
            done.count(path.relative_to(paths.home).parts[0])
            if done.act:
                overwrite(path, data, hits, ERASED if quoting else b"")
        if session.startswith(_SESSIONS) and session not in done.sessions:
            done.sessions.append(session)


def _looked_after(app: App, path: Path) -> bool:
    """Files that have a place of their own in erasing: they are read line by line, so that others keep theirs."""
    paths = app.workspace.paths
    if path.name.startswith((paths.database.name, ERASING)) and path.parent == paths.home:
        return True
    if any(path.is_relative_to(folder) for folder in (paths.artifacts, paths.claimed, paths.done, paths.quarantine)):
        return True
    if path.parent == paths.production:
        return path.suffix == ".json"
    return path.is_relative_to(paths.runs) and _changes(_finished(path.name), set(), ()) is not None


def _session(path: Path, home: Path) -> str:
    """The folder right below W&B's that a file lies in; empty where it lies elsewhere."""
    parts = path.relative_to(home).parts if path.is_relative_to(home) else ()
    return parts[0] if len(parts) > 1 else ""


def _table(data: bytes) -> tuple[dict[str, Any], int, int] | None:
    """A table of ours as wandb stores it, and its columns of ids and texts; None for anything else."""
    if b'"columns"' not in data or b'"data"' not in data:
        return None
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError:
        return None
    columns, rows = value.get("columns"), value.get("data")
    if not isinstance(columns, list) or not isinstance(rows, list) or not {"record", "text"} <= set(columns):
        return None
    return value, columns.index("record"), columns.index("text")


def _without_rows(value: dict[str, Any], record: int, text: int, ids: set[str]) -> bytes | None:
    found = [row for row in value["data"] if row[record] in ids and row[text]]
    for row in found:
        row[text] = ""
    return msgspec.json.encode(value) if found else None


def _decoded(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
