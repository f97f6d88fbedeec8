"""Causal 3D convolutions, normalisation within a frame, and layers that halve or double a video's size along each axis.

All layers are causal in time: an output frame never depends on a later input frame, so a clip can be encoded as it
arrives and its first codes do not change with its end. Two design choices ensure this. Convolutions are padded only in
front, by repeating the first frame (with zeros, quality decays away from frame 0). Normalisation takes its statistics
from one frame or one position at a time; the GroupNorm over (t, h, w) common in 3D VAEs leaks the future into every frame.

Blocks use (1, 3, 3) and (3, 1, 1) kernels: VidTok (arXiv 2412.13061) and Cosmos measure no loss of quality compared
with full 3D kernels, at 12/27 of the multiplications.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hitvideo.settings.video_tokenizer import NormKind

Triple: TypeAlias = tuple[int, int, int]

PIXEL_CHANNELS = 3
NORM_GROUPS = 8
NORM_EPSILON = 1e-6

Carry: TypeAlias = dict[nn.Module, Tensor]
"""The last input frames of every causal convolution. With them, a video in chunks gives the same result as in one piece."""


class CausalConv3d(nn.Module):
    """Convolution whose output frame i depends on input frames up to (i + 1) · stride_t - 1 only.

    (B, in_channels, t, h, w) → (B, out_channels, t / stride_t, h / stride_h, w / stride_w). Spatial kernels are odd and
    zero-padded. In time, `kernel_t - stride_t` frames are prepended: the previous chunk's last frames from `carry`, or
    copies of the first frame. A chunk's t must be a multiple of stride_t.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.time_pad = kernel[0] - stride[0]
        if self.time_pad < 0:
            raise ValueError(f"a kernel of {kernel[0]} frames skips frames at stride {stride[0]}; use a longer kernel")
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding=(0, kernel[1] // 2, kernel[2] // 2))
        keep_variance(self.conv)

    def forward(self, features: Tensor, carry: Carry | None = None) -> Tensor:
        if self.time_pad:
            seen = None if carry is None else carry.get(self)
            front = features[:, :, :1].expand(-1, -1, self.time_pad, -1, -1) if seen is None else seen
            features = channels_last(torch.cat((front, features), dim=2))  # (B, C, pad + t, h, w)
            if carry is not None:
                carry[self] = features[:, :, -self.time_pad :].clone()  # a view would keep the whole chunk in memory
        (taps, *space), (_, *steps) = self.conv.kernel_size, self.conv.stride
        if taps == 1:
            frames = F.conv2d(folded(features), self.conv.weight[:, :, 0], self.conv.bias, steps, self.conv.padding[1:])
            return unfolded(frames, len(features))  # (B, C, t, h, w)
        return self._over_time(features) if space == steps == [1, 1] else cast(Tensor, self.conv(features))

    def _over_time(self, features: Tensor) -> Tensor:
        """Apply a (k, 1, 1) kernel as a 2D convolution of (k, 1) on t × (h · w), a view if channels are last."""
        size = features.shape[3:]
        rows: Tensor = F.conv2d(features.flatten(3), self.conv.weight[..., 0], self.conv.bias, (self.conv.stride[0], 1))
        return rows.view(*rows.shape[:3], *size)  # (B, C, t / stride, h, w)


def keep_variance(conv: nn.Conv3d) -> None:
    """Initialise so that outputs have the inputs' variance (LeCun). Each torch default convolution would divide it by three."""
    nn.init.normal_(conv.weight, std=conv.weight[0].numel() ** -0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class FrameNorm(nn.Module):
    """GroupNorm of each frame on its own, over a group's channels and (h, w), never over time. Keeps the shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(channels, NORM_GROUPS), channels)

    def forward(self, features: Tensor) -> Tensor:
        return unfolded(self.norm(folded(features)), len(features))  # (B, C, t, h, w)


class PositionNorm(nn.Module):
    """LayerNorm of each position over its channels, so it sees neither time nor the frame's size. Keeps the shape.

    Channels are innermost in memory, so this is one kernel without copies; CUDA's GroupNorm wants them outermost. An RMS norm
    is not offered: PyTorch has no kernel of it for CPUs, where it trains slower.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, NORM_EPSILON)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.norm(features.movedim(1, -1))).movedim(-1, 1)  # (B, C, t, h, w)


def norm_of(kind: NormKind, channels: int) -> nn.Module:
    """The norm that `video_tokenizer.norm` names, for (B, channels, t, h, w)."""
    return (FrameNorm if kind == "frame" else PositionNorm)(channels)


class Block(nn.Module):
    """Residual block: norm, SiLU, (1, 3, 3) in space; norm, SiLU, (3, 1, 1) in time. Keeps the shape.

    The last convolution's weights start at zero, so a new block is the identity and a deep stack trains from the start.
    `recompute`: of its six large tensors, keep only the inputs of the two norms for the backward pass. The convolution in
    space is not computed again, because its gradient needs its input alone.
    """

    def __init__(self, channels: int, recompute: bool = False, norm: NormKind = "frame") -> None:
        super().__init__()
        self.recompute = recompute
        self.space_norm = norm_of(norm, channels)
        self.space = CausalConv3d(channels, channels, (1, 3, 3))
        self.time_norm = norm_of(norm, channels)
        self.time = CausalConv3d(channels, channels, (3, 1, 1))
        nn.init.zeros_(self.time.conv.weight)

    def forward(self, features: Tensor, carry: Carry | None = None) -> Tensor:
        hidden = recomputed(self.recompute, lambda x: self.space(F.silu(self.space_norm(x)), carry), features)
        hidden = recomputed(self.recompute, lambda x: self.time(F.silu(self.time_norm(x)), carry), hidden)
        return features + hidden  # (B, C, t, h, w)


class Down(nn.Module):
    """(B, in_channels, t, h, w) → (B, out_channels, t / st, h / sh, w / sw) for a stride of ones and twos.

    The kernel is 3 along axes of stride 2 and 1 along the others, which the neighbouring blocks cover.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Triple) -> None:
        super().__init__()
        t, h, w = (3 if step > 1 else 1 for step in stride)
        self.conv = CausalConv3d(in_channels, out_channels, (t, h, w), stride)

    def forward(self, features: Tensor, carry: Carry | None = None) -> Tensor:
        return cast(Tensor, self.conv(features, carry))


class Up(nn.Module):
    """(B, in_channels, t, h, w) → (B, out_channels, t · st, h · sh, w · sw): convolution, then depth to space.

    Each latent frame produces its own `st` frames. Time stays causal at the granularity of latent frames, and no frame
    has to be dropped or added.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Triple) -> None:
        super().__init__()
        self.stride = stride
        h, w = (3 if step > 1 else 1 for step in stride[1:])
        self.conv = CausalConv3d(in_channels, out_channels * math.prod(stride), (1, h, w))

    def forward(self, features: Tensor, carry: Carry | None = None) -> Tensor:
        return depth_to_space(self.conv(features, carry), self.stride)


def recomputed(wanted: bool, function: Callable[..., Any], *inputs: Any) -> Tensor:
    """function(*inputs); if wanted, only the inputs are kept for the backward pass, and the rest is computed again."""
    if not wanted or not torch.is_grad_enabled():
        return cast(Tensor, function(*inputs))
    return cast(Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False))


def rms_normalise(latents: Tensor) -> Tensor:
    """(B, C, t, h, w) → the same shape, scaled to mean square 1 over the channels of each cell; zeros stay zero."""
    return latents * torch.rsqrt(latents.square().mean(dim=1, keepdim=True) + NORM_EPSILON)


def depth_to_space(features: Tensor, stride: Triple) -> Tensor:
    """(B, C · st · sh · sw, t, h, w) → (B, C, t · st, h · sh, w · sw); the inverse of `space_to_depth`."""
    batch, _, t, h, w = features.shape
    split = features.movedim(1, -1).reshape(batch, t, h, w, -1, *stride)  # (B, t, h, w, C, st, sh, sw)
    spread = split.permute(0, 1, 5, 2, 6, 3, 7, 4)  # (B, t, st, h, sh, w, sw, C)
    return spread.reshape(batch, t * stride[0], h * stride[1], w * stride[2], -1).movedim(-1, 1)


def space_to_depth(features: Tensor, stride: Triple) -> Tensor:
    """(B, C, t · st, h · sh, w · sw) → (B, C · st · sh · sw, t, h, w)."""
    batch, channels, t, h, w = features.shape
    st, sh, sw = stride
    split = features.reshape(batch, channels, t // st, st, h // sh, sh, w // sw, sw)
    gathered = split.permute(0, 2, 4, 6, 1, 3, 5, 7)  # (B, t, h, w, C, st, sh, sw)
    return gathered.flatten(4).movedim(-1, 1)


def channels_last(features: Tensor) -> Tensor:
    """The same values with channels innermost in memory: the order in which every layer computes, without copies between."""
    return features.contiguous(memory_format=torch.channels_last_3d)


def folded(features: Tensor) -> Tensor:
    """(B, C, t, h, w) → (B · t, C, h, w): a view if channels are last in memory."""
    return features.transpose(1, 2).flatten(0, 1)


def unfolded(frames: Tensor, batch: int) -> Tensor:
    """(B · t, C, h, w) → (B, C, t, h, w): a view, the inverse of `folded`."""
    return frames.view(batch, -1, *frames.shape[1:]).transpose(1, 2)
