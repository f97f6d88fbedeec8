"""A 3D patch discriminator, and the adversarial loss: is each patch of a clip real or reconstructed?

PatchGAN over space and time as in MAGVIT-v2's open versions, with the hinge loss. It sees whole clips, so it does not
have to be causal; it uses GroupNorm over (t, h, w), because a batch norm would make ranks depend on each other.

Two things keep it from becoming certain too early on a small data set:

- LeCam (Tseng et al. 2021, eq. 4) pulls real logits toward the moving mean of fake ones, and fake toward real.
- The adaptive weight scales each clip's adversarial gradient to the size of its reconstruction gradient. VQGAN compares
  the two at the decoder's last layer. Here they are compared at the video, as in EnCodec's balancer: this needs no
  parameter gradients, so it works under every ZeRO stage, and a clip's gradient does not depend on the clips beside it.

Only clips decoded from all levels are judged. A prefix of the levels cannot hold the detail of a real video, so the
discriminator would know it at once and push the decoder to invent what the finer levels are there to say.
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
from hitvideo.video_tokenizer.quantizer import clip_weights

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
    """The LeCam regulariser: moving means of real and fake logits over past steps, and the penalty against them."""

    def __init__(self, mean: Callable[[Tensor], Tensor]) -> None:
        """`mean` averages a tensor over the data-parallel ranks."""
        self._mean = mean
        self._step: list[Tensor] = []
        self.anchors = torch.zeros(2)
        """The moving means of the real and the fake logits, equal on all ranks; a checkpoint must save them."""

    def __call__(self, real: Tensor, fake: Tensor, weights: Tensor) -> Tensor:
        """Logits of real and reconstructed clips, and the clips' weights (B,) → a scalar penalty."""
        self._step.append(torch.stack([weights @ by_clip(logits.detach()) for logits in (real, fake)] + [weights.sum()]))
        anchor_real, anchor_fake = self.anchors.to(real)
        return weights @ by_clip(F.relu(real - anchor_fake).square() + F.relu(anchor_real - fake).square())

    def forget_step(self) -> None:
        """Drop the logits since the last `close_step`: those of a step that does not count."""
        self._step = []

    def close_step(self) -> None:
        """Move the means by the logits since the last call. Call on all ranks, between steps."""
        if self._step:
            *_, judged = now = self._mean(torch.stack(self._step).mean(dim=0))
            if judged > 0 and now.isfinite().all():
                self.anchors = torch.lerp(now[:2], self.anchors.to(now), _LECAM_DECAY)
            self._step = []


class AdversarialLoss(NamedTuple):
    """The whole loss of one batch at the video, and values to log."""

    loss: Tensor
    """The distance, the adversarial loss and the discriminator's. The video gets the gradients of the first two, the
    discriminator that of its own."""
    logged: dict[str, Tensor]


def adversarial_loss(
    discriminator: nn.Module,
    video: Tensor,
    target: Tensor,
    distance: Tensor,
    lecam: LeCam,
    adversarial: AdversarialSection,
    judged: Tensor | None = None,
    share: float | None = None,
) -> AdversarialLoss:
    """The loss that trains video tokenizer and discriminator in one backward pass, each by its own gradient.

    `video`, `target`: reconstruction and original, (B, 3, T, H, W); `distance`: the reconstruction loss, the mean over the
    clips of a function of each. `judged` (B,) is 1 for the clips that the discriminator judges, else 0; None: all. `share`:
    the part of the global batch's clips that is judged, if these clips are a part of it.

    Both gradients at the video are computed here, which frees what they needed before the backward pass of the decoder,
    and are then given to it; the adversarial one so never reaches the discriminator's weights.
    """
    judged = video.new_ones(len(video)) if judged is None else judged.to(video)
    weights = clip_weights(judged, share)
    deceived = -by_clip(discriminator(video))  # (B,)
    (towards_real,) = torch.autograd.grad(deceived.mean(), video)
    (towards_target,) = torch.autograd.grad(distance, video)
    ratio = (_norms(towards_target) / _norms(towards_real).clamp(min=1e-12)).clamp(max=_LARGEST_RATIO)  # (B,)
    pull = (adversarial.weight * ratio * judged).view(-1, 1, 1, 1, 1) * towards_real
    # Let g be the wanted gradient, a constant: Σ g · video has the gradient g, and minus its own value it adds 0.
    flow = (video * (towards_target + pull)).sum()
    real, fake = discriminator(target), discriminator(video.detach())
    hinge = weights @ by_clip(F.relu(1 - real)) + weights @ by_clip(F.relu(1 + fake))
    loss = distance.detach() + (flow - flow.detach()) + hinge / 2 + adversarial.lecam * lecam(real, fake, weights)
    logged = {
        "adversarial": weights @ deceived,
        "adversarial_ratio": weights @ ratio,
        "discriminator": hinge / 2,
        "logits_real": weights @ by_clip(real),
        "logits_fake": weights @ by_clip(fake),
    }
    return AdversarialLoss(loss, {name: value.detach() for name, value in logged.items()})


def by_clip(values: Tensor) -> Tensor:
    """(B, …) → (B,): each clip's mean."""
    return values.flatten(1).mean(dim=1)


def _norms(gradient: Tensor) -> Tensor:
    norms: Tensor = gradient.flatten(1).norm(dim=1)
    return norms
