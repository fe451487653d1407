"""What a candidate has forgotten: the same general questions and passages for the base model and for it.

Two measures, both paired item by item:

- four-option questions, answered by the option whose words are likeliest after the question (log-probability per
  byte, so that long options are not at a disadvantage);
- bits per byte of plain passages. Multiple choice alone is blind to slow damage: measured on this base model, it
  stayed at 0.50 where the bits per byte rose by 7.5%.

The built-in suite (`data/forgetting.jsonl`) was written for this project. Another suite has the same two kinds of line:
{"kind": "choice", "id", "question", "options", "answer"} and {"kind": "text", "id", "text"}.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from adapters.specs import BaseModelRef, ForgettingResult, ForgettingSpec, read_lines
from store.errors import StepError

if TYPE_CHECKING:
    from adapters.bank import Bank

BUILT_IN = Path(__file__).parent / "data" / "forgetting.jsonl"
MAX_TOKENS = 512  # of an item; the rest of a longer passage is not read
BATCH_TOKENS = 2048
Progress = Callable[[int, int], None]


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a suite."""

    kind: Literal["choice", "text"]
    id: str
    question: str = ""
    options: list[str] = []
    answer: int = 0
    text: str = ""


class Ability(msgspec.Struct, frozen=True, kw_only=True):
    """What one model did on a suite: one entry per question, one per passage."""

    key: str
    correct: list[bool]
    bits: list[float]  # per byte
    bytes: list[int]


def load_suite(spec: ForgettingSpec) -> list[Item]:
    """The suite's items: the first questions and passages, as many as the spec allows.

    Raises:
        StepError: the file is missing, holds no items, or an item is malformed.
    """
    path = Path(spec.path) if spec.path else BUILT_IN
    if not path.exists():
        raise StepError(f"the forgetting suite {path} is not there", hint="Check the path, or leave it empty.")
    items = read_lines(path, Item)
    for item in items:
        if item.kind == "choice" and not (len(item.options) > 1 and 0 <= item.answer < len(item.options)):
            raise StepError(f"{path}: {item.id} has no answer among its options", hint="Mend that line.")
    questions = [item for item in items if item.kind == "choice"][: spec.questions]
    passages = [item for item in items if item.kind == "text" and item.text.strip()][: spec.passages]
    if not questions and not passages:
        raise StepError(f"{path} holds no items", hint="See adapters/forgetting.py for the two kinds of line.")
    return questions + passages


def measure(
    bank: Bank, base: BaseModelRef, candidate: str, spec: ForgettingSpec, on_progress: Progress | None = None
) -> ForgettingResult:
    """Base and candidate on the same suite; the base's own results are kept in `spec.cache`.

    Args:
        bank: model and adapters.
        base: for the cache's key.
        candidate: the adapter's name in the bank.
        spec: which suite, how much of it.
        on_progress: called with (done, of) items.

    Raises:
        StepError: the suite cannot be read.
    """
    items = load_suite(spec)
    started = time.monotonic()
    key = _key(base, items)
    before = _cached(spec.cache, key)
    of = len(items) * (1 if before else 2)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, of)

    if before is None:
        before = ability(bank, "", items, key, advance)
        _keep(spec.cache, before)
    after = ability(bank, candidate, items, key, advance)
    return ForgettingResult(
        suite=spec.suite,
        questions=len(after.correct),
        passages=len(after.bits),
        base_correct=before.correct,
        correct=after.correct,
        base_bits=before.bits,
        bits=after.bits,
        bytes=after.bytes,
        seconds=round(time.monotonic() - started, 1),
    )


def ability(
    bank: Bank, name: str, items: Sequence[Item], key: str, advance: Callable[[int], None] | None = None
) -> Ability:
    """One model (an adapter's name, "" for the base) on all items."""
    say = advance or _silent
    questions = [item for item in items if item.kind == "choice"]
    passages = [item for item in items if item.kind == "text"]
    tokens = [_question_tokens(bank.tokenizer, item) for item in questions]
    correct: dict[int, bool] = {}
    for batch in _batches([sum(map(len, segments)) for segments in tokens]):
        sums = _option_scores(bank, name, [tokens[index] for index in batch])
        for index, scores in zip(batch, sums, strict=True):
            sizes = [len(option.encode()) for option in questions[index].options]
            rates = [score / max(1, size) for score, size in zip(scores, sizes, strict=True)]
            correct[index] = rates.index(max(rates)) == questions[index].answer
        say(len(batch))
    texts = [_passage_tokens(bank.tokenizer, item.text) for item in passages]
    bits: dict[int, tuple[float, int]] = {}
    for batch in _batches([len(row) for row, _ in texts]):
        sums_of_text = _text_scores(bank, name, [texts[index][0] for index in batch])
        for index, score in zip(batch, sums_of_text, strict=True):
            size = texts[index][1]
            bits[index] = (-score / math.log(2) / size, size)
        say(len(batch))
    return Ability(
        key=key,
        correct=[correct[index] for index in range(len(questions))],
        bits=[bits[index][0] for index in range(len(passages))],
        bytes=[bits[index][1] for index in range(len(passages))],
    )


def _question_tokens(tokenizer: Any, item: Item) -> list[list[int]]:
    """The question's tokens, then each option's."""
    question = tokenizer(f"Question: {item.question}\nAnswer:", add_special_tokens=False).input_ids
    options = [tokenizer(f" {option}", add_special_tokens=False).input_ids for option in item.options]
    return [list(question)[-MAX_TOKENS:], *(list(option)[:MAX_TOKENS] for option in options)]


def _passage_tokens(tokenizer: Any, text: str) -> tuple[list[int], int]:
    """A start token and the passage's tokens, and how many bytes they stand for."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    tokens = list(tokenizer(text, add_special_tokens=False).input_ids)
    size = len(text.encode())
    if len(tokens) > MAX_TOKENS:
        tokens = tokens[:MAX_TOKENS]
        size = len(tokenizer.decode(tokens).encode())
    return [int(start), *tokens], max(1, size)


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of similar length, `BATCH_TOKENS` padded tokens at most per batch."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda one: lengths[one]):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= BATCH_TOKENS:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _option_scores(bank: Bank, name: str, rows: Sequence[list[list[int]]]) -> list[list[float]]:
    """Sum of the log-probabilities of every option's tokens; the question is read once, options do not see
    each other."""
    import torch

    width = max(sum(map(len, segments)) for segments in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    sees = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)
    spans: list[list[tuple[int, int]]] = []
    for row, (question, *options) in enumerate(rows):
        start = len(question)
        ids[row, :start] = torch.tensor(question)
        positions[row, :start] = torch.arange(start)
        sees[row, :start, :start] = torch.ones(start, start, dtype=torch.bool).tril()
        place = start
        spans.append([])
        for option in options:
            end = place + len(option)
            ids[row, place:end] = torch.tensor(option)
            positions[row, place:end] = torch.arange(start, start + len(option))
            sees[row, place:end, :start] = True
            sees[row, place:end, place:end] = torch.ones(len(option), len(option), dtype=torch.bool).tril()
            spans[-1].append((place, end))
            place = end
    values = _log_probabilities(bank, name, ids, positions, sees[:, None])
    found: list[list[float]] = []
    for row, (question, *_) in enumerate(rows):
        last = len(question) - 1
        scores = []
        for begin, end in spans[row]:
            # an option's first token is predicted at the question's end, the others one place earlier each
            places = [last, *range(begin, end - 1)]
            tokens = ids[row, begin:end]
            scores.append(float(values(row, places, tokens).sum()))
        found.append(scores)
    return found


def _text_scores(bank: Bank, name: str, rows: Sequence[list[int]]) -> list[float]:
    import torch

    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.arange(width).repeat(len(rows), 1)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    sees = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(rows), 1, 1)
    values = _log_probabilities(bank, name, ids, positions, sees[:, None])
    return [
        float(values(index, list(range(len(row) - 1)), ids[index, 1 : len(row)]).sum())
        for index, row in enumerate(rows)
    ]


def _log_probabilities(
    bank: Bank, name: str, ids: Any, positions: Any, sees: Any
) -> Callable[[int, list[int], Any], Any]:
    """One forward; the result gives, for a row, the log-probabilities of tokens predicted at some places."""
    import torch

    from adapters.prefixes import repeated

    device = bank.device
    cache, virtual = bank.beginning(name)  # of a soft prompt; else empty
    if virtual:
        cache = repeated([(layer.keys, layer.values) for layer in cache.layers], len(ids))
        sees = torch.cat([torch.ones_like(sees[..., :1]).expand(*sees.shape[:-1], virtual), sees], dim=-1)
    with bank.active(name) as model, torch.inference_mode():
        logits = model(
            input_ids=ids.to(device),
            position_ids=(positions + virtual).to(device),
            attention_mask=sees.to(device),
            past_key_values=cache if virtual else None,
            use_cache=bool(virtual),
        ).logits

    def pick(row: int, places: list[int], tokens: Any) -> Any:
        chosen = logits[row, places].float()
        return chosen.gather(1, tokens.to(device)[:, None])[:, 0] - chosen.logsumexp(dim=-1)

    return pick


def _key(base: BaseModelRef, items: Sequence[Item]) -> str:
    suite = hashlib.sha256(msgspec.json.encode(list(items))).hexdigest()[:16]
    return f"{base.digest}/{base.quantisation}/{base.compute}/{suite}"


def _cached(path: str, key: str) -> Ability | None:
    """The base model's own results; a missing, damaged or outdated cache is measured anew."""
    if not path:
        return None
    try:
        kept = msgspec.json.decode(Path(path).read_bytes(), type=Ability)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return None
    return kept if kept.key == key else None


def _keep(path: str, ability: Ability) -> None:
    if path:
        with contextlib.suppress(OSError):  # a full disk costs the next run some seconds
            temporary = Path(f"{path}.{os.getpid()}")
            temporary.write_bytes(msgspec.json.encode(ability))
            temporary.replace(path)


def _silent(_: int) -> None:
    pass
