"""A 3D patch discriminator, and the adversarial loss: is each patch of a clip real or reconstructed?

PatchGAN over space and time as in MAGVIT-v2's open versions, with the hinge loss. It sees whole clips, so it does not
have to be causal; it uses GroupNorm over (t, h, w), because a batch norm would make ranks depend on each other.

Two things keep it from becoming certain too early on a small data set:

- LeCam (Tseng et al. 2021, eq. 4) pulls real logits toward the moving mean of fake ones, and fake toward real.
- The adaptive weight scales the adversarial gradient to the size of the reconstruction gradient. VQGAN compares the two
  at the decoder's last layer. Here they are compared at the video, as in EnCodec's balancer: this needs no parameter
  gradients, so it works under every ZeRO stage.
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
    """(B, 3, T, H, W) in [-1, 1] → logits (B, 1, t, h, w); a high logit means the patch looks real.

    `layers` convolutions of stride 2, each doubling the width up to eight times the first. The first halves only space.
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
    """The LeCam regulariser: moving means of real and fake logits, equal on all ranks, and the penalty against them."""

    def __init__(self, mean: Callable[[Tensor], Tensor]) -> None:
        """`mean` averages a tensor over the data-parallel ranks."""
        self._mean = mean
        self.anchors = torch.zeros(2)
        """The moving means of the real and the fake logits; a checkpoint must save them."""

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        """Logits of real and reconstructed clips → a scalar penalty. Also updates the moving means."""
        now = self._mean(torch.stack((real.detach().mean(), fake.detach().mean())))
        self.anchors = torch.lerp(now, self.anchors.to(now), _LECAM_DECAY)
        anchor_real, anchor_fake = self.anchors
        return F.relu(real - anchor_fake).square().mean() + F.relu(anchor_real - fake).square().mean()


class AdversarialLoss(NamedTuple):
    """The adversarial loss of one batch, and values to log."""

    loss: Tensor
    """The loss to minimise. The video gets the adversarial gradient; the discriminator gets the hinge and LeCam gradients."""
    logged: dict[str, Tensor]


def adversarial_loss(
    discriminator: nn.Module, video: Tensor, target: Tensor, distance: Tensor, lecam: LeCam, adversarial: AdversarialSection
) -> AdversarialLoss:
    """The loss that trains video tokenizer and discriminator in one backward pass, each by its own gradient.

    `video`, `target`: reconstruction and original, (B, 3, T, H, W); `distance`: the reconstruction loss, a function of
    `video`. The adversarial gradient must not reach the discriminator, so it is computed at the video and added by hand.
    """
    deceived = -discriminator(video).mean()
    (towards_real,) = torch.autograd.grad(deceived, video)
    (towards_target,) = torch.autograd.grad(distance, video, retain_graph=True)
    ratio = (towards_target.norm() / (towards_real.norm() + 1e-8)).clamp(max=_LARGEST_RATIO)
    # Let g be the wanted gradient, a constant: g = weight · ratio · ∂deceived/∂video, and pull = g · video elementwise.
    #   value:     Σ (pull - detach(pull)) = Σ (g · video - g · video) = 0, so the logged loss does not change;
    #   gradient:  ∂/∂video Σ (g · video - constant) = g, and 0 at every discriminator weight.
    pull = video * (adversarial.weight * ratio * towards_real).detach()
    real, fake = discriminator(target), discriminator(video.detach())
    hinge = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    loss = (pull - pull.detach()).sum() + hinge / 2 + adversarial.lecam * lecam(real, fake)
    logged = {
        "adversarial": deceived,
        "adversarial_ratio": ratio,
        "discriminator": hinge / 2,
        "logits_real": real.mean(),
        "logits_fake": fake.mean(),
    }
    return AdversarialLoss(loss, {name: value.detach() for name, value in logged.items()})
