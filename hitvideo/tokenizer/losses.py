"""What a video tokenizer is trained on: distance to the video, entropy of the codes, commitment; and level dropout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hitvideo.sections import LossSection
from hitvideo.tokenizer.lfq import indices_to_signs
from hitvideo.tokenizer.video_tokenizer import Reconstruction

_LOG_FLOOR = 2e-4  # 43 dB: a clip that good need not get better


def entropy_weight(section: LossSection, step: int) -> float:
    """Weight of the entropy loss: `entropy_boost` times `entropy` at step 0, `entropy` from `entropy_anneal_steps` on."""
    done = min(1.0, step / section.entropy_anneal_steps) if section.entropy_anneal_steps else 1.0
    return section.entropy * (section.entropy_boost + (1 - section.entropy_boost) * done)


def unquantized_share(section: LossSection, progress: float) -> float:
    """Share of clips that pass unquantised, for the part of the training that is done: 1 at 0, 0 from `unquantized_until`."""
    return max(0.0, 1 - progress / section.unquantized_until) if section.unquantized_until else 0.0


def reconstruction_losses(
    reconstruction: Reconstruction, video: Tensor, section: LossSection, step: int, quantized: bool = True
) -> dict[str, Tensor]:
    """Scalars by name: `loss`, the weighted sum, and its unweighted parts.

    `l1`, `l2` to the target `video`, (B, 3, T, H, W) in [-1, 1]; `log_l2`, the mean of each clip's log l2: up to
    constants a Gaussian's likelihood whose variance fits every clip (VidTok learns one variance for all), and -PSNR.
    `entropy` and `commitment`, means over the levels, so that their weights mean the same for any hierarchy; `residual`,
    which ties the sum of the levels to the latents and has the commitment's weight, being its counterpart for the pyramid
    as a whole. All in fp32. `quantized` False: what the codes would lose weighs nothing. Besides, `entropy_level_k` and
    `commitment_level_k`, to be logged.
    """
    output, target = reconstruction.video.float(), video.float()
    parts = {
        "l1": F.l1_loss(output, target),
        "l2": F.mse_loss(output, target),
        "log_l2": ((output - target).square().flatten(1).mean(1) + _LOG_FLOOR).log().mean(),
        "entropy": torch.stack(reconstruction.entropy).mean(),
        "commitment": torch.stack(reconstruction.commitment).mean(),
        "residual": reconstruction.residual,
    }
    weights = {
        "l1": section.l1,
        "l2": section.l2,
        "log_l2": section.log_l2,
        "entropy": quantized * entropy_weight(section, step),
        "commitment": quantized * section.commitment,
        "residual": quantized * section.commitment,
    }
    loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
    by_level = {"entropy": reconstruction.entropy, "commitment": reconstruction.commitment}
    logged = {f"{name}_level_{k}": part.detach() for name, levels in by_level.items() for k, part in enumerate(levels)}
    return {"loss": loss, **parts, **logged}


@torch.no_grad()
def code_use(codes: Sequence[Tensor], num_bits: Sequence[int]) -> dict[str, Tensor]:
    """What a micro-batch's codes, coarsest level first, tell of collapse before a picture does.

    `used_level_k`: different codes; `balance_level_k`: min(mean, 1 - mean) of the level's most one-sided bit, 0 is dead.
    """
    found = {}
    for k, (indices, bits) in enumerate(zip(codes, num_bits, strict=True)):
        mean = (indices_to_signs(indices, bits) > 0).float().mean(dim=(0, 2, 3, 4))  # (bits,)
        found[f"used_level_{k}"] = torch.tensor(float(len(torch.unique(indices))), device=indices.device)
        found[f"balance_level_{k}"] = torch.minimum(mean, 1 - mean).min()
    return found


def sample_prefix(
    batch: int, levels: int, level_dropout: float, generator: torch.Generator, unquantized: float = 0.0
) -> Tensor:
    """(B,) int64: how many levels each clip keeps. All with probability 1 - level_dropout, else uniform in 1 … levels.

    With probability `unquantized` a clip gets 0 instead: its latents pass unquantised.
    """
    dropped, passed = torch.rand(2, batch, generator=generator, device=generator.device)
    shorter = torch.randint(1, levels + 1, (batch,), generator=generator, device=generator.device)
    return torch.where(passed < unquantized, 0, torch.where(dropped < level_dropout, shorter, levels))
