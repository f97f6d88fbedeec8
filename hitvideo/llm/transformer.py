"""The decoder: Llama-style blocks (RMSNorm, grouped-query attention with RoPE, SwiGLU) for one device.

Shapes: B batch · L sequence · D width · N heads · K head dim. With tensor parallelism N and the SwiGLU width are this
rank's share, and l is this rank's share of the L slots; nothing else here knows.
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
"""What the backward computes again instead of keeping it: nothing, what has no weights (RoPE and attention's core, SwiGLU's
product: much memory for few FLOPs; Korthikanti et al. 2022), or whole blocks.
"""


def recomputed(recompute: bool, function: Callable[..., Any], *inputs: Any) -> torch.Tensor:
    """function(*inputs), with only its inputs kept for the backward where `recompute` says so."""
    if not recompute or not torch.is_grad_enabled():
        return cast(torch.Tensor, function(*inputs))
    return cast(torch.Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False))


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


class Attention(nn.Module):
    """Causal self-attention; queries and keys are turned each by its own rotation."""

    def __init__(self, section: LLMSection, layers: Layers, recompute: bool) -> None:
        super().__init__()
        self.layers = layers
        self.recompute = recompute
        self.head_dim = section.head_dim
        self.wish = section.attention
        self.q = layers.column(section.width, section.heads * self.head_dim)
        self.k = layers.column(section.width, section.kv_heads * self.head_dim)
        self.v = layers.column(section.width, section.kv_heads * self.head_dim)
        self.out = layers.row(section.heads * self.head_dim, section.width)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if section.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, section.norm_eps, layers.over_heads)
            self.k_norm = RMSNorm(self.head_dim, section.norm_eps, layers.over_heads)

    def forward(
        self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: KVCache | None, layer: int
    ) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        q = self.q_norm(self.q(x).unflatten(-1, (-1, self.head_dim)))  # (B, L, N, K)
        k = self.k_norm(self.k(x).unflatten(-1, (-1, self.head_dim)))  # (B, L, Nkv, K)
        v = self.v(x).unflatten(-1, (-1, self.head_dim))
        q, k, v = (self.layers.slots_to_heads(part) for part in (q, k, v))

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            q, k, causal = rotate(q, turn_q), rotate(k, turn_k), q.shape[1] > 1
            if cache is not None:
                assert not causal or cache.seen == 0, "several slots at once only at the start"
                k, v = cache.extend(layer, k, v)
            return attention(q, k, v, causal=causal, backend=choose(self.wish, q.device, q.dtype))

        mixed = self.layers.heads_to_slots(recomputed(self.recompute, attend, q, k, v))
        out: torch.Tensor = self.out(mixed.flatten(-2))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, section: LLMSection, layers: Layers, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.gate = layers.column(section.width, section.hidden)
        self.up = layers.column(section.width, section.hidden)
        self.down = layers.row(section.hidden, section.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        out: torch.Tensor = self.down(recomputed(self.recompute, gated, self.gate(x), self.up(x)))
        return out


class Block(nn.Module):
    """One transformer layer, pre-norm."""

    def __init__(self, section: LLMSection, layers: Layers, recompute: bool) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(section.width, section.norm_eps, layers.over_slots)
        self.attention = Attention(section, layers, recompute)
        self.mlp_norm = RMSNorm(section.width, section.norm_eps, layers.over_slots)
        self.mlp = SwiGLU(section, layers, recompute)

    def forward(
        self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: KVCache | None, layer: int
    ) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        x = x + self.attention(self.attention_norm(x), turn_q, turn_k, cache, layer)
        out: torch.Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Transformer(nn.Module):
    """The trunk: embedded slots in, normalised hidden states out. Between them a rank may hold a part of the slots only."""

    def __init__(self, section: LLMSection, layers: Layers, recompute: Recompute = "none") -> None:
        super().__init__()
        self.layers = layers
        self.blocks = nn.ModuleList(Block(section, layers, recompute == "selective") for _ in range(section.layers))
        self.norm = RMSNorm(section.width, section.norm_eps, layers.over_slots)
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
