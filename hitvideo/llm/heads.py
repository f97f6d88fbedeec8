"""The output head of a level: a distribution over its indices, factorised over sub-codes.

A level of 18 bits would need a softmax over 262,144 indices. The head predicts one sub-code after the other instead,
p(a) · p(b | a): an exact distribution over all 2^18 indices from 2 × 512 logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hitvideo.llm.layers import Layers
from hitvideo.ops.norm import RMSNorm


class LevelHead(nn.Module):
    """Predicts the sub-codes of one level; `bits` has one number per sub-code, most significant first."""

    def __init__(self, width: int, bits: tuple[int, ...], norm_eps: float, layers: Layers) -> None:
        super().__init__()
        self.layers = layers
        self.outputs = nn.ModuleList(layers.column(width, 1 << b) for b in bits)
        self.given = nn.ModuleList(Given(width, 1 << b, norm_eps, layers) for b in bits[:-1])

    def loss(self, hidden: torch.Tensor, sub_codes: torch.Tensor) -> torch.Tensor:
        """hidden (B, n, D), sub_codes (B, n, S) each counted from 0 → nats per index (B, n), summed over sub-codes."""
        nats = self.layers.cross_entropy(self.outputs[0](hidden), sub_codes[..., 0])
        for number, given in enumerate(self.given):
            hidden = given(hidden, sub_codes[..., number])
            nats = nats + self.layers.cross_entropy(self.outputs[number + 1](hidden), sub_codes[..., number + 1])
        return nats

    def logits(self, hidden: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Logits of the next sub-code: hidden (…, D) and the sub-codes before it, chosen (…, s) → (…, 2**bits)."""
        for number in range(chosen.shape[-1]):
            hidden = self.given[number](hidden, chosen[..., number])
        out: torch.Tensor = self.outputs[chosen.shape[-1]](hidden)
        return out


class Given(nn.Module):
    """Updates the hidden state with a chosen sub-code: k + MLP(norm(k)), k = hidden + embedding(sub-code)."""

    def __init__(self, width: int, entries: int, norm_eps: float, layers: Layers) -> None:
        super().__init__()
        self.embedding = layers.embedding(entries, width)
        self.norm = RMSNorm(width, norm_eps)
        self.up = layers.column(width, 2 * width)
        self.down = layers.row(2 * width, width)

    def forward(self, hidden: torch.Tensor, sub_code: torch.Tensor) -> torch.Tensor:  # (…, D), (…) → (…, D)
        known = hidden + self.embedding(sub_code)
        out: torch.Tensor = known + self.down(F.silu(self.up(self.norm(known))))
        return out
