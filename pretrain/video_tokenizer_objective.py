"""The video tokenizer with its losses, as the one module that the engine calls.

    video → tokenizer → reconstruction ─┬─▶ distances to the video: l1, l2, log l2, LPIPS
                                        ├─▶ losses of the codes: entropy, commitment, residual
                                        └─▶ discriminator, in adversarial phases
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hitvideo.metrics.code_use import code_use
from hitvideo.metrics.distances import psnr
from hitvideo.metrics.lpips import LPIPS, load_lpips
from hitvideo.settings.programs import VideoTokenizerRun
from hitvideo.video_tokenizer.discriminator import Discriminator, LeCam, adversarial_loss
from hitvideo.video_tokenizer.losses import code_losses, distances
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.phases import Place

log = logging.getLogger(__name__)


class Objective(nn.Module):
    """The tokenizer with its losses. Parameters: `video_tokenizer.…` and, if a phase is adversarial, `discriminator.…`."""

    def __init__(self, settings: VideoTokenizerRun) -> None:
        super().__init__()
        self.settings = settings
        self.video_tokenizer = VideoTokenizer(settings.video_tokenizer, settings.hierarchy)
        adversarial = settings.loss.adversarial
        self.lecam = LeCam(_mean_over_ranks)
        if adversarial.weight:
            self.discriminator = Discriminator(adversarial.channels, adversarial.layers)

    @property
    def parts(self) -> tuple[str, ...]:
        """Prefixes of parameter names that a phase can freeze separately: encoder and quantizer come first."""
        parts = tuple(f"video_tokenizer.{part}" for part in ("encoder", "quantizer", "decoder"))
        return (*parts, "discriminator") if self.settings.loss.adversarial.weight else parts

    def frozen(self, place: Place) -> tuple[str, ...]:
        """The parts whose weights do not change in a phase."""
        still = self.parts[:2] if place.phase.train == "decoder" else ()
        return still if place.phase.adversarial else (*still, *self.parts[3:])

    def forward(
        self, video: Tensor, prefix: Tensor, step: int, place: Place, perceptual: LPIPS | None = None
    ) -> dict[str, Tensor]:
        """video (B, 3, T, H, W) and how many levels each clip keeps (B,) → scalars; `loss` is minimised.

        In a phase that is not `quantized` the losses of the codes are logged but not minimised.
        """
        loss_settings, phase = self.settings.loss, place.phase
        reconstruction = self.video_tokenizer(video.to(next(self.parameters()).dtype), prefix)
        output, target = reconstruction.video.float(), video.float()
        near, codes = distances(output, target, loss_settings, perceptual), code_losses(reconstruction, loss_settings, step)
        loss = near["distance"] + codes["codes"] * phase.quantized
        losses = {**near, **codes}
        if phase.adversarial:
            game = adversarial_loss(self.discriminator, output, target, near["distance"], self.lecam, loss_settings.adversarial)
            loss, losses = loss + game.loss, {**losses, **game.logged}
        use = code_use(reconstruction.codes, [level.num_bits for level in self.settings.hierarchy.levels])
        return {"loss": loss, **losses, **use}

    @torch.no_grad()
    def prefixes(self, video: Tensor) -> dict[str, Tensor]:
        """PSNR in dB with the first 1, 2, … levels."""
        codes = self.video_tokenizer.encode(video.to(next(self.parameters()).dtype))
        decoded = self.video_tokenizer.decode_prefixes(codes, video.shape[2])
        return {f"psnr_first_{k}": psnr(prefix.float(), video).mean() for k, prefix in enumerate(decoded, 1)}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the weights."""
        return {"lecam": self.lecam.anchors.tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        if "lecam" in state:
            self.lecam.anchors = torch.tensor(state["lecam"])


def load_perceptual(settings: VideoTokenizerRun, device: torch.device) -> LPIPS | None:
    """LPIPS with the given weights. It is not part of the objective, because the run must not train or save its weights."""
    perceptual = settings.loss.perceptual
    if not perceptual.weight:
        return None
    if perceptual.weights is None:
        log.warning(
            "loss.perceptual.weight is %g but loss.perceptual.weights is not set: training continues WITHOUT the perceptual "
            "loss; give the folder of the VGG-16 and LPIPS files, or set the weight to 0",
            perceptual.weight,
        )
        return None
    return load_lpips(Path(perceptual.weights), device)


def _mean_over_ranks(values: Tensor) -> Tensor:
    dist.all_reduce(values)
    return values / dist.get_world_size()
