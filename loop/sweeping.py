"""Taking erased texts out of the files of a workspace, area by area. `loop.traces` knows how they may be written.

Every function may be repeated: it finds what is left. With `act` unset nothing is changed, only counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from adapters.specs import EvalSpec, read_json, write_json
from loop import traces
from loop.bootstrap import App
from loop.datasets import Item
from loop.evaluations import CONTROL
from loop.production import read_pointer
from loop.sources import CSV_ENDINGS
from loop.steps import LOCK, is_locked
from loop.traces import Victim
from prompts.templates import shot_content
from store.errors import StepError
from store.events import DatasetFrozen
from store.kill_points import reached
from store.prompting import Message, PromptSpec

ERASED = b"[erased]"
# weights and arrays: no text is written into them
OPAQUE = (".safetensors", ".npz", ".pt", ".pth", ".bin", ".lock")
_LARGEST = 1 << 30  # bytes of a file that is searched
_SPOOLED = {"train.jsonl", "valid.jsonl", "exam.jsonl"}
_ANSWERED = {"given.jsonl", "predictions.jsonl"}


class Sweep(msgspec.Struct, kw_only=True):
    """What was found, and what must be told."""

    act: bool
    places: dict[str, int] = {}  # area -> files
    running: list[str] = []  # steps that have read the texts and work on
    redacted: dict[str, list[str]] = {}  # artifact -> records because of which it lost files
    waiting: list[str] = []  # files not yet taken in that hold the same words under another id
    unsynced: list[str] = []  # W&B sessions that were changed and may be refused from here on

    def count(self, area: str, found: bool = True) -> None:
        if found:
            self.places[area] = self.places.get(area, 0) + 1


def sweep(app: App, victims: Sequence[Victim], *, act: bool, customer: str = "") -> Sweep:
    """Go through every place outside the database. `customer`: quarantined lines that name them go as well."""
    done = Sweep(act=act)
    _production(app, victims, done)
    _reached("erase.production_swept", done)
    _runs(app, victims, done)
    _reached("erase.runs_swept", done)
    _spool(app, victims, done, customer)
    _reached("erase.spool_swept", done)
    _artifacts(app, victims, done)
    _reached("erase.artifacts_swept", done)
    _rest(app, victims, done)
    _reached("erase.rest_swept", done)
    return done


def _reached(point: str, done: Sweep) -> None:
    if done.act:
        reached(point)


def files(folder: Path) -> Iterator[Path]:
    """All plain files below a folder, in order; what vanishes meanwhile is left out."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if not path.is_symlink() and path.is_file() and not name.endswith(OPAQUE):
                yield path


def read(path: Path) -> bytes:
    """The file's bytes; none where it has gone or is too large to be one of ours."""
    try:
        return path.read_bytes() if path.stat().st_size <= _LARGEST else b""
    except OSError:
        return b""


# ---------------------------------------------------------------- production and runs


def _production(app: App, victims: Sequence[Victim], done: Sweep) -> None:
    folder = app.workspace.paths.production
    for task in {victim.task for victim in victims}:
        pointer = read_pointer(folder, task)
        if pointer is None or (prompt := without_shots(pointer.prompt, victims)) is pointer.prompt:
            continue
        done.count("production")
        if done.act:
            write_json(folder / f"{task}.json", msgspec.structs.replace(pointer, prompt=prompt))


def without_shots(prompt: PromptSpec, victims: Sequence[Victim]) -> PromptSpec:
    """The prompt without the examples that show one of the texts; itself where there is none."""
    shown = {shot_content(prompt.user, victim.text) for victim in victims}
    kept: list[Message] = []
    turns = list(prompt.shots)
    while turns:
        size = 2 if len(turns) > 1 and turns[1].role == "assistant" else 1
        if not (turns[0].role == "user" and turns[0].content in shown):
            kept += turns[:size]
        del turns[:size]
    return prompt if len(kept) == len(prompt.shots) else msgspec.structs.replace(prompt, shots=kept)


def _runs(app: App, victims: Sequence[Victim], done: Sweep) -> None:
    ids = {victim.record_id for victim in victims}
    for folder in sorted(app.workspace.paths.runs.iterdir()):
        if not folder.is_dir():
            continue
        found = False
        for path in files(folder):
            if path.name in _SPOOLED:
                found |= _rewrite_lines(path, done, lambda value: None if value.get("id") in ids else value)
            elif path.name in _ANSWERED:
                found |= _rewrite_lines(path, done, lambda value: _unsaid(value, ids, "raw"))
            elif path.name == "spec.json":
                found |= _spec(path, victims, done)
            elif path.name == "result.json":
                found |= _result(path, ids, done)
        if found:
            done.count("runs")
        if found and is_locked(folder / LOCK):
            done.running.append(folder.name)


def _unsaid(value: dict[str, Any], ids: set[str], field: str) -> dict[str, Any]:
    return {**value, field: ""} if value.get("id") in ids and value.get(field) else value


def _rewrite_lines(path: Path, done: Sweep, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> bool:
    """Write a JSONL file anew without what `change` drops; lines that cannot be read stay. Whether it differs."""
    kept: list[bytes] = []
    before = read(path).splitlines()
    for line in before:
        try:
            value = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError:
            kept.append(line)
            continue
        changed = change(value)
        if changed is not None:
            kept.append(line if changed == value else msgspec.json.encode(changed))
    if kept == before:
        return False
    if done.act:
        _replace(path, b"".join(line + b"\n" for line in kept))
    return True


def _spec(path: Path, victims: Sequence[Victim], done: Sweep) -> bool:
    try:
        spec = read_json(path, EvalSpec)
    except StepError:  # a training's: its prompt shows no examples
        return False
    answerers = [
        one if one.prompt is None else msgspec.structs.replace(one, prompt=without_shots(one.prompt, victims))
        for one in spec.answerers
    ]
    if answerers == spec.answerers:
        return False
    if done.act:
        write_json(path, msgspec.structs.replace(spec, answerers=answerers))
    return True


def _result(path: Path, ids: set[str], done: Sweep) -> bool:
    try:
        value = msgspec.json.decode(read(path), type=dict[str, Any])
    except msgspec.MsgspecError:
        return False
    samples = [_unsaid(one, ids, "answered") for one in value.get("samples") or []]
    if samples == (value.get("samples") or []):
        return False
    if done.act:
        _replace(path, msgspec.json.encode({**value, "samples": samples}))
    return True


# ---------------------------------------------------------------- what came in


def _spool(app: App, victims: Sequence[Victim], done: Sweep, customer: str) -> None:
    paths = app.workspace.paths
    for folder, still_to_come in (
        (paths.inbox, True),
        (paths.claimed, True),
        (paths.done, False),
        (paths.quarantine, False),
    ):
        for path in files(folder) if folder.is_dir() else ():
            data = read(path)
            table = path.suffix.lower() in CSV_ENDINGS and folder != paths.quarantine  # rows there have no header
            named = customer if folder == paths.quarantine else ""
            hits, others = _lines_about(data, victims, named, table=table, others_stay=still_to_come)
            if others:
                done.waiting.append(str(path.relative_to(app.root)))
            if hits:
                done.count(folder.name)
                _overwrite(path, data, hits, done)


def _lines_about(
    data: bytes, victims: Sequence[Victim], customer: str, *, table: bool, others_stay: bool
) -> tuple[list[traces.Span], bool]:
    """(lines to blank, whether lines with the same words under another id are left)."""
    needles = [form for victim in victims if traces.searched(victim.text) for form in traces.forms(victim.text)]
    places = traces.spans(data, needles)
    hits: list[traces.Span] = []
    others = False
    for span, value in traces.entries(data, table=table):
        about = any(start < span[1] and end > span[0] for start, end in places)
        if value is not None and not about:
            about = traces.concerns(value, victims) or traces.of_customer(value, customer)
        if about and others_stay and traces.of_another(value, victims):
            others = True
        elif about:
            hits.append(span)
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
        seen = sorted(ids & members(folder))
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


def members(folder: Path) -> set[str]:
    """Ids of the records in a dataset artifact."""
    found = set()
    for line in read(folder / "dataset.jsonl").splitlines():
        item = msgspec.json.decode(line, type=Item)
        if item.kind == "task":
            found.add(item.id)
    return found


# ---------------------------------------------------------------- logs, W&B, and whatever else lies there


def _rest(app: App, victims: Sequence[Victim], done: Sweep) -> None:
    """Every other file below .tuneloop: quoting lines of logs, cells of tables, and the texts as they stand."""
    paths = app.workspace.paths
    ids = {victim.record_id for victim in victims}
    long = [victim.text for victim in victims if traces.searched(victim.text)]
    whole = [form for text in long for form in traces.forms(text)]
    pieces = [piece for text in long for piece in traces.fragments(text)]
    for path in files(paths.home):
        if ours(app, path) or path.is_relative_to(paths.artifacts):
            continue
        data = read(path)
        if path.is_relative_to(paths.wandb) and (cleaned := _table(data, ids)) is not None:
            done.count("wandb")
            if done.act:
                _replace(path, cleaned)
            continue
        quoting = path.suffix in (".log", ".txt") or path.name == "error.json"
        hits = traces.quoting_lines(data, pieces) if path.suffix in (".log", ".txt") else traces.spans(data, whole)
        if path.name == "error.json":
            hits = traces.spans(data, [*whole, *pieces])
        if not hits:
            continue
        done.count(path.relative_to(paths.home).parts[0])
        if path.suffix == ".wandb":
            done.unsynced.append(path.parent.name)
        _overwrite(path, data, hits, done, word=ERASED if quoting and path.suffix != ".json" else b"")


def ours(app: App, path: Path) -> bool:
    """Files that erasing itself looks after: the database and the note of what is being erased."""
    return path.name.startswith((app.workspace.paths.database.name, "erasing.json"))


def _table(data: bytes, ids: set[str]) -> bytes | None:
    """A table as wandb stores it without the texts of these records; None where it holds none."""
    if b'"columns"' not in data[:4096] and b'"data"' not in data[:4096] and b'"_type"' not in data[:64]:
        return None
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError:
        return None
    columns, rows = value.get("columns"), value.get("data")
    if not isinstance(columns, list) or not isinstance(rows, list) or not {"record", "text"} <= set(columns):
        return None
    record, text = columns.index("record"), columns.index("text")
    found = [row for row in rows if row[record] in ids and row[text]]
    for row in found:
        row[text] = ""
    return msgspec.json.encode(value) if found else None


# ---------------------------------------------------------------- writing


def _overwrite(path: Path, data: bytes, hits: Sequence[traces.Span], done: Sweep, word: bytes = b"") -> None:
    """Blank places of a file where it lies: others may have it open, to read on or to append."""
    if not done.act:
        return
    after = traces.blanked(data, hits, word)
    with _Writable(path), path.open("r+b") as file:
        for start, end in hits:
            os.pwrite(file.fileno(), after[start:end], start)
        os.fsync(file.fileno())


class _Writable:
    """wandb keeps files that nobody may write; we give the right back afterwards."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._mode = self._path.stat().st_mode
        self._path.chmod(self._mode | 0o200)

    def __exit__(self, *_: object) -> None:
        self._path.chmod(self._mode)


def _replace(path: Path, content: bytes) -> None:
    """Write a file anew, whole or not at all, with the rights it had."""
    beside = path.with_name(f"{path.name}.erasing")
    mode = path.stat().st_mode
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.chmod(mode)
    beside.replace(path)


def _decoded(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
