"""Finite scalar quantisation (FSQ): each channel is rounded to a few fixed steps (arXiv 2309.15505).

Values and indices equal those of vector-quantize-pytorch's FSQ 1.32 for the same steps. The first channel is the least
significant digit of the index. Step counts are powers of two, so that the codebook has exactly 2**num_bits entries: 18
bits are six channels of 8 steps, as in VidTok (arXiv 2412.13061), which measures +1.8 dB over LFQ. FSQ needs no auxiliary
loss, because bounded latents use all of their few steps anyway.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hitvideo.errors import ConfigError
from hitvideo.ops.precision import full_precision
from hitvideo.video_tokenizer.quantizer import Quantized, Quantizer

EPSILON = 1e-3  # widens tanh's range so that the outermost steps are reachable


def channel_steps(num_bits: int) -> list[int]:
    """Each channel's number of steps, 8 or 4, with product 2**num_bits: 9 → [8, 8, 8], 10 → [8, 8, 4, 4].

    Two steps are avoided, because that would be LFQ without its losses. Raises ConfigError if `num_bits` is below 2.
    """
    if num_bits < 2:
        raise ConfigError(f"fsq needs num_bits of at least 2, got {num_bits}; raise it or set video_tokenizer.quantizer=lfq")
    fours = {0: 0, 1: 2, 2: 1}[num_bits % 3]
    return [8] * ((num_bits - 2 * fours) // 3) + [4] * fours


class FSQ(Quantizer):
    """(B, channels, t, h, w) latents → values in [-1, 1) on a fixed grid of steps, and indices."""

    normalise = False  # tanh bounds the latents, and their magnitude carries information
    steps: Tensor
    basis: Tensor

    def __init__(self, num_bits: int) -> None:
        super().__init__()
        steps = torch.tensor(channel_steps(num_bits))
        self.num_bits = num_bits
        self.channels = len(steps)
        self.register_buffer("steps", steps.view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("basis", (steps.cumprod(0) // steps).view(-1, 1, 1, 1), persistent=False)

    def forward(self, latents: Tensor, keep: Tensor | None = None, share: float | None = None) -> Quantized:
        with full_precision(latents):
            half_range = (self.steps - 1) * (1 + EPSILON) / 2
            shift = torch.atanh(0.5 / half_range)  # an even number of steps has no middle; shift zero onto a step
            bounded = torch.tanh(latents.float() + shift) * half_range - 0.5  # (B, channels, t, h, w)
            half_steps = self.steps // 2
            digits = bounded.detach().round()
            indices = ((digits.long() + half_steps) * self.basis).sum(dim=1)
            values = (digits + (bounded - bounded.detach())) / half_steps  # straight-through; adds exactly zero
            zero = values.new_zeros(())
            return Quantized(values, indices, zero, (), zero)

    def values(self, indices: Tensor) -> Tensor:
        half_steps = self.steps // 2
        digits = indices[:, None] // self.basis % self.steps - half_steps
        return digits.float() / half_steps
