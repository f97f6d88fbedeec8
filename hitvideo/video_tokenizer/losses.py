"""Losses of the video tokenizer (distances to the video, entropy and commitment of the codes), and level dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hitvideo.settings.video_tokenizer import LossSection
from hitvideo.video_tokenizer.model import Reconstruction
from hitvideo.video_tokenizer.quantizer import table_entropy

Tables = list[tuple[Tensor, ...]]
"""Each level's mean code distributions, coarsest level first."""
_LOG_FLOOR = 2e-4  # mean square error of a clip at 43 dB; better clips gain little from log_l2


def entropy_weights(loss: LossSection, step: int, levels: int) -> list[float]:
    """Each level's weight of the entropy loss: falls linearly from `entropy_boost` · `entropy` to `entropy` by
    `entropy_anneal_steps`.
    """
    done = min(1.0, step / loss.entropy_anneal_steps) if loss.entropy_anneal_steps else 1.0
    weights = loss.entropy if isinstance(loss.entropy, tuple) else (loss.entropy,) * levels
    return [weight * (loss.entropy_boost + (1 - loss.entropy_boost) * done) for weight in weights]


def distances(
    video: Tensor, target: Tensor, loss: LossSection, perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
) -> dict[str, Tensor]:
    """Unweighted distances of a reconstruction to the `target`, both (B, 3, T, H, W) in [-1, 1], and their weighted sum.

    Keys: `l1`; `l2`; `log_l2`, the mean over clips of log(l2 of the clip), which up to constants is -PSNR, or a Gaussian
    likelihood with a variance fitted to each clip (VidTok learns one for all); `perceptual`, the mean over clips, if the
    function is given; `distance`, the weighted sum.
    """
    difference = video - target
    of_clips = difference.square().flatten(1).mean(1)  # (B,)
    parts = {"l1": difference.abs().mean(), "l2": of_clips.mean(), "log_l2": (of_clips + _LOG_FLOOR).log().mean()}
    weights = {"l1": loss.l1, "l2": loss.l2, "log_l2": loss.log_l2}
    if perceptual:
        parts["perceptual"], weights["perceptual"] = perceptual(video, target).mean(), loss.perceptual.weight
    return {**parts, "distance": torch.stack([weights[name] * part for name, part in parts.items()]).sum()}


def code_losses(
    reconstruction: Reconstruction, loss: LossSection, step: int, over_batch: Callable[[Tables], Tables] = lambda tables: tables
) -> dict[str, Tensor]:
    """Unweighted losses of the codes, and their weighted sum `codes`; all in fp32.

    `over_batch` gives the global batch's code distributions for those of these clips, and lets the gradient through.
    `entropy` and `commitment` are means over the levels, so that their weights mean the same for any hierarchy. `residual`
    ties the sum of the levels to the latents; it has the commitment's weight because it does the same for all levels
    together. `entropy_level_k` and `commitment_level_k` are for logging only.
    """
    tables = zip(reconstruction.sample_entropy, over_batch(reconstruction.tables), strict=True)
    entropy = torch.stack([each_cell - table_entropy(level) for each_cell, level in tables])
    commitment = torch.stack(reconstruction.commitment)
    parts = {"entropy": entropy.mean(), "commitment": commitment.mean(), "residual": reconstruction.residual}
    weights = entropy.new_tensor(entropy_weights(loss, step, len(entropy)))
    total = (weights * entropy).mean() + loss.commitment * (parts["commitment"] + parts["residual"])
    by_level = {"entropy": entropy.detach(), "commitment": commitment.detach()}
    logged = {f"{name}_level_{k}": part for name, levels in by_level.items() for k, part in enumerate(levels)}
    return {**parts, **logged, "codes": total}


def over_batch(tables: Tables, mean: Callable[[Tensor], Tensor]) -> Tables:
    """Code distributions with the values of the global batch and the gradient of these clips.

    The batch entropy H(p) is a function of p, the mean of the parts' tables p_m. A part's loss is H(p + p_m - sg[p_m]): its
    value is H(p), its gradient ∂H/∂p · ∂p_m, and the mean of these gradients over the parts is that of H(p). `mean` gives
    p for p_m, both one flat tensor of all tables, without a gradient.
    """
    if not any(tables):
        return tables
    flat = flatten(tables)
    flat = flat + (mean(flat.detach()) - flat.detach())
    pieces = iter(torch.split(flat, [table.numel() for level in tables for table in level]))
    return [tuple(next(pieces).view_as(table) for table in level) for level in tables]


def flatten(tables: Tables) -> Tensor:
    """All tables end to end."""
    return torch.cat([table.flatten() for level in tables for table in level])


def sample_prefix(
    batch: int, levels: int, level_dropout: float | Sequence[float], seed: Sequence[int], unquantized: float = 0.0
) -> Tensor:
    """(B,) int64: how many levels each clip keeps: all with probability 1 - level_dropout, else uniform in 1 … levels.

    A list as `level_dropout` gives the probabilities of 1, 2, … levels. With probability `unquantized` a clip gets 0
    instead, which means that its latents pass unquantised. A clip's draw is a function of `seed` and its place in the batch
    alone.
    """
    dropped, passed, shorter = np.random.default_rng(list(seed)).random((batch, 3)).T
    if isinstance(level_dropout, Sequence):
        below = np.searchsorted(np.cumsum(level_dropout), dropped, side="right")  # (B,) how many shares a draw is beyond
        kept = np.where(below < len(level_dropout), np.minimum(1 + below, levels), levels)
    else:
        kept = np.where(dropped < level_dropout, 1 + np.floor(shorter * levels), levels)
    return torch.from_numpy(np.where(passed < unquantized, 0, kept).astype(np.int64))


def level_shares(prefix: Tensor, levels: int) -> tuple[float, ...]:
    """The part of a batch's clips that keeps each level; a prefix of 0 keeps all."""
    return tuple(float(((prefix == 0) | (prefix > level)).double().mean()) for level in range(levels))
