"""The beginning that all prompts of one kind share: run once per (adapter, prompt), its keys and values kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

from adapters.bank import Bank
from adapters.encode import encode
from adapters.packed import common
from store.prompting import PromptSpec


class Prefix(msgspec.Struct, frozen=True):
    """The kept beginning of a prompt: its tokens, and keys and values per layer ([1, heads, length, width])."""

    tokens: list[int]
    layers: list[tuple[Any, Any]]
    virtual: int  # positions of a soft prompt before the tokens

    @property
    def length(self) -> int:
        """Positions that it takes, a soft prompt's included."""
        return self.virtual + len(self.tokens)


class Prefixes:
    """Kept prefixes of the adapters of a bank, the least recently used goes first."""

    def __init__(self, bank: Bank, most: int) -> None:
        self._bank = bank
        self._most = most
        self._kept: OrderedDict[tuple[str, bytes], Prefix] = OrderedDict()
        self._beginnings: OrderedDict[bytes, list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, adapter: str, prompt: PromptSpec) -> Prefix:
        """What every text of this prompt begins with, read by `adapter` ("" for the base).

        Raises:
            ArtifactError: there is no such adapter.
        """
        asked = msgspec.json.encode([prompt.system, prompt.shots, prompt.user])
        key = (adapter, asked)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if asked not in self._beginnings:
            # what two tickets that have nothing in common share is the prompt's own
            first, second = (encode(self._bank.tokenizer, prompt.messages(text)).tokens for text in ("a", "7 ?"))
            self._beginnings[asked] = first[: common(first, second)]
            if len(self._beginnings) > 4 * self._most:
                self._beginnings.popitem(last=False)
        prefix = self._kept[key] = self._read(adapter, self._beginnings[asked])
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return prefix

    def forget(self, adapter: str) -> None:
        """Drop what is kept of an adapter that was unloaded."""
        for key in [key for key in self._kept if key[0] == adapter]:
            del self._kept[key]

    def _read(self, adapter: str, tokens: list[int]) -> Prefix:
        import torch

        cache, virtual = self._bank.beginning(adapter)
        if tokens:
            with self._bank.active(adapter) as model, torch.inference_mode():
                ids = torch.tensor([tokens], dtype=torch.long, device=self._bank.device)
                model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return Prefix(tokens, [(layer.keys, layer.values) for layer in cache.layers], virtual)


def repeated(layers: Sequence[tuple[Any, Any]], rows: int) -> Any:
    """A cache of `rows` rows over keys and values of one."""
    from transformers import DynamicCache

    return DynamicCache([(key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1)) for key, value in layers])


def cut(prefix: Prefix, shared: int) -> Prefix:
    """The first `shared` tokens of a kept prefix."""
    if shared == len(prefix.tokens):
        return prefix
    end = prefix.virtual + shared
    return Prefix(prefix.tokens[:shared], [(k[:, :, :end], v[:, :, :end]) for k, v in prefix.layers], prefix.virtual)
