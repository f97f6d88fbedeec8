"""A 3D patch discriminator, and what it is trained on: is each patch of a clip real or reconstructed?

PatchGAN over space and time as in MAGVIT-v2's open versions, with the hinge loss. It sees whole clips, so it need not be
causal, and its norm is one GroupNorm over everything: a batch norm would tie the ranks together.

Two things keep a small data set from making it certain too soon:

- LeCam (Tseng et al. 2021, eq. 4): real logits are drawn to the moving mean of the fake ones, and the other way round.
- The adaptive weight: the adversarial gradient is scaled to the reconstruction's. VQGAN compares them at the decoder's
  last layer; here they are compared at the video itself, as EnCodec's balancer does, which needs no parameter's gradient
  and so holds under any ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hitvideo.settings.video_tokenizer import AdversarialSection
from hitvideo.video_tokenizer.conv import NORM_GROUPS, PIXEL_CHANNELS, keep_variance

_SLOPE = 0.2
_LARGEST_RATIO = 1e4
_LECAM_DECAY = 0.99


class Discriminator(nn.Module):
    """(B, 3, T, H, W) in [-1, 1] → logits (B, 1, t, h, w), high where a patch looks real.

    `layers` steps of stride 2, each doubling the width up to eight times the first; the first halves space alone.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        widths = [channels * min(1 << step, 8) for step in range(layers)]
        body: list[nn.Module] = [_conv(PIXEL_CHANNELS, channels, (1, 2, 2)), nn.LeakyReLU(_SLOPE)]
        for before, after in pairwise(widths):
            body += [_conv(before, after, (2, 2, 2)), nn.GroupNorm(min(NORM_GROUPS, after), after), nn.LeakyReLU(_SLOPE)]
        self.body = nn.Sequential(*body, _conv(widths[-1], 1, (1, 1, 1)))

    def forward(self, video: Tensor) -> Tensor:
        return cast(Tensor, self.body(video.to(next(self.parameters()).dtype))).float()


def _conv(before: int, after: int, stride: tuple[int, int, int]) -> nn.Conv3d:
    conv = nn.Conv3d(before, after, 3, stride, padding=1)
    keep_variance(conv)
    return conv


class LeCam:
    """Moving means of real and fake logits, equal on all ranks, and the distance that they ask for."""

    def __init__(self, mean: Callable[[Tensor], Tensor]) -> None:
        """`mean` averages a tensor over the data-parallel ranks."""
        self._mean = mean
        self.anchors = torch.zeros(2)
        """Of the real and of the fake logits; what a checkpoint must keep."""

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """Logits of real and reconstructed clips → a scalar; the moving means go on by one."""
        now = self._mean(torch.stack((real.detach().mean(), fake.detach().mean())))
        self.anchors = torch.lerp(now, self.anchors.to(now), _LECAM_DECAY)
        anchor_real, anchor_fake = self.anchors
        return F.relu(real - anchor_fake).square().mean() + F.relu(anchor_real - fake).square().mean()


class AdversarialLoss(NamedTuple):
    """What the discriminator makes of one batch."""

    loss: Tensor
    """To minimise: its gradient at the video is the adversarial one, at the discriminator the hinge loss's and LeCam's."""
    logged: dict[str, Tensor]


def adversarial_loss(
    discriminator: nn.Module, video: Tensor, target: Tensor, distance: Tensor, lecam: LeCam, section: AdversarialSection
) -> AdversarialLoss:
    """Both sides of the game in one backward pass.

    `video`, `target`: reconstruction and original, (B, 3, T, H, W); `distance`: the reconstruction loss, a function of
    `video`. The discriminator stands still for the adversarial gradient: it is taken at the video and put into the loss as
    a constant times the video, of value zero. So one optimizer step moves both sides by their own gradients.
    """
    deceived = -discriminator(video).mean()
    (towards_real,) = torch.autograd.grad(deceived, video)
    (towards_target,) = torch.autograd.grad(distance, video, retain_graph=True)
    ratio = (towards_target.norm() / (towards_real.norm() + 1e-8)).clamp(max=_LARGEST_RATIO)
    pull = video * (section.weight * ratio * towards_real).detach()
    real, fake = discriminator(target), discriminator(video.detach())
    hinge = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    loss = (pull - pull.detach()).sum() + hinge / 2 + section.lecam * lecam(real, fake)
    logged = {
        "adversarial": deceived,
        "adversarial_ratio": ratio,
        "discriminator": hinge / 2,
        "logits_real": real.mean(),
        "logits_fake": fake.mean(),
    }
    return AdversarialLoss(loss, {name: value.detach() for name, value in logged.items()})
