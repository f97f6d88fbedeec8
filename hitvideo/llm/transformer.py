"""The decoder: Llama-style blocks (RMSNorm, grouped-query attention with RoPE, SwiGLU) for one device.

Shapes: B batch · L sequence · D width · N heads · K head dim. With tensor parallelism N and the SwiGLU width are this
rank's share; nothing else here knows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from hitvideo.llm.cache import KVCache
from hitvideo.llm.layers import Layers
from hitvideo.llm.rope import Rotation, rotate
from hitvideo.ops.attention import attention, choose
from hitvideo.ops.norm import RMSNorm
from hitvideo.sections import LLMSection


class Attention(nn.Module):
    """Causal self-attention; queries and keys are turned each by its own rotation."""

    def __init__(self, section: LLMSection, layers: Layers) -> None:
        super().__init__()
        self.head_dim = section.head_dim
        self.wish = section.attention
        self.q = layers.column(section.width, section.heads * self.head_dim)
        self.k = layers.column(section.width, section.kv_heads * self.head_dim)
        self.v = layers.column(section.width, section.kv_heads * self.head_dim)
        self.out = layers.row(section.heads * self.head_dim, section.width)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if section.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, section.norm_eps, layers.shared)
            self.k_norm = RMSNorm(self.head_dim, section.norm_eps, layers.shared)

    def forward(
        self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: KVCache | None, layer: int
    ) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        q = self.q_norm(self.q(x).unflatten(-1, (-1, self.head_dim)))  # (B, L, N, K)
        k = self.k_norm(self.k(x).unflatten(-1, (-1, self.head_dim)))  # (B, L, Nkv, K)
        v = self.v(x).unflatten(-1, (-1, self.head_dim))
        q, k = rotate(q, turn_q), rotate(k, turn_k)
        causal = x.shape[1] > 1
        if cache is not None:
            assert not causal or cache.seen == 0, "several slots at once only at the start"
            k, v = cache.extend(layer, k, v)
        mixed = attention(q, k, v, causal=causal, backend=choose(self.wish, x.device, x.dtype))
        out: torch.Tensor = self.out(mixed.flatten(-2))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, section: LLMSection, layers: Layers) -> None:
        super().__init__()
        self.gate = layers.column(section.width, section.hidden)
        self.up = layers.column(section.width, section.hidden)
        self.down = layers.row(section.hidden, section.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        out: torch.Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class Block(nn.Module):
    """One transformer layer, pre-norm."""

    def __init__(self, section: LLMSection, layers: Layers) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(section.width, section.norm_eps)
        self.attention = Attention(section, layers)
        self.mlp_norm = RMSNorm(section.width, section.norm_eps)
        self.mlp = SwiGLU(section, layers)

    def forward(
        self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: KVCache | None, layer: int
    ) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        x = x + self.attention(self.attention_norm(x), turn_q, turn_k, cache, layer)
        out: torch.Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Transformer(nn.Module):
    """The trunk: embedded slots in, normalised hidden states out."""

    def __init__(self, section: LLMSection, layers: Layers, recompute: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(section, layers) for _ in range(section.layers))
        self.norm = RMSNorm(section.width, section.norm_eps)
        self.recompute = recompute

    def forward(
        self, x: torch.Tensor, turn_q: Rotation, turn_k: Rotation, cache: KVCache | None = None
    ) -> torch.Tensor:  # (B, L, D) → (B, L, D)
        for layer, block in enumerate(self.blocks):
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, turn_q, turn_k, cache, layer, use_reentrant=False)
            else:
                x = block(x, turn_q, turn_k, cache, layer)
        if cache is not None:
            cache.advance(x.shape[1])
        out: torch.Tensor = self.norm(x)
        return out
