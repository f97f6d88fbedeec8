"""A pass of generation on a CPU in fp32: a few new slots behind a cache, in as few operations as the trunk can be written in.

What holds up a small model's pass is not its products but the number of operations around them: a microsecond or two each,
with more for every module and view. `LanguageModel.hidden` has to serve training, and any layers and devices; here the trunk
is one function, for plain layers alone. What every pass of a level needs alike is computed when the level begins: what is
added to a code's embedding (both levels' embeddings, and the ancestors', which are final by then), the rotations of queries
and keys, the mask. Results equal those of `LanguageModel.hidden` up to rounding.

torch.compile makes a pass of this size no faster (experiments/RESULTS.md): the products and attention are the same kernels,
and a call of any kernel costs what a call of an operation costs.

RMSNorm is LayerNorm of (x, -x): the mean of that is 0. F.rms_norm is six operations on a CPU, F.layer_norm one. RoPE uses the
pair again: x turned by a quarter is a slice of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F

from hitvideo.llm.cache import KVCache
from hitvideo.llm.layers import DenseLayers
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.transformer import Block


class _Weights(NamedTuple):
    """One block's: matrices transposed for `x @ w`, norms' weights twice."""

    attention_norm: torch.Tensor  # (2, D)
    qkv: torch.Tensor  # (D, (N + 2 Nkv) K)
    turned_norm: torch.Tensor | None  # (N + Nkv, 1, K), of queries and keys
    out: torch.Tensor  # (N K, D)
    mlp_norm: torch.Tensor  # (2, D)
    gate_up: torch.Tensor  # (D, 2 hidden)
    down: torch.Tensor  # (hidden, D)


def can_decode(model: LanguageModel) -> bool:
    """Whether this model is one that `Decoder` is written for; others take `LanguageModel.hidden`."""
    weight = model.level.weight
    return isinstance(model.layers, DenseLayers) and weight.device.type == "cpu" and weight.dtype == torch.float32


class Decoder:
    """Hidden states of new slots of one level after the other; `begin` a level before its first `hidden`."""

    def __init__(self, model: LanguageModel, cache: KVCache) -> None:
        self.model, self.cache = model, cache
        llm = model.section
        self.heads, self.kv_heads, self.head_dim, self.eps = llm.heads, llm.kv_heads, llm.head_dim, llm.norm_eps
        self.layers = [_weights(cast(Block, block), self.heads, self.kv_heads) for block in model.trunk.blocks]
        self.norm = _twice(model.trunk.norm)
        self.signs = torch.tensor([[1.0], [-1.0]])

    def begin(self, level: int, rows: torch.Tensor) -> None:
        """Prepare a level of rows (B, slots, S), which hold all coarser levels: halves of a guided batch have equal codes."""
        start, stop = self.model.layout.starts[level : level + 2]
        slots, span = self.model.slots(rows.device), slice(start - 1, stop - 1)  # of the inputs that predict the level
        self.first, self.rows = start - 1, rows
        added = self.model.level(slots.level[span]) + self.model.next_level(slots.next_level[span])
        if self.model.ancestor is not None and level > 0:
            added = added + self.model.ancestors_of(rows, slots.ancestors[span])
        self.added = added.expand(len(rows), -1, -1)  # (B, cells, D)
        self.cos, self.sin = (
            torch.cat([self._of_heads(of_q[span], self.heads), self._of_heads(of_k[span], self.kv_heads)], 1)
            for of_q, of_k in zip(slots.next_turn, slots.turn, strict=True)
        )  # (cells, N + Nkv, K)
        self.seen: torch.Tensor | None = None

    def hidden(self, stop: int) -> torch.Tensor:
        """Hidden states (halves B, n, D) of the slots from the cache's end to `stop` - 1, all of them inputs of this level."""
        rows, cache, head_dim, turned = self.rows, self.cache, self.head_dim, self.heads + self.kv_heads
        batch, start, grouped = cache.rows, cache.seen, self.heads != self.kv_heads
        count, own = stop - start, slice(start - self.first, stop - self.first)
        x = self._embedded(rows[:, start:stop]) + self.added[:, own]
        x = torch.cat([x] * (batch // len(rows))).view(batch * count, -1)
        pair = x.unsqueeze(1)  # x is added to in place, so this view of it stays right
        cos, sin, seen = self.cos[own], self.sin[own], self._seen(start, count)
        new, known = cache.spans(count)
        for number, layer in enumerate(self.layers):
            qkv = torch.mm(self._normed(pair, layer.attention_norm), layer.qkv).view(batch, count, -1, 1, head_dim)
            both = qkv.narrow(2, 0, turned) * self.signs
            if layer.turned_norm is not None:
                both = torch.layer_norm(both, (2, head_dim), None, None, self.eps).mul_(layer.turned_norm)
            both = both.flatten(-2)  # (x1, x2, -x1, -x2) of each head: its middle is x turned by a quarter, negated
            qk = (both.narrow(-1, 0, head_dim) * cos).addcmul_(both.narrow(-1, head_dim // 2, head_dim), sin, value=-1)
            q, k = torch.split(qk, [self.heads, self.kv_heads], 2)
            new[2 * number].copy_(k)
            new[2 * number + 1].copy_(qkv.narrow(2, turned, self.kv_heads).squeeze(3))
            mixed = F.scaled_dot_product_attention(
                q.transpose(1, 2), known[2 * number], known[2 * number + 1], seen, enable_gqa=grouped
            )  # (batch, N, n, K)
            x.addmm_(mixed.transpose(1, 2).reshape(batch * count, -1), layer.out)
            gate, up = torch.mm(self._normed(pair, layer.mlp_norm), layer.gate_up).chunk(2, 1)
            x.addmm_(F.silu(gate).mul_(up), layer.down)
        cache.advance(count)
        return self._normed(pair, self.norm).view(batch, count, -1)

    def _of_heads(self, turn: torch.Tensor, heads: int) -> torch.Tensor:
        """(cells, K/2) → the same for both halves of every head: (cells, heads, K)."""
        return torch.cat([turn, turn], -1)[:, None].expand(-1, heads, -1)

    def _normed(self, pair: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMSNorm of (M, 1, D) → (M, D)."""
        return torch.layer_norm(pair * self.signs, weight.shape, weight, None, self.eps).select(1, 0)

    def _embedded(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (B, n, S) → (B, n, D)."""
        if ids.shape[2] > 1:
            return self.model.embedded(ids)
        return F.embedding(ids[..., 0], cast(Any, self.model.embedding).weight)

    def _seen(self, start: int, count: int) -> torch.Tensor | None:
        """What `count` new slots see of the `start` slots before and of themselves: 0, elsewhere -inf. One slot sees all."""
        if count == 1:
            return None
        length = self.cache.length
        if self.seen is None or len(self.seen) < count:
            wide = torch.full((count, length + count), -torch.inf)
            self.seen = wide.triu(length + 1)
        return self.seen[:count, length - start : length + count]


def _twice(norm: Any) -> torch.Tensor:
    return torch.stack([norm.weight, norm.weight])


def _weights(block: Block, heads: int, kv_heads: int) -> _Weights:
    attention, mlp = cast(Any, block.attention), cast(Any, block.mlp)
    turned: torch.Tensor | None = None
    if hasattr(attention.q_norm, "weight"):
        each: Sequence[tuple[Any, int]] = ((attention.q_norm, heads), (attention.k_norm, kv_heads))
        turned = torch.cat([norm.weight.expand(count, 1, -1) for norm, count in each])
    return _Weights(
        _twice(block.attention_norm), attention.qkv.column.weight.T, turned, attention.out.weight.T,
        _twice(block.mlp_norm), mlp.gate_up.column.weight.T, mlp.down.weight.T,
    )  # fmt: skip
