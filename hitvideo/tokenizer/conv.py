"""Causal 3D convolutions, per-frame normalisation, and the steps that halve and double a video's extent.

Causal in time: an output frame depends on no later input frame, so a clip can be encoded as it arrives and the codes
of its beginning do not change with its end. Two things keep that true. Convolutions are padded in front only, by
repeating the first frame (zeros there make quality decay away from frame 0). Normalisation takes its statistics from
one frame at a time: a GroupNorm over (t, h, w), usual in 3D VAEs, mixes the future into every frame.

Blocks are factorised into (1, 3, 3) and (3, 1, 1) kernels: VidTok (arXiv 2412.13061) and Cosmos measure no loss
against full 3D kernels, at 12 / 27 of the multiplications.
"""

from __future__ import annotations

import math
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Triple: TypeAlias = tuple[int, int, int]

NORM_GROUPS = 8
NORM_EPSILON = 1e-6


class CausalConv3d(nn.Module):
    """Convolution whose output frame i sees input frames up to (i + 1) · stride_t - 1, no later one.

    (B, in_channels, t, h, w) → (B, out_channels, t / stride_t, h / stride_h, w / stride_w). Spatial kernels are odd and
    zero-padded; in time `kernel_t - stride_t` copies of the first frame stand in front.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.time_pad = kernel[0] - stride[0]
        if self.time_pad < 0:
            raise ValueError(f"a kernel of {kernel[0]} frames skips frames at stride {stride[0]}")
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding=(0, kernel[1] // 2, kernel[2] // 2))
        keep_variance(self.conv)

    def forward(self, features: Tensor) -> Tensor:
        if self.time_pad:
            first = features[:, :, :1].expand(-1, -1, self.time_pad, -1, -1)
            features = torch.cat((first, features), dim=2)  # (B, C, pad + t, h, w)
        return cast(Tensor, self.conv(features))


def keep_variance(conv: nn.Conv3d) -> None:
    """Start with outputs of the inputs' variance (LeCun); torch's default divides it by three at every convolution."""
    nn.init.normal_(conv.weight, std=conv.weight[0].numel() ** -0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class FrameNorm(nn.Module):
    """GroupNorm over the channels of a group and (h, w) of one frame; never over time. Shape is kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(channels, NORM_GROUPS), channels)

    def forward(self, features: Tensor) -> Tensor:
        batch, channels, t, h, w = features.shape
        frames: Tensor = features.transpose(1, 2).reshape(batch * t, channels, h, w)  # a view if channels lie last in memory
        frames = self.norm(frames)  # (B·t, C, h, w)
        return frames.view(batch, t, channels, h, w).transpose(1, 2)  # (B, C, t, h, w)


class Block(nn.Module):
    """Residual block: norm, SiLU, (1, 3, 3) in space; norm, SiLU, (3, 1, 1) in time. Shape is kept.

    It starts as the identity: the last convolution's weights are zero, so a deep stack trains at once.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.space_norm = FrameNorm(channels)
        self.space = CausalConv3d(channels, channels, (1, 3, 3))
        self.time_norm = FrameNorm(channels)
        self.time = CausalConv3d(channels, channels, (3, 1, 1))
        nn.init.zeros_(self.time.conv.weight)

    def forward(self, features: Tensor) -> Tensor:
        hidden: Tensor = self.space(F.silu(self.space_norm(features)))
        hidden = self.time(F.silu(self.time_norm(hidden)))
        return features + hidden  # (B, C, t, h, w)


class Down(nn.Module):
    """(B, in_channels, t, h, w) → (B, out_channels, t / st, h / sh, w / sw) for a stride of ones and twos.

    The kernel is 3 where the stride is 2, and 1 elsewhere: the blocks around do the rest.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Triple) -> None:
        super().__init__()
        t, h, w = (3 if step > 1 else 1 for step in stride)
        self.conv = CausalConv3d(in_channels, out_channels, (t, h, w), stride)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.conv(features))


class Up(nn.Module):
    """(B, in_channels, t, h, w) → (B, out_channels, t · st, h · sh, w · sw): convolution, then depth to space.

    A latent frame becomes its own `st` frames, so time stays causal at the granularity of latent frames, with no frame
    to drop and none to invent.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Triple) -> None:
        super().__init__()
        self.stride = stride
        h, w = (3 if step > 1 else 1 for step in stride[1:])
        self.conv = CausalConv3d(in_channels, out_channels * math.prod(stride), (1, h, w))

    def forward(self, features: Tensor) -> Tensor:
        return depth_to_space(self.conv(features), self.stride)


def rms_normalise(latents: Tensor) -> Tensor:
    """(B, C, t, h, w) → the same with mean square 1 over the channels of every position; zeros stay zeros."""
    return latents * torch.rsqrt(latents.square().mean(dim=1, keepdim=True) + NORM_EPSILON)


def depth_to_space(features: Tensor, stride: Triple) -> Tensor:
    """(B, C · st · sh · sw, t, h, w) → (B, C, t · st, h · sh, w · sw); the inverse of `space_to_depth`."""
    batch, _, t, h, w = features.shape
    split = features.reshape(batch, -1, *stride, t, h, w)  # (B, C, st, sh, sw, t, h, w)
    spread = split.permute(0, 1, 5, 2, 6, 3, 7, 4)  # (B, C, t, st, h, sh, w, sw)
    return channels_last(spread.reshape(batch, -1, t * stride[0], h * stride[1], w * stride[2]))


def space_to_depth(features: Tensor, stride: Triple) -> Tensor:
    """(B, C, t · st, h · sh, w · sw) → (B, C · st · sh · sw, t, h, w)."""
    batch, channels, t, h, w = features.shape
    st, sh, sw = stride
    split = features.reshape(batch, channels, t // st, st, h // sh, sh, w // sw, sw)
    gathered = split.permute(0, 1, 3, 5, 7, 2, 4, 6)  # (B, C, st, sh, sw, t, h, w)
    return channels_last(gathered.flatten(1, 4))


def channels_last(features: Tensor) -> Tensor:
    """The same values with channels innermost in memory: 3D convolutions of few channels run up to six times faster so."""
    return features.contiguous(memory_format=torch.channels_last_3d)
