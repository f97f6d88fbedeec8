"""Encoder and decoder of the causal 3D VAE: video ⇄ latents on the finest level's grid.

    video (B, 3, T, H, W) → patch → conv → [blocks, down] × steps → blocks → conv → normalise → latents (B, C, t, h, w)

The decoder is the mirror image. How many steps there are, and what each halves, follows from the finest level's `down`.

There is no norm and no activation before the last convolution, unlike in most VAEs. A norm per frame there takes away
what a whole frame has in common, first of all its brightness, and the network must find a detour: on moving shapes
that cost 1.2 dB at equal steps. So a linear path leads from pixels to latents and back, which the blocks refine.
"""

from __future__ import annotations

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
    rms_normalise,
    space_to_depth,
)


def strides(down: Triple, patch: int) -> list[Triple]:
    """The down-sampling steps, each 1 or 2 per axis, whose product times (1, patch, patch) is `down`.

    Space goes first, time last: the first steps, on the largest grid, cut the cost most where they halve space, and
    motion is merged only once features are rich. (8, 16, 16) at patch 1 gives (1, 2, 2) and three times (2, 2, 2).

    Raises ConfigError where `patch` does not divide the finest level's height and width factor.
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
    """`channels`, checked: one width before the first step and one after each. Raises ConfigError naming both numbers."""
    if len(section.channels) != len(steps) + 1:
        raise ConfigError(
            f"video_tokenizer.channels has {len(section.channels)} widths, the finest level's down and patch {section.patch} "
            f"make {len(steps)} down-sampling steps and need {len(steps) + 1}: one before the first and one after each"
        )
    return section.channels


class Encoder(nn.Module):
    """(B, 3, T, H, W) video → (B, latent_channels, t, h, w) latents; T, H, W are multiples of the finest `down`.

    Latents have mean square 1 at every position: unbounded, they would outgrow what the quantiser can add up to, and
    the residual would be the latents themselves on every level.
    """

    def __init__(self, section: VideoTokenizerSection, down: Triple) -> None:
        super().__init__()
        steps = strides(down, section.patch)
        channels = widths(section, steps)
        self.patch: Triple = (1, section.patch, section.patch)
        self.first = CausalConv3d(PIXEL_CHANNELS * section.patch**2, channels[0], (1, 3, 3))
        body: list[nn.Module] = [Block(channels[0]) for _ in range(section.blocks)]
        for stride, before, after in zip(steps, channels[:-1], channels[1:], strict=True):
            body += [Down(before, after, stride), *(Block(after) for _ in range(section.blocks))]
        self.body = nn.ModuleList(body)
        self.last = CausalConv3d(channels[-1], section.latent_channels, (1, 3, 3))

    def forward(self, video: Tensor, carry: Carry | None = None) -> Tensor:
        """`carry`: from one chunk of a video to the next; start with an empty one."""
        video = video.to(self.last.conv.weight.dtype)  # weights may be kept in bf16
        features = self.first(space_to_depth(video, self.patch), carry)  # (B, C, T, H / patch, W / patch)
        for module in self.body:
            features = module(features, carry)
        return rms_normalise(self.last(features, carry))  # (B, latent_channels, t, h, w)


class Decoder(nn.Module):
    """(B, latent_channels, t, h, w) latents → (B, 3, T, H, W) video, not clamped: training needs the gradient outside."""

    def __init__(self, section: VideoTokenizerSection, down: Triple) -> None:
        super().__init__()
        steps = strides(down, section.patch)
        channels = widths(section, steps)
        self.patch: Triple = (1, section.patch, section.patch)
        self.first = CausalConv3d(section.latent_channels, channels[-1], (1, 3, 3))
        body: list[nn.Module] = [Block(channels[-1]) for _ in range(section.blocks)]
        for stride, before, after in zip(reversed(steps), reversed(channels[1:]), reversed(channels[:-1]), strict=True):
            body += [Up(before, after, stride), *(Block(after) for _ in range(section.blocks))]
        self.body = nn.ModuleList(body)
        self.last = CausalConv3d(channels[0], PIXEL_CHANNELS * section.patch**2, (1, 3, 3))

    def forward(self, latents: Tensor, carry: Carry | None = None) -> Tensor:
        """`carry`: from one chunk of a video to the next; start with an empty one."""
        features = self.first(channels_last(latents.to(self.last.conv.weight.dtype)), carry)
        for module in self.body:
            features = module(features, carry)  # (B, C, T, H / patch, W / patch) at the end
        return depth_to_space(self.last(features, carry), self.patch)
