"""Answers from a language model: label scores over a shared prefix, and greedy generation over the same prefix.

The part of the prompt that every text shares is run once per (adapter, prompt) and its keys and values are kept.
Each text is then read once, and all labels hang off it as a tree whose common beginnings are computed once:

    [ kept prefix ] [ text ] ─┬─ ur ── gent ── <end>
                              ├─ bill ─┬─ ing ── <end>
                              │        └─ able ── <end>
                              └─ gen ── eral ── <end>

A label's score is the sum of the log-probabilities of its tokens *and of the end-of-turn token*: the probability
that the model answers exactly this label and nothing more. With the end token no label is a beginning of another
one's event, so labels of different length compare soundly and no length correction is needed. `Scored` turns
scores into probabilities by a softmax over the labels at a temperature.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from adapters.bank import Bank
from adapters.encode import Encoded, encode
from adapters.label_tree import Prefix, Tree, common, cut, repeated
from adapters.metrics import softmax
from store.errors import ModelError
from store.prompting import Message, PromptSpec

if TYPE_CHECKING:
    import torch

MAX_LENGTH = 2048  # tokens of prompt and ticket; a longer ticket loses its middle
MEMORY_MB = 512  # working memory of one batch, estimated
Progress = Callable[[int, int], None]


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of all labels for one text, in nats, before any temperature."""

    scores: dict[str, float]
    prompt_tokens: int
    seconds: float  # of its batch, divided by the texts in it
    shortened: bool = False

    @property
    def label(self) -> str:
        """The label of the highest score."""
        return max(self.scores, key=lambda label: self.scores[label])

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
        max_length: tokens of prompt, ticket and answer; a longer ticket is shortened in its middle.
        memory_mb: working memory that a batch may take; batches are made smaller to keep within it.
        prefixes: how many kept prefixes stay in memory, the least recently used goes first.
        """
        import torch

        self.bank = bank
        config = bank.model.config.get_text_config()
        self.max_length = min(max_length, int(getattr(config, "max_position_embeddings", max_length)))
        self._budget = memory_mb << 20
        self._prefixes: OrderedDict[tuple[str, bytes], Prefix] = OrderedDict()
        self._beginnings: OrderedDict[bytes, list[int]] = OrderedDict()
        self._most = prefixes
        self._vocabulary = int(bank.model.get_output_embeddings().weight.shape[0])
        heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        size = torch.finfo(bank.model.dtype).bits // 8
        self._kept_bytes = 2 * heads * width * size * int(config.num_hidden_layers)
        self._token_bytes = (
            int(config.hidden_size) * size * 24 + int(getattr(config, "intermediate_size", 0)) * size * 4
        )
        self._ends = _end_tokens(bank)

    def score(
        self,
        adapter: str,
        prompt: PromptSpec,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        batch_size: int = 16,
        on_progress: Progress | None = None,
    ) -> list[Scored]:
        """Scores of every label for every text, in the order of the texts.

        Args:
            adapter: name in the bank, "" for the base.
            prompt: what stands around each text.
            texts: what to classify.
            labels: at least one, all different.
            batch_size: texts at once, at most.
            on_progress: called with (done, of) after each batch.

        Raises:
            ModelError: the prompt does not fit, or a label has no tokens.
            ArtifactError: there is no such adapter.
        """
        tree = Tree.of([self._label_tokens(label) for label in labels])
        found: list[Scored | None] = [None] * len(texts)
        done = 0
        for rows, prefix, encoded in self._batches(adapter, prompt, texts, len(tree.tokens) + 1, batch_size):
            started = time.perf_counter()
            sums = self._score_batch(adapter, prefix, [one.tokens for one in encoded], tree)
            each = (time.perf_counter() - started) / len(rows)
            for row, one, values in zip(rows, encoded, sums, strict=True):
                found[row] = Scored(
                    scores=dict(zip(labels, values, strict=True)),
                    prompt_tokens=len(one.tokens),
                    seconds=each,
                    shortened=one.shortened,
                )
            done += len(rows)
            if on_progress is not None:
                on_progress(done, len(texts))
        return [one for one in found if one is not None]

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
        found: list[Generated | None] = [None] * len(texts)
        done = 0
        for rows, prefix, encoded in self._batches(adapter, prompt, texts, 1, batch_size, reserve=limit):
            started = time.perf_counter()
            words = self._generate_batch(
                adapter, prefix, [one.tokens for one in encoded], limit, [heat[row] for row in rows], seed, top
            )
            each = (time.perf_counter() - started) / len(rows)
            for row, one, (tokens, details) in zip(rows, encoded, words, strict=True):
                finished = bool(tokens) and tokens[-1] in self._ends
                said = tokens[:-1] if finished else tokens
                found[row] = Generated(
                    text=self.bank.tokenizer.decode(said, skip_special_tokens=True),
                    finished=finished,
                    tokens=len(tokens),
                    prompt_tokens=len(one.tokens),
                    seconds=each,
                    shortened=one.shortened,
                    details=details,
                )
            done += len(rows)
            if on_progress is not None:
                on_progress(done, len(texts))
        return [one for one in found if one is not None]

    def forget(self, adapter: str) -> None:
        """Drop the kept prefixes of an adapter that was unloaded."""
        for key in [key for key in self._prefixes if key[0] == adapter]:
            del self._prefixes[key]

    # ------------------------------------------------------------ batches

    def _batches(
        self, adapter: str, prompt: PromptSpec, texts: Sequence[str], ends: int, batch_size: int, reserve: int = 0
    ) -> Iterator[tuple[list[int], Prefix, list[Encoded]]]:
        """Batches of similar length, the longest first: (indices of texts, prefix, encoded texts).

        `ends` is the number of places per text whose next token is predicted at once.
        """
        if not texts:
            return
        room = self.max_length - (reserve or ends)
        if room <= 0:  # to `encode` it would mean: no limit
            raise ModelError(
                f"the answers alone need {reserve or ends} tokens of the {self.max_length} that the model takes",
                hint="Use fewer or shorter labels, or a smaller max_tokens.",
            )
        encoded = [encode(self.bank.tokenizer, prompt.messages(text), room, user=prompt.user) for text in texts]
        prefix = self._prefix(adapter, prompt)
        shared = [common(prefix.tokens, one.tokens) for one in encoded]
        # a text may merge with the last tokens of the prefix: then it uses only what stands before
        order = sorted(range(len(texts)), key=lambda row: (shared[row], len(encoded[row].tokens)), reverse=True)
        batch: list[int] = []
        for row in order:
            if batch:
                longest = len(encoded[batch[0]].tokens)
                full = len(batch) >= batch_size
                full = full or (len(batch) + 1) * self._row_bytes(longest, shared[row], ends, reserve) > self._budget
                if full or shared[row] != shared[batch[0]]:
                    yield batch, cut(prefix, shared[batch[0]]), [encoded[one] for one in batch]
                    batch = []
            batch.append(row)
        yield batch, cut(prefix, shared[batch[0]]), [encoded[one] for one in batch]

    def _row_bytes(self, length: int, shared: int, ends: int, reserve: int) -> int:
        fed = length - shared + ends
        return (length + ends + reserve) * self._kept_bytes + fed * self._token_bytes + ends * self._vocabulary * 8

    # ------------------------------------------------------------ prefixes and labels

    def _prefix(self, adapter: str, prompt: PromptSpec) -> Prefix:
        asked = msgspec.json.encode([prompt.system, prompt.shots, prompt.user])
        key = (adapter, asked)
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
            return self._prefixes[key]
        if asked not in self._beginnings:
            # what two tickets that have nothing in common share is the prompt's own
            first, second = (encode(self.bank.tokenizer, prompt.messages(text)).tokens for text in ("a", "7 ?"))
            self._beginnings[asked] = first[: common(first, second)]
            if len(self._beginnings) > 4 * self._most:
                self._beginnings.popitem(last=False)
        prefix = self._run_prefix(adapter, self._beginnings[asked])
        self._prefixes[key] = prefix
        if len(self._prefixes) > self._most:
            self._prefixes.popitem(last=False)
        return prefix

    def _run_prefix(self, adapter: str, tokens: list[int]) -> Prefix:
        import torch

        cache, virtual = self.bank.beginning(adapter)
        if tokens:
            with self.bank.active(adapter) as model, torch.inference_mode():
                ids = torch.tensor([tokens], dtype=torch.long, device=self.bank.device)
                model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return Prefix(tokens, [(layer.keys, layer.values) for layer in cache.layers], virtual)

    def _label_tokens(self, label: str) -> list[int]:
        encoded = encode(self.bank.tokenizer, [Message("user", "a"), Message("assistant", label)])
        tokens = encoded.tokens[encoded.start :]
        if len(tokens) < 2:
            raise ModelError(f"the label {label!r} has no tokens", hint="Give labels a text.")
        return tokens

    # ------------------------------------------------------------ forwards

    def _score_batch(self, adapter: str, prefix: Prefix, rows: list[list[int]], tree: Tree) -> list[list[float]]:
        import torch

        nodes = len(tree.tokens)
        ids, positions, mask = self._laid_out(prefix, rows, tree)
        with self.bank.active(adapter) as model, torch.inference_mode():
            output = model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=repeated(prefix.layers, len(rows)),
                use_cache=True,
                logits_to_keep=nodes + 1,
            )
            logits = output.logits.float()
            norms = logits.logsumexp(dim=-1)
            steps = [step for path in tree.paths for step in path]
            contexts = torch.tensor([context for context, _ in steps], device=ids.device)
            tokens = torch.tensor([token for _, token in steps], device=ids.device)
            values = (logits[:, contexts, tokens] - norms[:, contexts]).double()
            owners = torch.tensor([i for i, path in enumerate(tree.paths) for _ in path], device=ids.device)
            sums = torch.zeros(len(rows), len(tree.paths), dtype=torch.double, device=ids.device)
            sums.index_add_(1, owners, values)
        result: list[list[float]] = sums.tolist()
        return result

    def _laid_out(
        self, prefix: Prefix, rows: list[list[int]], tree: Tree
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens and positions [B, L + N], and which key each of them sees [B, 1, L + N, prefix + L + N] (bool).

        Texts are padded on the left, so that each ends in column L - 1 and the N nodes of the tree follow it.
        """
        import torch

        kept = prefix.virtual + len(prefix.tokens)
        suffixes = [row[len(prefix.tokens) :] for row in rows]
        width, nodes = max(len(suffix) for suffix in suffixes), len(tree.tokens)
        ids = torch.zeros(len(rows), width + nodes, dtype=torch.long)
        positions = torch.zeros_like(ids)
        sees = torch.zeros(len(rows), width + nodes, kept + width + nodes, dtype=torch.bool)
        sees[:, :, :kept] = True
        sees[:, :width, kept : kept + width] = torch.ones(width, width, dtype=torch.bool).tril()
        if nodes:
            ids[:, width:] = torch.tensor(tree.tokens)
            sees[:, width:, kept : kept + width] = True
            sees[:, width:, kept + width :] = torch.tensor(tree.sight())
        depths = torch.tensor(tree.depths, dtype=torch.long)
        for index, suffix in enumerate(suffixes):
            blank = width - len(suffix)
            ids[index, blank:width] = torch.tensor(suffix)
            positions[index, blank:width] = torch.arange(kept, kept + len(suffix))
            positions[index, width:] = kept + len(suffix) - 1 + depths
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
        ids, positions, mask = self._laid_out(prefix, rows, Tree([], [], [], []))
        sees = mask[:, :, -1:]  # of the last text token; each new token also sees those before it
        cache = repeated(prefix.layers, len(rows))
        alive = list(range(len(rows)))
        generator = torch.Generator(device=ids.device).manual_seed(seed)
        with self.bank.active(adapter) as model, torch.inference_mode():
            for step in range(limit):
                output = model(
                    input_ids=ids,
                    position_ids=positions,
                    attention_mask=mask,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
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
