"""Label scores of many texts, read as one sequence behind a kept prefix that grows and shrinks.

    [ kept prefix ] [ text 1 ][ text 2 ] ... [ nodes of 1 ][ nodes of 2 ] ... [ text 9 ][ further nodes of 2 ]

Every token sees the prefix, its own text and the nodes that it continues, at the positions it would have alone. So
nothing is padded on its way through the layers (`adapters.packed` does the same in training); only attention gathers
each text's own keys. Texts whose answer is known leave, their keys and values with them, and new ones are read together
with the nodes that are still asked for, so that no forward is small (as servers admit requests between iterations: Yu
et al. 2022, "Orca", OSDI).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from adapters.label_tree import Search, Tree

if TYPE_CHECKING:
    import torch

    from adapters.attention import Group


class Feed(NamedTuple):
    """What a forward takes: tokens and positions [1, Q], and which of K + Q keys each sees."""

    ids: torch.Tensor
    positions: torch.Tensor
    sight: dict[str, Any]  # arguments of the model: a mask [1, 1, Q, K + Q] (bool), or groups
    wanted: torch.Tensor  # places in Q whose next token is asked for, one for each of `contexts`
    contexts: list[tuple[int, int]]  # (row, context)
    rows: list[int]  # [Q], whose token it is


class Pack:
    """Which token stands in which column behind the prefix."""

    def __init__(self, kept: int, tree: Tree) -> None:
        """Args:
        kept: positions of the prefix, which everything sees.
        tree: that hangs off every text.
        """
        self._kept = kept
        self._tree = tree
        self._tokens: list[int] = []  # not fed yet, with their positions
        self._positions: list[int] = []
        self._rows: list[int] = []  # of every column, fed or not
        self._is_text: list[bool] = []
        self._lengths: dict[int, int] = {}
        self._columns: dict[tuple[int, int], int] = {}
        self._contexts: list[tuple[int, int]] = []

    @property
    def waiting(self) -> int:
        """Tokens that were added and not taken yet."""
        return len(self._tokens)

    def add_text(self, row: int, tokens: Sequence[int]) -> None:
        """A text's own tokens, at least one."""
        self._add(row, tokens, self._kept, is_text=True)
        self._lengths[row] = len(tokens)
        self._mark(row, 0)

    def add_nodes(self, row: int, nodes: Iterable[int]) -> None:
        """Nodes of a text that was added before, each after what it continues."""
        before = self._kept + self._lengths[row] - 1
        for node in nodes:
            self._add(row, [self._tree.tokens[node - 1]], before + self._tree.depths[node - 1], is_text=False)
            self._mark(row, node)

    def take(self, device: torch.device, *, by_rows: bool) -> Feed:
        """What was added since the last call, to be fed next; `by_rows`: to a model with `rows_attention`."""
        import torch

        total, new = len(self._rows), len(self._tokens)
        rows, is_text, columns = torch.tensor(self._rows), torch.tensor(self._is_text), torch.arange(total)
        sees = torch.ones(new, self._kept + total, dtype=torch.bool)
        sees[:, self._kept :] = (rows == rows[-new:, None]) & is_text & (columns <= columns[-new:, None])
        places = [self._columns[key] - (total - new) for key in self._contexts]
        for place, (row, context) in zip(places, self._contexts, strict=True):
            above = [self._kept + self._columns[row, node] for node in self._tree.ancestors(context)]
            sees[place, above] = True
        sight: dict[str, Any] = {"attention_mask": sees[None, None].to(device)}
        if by_rows:  # a mask of any size keeps the model from making a causal one
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
            sight = {"attention_mask": mask, "groups": self._groups(sees, device)}
        feed = Feed(
            torch.tensor([self._tokens], device=device),
            torch.tensor([self._positions], device=device),
            sight,
            torch.tensor(places, device=device),
            self._contexts,
            self._rows[-new:],
        )
        self._tokens, self._positions, self._contexts = [], [], []
        return feed

    def _groups(self, sees: torch.Tensor, device: torch.device) -> list[Group]:
        import torch

        from adapters.attention import Group

        queries: dict[int, list[int]] = {}
        for place, row in enumerate(self._rows[-len(self._tokens) :]):
            queries.setdefault(row, []).append(place)
        keys: dict[int, list[int]] = {row: list(range(self._kept)) for row in queries}
        for column, row in enumerate(self._rows):
            if row in keys:
                keys[row].append(self._kept + column)
        alike: dict[int, list[int]] = {}
        for row, places in queries.items():
            alike.setdefault(len(places).bit_length(), []).append(row)
        found = []
        for rows in alike.values():
            q, k = (torch.tensor(_padded([ragged[row] for row in rows])) for ragged in (queries, keys))
            lengths = torch.tensor([[len(queries[row]), len(keys[row])] for row in rows])
            real, valid = (torch.arange(one.shape[1]) < lengths[:, [i]] for i, one in enumerate((q, k)))
            seen = sees[q[:, :, None], k[:, None, :]] & valid[:, None]
            group = (q.flatten(), k.flatten(), seen[:, None], real.flatten())
            found.append(Group(*(one.to(device) for one in group)))
        return found

    def drop(self, rows: Iterable[int]) -> list[int]:
        """Forget texts; returns the columns that stay, the prefix's included. Call it before anything is added."""
        gone = set(rows)
        stay = [column for column, row in enumerate(self._rows) if row not in gone]
        moved = {column: place for place, column in enumerate(stay)}
        self._rows = [self._rows[column] for column in stay]
        self._is_text = [self._is_text[column] for column in stay]
        self._columns = {key: moved[column] for key, column in self._columns.items() if key[0] not in gone}
        return [*range(self._kept), *(self._kept + column for column in stay)]

    def _add(self, row: int, tokens: Sequence[int], first: int, *, is_text: bool) -> None:
        self._tokens += tokens
        self._positions += range(first, first + len(tokens))
        self._rows += [row] * len(tokens)
        self._is_text += [is_text] * len(tokens)

    def _mark(self, row: int, context: int) -> None:
        self._columns[row, context] = len(self._rows) - 1
        self._contexts.append((row, context))


def label_scores(
    model: Any,
    cache: Any,
    texts: Sequence[Sequence[int]],
    tree: Tree,
    *,
    temperature: float,
    tolerance: float,
    most_tokens: int,
    most_texts: int,
    device: torch.device,
) -> Iterator[list[tuple[int, list[float], float]]]:
    """After each forward the texts whose scores are known: (its index, scores in nats, seconds spent on it).

    Args:
        model: a causal language model in inference mode.
        cache: keys and values of the prefix, one row; it is used up.
        texts: tokens behind the prefix, at least one each.
        tree: of the labels.
        temperature: see `Search.next`.
        tolerance: see `Search.next`; with 0 labels are read in the same forward as their text, where there is room.
        most_tokens: in a forward; only a single text may have more.
        most_texts: new ones in a forward.
        device: where the model is.
    """
    from adapters.attention import ROWS
    from adapters.packed import can_pack

    if not can_pack(model) and model.config._attn_implementation != ROWS:  # others mask
        model.set_attn_implementation(ROWS)
    by_rows = model.config._attn_implementation == ROWS
    pack = Pack(cache.get_seq_length(), tree)
    whole = tree.contexts[1:] if tolerance == 0 else range(0)
    waiting = deque(range(len(texts)))
    searches: dict[int, Search] = {}
    asked: dict[int, Sequence[int]] = {}  # nodes that the searches want, first come first served
    seconds = dict.fromkeys(waiting, 0.0)
    while waiting or searches:
        fed: list[int] = []
        while asked and pack.waiting < most_tokens:
            fed.append(next(iter(asked)))
            pack.add_nodes(fed[-1], asked.pop(fed[-1])[: most_tokens - pack.waiting])
        for _ in range(min(most_texts, len(waiting))):
            tokens = texts[waiting[0]]
            if fed and pack.waiting + len(tokens) + len(whole) > most_tokens:
                break
            fed.append(waiting.popleft())
            searches[fed[-1]] = Search(tree)
            pack.add_text(fed[-1], tokens)
            pack.add_nodes(fed[-1], whole[: max(0, most_tokens - pack.waiting)])
        started = time.perf_counter()
        feed = pack.take(device, by_rows=by_rows)
        output = model(
            input_ids=feed.ids,
            position_ids=feed.positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=feed.wanted,
            **feed.sight,
        )
        _learn(searches, tree, feed, output.logits[0])
        for row in fed:
            asked[row] = searches[row].next(tolerance, temperature)
        each = (time.perf_counter() - started) / len(feed.rows)
        for row in feed.rows:
            seconds[row] += each
        known = [row for row in fed if not asked[row]]
        yield [(row, searches.pop(row).scores(), seconds[row]) for row in known]
        for row in known:
            del asked[row]
        if known and (searches or waiting):
            _keep(cache, pack.drop(known))


def _padded(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows of one length, the shorter filled up with their first value."""
    longest = max(map(len, rows))
    return [[*row, *[row[0]] * (longest - len(row))] for row in rows]


def _learn(searches: dict[int, Search], tree: Tree, feed: Feed, logits: torch.Tensor) -> None:
    """Tell each search the log-probabilities of what may follow the contexts that were fed; logits [N, V]."""
    import torch

    logits = logits.float()
    steps = [(place, token) for place, (_, context) in enumerate(feed.contexts) for token, _ in tree.steps[context]]
    places, tokens = torch.tensor(steps, device=logits.device).T
    values = iter((logits[places, tokens] - logits.logsumexp(dim=-1)[places]).double().tolist())
    for row, context in feed.contexts:
        searches[row].learn(context, list(islice(values, len(tree.steps[context]))))


def _keep(cache: Any, columns: Sequence[int]) -> None:
    import torch

    for layer in cache.layers:
        stay = torch.tensor(columns, device=layer.keys.device)
        layer.keys, layer.values = layer.keys[:, :, stay], layer.values[:, :, stay]
