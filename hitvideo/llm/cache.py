"""Key-value cache for generation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch


class KVCache:
    """Keys and values in one preallocated tensor (layers, 2, B, length, kv_heads, K); the first `seen` slots are filled."""

    def __init__(
        self, layers: int, batch: int, length: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._store = torch.empty(layers, 2, batch, length, kv_heads, head_dim, dtype=dtype, device=device)
        self.seen = 0

    @property
    def rows(self) -> int:
        """How many rows are in use."""
        return self._store.shape[2]

    @property
    def length(self) -> int:
        """How many slots it can hold."""
        return self._store.shape[3]

    @property
    def bytes(self) -> int:
        """What the rows in use take."""
        return math.prod(self._store.shape) * self._store.element_size()

    def extend(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append k, v (B, n, kv_heads, K) to one layer; returns all keys and values of that layer."""
        stop = self.seen + k.shape[1]
        self._store[layer, 0, :, self.seen : stop] = k
        self._store[layer, 1, :, self.seen : stop] = v
        return self._store[layer, 0, :, :stop], self._store[layer, 1, :, :stop]

    def spans(self, slots: int) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """Views of the keys of layer 0, its values, the keys of layer 1, …: where the next `slots` go, each
        (B, n, kv_heads, K), and all up to these, as attention takes them, each (B, kv_heads, seen + n, K)."""
        both, stop = self._store.flatten(0, 1), self.seen + slots
        return both[:, :, self.seen : stop].unbind(), both[:, :, :stop].transpose(2, 3).unbind()

    def layer(self, number: int) -> LayerCache:
        """One layer's part."""
        return LayerCache(self, number)

    def advance(self, slots: int) -> None:
        """Move on by `slots`, once every layer has appended them."""
        self.seen += slots

    def rewind(self, seen: int) -> None:
        """Forget the slots from `seen` on: the next ones are written over them."""
        assert 0 <= seen <= self.seen, f"a cache of {self.seen} slots cannot go back to {seen}"
        self.seen = seen

    def keep(self, rows: int) -> None:
        """Go on with the first `rows` rows of the batch alone."""
        self._store = self._store[:, :, :rows]


class LayerCache(NamedTuple):
    """What one layer sees of a cache."""

    cache: KVCache
    number: int

    def extend(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`KVCache.extend` for this layer."""
        return self.cache.extend(self.number, k, v)
