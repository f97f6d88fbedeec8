"""The transformer trunk: Llama-style blocks (RMSNorm, grouped-query attention with RoPE, SwiGLU).

Shapes: B batch · L slots · D width · N heads · K head dimensions. Under tensor parallelism N and the SwiGLU width are this
rank's share, and l is its share of the L slots; nothing else here depends on the parallel layout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hitvideo.llm.cache import KVCache, LayerCache
from hitvideo.llm.fused import Fused, keep_parts_names
from hitvideo.llm.layers import Layers
from hitvideo.llm.recompute import Recompute, recomputed
from hitvideo.llm.rope import Rotation, rotate
from hitvideo.ops.attention import attention, choose
from hitvideo.ops.norm import RMSNorm
from hitvideo.settings.language_model import LLMSection


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """SwiGLU's product, silu(gate) · up."""
    return F.silu(gate) * up


class Attention(nn.Module):
    """Causal self-attention with RoPE; queries and keys have rotations of their own."""

    def __init__(self, llm: LLMSection, layers: Layers) -> None:
        super().__init__()
        self.layers = layers
        self.head_dim = llm.head_dim
        self.backend = llm.attention
        keys = llm.kv_heads * self.head_dim
        self.qkv = Fused(layers, llm.width, {"q": llm.heads * self.head_dim, "k": keys, "v": keys})
        self.out = layers.row(llm.heads * self.head_dim, llm.width)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if llm.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, llm.norm_eps, layers.over_heads)
            self.k_norm = RMSNorm(self.head_dim, llm.norm_eps, layers.over_heads)
        keep_parts_names(self)

    @staticmethod
    def turn(x: torch.Tensor, turn: Rotation) -> torch.Tensor:
        """`rotate`, as what a compiled run replaces."""
        return rotate(x, turn)

    def forward(
        self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: LayerCache | None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in self.qkv(x))  # (B, L, N, K), k and v (B, L, Nkv, K)
        q, k, v = (self.layers.slots_to_heads(part) for part in (self.q_norm(q), self.k_norm(k), v))
        q, k = self.turn(q, turn_q), self.turn(k, turn_k)
        if cache is not None:
            k, v = cache.extend(k, v)
        mixed = attention(q, k, v, causal=True, backend=choose(self.backend, q.device, q.dtype), mask=mask)
        out: torch.Tensor = self.out(self.layers.heads_to_slots(mixed).flatten(-2))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, llm: LLMSection, layers: Layers) -> None:
        super().__init__()
        self.gate_up = Fused(layers, llm.width, {"gate": llm.hidden, "up": llm.hidden})
        self.down = layers.row(llm.hidden, llm.width)
        keep_parts_names(self)

    @staticmethod
    def product(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """`gated`, as what a compiled run replaces."""
        return gated(gate, up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        out: torch.Tensor = self.down(self.product(*self.gate_up(x)))
        return out


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, llm: LLMSection, layers: Layers, recompute: Recompute) -> None:
        super().__init__()
        self.recompute = recompute
        self.attention_norm = RMSNorm(llm.width, llm.norm_eps, layers.over_slots)
        self.attention = Attention(llm, layers)
        self.mlp_norm = RMSNorm(llm.width, llm.norm_eps, layers.over_slots)
        self.mlp = SwiGLU(llm, layers)

    def forward(
        self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: LayerCache | None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        return recomputed(self.recompute, self._forward, x, turn_q, turn_k, cache, mask)

    def _forward(
        self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: LayerCache | None, mask: torch.Tensor | None
    ) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), turn_q, turn_k, cache, mask)
        out: torch.Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Transformer(nn.Module):
    """Embedded slots in, normalised hidden states out; in between, a rank may hold only a part of the slots."""

    def __init__(self, llm: LLMSection, layers: Layers, recompute: Recompute = "none") -> None:
        super().__init__()
        self.layers = layers
        self.blocks = nn.ModuleList(Block(llm, layers, recompute) for _ in range(llm.layers))
        self.norm = RMSNorm(llm.width, llm.norm_eps, layers.over_slots)

    def forward(
        self,
        x: torch.Tensor,
        turn_q: Rotation,
        turn_k: Rotation,
        cache: KVCache | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        """`mask` (L, slots seen before + L): whether a slot (rows) sees another (columns); None: all up to itself."""
        x = self.layers.scatter(x)  # (B, l, D)
        for number, block in enumerate(self.blocks):
            x = block(x, turn_q, turn_k, None if cache is None else cache.layer(number), mask)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.layers.gather(self.norm(x))
