"""The transformer trunk: Llama-style blocks (RMSNorm, grouped-query attention with RoPE, SwiGLU).

Shapes: B batch · L slots · D width · N heads · K head dimensions. Under tensor parallelism N and the SwiGLU width are this
rank's share, and l is its share of the L slots; nothing else here depends on the parallel layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from hitvideo.llm.cache import KVCache
from hitvideo.llm.layers import Layers
from hitvideo.llm.rope import Rotation, rotate
from hitvideo.ops.attention import attention, choose
from hitvideo.ops.norm import RMSNorm
from hitvideo.settings.language_model import LLMSection

Recompute = Literal["none", "selective", "block"]
"""What the backward pass recomputes instead of keeping: nothing; the parts without weights (RoPE, attention's core, SwiGLU's
product), which take much memory and few FLOPs (Korthikanti et al. 2022); or whole blocks.
"""


def recomputed(recompute: bool, function: Callable[..., Any], *inputs: Any) -> torch.Tensor:
    """function(*inputs); with `recompute` only the inputs are kept for the backward pass."""
    if not recompute or not torch.is_grad_enabled():
        return cast(torch.Tensor, function(*inputs))
    return cast(torch.Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False))


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """SwiGLU's product, silu(gate) · up."""
    return F.silu(gate) * up


class Attention(nn.Module):
    """Causal self-attention with RoPE; queries and keys have rotations of their own."""

    def __init__(self, llm: LLMSection, layers: Layers, recompute: bool) -> None:
        super().__init__()
        self.layers = layers
        self.recompute = recompute
        self.head_dim = llm.head_dim
        self.backend = llm.attention
        self.q = layers.column(llm.width, llm.heads * self.head_dim)
        self.k = layers.column(llm.width, llm.kv_heads * self.head_dim)
        self.v = layers.column(llm.width, llm.kv_heads * self.head_dim)
        self.out = layers.row(llm.heads * self.head_dim, llm.width)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if llm.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, llm.norm_eps, layers.over_heads)
            self.k_norm = RMSNorm(self.head_dim, llm.norm_eps, layers.over_heads)

    def forward(
        self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: KVCache | None, layer: int
    ) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        q = self.q_norm(self.q(x).unflatten(-1, (-1, self.head_dim)))  # (B, L, N, K)
        k = self.k_norm(self.k(x).unflatten(-1, (-1, self.head_dim)))  # (B, L, Nkv, K)
        v = self.v(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = (self.layers.slots_to_heads(part) for part in (q, k, v))

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            q, k = rotate(q, turn_q), rotate(k, turn_k)
            if cache is not None:
                k, v = cache.extend(layer, k, v)
            return attention(q, k, v, causal=True, backend=choose(self.backend, q.device, q.dtype))

        mixed = self.layers.heads_to_slots(recomputed(self.recompute, attend, q, k, v))
        out: torch.Tensor = self.out(mixed.flatten(-2))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, llm: LLMSection, layers: Layers, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.gate = layers.column(llm.width, llm.hidden)
        self.up = layers.column(llm.width, llm.hidden)
        self.down = layers.row(llm.hidden, llm.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        out: torch.Tensor = self.down(recomputed(self.recompute, gated, self.gate(x), self.up(x)))
        return out


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, llm: LLMSection, layers: Layers, recompute: bool) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(llm.width, llm.norm_eps, layers.over_slots)
        self.attention = Attention(llm, layers, recompute)
        self.mlp_norm = RMSNorm(llm.width, llm.norm_eps, layers.over_slots)
        self.mlp = SwiGLU(llm, layers, recompute)

    def forward(
        self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: KVCache | None, layer: int
    ) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        x = x + self.attention(self.attention_norm(x), turn_q, turn_k, cache, layer)
        out: torch.Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Transformer(nn.Module):
    """Embedded slots in, normalised hidden states out; in between, a rank may hold only a part of the slots."""

    def __init__(self, llm: LLMSection, layers: Layers, recompute: Recompute = "none") -> None:
        super().__init__()
        self.layers = layers
        self.blocks = nn.ModuleList(Block(llm, layers, recompute == "selective") for _ in range(llm.layers))
        self.norm = RMSNorm(llm.width, llm.norm_eps, layers.over_slots)
        self.recompute = recompute == "block"

    def forward(
        self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: KVCache | None = None
    ) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        x = self.layers.scatter(x)  # (B, l, D)
        for layer, block in enumerate(self.blocks):
            x = recomputed(self.recompute, block, x, turn_q, turn_k, cache, layer)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.layers.gather(self.norm(x))
