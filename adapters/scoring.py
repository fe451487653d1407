"""Answers from a language model: label scores over a shared prefix, and greedy generation over the same prefix.

The part of the prompt that every text shares is run once per (adapter, prompt) and its keys and values are kept.
Each text is then read once, and the labels hang off it as a tree whose common beginnings are computed once:

    [ kept prefix ] [ text ] ─┬─ ur ── gent ── <end>
                              ├─ bill ─┬─ ing ── <end>
                              │        └─ able ── <end>
                              └─ gen ── eral ── <end>

A label's score is the sum of the log-probabilities of its tokens *and of the end-of-turn token*: the probability
that the model answers exactly this label and nothing more. With the end token no label is a beginning of another
one's event, so labels of different length compare soundly and no length correction is needed. `Scored` turns
scores into probabilities by a softmax over the labels at a temperature. Branches that cannot change a probability by
more than a tolerance are not read (`adapters.label_tree`); how the rest is read at once: `adapters.score_pack`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from adapters.bank import Bank
from adapters.encode import Encoded, encode
from adapters.label_tree import Tree
from adapters.metrics import softmax
from adapters.packed import common
from adapters.prefixes import Prefix, Prefixes, cut, repeated
from adapters.score_pack import label_scores
from store.errors import ModelError
from store.prompting import Message, PromptSpec

if TYPE_CHECKING:
    import torch

MAX_LENGTH = 2048  # tokens of prompt and ticket; a longer ticket loses its middle
MEMORY_MB = 512  # working memory of one batch, estimated
TOLERANCE = 0.02  # of a probability, where answers are given; bf16 moves one by more than that (`make bench-score`)
PACK_TOKENS = 448  # in one forward of label scores; attention grows with its square
CUDA_PACK_TOKENS = 4096
Progress = Callable[[int, int], None]


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of all labels for one text, in nats, before any temperature; bounds for labels that were not read."""

    scores: dict[str, float]
    prompt_tokens: int
    seconds: float  # its tokens' share of the forwards they were in
    shortened: bool = False

    @property
    def label(self) -> str:
        """The label of the highest score."""
        return max(self.scores, key=lambda label: self.scores[label])

    def answer(self, temperature: float = 1.0, abstain_below: float = 0.0) -> str | None:
        """The label of the highest score; None where its probability (0..1) is below `abstain_below`."""
        best = self.label
        return best if not abstain_below or self.probabilities(temperature)[best] >= abstain_below else None

    def probabilities(self, temperature: float = 1.0) -> dict[str, float]:
        """Softmax over the labels."""
        return dict(zip(self.scores, softmax(list(self.scores.values()), temperature), strict=True))


class Token(msgspec.Struct, frozen=True):
    """A generated token, its log-probability, and the likeliest tokens at its place."""

    text: str
    log_probability: float
    top: list[tuple[str, float]]


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """One text's answer in the model's own words."""

    text: str
    finished: bool  # by an end-of-turn token, not by the limit
    tokens: int
    prompt_tokens: int
    seconds: float
    shortened: bool = False
    details: list[Token] = []  # only where asked for


class Scorer:
    """Scores labels and generates, for any adapter of a bank. Not safe for several threads."""

    def __init__(
        self, bank: Bank, *, max_length: int = MAX_LENGTH, memory_mb: int = MEMORY_MB, prefixes: int = 16
    ) -> None:
        """Args:
        bank: model and adapters.
        max_length: tokens of prompt, ticket and answer, or the model's own limit where that is less (its positions, a
            sliding window); a longer ticket is shortened in its middle.
        memory_mb: working memory that a batch may take; batches are made smaller to keep within it.
        prefixes: how many kept prefixes stay in memory, the least recently used goes first.
        """
        import torch

        self.bank = bank
        config = bank.model.config.get_text_config()
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        # the masks here know no window: what stays within it sees all of itself
        limits = (max_length, getattr(config, "max_position_embeddings", None), window)
        self.max_length = min(int(limit) for limit in limits if limit)
        self._budget = memory_mb << 20
        self._prefixes = Prefixes(bank, prefixes)
        self._vocabulary = int(bank.model.get_output_embeddings().weight.shape[0])
        heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        size = torch.finfo(bank.model.dtype).bits // 8
        self._kept_bytes = 2 * heads * width * size * int(config.num_hidden_layers)
        self._token_bytes = (
            int(config.hidden_size) * size * 24 + int(getattr(config, "intermediate_size", 0)) * size * 4
        )
        self._layer_bytes = self._kept_bytes // int(config.num_hidden_layers)
        self._ends = _end_tokens(bank)

    def score(
        self,
        adapter: str,
        prompt: PromptSpec,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        temperature: float = 1.0,
        tolerance: float = 0.0,
        batch_size: int = 16,
        on_progress: Progress | None = None,
    ) -> list[Scored]:
        """Scores of every label for every text, in the order of the texts.

        Args:
            adapter: name in the bank, "" for the base.
            prompt: what stands around each text.
            texts: what to classify.
            labels: at least one, all different.
            temperature: that the scores will be divided by; it only matters with a tolerance.
            tolerance: of every probability (0..1). The best label is the same; labels that could not hold more get
                the bound of their score. 0 reads them all.
            batch_size: new texts in a forward, at most.
            on_progress: called with (done, of) when more is known.

        Raises:
            ModelError: the prompt does not fit, or a label has no tokens.
            ArtifactError: there is no such adapter.
        """
        import torch

        tree = Tree([self._label_tokens(label) for label in labels])
        found: dict[int, Scored] = {}
        encoded = self._encoded(prompt, texts, max(tree.depths, default=0) + 1)
        for rows, prefix in self._by_prefix(adapter, prompt, encoded):
            with self.bank.active(adapter) as model, torch.inference_mode():
                for known in label_scores(
                    model,
                    repeated(prefix.layers, 1),
                    [encoded[row].tokens[len(prefix.tokens) :] for row in rows],
                    tree,
                    temperature=temperature,
                    tolerance=tolerance,
                    most_tokens=self._pack_tokens(prefix),
                    most_texts=batch_size,
                    device=self.bank.device,
                ):
                    for place, values, seconds in known:
                        one = encoded[rows[place]]
                        found[rows[place]] = Scored(
                            scores=dict(zip(labels, values, strict=True)),
                            prompt_tokens=len(one.tokens),
                            seconds=seconds,
                            shortened=one.shortened,
                        )
                    if on_progress is not None and known:
                        on_progress(len(found), len(texts))
        return [found[row] for row in range(len(texts))]

    def generate(
        self,
        adapter: str,
        prompt: PromptSpec,
        texts: Sequence[str],
        *,
        max_tokens: int = 0,
        temperatures: Sequence[float] = (),
        seed: int = 0,
        top: int = 0,
        batch_size: int = 16,
        on_progress: Progress | None = None,
    ) -> list[Generated]:
        """The model's own words for every text, in the order of the texts.

        Args:
            adapter: name in the bank, "" for the base.
            prompt: what stands around each text.
            texts: what to answer.
            max_tokens: of the answer; 0: the prompt's own limit.
            temperatures: one per text; 0 (the default) takes the likeliest token.
            seed: of the sampling, where a temperature is above 0.
            top: if above 0, keep for each token its log-probability and this many alternatives.
            batch_size: texts at once, at most.
            on_progress: called with (done, of) after each batch.

        Raises:
            ModelError: the prompt does not fit.
            ArtifactError: there is no such adapter.
        """
        limit = max_tokens or prompt.max_tokens
        heat = list(temperatures) or [0.0] * len(texts)
        found: dict[int, Generated] = {}
        encoded = self._encoded(prompt, texts, limit)
        lengths = [len(one.tokens) + limit for one in encoded]
        for group, prefix in self._by_prefix(adapter, prompt, encoded):
            for rows in self._batches(group, lengths, len(prefix.tokens), batch_size):
                started = time.perf_counter()
                words = self._generate_batch(
                    adapter,
                    prefix,
                    [encoded[row].tokens for row in rows],
                    limit,
                    [heat[row] for row in rows],
                    seed,
                    top,
                )
                each = (time.perf_counter() - started) / len(rows)
                for row, (tokens, details) in zip(rows, words, strict=True):
                    finished = bool(tokens) and tokens[-1] in self._ends
                    said = tokens[:-1] if finished else tokens
                    found[row] = Generated(
                        text=self.bank.tokenizer.decode(said, skip_special_tokens=True),
                        finished=finished,
                        tokens=len(tokens),
                        prompt_tokens=len(encoded[row].tokens),
                        seconds=each,
                        shortened=encoded[row].shortened,
                        details=details,
                    )
                if on_progress is not None:
                    on_progress(len(found), len(texts))
        return [found[row] for row in range(len(texts))]

    def forget(self, adapter: str) -> None:
        """Drop the kept prefixes of an adapter that was unloaded."""
        self._prefixes.forget(adapter)

    # ------------------------------------------------------------ batches

    def _encoded(self, prompt: PromptSpec, texts: Sequence[str], answer: int) -> list[Encoded]:
        """Prompts with their texts, shortened where `answer` more tokens would not fit behind them."""
        room = self.max_length - answer
        if room <= 0:  # to `encode` it would mean: no limit
            raise ModelError(
                f"the answers alone need {answer} tokens of the {self.max_length} that the model takes",
                hint="Use shorter labels, or a smaller max_tokens.",
            )
        return [encode(self.bank.tokenizer, prompt.messages(text), room, user=prompt.user) for text in texts]

    def _by_prefix(
        self, adapter: str, prompt: PromptSpec, encoded: Sequence[Encoded]
    ) -> Iterator[tuple[list[int], Prefix]]:
        """Indices of the texts that use the same kept prefix, the longest texts first."""
        if not encoded:
            return
        prefix = self._prefixes.of(adapter, prompt)
        groups: dict[int, list[int]] = {}
        for row, one in enumerate(encoded):
            # a text may merge with the last tokens of the prefix: then it uses only what stands before; its own last
            # token is always fed, because that predicts
            groups.setdefault(common(prefix.tokens, one.tokens[:-1]), []).append(row)
        for shared, rows in groups.items():
            yield sorted(rows, key=lambda row: len(encoded[row].tokens), reverse=True), cut(prefix, shared)

    def _batches(self, rows: Sequence[int], lengths: Sequence[int], shared: int, most: int) -> Iterator[list[int]]:
        """Rows that fit into the working memory together, the longest first.

        `lengths` of all rows, with what is generated; the first `shared` tokens of each are kept and not fed.
        """
        batch: list[int] = []
        for row in rows:
            if batch:
                longest = lengths[batch[0]]
                each = longest * self._kept_bytes + (longest - shared) * self._token_bytes + self._vocabulary * 8
                if len(batch) >= most or (len(batch) + 1) * each > self._budget:
                    yield batch
                    batch = []
            batch.append(row)
        yield batch

    def _pack_tokens(self, prefix: Prefix) -> int:
        """What fits into the working memory where every token is a node, and of a text of its own."""
        each = self._token_bytes + self._vocabulary * 8 + 2 * prefix.length * self._layer_bytes
        most = PACK_TOKENS if self.bank.device.type == "cpu" else CUDA_PACK_TOKENS
        return max(1, min(most, self._budget // each))

    def _label_tokens(self, label: str) -> list[int]:
        encoded = encode(self.bank.tokenizer, [Message("user", "a"), Message("assistant", label)])
        tokens = encoded.tokens[encoded.start :]
        if len(tokens) < 2:
            raise ModelError(f"the label {label!r} has no tokens", hint="Give labels a text.")
        return tokens

    # ------------------------------------------------------------ forwards

    def _laid_out(self, prefix: Prefix, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens and positions [B, L], and which key each of them sees [B, 1, L, prefix + L] (bool).

        Texts are padded on the left, so that each ends in column L - 1.
        """
        import torch

        kept = prefix.length
        suffixes = [row[len(prefix.tokens) :] for row in rows]
        width = max(len(suffix) for suffix in suffixes)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        positions = torch.zeros_like(ids)
        sees = torch.zeros(len(rows), width, kept + width, dtype=torch.bool)
        sees[:, :, :kept] = True
        sees[:, :, kept:] = torch.ones(width, width, dtype=torch.bool).tril()
        for index, suffix in enumerate(suffixes):
            blank = width - len(suffix)
            ids[index, blank:] = torch.tensor(suffix)
            positions[index, blank:] = torch.arange(kept, kept + len(suffix))
            sees[index, :, kept : kept + blank] = False
            # padding must see something, or its softmax is empty
            sees[index, :blank, kept : kept + blank] |= torch.eye(blank, dtype=torch.bool)
        device = self.bank.device
        return ids.to(device), positions.to(device), sees[:, None].to(device)

    def _generate_batch(
        self,
        adapter: str,
        prefix: Prefix,
        rows: list[list[int]],
        limit: int,
        heat: list[float],
        seed: int,
        top: int,
    ) -> list[tuple[list[int], list[Token]]]:
        import torch

        said: list[tuple[list[int], list[Token]]] = [([], []) for _ in rows]
        ids, positions, mask = self._laid_out(prefix, rows)
        sees = mask[:, :, -1:]  # of the last text token; each new token also sees those before it
        cache = repeated(prefix.layers, len(rows))
        alive = list(range(len(rows)))
        generator = torch.Generator(device=ids.device).manual_seed(seed)
        # by index: a slice of several rows is not contiguous, and the projection would copy its weights for each row
        last = torch.tensor([-1], device=ids.device)
        with self.bank.active(adapter) as model, torch.inference_mode():
            for step in range(limit):
                output = model(
                    input_ids=ids,
                    position_ids=positions,
                    attention_mask=mask,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=last,
                )
                logits = output.logits[:, -1].float()
                chosen = _choose(logits, [heat[row] for row in alive], generator)
                details = self._details(logits, chosen, top) if top else None
                picked = chosen.tolist()
                for place, row in enumerate(alive):
                    said[row][0].append(picked[place])
                    if details is not None:
                        said[row][1].append(details[place])
                going = [place for place, token in enumerate(picked) if token not in self._ends]
                if not going or step == limit - 1:
                    break
                if len(going) < len(alive):
                    keep = torch.tensor(going, device=ids.device)
                    cache.batch_select_indices(keep)
                    chosen, positions, sees = chosen[keep], positions[keep], sees[keep]
                    alive = [alive[place] for place in going]
                ids, positions = chosen[:, None], positions[:, -1:] + 1
                sees = torch.cat([sees, torch.ones_like(sees[..., :1])], dim=-1)
                mask = sees
        return said

    def _details(self, logits: torch.Tensor, chosen: torch.Tensor, top: int) -> list[Token]:
        values = logits.log_softmax(dim=-1)
        best = values.topk(min(top, values.shape[-1]), dim=-1)
        decode = self.bank.tokenizer.decode
        return [
            Token(
                decode([token]),
                float(row[token]),
                [(decode([other]), value) for other, value in zip(others, shares, strict=True)],
            )
            for token, row, others, shares in zip(
                chosen.tolist(), values, best.indices.tolist(), best.values.tolist(), strict=True
            )
        ]


def _choose(logits: torch.Tensor, heat: list[float], generator: torch.Generator) -> torch.Tensor:
    """The likeliest token of each row, or one drawn at the row's temperature; int64 [B]."""
    import torch

    chosen = logits.argmax(dim=-1)
    for row, temperature in enumerate(heat):
        if temperature > 0:
            shares = (logits[row] / temperature).softmax(dim=-1)
            chosen[row] = torch.multinomial(shares, 1, generator=generator)[0]
    return chosen


def _end_tokens(bank: Bank) -> set[int]:
    """Tokens that end an answer: the tokenizer's own and those of the model's generation settings."""
    found = {bank.tokenizer.eos_token_id}
    settings = getattr(bank.model, "generation_config", None)
    more = getattr(settings, "eos_token_id", None)
    found |= set(more) if isinstance(more, list | tuple) else {more}
    return {int(token) for token in found if token is not None}
