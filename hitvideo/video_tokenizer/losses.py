"""What a video tokenizer is trained on: distance to the video, entropy of the codes, commitment; and level dropout."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hitvideo.settings.video_tokenizer import LossSection
from hitvideo.video_tokenizer.model import Reconstruction

_LOG_FLOOR = 2e-4  # 43 dB: a clip that good need not get better


def entropy_weight(section: LossSection, step: int) -> float:
    """Weight of the entropy loss: `entropy_boost` times `entropy` at step 0, `entropy` from `entropy_anneal_steps` on."""
    done = min(1.0, step / section.entropy_anneal_steps) if section.entropy_anneal_steps else 1.0
    return section.entropy * (section.entropy_boost + (1 - section.entropy_boost) * done)


def distances(
    video: Tensor, target: Tensor, section: LossSection, perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
) -> dict[str, Tensor]:
    """Unweighted distances of a reconstruction to the `target`, both (B, 3, T, H, W) in [-1, 1], and their weighted sum.

    `l1`, `l2`; `log_l2`, the mean of each clip's log l2: up to constants a Gaussian's likelihood whose variance fits every
    clip (VidTok learns one variance for all), and -PSNR; `perceptual`, where it is given: the mean over clips. `distance`
    is the sum.
    """
    parts = {
        "l1": F.l1_loss(video, target),
        "l2": F.mse_loss(video, target),
        "log_l2": ((video - target).square().flatten(1).mean(1) + _LOG_FLOOR).log().mean(),
    }
    weights = {"l1": section.l1, "l2": section.l2, "log_l2": section.log_l2}
    if perceptual:
        parts["perceptual"], weights["perceptual"] = perceptual(video, target).mean(), section.perceptual.weight
    return {**parts, "distance": torch.stack([weights[name] * part for name, part in parts.items()]).sum()}


def code_losses(reconstruction: Reconstruction, section: LossSection, step: int) -> dict[str, Tensor]:
    """Unweighted losses of the codes, and their weighted sum `codes`; all in fp32.

    `entropy` and `commitment`, means over the levels, so that their weights mean the same for any hierarchy; `residual`,
    which ties the sum of the levels to the latents and has the commitment's weight, being its counterpart for the pyramid
    as a whole. Besides, `entropy_level_k` and `commitment_level_k`, to be logged.
    """
    entropy, commitment = torch.stack(reconstruction.entropy), torch.stack(reconstruction.commitment)
    parts = {"entropy": entropy.mean(), "commitment": commitment.mean(), "residual": reconstruction.residual}
    total = entropy_weight(section, step) * parts["entropy"] + section.commitment * (parts["commitment"] + parts["residual"])
    by_level = {"entropy": entropy.detach(), "commitment": commitment.detach()}
    logged = {f"{name}_level_{k}": part for name, levels in by_level.items() for k, part in enumerate(levels)}
    return {**parts, **logged, "codes": total}


def sample_prefix(
    batch: int, levels: int, level_dropout: float, generator: torch.Generator, unquantized: float = 0.0
) -> Tensor:
    """(B,) int64: how many levels each clip keeps. All with probability 1 - level_dropout, else uniform in 1 … levels.

    With probability `unquantized` a clip gets 0 instead: its latents pass unquantised.
    """
    dropped, passed = torch.rand(2, batch, generator=generator, device=generator.device)
    shorter = torch.randint(1, levels + 1, (batch,), generator=generator, device=generator.device)
    return torch.where(passed < unquantized, 0, torch.where(dropped < level_dropout, shorter, levels))
