"""Key-value cache for generation."""

from __future__ import annotations

import torch


class KVCache:
    """Keys and values in one preallocated tensor (layers, 2, B, length, kv_heads, K); the first `seen` slots are filled."""

    def __init__(
        self, layers: int, batch: int, length: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._store = torch.empty(layers, 2, batch, length, kv_heads, head_dim, dtype=dtype, device=device)
        self.seen = 0

    def extend(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append k, v (B, n, kv_heads, K) to one layer; returns all keys and values of that layer."""
        stop = self.seen + k.shape[1]
        self._store[layer, 0, :, self.seen : stop] = k
        self._store[layer, 1, :, self.seen : stop] = v
        return self._store[layer, 0, :, :stop], self._store[layer, 1, :, :stop]

    def advance(self, slots: int) -> None:
        """Move on by `slots`, once every layer has appended them."""
        self.seen += slots
