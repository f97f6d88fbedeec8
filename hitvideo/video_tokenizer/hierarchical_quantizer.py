"""Hierarchical residual quantiser: each level codes, on its own grid, what the coarser levels left over.

    residual = latents
    level k, coarse → fine:  residual → area down → 1×1×1 conv → normalise → quantise → 1×1×1 conv → up → contribution_k
                             residual = residual - contribution_k
    quantised latents = Σ contribution_k

This follows InfinityStar (area down, interpolate up, subtract, sum), except that "up" is nearest in time: trilinear
interpolation would let a frame depend on the next cell. Any prefix of the levels sums to usable latents, provided that
training drops the finer levels often enough (level dropout). The alternative of VQ-VAE-2 (Razavi et al. 2019), where a
finer level codes the latents themselves given the coarser levels, needs more weights; experiments/RESULTS.md compares them.

Causality: a code of level 0 does not depend on frames after its own cell. A finer level codes what level 0 left over, and
level 0's cells are longer, so a finer code does not depend on frames after the end of the *coarsest* cell around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hitvideo.hierarchy import Grid, Hierarchy
from hitvideo.ops.precision import full_precision
from hitvideo.settings.video_tokenizer import LevelPath, QuantizerKind
from hitvideo.video_tokenizer.conv import Triple, depth_to_space, keep_variance, rms_normalise, space_to_depth
from hitvideo.video_tokenizer.fsq import FSQ
from hitvideo.video_tokenizer.lfq import LFQ
from hitvideo.video_tokenizer.quantizer import Quantized, Quantizer

# LFQ's usual 100 (temperature 0.01) suits latents near zero. Normalised latents have size 1: p(bit) = sigmoid(4 · 100 · 1)
# is saturated, so the entropy loss would have a gradient only in the few channels within 0.01 of zero.
INV_TEMPERATURE = 2.0
OUT_GAIN = 0.5  # contributions start smaller than the latents, so that their sum does not overshoot
REFINEMENT_WIDTH = 256
ENCODER_SHARE = 0.25  # VQ-VAE's beta: the latents move toward the codes this much slower than the codes toward them


def make_quantizer(kind: QuantizerKind, num_bits: int) -> Quantizer:
    """The quantiser of one level, with the video tokenizer's settings."""
    return FSQ(num_bits) if kind == "fsq" else LFQ(num_bits, INV_TEMPERATURE)


@dataclass
class HierarchicalQuantized:
    """The quantised levels; lists are coarsest first."""

    latents: Tensor
    """The sum of the kept levels' contributions on the finest grid, (B, C, t, h, w) fp32."""
    codes: list[Tensor]
    """Every level's indices. Those of dropped levels are included but meaningless."""
    sample_entropy: list[Tensor]
    """Each level's mean entropy of a cell's code in nats, over the clips that keep the level."""
    tables: list[tuple[Tensor, ...]]
    """Each level's mean code distributions, over the clips that keep the level."""
    commitment: list[Tensor]
    """Each level's mean squared distance of latents and signs, over the clips that keep the level."""
    residual: Tensor
    """VQ-VAE's loss of the kept levels' sum Σ against the latents: ‖sg[latents] - Σ‖² + 0.25 ‖latents - sg[Σ]‖²."""


class Projection(nn.Conv3d):
    """1×1×1 convolution as one matrix product, in fp32 whatever the autocast or weight dtype, so that codes do not depend on
    rounding.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)
        keep_variance(self)

    def forward(self, input: Tensor) -> Tensor:
        assert self.bias is not None
        with full_precision(input):
            out = F.linear(input.float().movedim(1, -1), self.weight.float().flatten(1), self.bias.float())
            return out.movedim(-1, 1)


class Refinement(nn.Module):
    """What a nonlinear path adds to a projection: 1×1×1, SiLU, 1×1×1. Starts at zero."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.spread = Projection(in_channels, REFINEMENT_WIDTH)
        self.gather = Projection(REFINEMENT_WIDTH, out_channels)
        nn.init.zeros_(self.gather.weight)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.gather(F.silu(self.spread(features)))
        return out


class LevelQuantizer(nn.Module):
    """One level: residual on the finest grid → the level's indices, and its contribution on the finest grid."""

    def __init__(self, quantizer: Quantizer, latent_channels: int, factor: Triple, path: LevelPath) -> None:
        super().__init__()
        self.factor = factor
        """How many finest cells one cell of this level covers, per axis."""
        self.quantizer = quantizer
        self.path = path if max(factor) > 1 else "mean"  # the finest level's own cells: all paths are one projection
        channels = latent_channels if self.path == "mean" else latent_channels * math.prod(factor)
        self.project_in = Projection(channels, quantizer.channels)
        self.project_out = Projection(quantizer.channels, channels)
        with torch.no_grad():
            self.project_out.weight.mul_(OUT_GAIN)
        if self.path == "block":
            self.refine_in = Refinement(channels, quantizer.channels)
            self.refine_out = Refinement(quantizer.channels, channels)

    def forward(self, residual: Tensor, keep: Tensor | None = None, share: float | None = None) -> tuple[Quantized, Tensor]:
        """`keep` and `share` as in `Quantizer.forward`."""
        latents = self.gather(residual)
        if self.quantizer.normalise:
            # RMS over a cell's channels, not LayerNorm: with a zero mean, codes whose signs are all equal could not occur.
            latents = rms_normalise(latents)
        quantized: Quantized = self.quantizer(latents, keep, share)
        return quantized, self.expand(quantized.values)

    def gather(self, residual: Tensor) -> Tensor:
        """(B, C, t, h, w) residual on the finest grid → (B, quantizer.channels, t, h, w) on the level's grid."""
        if self.path == "mean":
            latents: Tensor = self.project_in(F.avg_pool3d(residual, self.factor) if max(self.factor) > 1 else residual)
            return latents
        cells = space_to_depth(residual, self.factor)  # (B, C · dt · dh · dw, t, h, w)
        latents = self.project_in(cells)
        return latents + self.refine_in(cells) if self.path == "block" else latents

    def expand(self, values: Tensor) -> Tensor:
        """(B, quantizer.channels, t, h, w) values on the level's grid → (B, C, t, h, w) on the finest grid."""
        latents: Tensor = self.project_out(values)
        if self.path != "mean":
            return depth_to_space(latents + self.refine_out(values) if self.path == "block" else latents, self.factor)
        dt, dh, dw = self.factor
        if dh > 1 or dw > 1:
            batch, _, t, h, w = latents.shape
            frames = latents.transpose(1, 2).flatten(0, 1)  # (B·t, C, h, w)
            frames = F.interpolate(frames, size=(h * dh, w * dw), mode="bilinear")
            latents = frames.reshape(batch, t, -1, h * dh, w * dw).transpose(1, 2)
        return latents.repeat_interleave(dt, dim=2) if dt > 1 else latents


class HierarchicalQuantizer(nn.Module):
    """(B, latent_channels, t, h, w) latents on the finest grid ⇄ codes of all levels. Runs in fp32."""

    def __init__(
        self, hierarchy: Hierarchy, kinds: Sequence[QuantizerKind], latent_channels: int, path: LevelPath = "cells"
    ) -> None:
        """`kinds`: each level's quantiser."""
        super().__init__()
        self.latent_channels = latent_channels
        self.levels = nn.ModuleList()
        for level, kind in zip(hierarchy.levels, kinds, strict=True):
            factor = cast(Triple, tuple(c // f for c, f in zip(level.down, hierarchy.finest.down, strict=True)))
            self.levels.append(LevelQuantizer(make_quantizer(kind, level.num_bits), latent_channels, factor, path))

    def forward(
        self, latents: Tensor, prefix: Tensor | None = None, shares: Sequence[float] | None = None
    ) -> HierarchicalQuantized:
        """Quantise for training. `prefix` (B,): how many levels each clip keeps, 0 … levels; None keeps all.

        `shares`: the part of the global batch's clips that keeps each level, if these clips are a part of it.

        A dropped level contributes nothing, and its losses do not count. A clip of prefix 0 passes unquantised, while all
        levels still learn from it (as in Mimi, which quantises a fraction of the clips). The autoencoder then learns
        faster, and the levels learn from better latents.
        """
        latents = latents.float()
        kept = None if prefix is None else torch.where(prefix == 0, len(self.levels), prefix)
        residual, total, codebook_total = latents, torch.zeros_like(latents), torch.zeros_like(latents)
        codes, sample_entropy, tables, commitment = [], [], [], []
        for number, module in enumerate(self.levels):
            level = cast(LevelQuantizer, module)
            keep = None if kept is None else (kept > number).to(latents)  # (B,)
            quantized, contribution = level(residual, keep, None if shares is None else shares[number])
            codebook = level.expand(quantized.values.detach())  # the same values; its gradient ends at project_out
            if keep is not None:
                contribution = contribution * keep[:, None, None, None, None]
                codebook = codebook * keep[:, None, None, None, None]
            total, codebook_total = total + contribution, codebook_total + codebook
            # Detached, so that each level's straight-through gradient reaches the encoder on its own. Otherwise the
            # level's gradient, which is near the identity, would cancel against the residual's, finer levels would
            # hardly reach the encoder, and coarse levels would be pulled to suit finer ones.
            residual = residual - contribution.detach()
            codes.append(quantized.indices)
            sample_entropy.append(quantized.sample_entropy)
            tables.append(quantized.tables)
            commitment.append(quantized.commitment)
        left_over = F.mse_loss(codebook_total, latents.detach()) + ENCODER_SHARE * F.mse_loss(latents, total.detach())
        if prefix is not None:
            total = torch.where((prefix == 0)[:, None, None, None, None], latents, total)
        return HierarchicalQuantized(total, codes, sample_entropy, tables, commitment, left_over)

    def encode(self, latents: Tensor, levels: int | None = None) -> list[Tensor]:
        """The codes of the first `levels` levels (default: all). Finer levels are not computed."""
        residual = latents.float()
        codes = []
        for level in self.levels[:levels]:
            quantized, contribution = level(residual)
            residual = residual - contribution
            codes.append(quantized.indices)
        return codes

    def decode(self, codes: Sequence[Tensor], finest: Grid) -> Tensor:
        """Codes of the first k ≥ 1 levels → (B, latent_channels, t, h, w) latents on the finest grid, fp32.

        Raises ValueError if a level's indices do not have the grid that follows from `finest`.
        """
        if not 1 <= len(codes) <= len(self.levels):
            raise ValueError(f"expected codes of 1 to {len(self.levels)} levels, got {len(codes)}")
        latents = torch.zeros(len(codes[0]), self.latent_channels, *finest, device=codes[0].device)
        for number, indices in enumerate(codes):
            level = cast(LevelQuantizer, self.levels[number])
            grid = tuple(size // factor for size, factor in zip(finest, level.factor, strict=True))
            if tuple(indices.shape[1:]) != grid:
                raise ValueError(f"level {number} has the grid {list(grid)}, but its indices have {list(indices.shape[1:])}")
            latents = latents + level.expand(level.quantizer.values(indices))
        return latents
