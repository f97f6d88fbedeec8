"""Encoder and decoder of the causal 3D VAE: video ⇄ latents on the finest level's grid.

    video (B, 3, T, H, W) → patch → conv → [blocks, down] × steps → blocks → conv → normalise → latents (B, C, t, h, w)

The decoder mirrors the encoder. The finest level's `down` determines the number of steps and the axes that each halves.

Unlike most VAEs, this one has no norm and no activation before the last convolution. A per-frame norm there would remove
what a whole frame has in common, above all its brightness, and the network would have to work around that. Instead, a
linear path runs from pixels to latents and back, and the blocks refine it.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from hitvideo.errors import ConfigError
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.conv import (
    PIXEL_CHANNELS,
    Block,
    Carry,
    CausalConv3d,
    Down,
    Triple,
    Up,
    channels_last,
    depth_to_space,
    recomputed,
    rms_normalise,
    space_to_depth,
)

Recompute = Literal["none", "selective", "block"]
"""What the backward pass computes again instead of keeping it: nothing; norms and activations, which take most of the memory
and few FLOPs; or whole residual blocks.
"""


def strides(down: Triple, patch: int) -> list[Triple]:
    """The down-sampling steps, each 1 or 2 per axis, whose product times (1, patch, patch) is `down`.

    Early steps halve space and late steps halve time: halving space early saves the most compute, and frames are merged
    only once their features are rich. (8, 16, 16) at patch 1 gives (1, 2, 2), then (2, 2, 2) three times.

    Raises ConfigError if `patch` does not divide the finest level's height and width factors.
    """
    if down[1] % patch or down[2] % patch:
        raise ConfigError(
            f"video_tokenizer.patch {patch} does not divide the finest level's down {list(down)}; "
            f"use a patch of at most {min(down[1:])}"
        )
    halvings = (down[0].bit_length() - 1, (down[1] // patch).bit_length() - 1, (down[2] // patch).bit_length() - 1)
    count = max(halvings)
    time_from = count - halvings[0]
    return [
        (2 if step >= time_from else 1, 2 if step < halvings[1] else 1, 2 if step < halvings[2] else 1) for step in range(count)
    ]


def widths(section: VideoTokenizerSection, steps: list[Triple]) -> tuple[int, ...]:
    """The `channels` setting: one width before the first step, one after each. Raises ConfigError if the number is wrong."""
    if len(section.channels) != len(steps) + 1:
        raise ConfigError(
            f"video_tokenizer.channels has {len(section.channels)} widths, but the finest level's down with patch "
            f"{section.patch} gives {len(steps)} steps; set {len(steps) + 1}: one before the first and one after each"
        )
    return section.channels


class Encoder(nn.Module):
    """(B, 3, T, H, W) video → (B, latent_channels, t, h, w) latents; T, H, W are multiples of the finest `down`.

    Latents have mean square 1 in every cell. Without a bound they would grow beyond what the levels can sum to, and each
    level's residual would stay close to the latents themselves.
    """

    def __init__(self, section: VideoTokenizerSection, down: Triple, recompute: Recompute = "none") -> None:
        super().__init__()
        self.whole_blocks, halves = recompute == "block", recompute == "selective"
        steps = strides(down, section.patch)
        channels = widths(section, steps)
        self.patch: Triple = (1, section.patch, section.patch)
        self.first = CausalConv3d(PIXEL_CHANNELS * section.patch**2, channels[0], (1, 3, 3))
        body: list[nn.Module] = [Block(channels[0], halves, section.norm) for _ in range(section.blocks)]
        for stride, before, after in zip(steps, channels[:-1], channels[1:], strict=True):
            body += [Down(before, after, stride), *(Block(after, halves, section.norm) for _ in range(section.blocks))]
        self.body = nn.ModuleList(body)
        self.last = CausalConv3d(channels[-1], section.latent_channels, (1, 3, 3))

    def forward(self, video: Tensor, carry: Carry | None = None) -> Tensor:
        """`carry` passes state from one chunk of a video to the next; start with an empty dict."""
        video = video.to(self.last.conv.weight.dtype)  # weights may be bf16
        features = self.first(space_to_depth(video, self.patch), carry)  # (B, C, T, H / patch, W / patch)
        for module in self.body:
            features = recomputed(self.whole_blocks and isinstance(module, Block), module, features, carry)
        return rms_normalise(self.last(features, carry))  # (B, latent_channels, t, h, w)


class Decoder(nn.Module):
    """(B, latent_channels, t, h, w) latents → (B, 3, T, H, W) video, not clamped so that training has a gradient everywhere."""

    def __init__(self, section: VideoTokenizerSection, down: Triple, recompute: Recompute = "none") -> None:
        super().__init__()
        self.whole_blocks, halves = recompute == "block", recompute == "selective"
        steps = strides(down, section.patch)
        channels = widths(section, steps)
        self.patch: Triple = (1, section.patch, section.patch)
        self.first = CausalConv3d(section.latent_channels, channels[-1], (1, 3, 3))
        body: list[nn.Module] = [Block(channels[-1], halves, section.norm) for _ in range(section.blocks)]
        for stride, before, after in zip(reversed(steps), reversed(channels[1:]), reversed(channels[:-1]), strict=True):
            body += [Up(before, after, stride), *(Block(after, halves, section.norm) for _ in range(section.blocks))]
        self.body = nn.ModuleList(body)
        self.last = CausalConv3d(channels[0], PIXEL_CHANNELS * section.patch**2, (1, 3, 3))

    def forward(self, latents: Tensor, carry: Carry | None = None) -> Tensor:
        """`carry` passes state from one chunk of a video to the next; start with an empty dict."""
        features = self.first(channels_last(latents.to(self.last.conv.weight.dtype)), carry)
        for module in self.body:
            features = recomputed(
                self.whole_blocks and isinstance(module, Block), module, features, carry
            )  # (B, C, T, H / patch, W / patch) at the end
        return depth_to_space(self.last(features, carry), self.patch).contiguous()
