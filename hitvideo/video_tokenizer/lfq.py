"""Lookup-free quantisation (LFQ): the code of a cell is the signs of its channels (MAGVIT-v2, arXiv 2310.05737).

Results equal those of vector-quantize-pytorch's LFQ 1.32 with a codebook of {-1, +1}: sign(0) = -1, most significant bit
first, p(code j | x) = softmax_j(2 · inv_temperature · x · c_j). Always fp32: in half precision the entropies overflow.

The entropy loss (per-sample − batch) rewards cells that are sure of their code and batches that use all codes; without
it, most of the codebook goes unused. Neither term loops over the 2**num_bits codes:

- p factorises into independent bits with logit 4 · inv_temperature · x_i, so per-sample entropy is exactly the sum of
  the bits' binary entropies. (The library's value differs slightly, because it clamps at 1e-5 inside the logarithm.)
- Batch entropy does not factorise: bits that are independent given x are dependent over the batch. It is summed over
  groups of at most 9 bits (BSQ, arXiv 2406.07548), so it is exact up to 9 bits. A group's mean code table is the product
  of two matrices with 2**5 and 2**4 columns, so no table per cell is needed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hitvideo.ops.precision import full_precision
from hitvideo.video_tokenizer.quantizer import Quantized, Quantizer, clip_weights

LIBRARY_INV_TEMPERATURE = 100.0
LARGEST_GROUP = 9


class LFQ(Quantizer):
    """(B, num_bits, t, h, w) latents → signs in {-1, +1} and indices."""

    normalise = True  # the author: "LFQ is built upon the existence of normalization layers" (vector-quantize-pytorch #89)

    def __init__(self, num_bits: int, inv_temperature: float = LIBRARY_INV_TEMPERATURE) -> None:
        super().__init__()
        self.num_bits = num_bits
        self.channels = num_bits
        self.inv_temperature = inv_temperature

    def forward(self, latents: Tensor, keep: Tensor | None = None, share: float | None = None) -> Quantized:
        with full_precision(latents):
            latents = latents.float()
            signs = torch.where(latents > 0, 1.0, -1.0)  # (B, num_bits, t, h, w)
            indices = signs_to_indices(signs)
            if not self.training:
                zero = latents.new_zeros(())
                return Quantized(signs, indices, zero, (), zero)
            weights = clip_weights(latents.new_ones(len(latents)) if keep is None else keep.to(latents), share)
            weights = (weights / indices[0].numel())[:, None].expand(-1, indices[0].numel()).flatten()  # (positions,)
            flat = latents.movedim(1, -1).flatten(0, -2)  # (positions, num_bits)
            logits = 4 * self.inv_temperature * flat
            return Quantized(
                # Straight-through by adding exactly zero; the usual x + (q - x) differs from the signs by a rounding error.
                values=signs + (latents - latents.detach()),
                indices=indices,
                sample_entropy=(_sample_entropy(logits) * weights).sum(),
                tables=_mean_tables(logits, weights),
                commitment=((flat - signs.movedim(1, -1).flatten(0, -2)).square().mean(dim=1) * weights).sum(),
            )

    def values(self, indices: Tensor) -> Tensor:
        return indices_to_signs(indices, self.num_bits)


def signs_to_indices(signs: Tensor) -> Tensor:
    """(B, num_bits, t, h, w) in {-1, +1} → (B, t, h, w) int64; channel 0 is the most significant bit."""
    places = 1 << torch.arange(signs.shape[1] - 1, -1, -1, device=signs.device)  # (num_bits,)
    return ((signs > 0) * places.view(-1, 1, 1, 1)).sum(dim=1)


def indices_to_signs(indices: Tensor, num_bits: int) -> Tensor:
    """(B, t, h, w) → (B, num_bits, t, h, w) in {-1, +1}, fp32; the inverse of `signs_to_indices`."""
    shifts = torch.arange(num_bits - 1, -1, -1, device=indices.device).view(1, -1, 1, 1, 1)
    return ((indices[:, None] >> shifts) & 1).float() * 2 - 1


def _sample_entropy(logits: Tensor) -> Tensor:
    """(positions, num_bits) → (positions,), nats: H(sigmoid(a)) = softplus(a) - a · sigmoid(a), summed over the bits."""
    return (F.softplus(logits) - logits * logits.sigmoid()).sum(dim=1)


def _mean_tables(logits: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """For each group of bits, the weighted mean of p(group's code) over the positions, a table (2**high, 2**low)."""
    groups = -(-logits.shape[1] // LARGEST_GROUP)
    halves = (group.tensor_split(2, dim=1) for group in logits.tensor_split(groups, dim=1))
    return tuple((_code_probabilities(high) * weights[:, None]).T @ _code_probabilities(low) for high, low in halves)


def _code_probabilities(logits: Tensor) -> Tensor:
    """(positions, n) → (positions, 2**n): every code's probability, the product of its bits'; the first bit is the highest.

    Σ over the bits of log sigmoid(± a) = Σ over the set bits of a - Σ over all bits of softplus(a): one matrix product.
    """
    codes = torch.arange(1 << logits.shape[1], device=logits.device)
    bits = (codes >> torch.arange(logits.shape[1] - 1, -1, -1, device=logits.device)[:, None]) & 1  # (n, 2**n)
    return (logits @ bits.to(logits) - F.softplus(logits).sum(dim=1, keepdim=True)).exp()
