"""What the two quantisers, LFQ and FSQ, have in common: latents in, one integer a cell and a quantised value out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class Quantized:
    """One level, quantised."""

    values: Tensor
    """(B, C, t, h, w), fp32; exactly the codebook's entry, with the gradient of the latents (straight-through)."""
    indices: Tensor
    """(B, t, h, w), int64, 0 … 2**num_bits - 1."""
    sample_entropy: Tensor
    """Mean entropy of one position's code, in nats: low means decided. Zero outside training."""
    batch_entropy: Tensor
    """Entropy of the mean code distribution of the batch, in nats: high means all codes in use. Zero outside training."""
    commitment: Tensor
    """Mean squared distance of latents and values. Zero outside training."""


class Quantizer(nn.Module, ABC):
    """Quantises every cell of (B, channels, t, h, w) latents to one of 2**num_bits values, in fp32."""

    num_bits: int
    channels: int
    """Latent channels that it needs."""
    normalise: bool
    """Whether the latents should be normalised right before."""

    @abstractmethod
    def forward(self, latents: Tensor, keep: Tensor | None = None) -> Quantized:
        """`keep` (B,), 0 or 1: the clips that count in the losses; None counts all."""

    @abstractmethod
    def values(self, indices: Tensor) -> Tensor:
        """(B, t, h, w) indices → (B, channels, t, h, w) values, fp32: what `forward` gave for them."""
