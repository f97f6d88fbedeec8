"""The interface shared by the quantisers LFQ and FSQ: latents → one integer and one quantised value per cell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

LOG_FLOOR = 1e-5


@dataclass
class Quantized:
    """The quantised cells of one level."""

    values: Tensor
    """Codebook entries, (B, C, t, h, w) fp32, exact; their gradient goes to the latents unchanged (straight-through)."""
    indices: Tensor
    """Code of each cell, (B, t, h, w) int64, 0 … 2**num_bits - 1."""
    sample_entropy: Tensor
    """Mean entropy of a single cell's code, in nats; low means that cells are sure of their code. Zero outside training."""
    tables: tuple[Tensor, ...]
    """The mean code distribution over the cells, one table for each group of bits. Empty outside training and for FSQ."""
    commitment: Tensor
    """Mean squared distance between latents and values. Zero outside training."""

    @property
    def batch_entropy(self) -> Tensor:
        """Entropy of the mean code distribution of these cells alone, in nats; high means that all codes are used."""
        return self.commitment.new_zeros(()) + table_entropy(self.tables)


class Quantizer(nn.Module, ABC):
    """Quantises every cell of (B, channels, t, h, w) latents to one of 2**num_bits values, in fp32."""

    num_bits: int
    channels: int
    """How many channels the latents must have."""
    normalise: bool
    """Whether the caller should normalise the latents first."""

    @abstractmethod
    def forward(self, latents: Tensor, keep: Tensor | None = None, share: float | None = None) -> Quantized:
        """`keep` (B,) is 1 for the clips that count in the losses, else 0; None counts all.

        Losses and tables are means over the clips that count. If these clips are a part of a larger batch, give the `share`
        of that whole batch's clips that count: the mean over its equal parts is then the mean over the whole batch.
        """

    @abstractmethod
    def values(self, indices: Tensor) -> Tensor:
        """(B, t, h, w) indices → (B, channels, t, h, w) values, fp32, equal to those of `forward`."""


def table_entropy(tables: Iterable[Tensor]) -> Tensor | float:
    """The sum of the entropies of mean code distributions, in nats."""
    return -sum((table * table.clamp(min=LOG_FLOOR).log()).sum() for table in tables)


def clip_weights(keep: Tensor, share: float | None) -> Tensor:
    """(B,) of 0 and 1 → (B,) weights whose sum over a batch is 1, if its `share` of clips with 1 is that of these clips.

    In a part of a larger batch the sum may be another number, and its mean over all equal parts of that batch is 1.
    """
    return keep / (keep.sum().clamp(min=1) if share is None else max(share * len(keep), 1e-9))
