"""Finite scalar quantisation: every channel is rounded to a few fixed steps (arXiv 2309.15505).

Numbers are those of vector-quantize-pytorch's FSQ 1.32 for the same steps; the first channel is the least significant
digit of the index. Steps are powers of two so that the codebook has exactly 2**num_bits entries: 18 bits are six
channels of 8, as in VidTok (arXiv 2412.13061), which measures +1.8 dB over LFQ. It has no auxiliary loss: bounded
latents use their few steps without being asked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hitvideo.errors import ConfigError
from hitvideo.ops.precision import full_precision
from hitvideo.video_tokenizer.quantizer import Quantized, Quantizer

EPSILON = 1e-3  # widens tanh's range so that the outermost steps can be reached


def channel_steps(num_bits: int) -> list[int]:
    """Steps of each channel, 8 or 4, whose product is 2**num_bits: 9 → [8, 8, 8], 10 → [8, 8, 4, 4].

    Channels of 2 steps are avoided: rounding to two is LFQ without its losses. Raises ConfigError for a single bit.
    """
    if num_bits < 2:
        raise ConfigError(f"fsq needs levels of at least 2 bits, got num_bits {num_bits}; use quantizer: lfq")
    fours = {0: 0, 1: 2, 2: 1}[num_bits % 3]
    return [8] * ((num_bits - 2 * fours) // 3) + [4] * fours


class FSQ(Quantizer):
    """(B, channels, t, h, w) latents → values in [-1, 1) on a fixed lattice, and indices."""

    normalise = False  # tanh bounds the latents; their magnitude carries information here
    steps: Tensor
    basis: Tensor

    def __init__(self, num_bits: int) -> None:
        super().__init__()
        steps = torch.tensor(channel_steps(num_bits))
        self.num_bits = num_bits
        self.channels = len(steps)
        self.register_buffer("steps", steps.view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("basis", (steps.cumprod(0) // steps).view(-1, 1, 1, 1), persistent=False)

    def forward(self, latents: Tensor, keep: Tensor | None = None) -> Quantized:
        with full_precision(latents):
            half_range = (self.steps - 1) * (1 + EPSILON) / 2
            shift = torch.atanh(0.5 / half_range)  # an even number of steps has no middle: move zero onto one
            bounded = torch.tanh(latents.float() + shift) * half_range - 0.5  # (B, channels, t, h, w)
            half_steps = self.steps // 2
            digits = bounded.detach().round()
            indices = ((digits.long() + half_steps) * self.basis).sum(dim=1)
            values = (digits + (bounded - bounded.detach())) / half_steps  # straight-through; adds exactly zero
            zero = values.new_zeros(())
            return Quantized(values, indices, zero, zero, zero)

    def values(self, indices: Tensor) -> Tensor:
        half_steps = self.steps // 2
        digits = indices[:, None] // self.basis % self.steps - half_steps
        return digits.float() / half_steps
