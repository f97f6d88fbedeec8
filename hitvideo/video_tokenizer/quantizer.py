"""The interface shared by the quantisers LFQ and FSQ: latents → one integer and one quantised value per cell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class Quantized:
    """The quantised cells of one level."""

    values: Tensor
    """Codebook entries, (B, C, t, h, w) fp32, exact; their gradient goes to the latents unchanged (straight-through)."""
    indices: Tensor
    """Code of each cell, (B, t, h, w) int64, 0 … 2**num_bits - 1."""
    sample_entropy: Tensor
    """Mean entropy of a single cell's code, in nats; low means that cells are sure of their code. Zero outside training."""
    batch_entropy: Tensor
    """Entropy of the batch's mean code distribution, in nats; high means that all codes are used. Zero outside training."""
    commitment: Tensor
    """Mean squared distance between latents and values. Zero outside training."""


class Quantizer(nn.Module, ABC):
    """Quantises every cell of (B, channels, t, h, w) latents to one of 2**num_bits values, in fp32."""

    num_bits: int
    channels: int
    """How many channels the latents must have."""
    normalise: bool
    """Whether the caller should normalise the latents first."""

    @abstractmethod
    def forward(self, latents: Tensor, keep: Tensor | None = None) -> Quantized:
        """`keep` (B,) is 1 for the clips that count in the losses, else 0; None counts all."""

    @abstractmethod
    def values(self, indices: Tensor) -> Tensor:
        """(B, t, h, w) indices → (B, channels, t, h, w) values, fp32, equal to those of `forward`."""
