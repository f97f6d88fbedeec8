"""What a video tokenizer is trained on: distance to the video, entropy of the codes, commitment; and level dropout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hitvideo.schema import LossSection
from hitvideo.tokenizer.video_tokenizer import Reconstruction


def entropy_weight(section: LossSection, step: int) -> float:
    """Weight of the entropy loss: `entropy_boost` times `entropy` at step 0, `entropy` from `entropy_anneal_steps` on."""
    done = min(1.0, step / section.entropy_anneal_steps) if section.entropy_anneal_steps else 1.0
    return section.entropy * (section.entropy_boost + (1 - section.entropy_boost) * done)


def reconstruction_losses(reconstruction: Reconstruction, video: Tensor, section: LossSection, step: int) -> dict[str, Tensor]:
    """Scalars by name: `loss`, the weighted sum, and its unweighted parts `l1`, `l2`, `entropy`, `commitment`.

    `video` is the target, (B, 3, T, H, W) in [-1, 1]. Entropy and commitment are means over the levels, so that their
    weights mean the same for any hierarchy. All in fp32.
    """
    output, target = reconstruction.video.float(), video.float()
    parts = {
        "l1": F.l1_loss(output, target),
        "l2": F.mse_loss(output, target),
        "entropy": torch.stack(reconstruction.entropy).mean(),
        "commitment": torch.stack(reconstruction.commitment).mean(),
    }
    weights = {
        "l1": section.l1,
        "l2": section.l2,
        "entropy": entropy_weight(section, step),
        "commitment": section.commitment,
    }
    loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
    return {"loss": loss, **parts}


def sample_prefix(batch: int, levels: int, level_dropout: float, generator: torch.Generator) -> Tensor:
    """(B,) int64: how many levels each clip keeps. All with probability 1 - level_dropout, else uniform in 1 … levels."""
    dropped = torch.rand(batch, generator=generator, device=generator.device) < level_dropout
    shorter = torch.randint(1, levels + 1, (batch,), generator=generator, device=generator.device)
    return torch.where(dropped, shorter, levels)
