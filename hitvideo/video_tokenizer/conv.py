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

PIXEL_CHANNELS = 3
NORM_GROUPS = 8
NORM_EPSILON = 1e-6

Carry: TypeAlias = dict[nn.Module, Tensor]
"""The last input frames of every causal convolution: what lets a video pass chunk by chunk as if it passed whole."""


class CausalConv3d(nn.Module):
    """Convolution whose output frame i sees input frames up to (i + 1) · stride_t - 1, no later one.

    (B, in_channels, t, h, w) → (B, out_channels, t / stride_t, h / stride_h, w / stride_w). Spatial kernels are odd and
    zero-padded; in time `kernel_t - stride_t` frames stand in front: those that `carry` holds from the chunk before, or
    copies of the first frame. A chunk's t is a multiple of stride_t.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.time_pad = kernel[0] - stride[0]
        if self.time_pad < 0:
            raise ValueError(f"a kernel of {kernel[0]} frames skips frames at stride {stride[0]}")
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding=(0, kernel[1] // 2, kernel[2] // 2))
        keep_variance(self.conv)

    def forward(self, features: Tensor, carry: Carry | None = None) -> Tensor:
        if self.time_pad:
            seen = None if carry is None else carry.get(self)
            front = features[:, :, :1].expand(-1, -1, self.time_pad, -1, -1) if seen is None else seen
            features = torch.cat((front, features), dim=2)  # (B, C, pad + t, h, w)
            if carry is not None:
                carry[self] = features[:, :, -self.time_pad :].clone()  # a view would keep the whole chunk alive
        if self.conv.kernel_size[1:] == (1, 1) and self.conv.stride[1:] == (1, 1):
            return self._over_time(features)
        return cast(Tensor, self.conv(features))

    def _over_time(self, features: Tensor) -> Tensor:
        """A (k, 1, 1) kernel as k matrix products on shifted frames: twice as fast as the same convolution on CPUs."""
        frames = features.movedim(1, -1)  # (B, pad + t, h, w, C), contiguous if channels lie last in memory
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        out = F.linear(frames[:, kernel - 1 :: stride], self.conv.weight[:, :, kernel - 1, 0, 0], self.conv.bias)
        for tap in range(kernel - 1):
            shifted = frames[:, tap : frames.shape[1] - kernel + 1 + tap : stride]
            out = out + F.linear(shifted, self.conv.weight[:, :, tap, 0, 0])
        return out.movedim(-1, 1)  # (B, C, t / stride, h, w)


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

    def forward(self, features: Tensor, carry: Carry | None = None) -> Tensor:
        hidden: Tensor = self.space(F.silu(self.space_norm(features)), carry)
        hidden = self.time(F.silu(self.time_norm(hidden)), carry)
        return features + hidden  # (B, C, t, h, w)


class Down(nn.Module):
    """(B, in_channels, t, h, w) → (B, out_channels, t / st, h / sh, w / sw) for a stride of ones and twos.

    The kernel is 3 where the stride is 2, and 1 elsewhere: the blocks around do the rest.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Triple) -> None:
        super().__init__()
        t, h, w = (3 if step > 1 else 1 for step in stride)
        self.conv = CausalConv3d(in_channels, out_channels, (t, h, w), stride)

    def forward(self, features: Tensor, carry: Carry | None = None) -> Tensor:
        return cast(Tensor, self.conv(features, carry))


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

    def forward(self, features: Tensor, carry: Carry | None = None) -> Tensor:
        return depth_to_space(self.conv(features, carry), self.stride)


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
