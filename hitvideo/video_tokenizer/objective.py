"""The video tokenizer with its losses, as the one module that the engine calls.

    video → tokenizer → reconstruction ─┬─▶ distances to the video: l1, l2, log l2, LPIPS
                                        ├─▶ losses of the codes: entropy, commitment, residual
                                        └─▶ discriminator, in adversarial phases

Every loss is a mean over the clips of the global batch, so its gradient does not depend on how ranks and micro-batches
divide the batch. Most are means of a function of each clip. The batch entropy is not: it is a function of the global
batch's mean code distribution p, and a clip's gradient needs the whole p. Ranks average p in the forward pass. Of several
micro-batches, p is computed before the first one, in another pass of the encoder without a backward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hitvideo.metrics.code_use import code_use
from hitvideo.metrics.distances import psnr
from hitvideo.metrics.lpips import LPIPS, load_lpips, some_frames
from hitvideo.settings.programs import VideoTokenizerRun
from hitvideo.video_tokenizer.discriminator import Discriminator, LeCam, adversarial_loss
from hitvideo.video_tokenizer.losses import code_losses, distances, flatten, over_batch
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.phases import Place

log = logging.getLogger(__name__)
DISCRIMINATOR = "discriminator"
_FRAMES_DRAW = 1  # tells this draw from others of the same seed and step


class Objective(nn.Module):
    """The tokenizer with its losses. Parameters: `video_tokenizer.…` and, if a phase is adversarial, `discriminator.…`."""

    def __init__(self, settings: VideoTokenizerRun, mean: Callable[[Tensor], Tensor] = lambda values: values) -> None:
        """`mean` averages a tensor over the data-parallel ranks."""
        super().__init__()
        self.settings = settings
        recompute = settings.parallel.activation_checkpointing
        self.video_tokenizer = VideoTokenizer(settings.video_tokenizer, settings.hierarchy, recompute)
        adversarial = settings.loss.adversarial
        self._mean = mean
        self.lecam = LeCam(mean)
        if adversarial.weight:
            self.discriminator = Discriminator(adversarial.channels, adversarial.layers)

    @property
    def parts(self) -> tuple[str, ...]:
        """Prefixes of parameter names that a phase can freeze separately: encoder and quantizer come first."""
        parts = tuple(f"video_tokenizer.{part}" for part in ("encoder", "quantizer", "decoder"))
        return (*parts, DISCRIMINATOR) if self.settings.loss.adversarial.weight else parts

    def frozen(self, place: Place) -> tuple[str, ...]:
        """The parts whose weights do not change in a phase."""
        still = self.parts[:2] if place.phase.train == "decoder" else ()
        return still if place.phase.adversarial else (*still, *self.parts[3:])

    def forward(
        self,
        video: Tensor,
        prefix: Tensor,
        step: int,
        place: Place,
        shares: Sequence[float] | None = None,
        perceptual: LPIPS | None = None,
        tables: Tensor | None = None,
        tables_only: bool = False,
    ) -> dict[str, Tensor]:
        """video (B, 3, T, H, W) and how many levels each clip keeps (B,) → scalars; `loss` is minimised.

        `shares`: the part of the global batch's clips that keeps each level; None: that of these clips. `tables`: the
        global batch's mean code distributions, if the step has several micro-batches. `tables_only`: return those of these
        clips, averaged over ranks, and nothing else. In a phase that is not `quantized` the losses of the codes are logged
        but not minimised; in one that trains the decoder only, there are none.
        """
        if tables_only:
            return {"tables": self._mean(flatten(self.video_tokenizer.quantize(video.to(self._dtype), prefix, shares).tables))}
        loss_settings, phase = self.settings.loss, place.phase
        reconstruction = self.video_tokenizer(video.to(self._dtype), prefix, shares, phase.train == "decoder")
        output, target = reconstruction.video.float(), video.float()
        losses = distances(output, target, loss_settings, perceptual and self._of_some_frames(perceptual, step))
        loss = losses["distance"]
        if phase.adversarial:
            most = phase.levels or len(self.settings.hierarchy.levels)
            judged, share = (prefix == 0) | (prefix == most), None if shares is None else shares[most - 1]
            game = adversarial_loss(
                self.discriminator, output, target, loss, self.lecam, loss_settings.adversarial, judged, share
            )
            loss, losses = game.loss, {**losses, **game.logged}
        if phase.train == "all":
            mean = self._mean if tables is None else lambda _own: tables
            codes = code_losses(reconstruction, loss_settings, step, lambda own: over_batch(own, mean))
            loss, losses = loss + codes["codes"] * phase.quantized, {**losses, **codes}
        use = code_use(reconstruction.codes, [level.num_bits for level in self.settings.hierarchy.levels])
        return {"loss": loss, **losses, **use}

    @torch.no_grad()
    def prefixes(self, video: Tensor) -> dict[str, Tensor]:
        """PSNR in dB with the first 1, 2, … levels."""
        codes = self.video_tokenizer.encode(video.to(self._dtype))
        decoded = self.video_tokenizer.decode_prefixes(codes, video.shape[2])
        return {f"psnr_first_{k}": psnr(prefix.float(), video).mean() for k, prefix in enumerate(decoded, 1)}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides the weights. Call between steps, on all ranks."""
        self.lecam.close_step()
        return {"lecam": self.lecam.anchors.tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take `state` back, and forget what a step under way has noted."""
        self.lecam.forget_step()
        if "lecam" in state:
            self.lecam.anchors = torch.tensor(state["lecam"])

    def _of_some_frames(self, perceptual: LPIPS, step: int) -> Callable[[Tensor, Tensor], Tensor]:
        """LPIPS of a few frames of each clip: the same ones in a whole step, others in the next."""
        count = self.settings.loss.perceptual.frames
        start = float(np.random.default_rng([self.settings.run.seed, step, _FRAMES_DRAW]).random())
        return lambda video, target: perceptual(some_frames(video, count, start), some_frames(target, count, start))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


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
