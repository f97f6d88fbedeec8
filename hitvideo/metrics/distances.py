"""Distances between two videos (PSNR, SSIM) and between two sets of videos (Fréchet distance).

PSNR is -10 log10 of the mean squared error on [0, 1]. SSIM follows Wang et al. 2004 with an 11×11 Gaussian of σ 1.5 over
valid windows (the convention of pytorch-msssim), per frame and channel. The Fréchet distance is Heusel et al. 2017, equation 6.
"""

from __future__ import annotations

import pytorch_msssim
import torch
from torch import Tensor

SSIM_WINDOW = 11


def psnr(video: Tensor, target: Tensor) -> Tensor:
    """Two (B, 3, T, H, W) in [-1, 1] → PSNR of each clip in dB, (B,)."""
    error = (video - target).float().div(2).square().flatten(1).mean(1)
    return -10 * torch.log10(error.clamp(min=1e-10))


def ssim(video: Tensor, target: Tensor) -> Tensor:
    """Two (B, 3, T, H, W) in [-1, 1] → mean SSIM of each clip's frames, (B,); nan if they are below 11×11 pixels."""
    if min(video.shape[-2:]) < SSIM_WINDOW:
        return torch.full((len(video),), float("nan"))
    frames = [x.float().add(1).div(2).transpose(1, 2).flatten(0, 1) for x in (video, target)]  # (B·T, 3, H, W)
    per_frame: Tensor = pytorch_msssim.ssim(*frames, data_range=1.0, size_average=False)
    return per_frame.view(len(video), -1).mean(1)


def frechet_distance(features: Tensor, target: Tensor) -> float:
    """Two sets of features, (n, D) and (m, D) → the Fréchet distance between normal distributions fitted to them.

    ‖μ - μ'‖² + tr(Σ + Σ' - 2 (Σ Σ')^½), in fp64. The trace of (Σ Σ')^½ is the sum of the square roots of the eigenvalues
    of Σ Σ', which are real and nonnegative. Raises ValueError if a set has fewer than two features.
    """
    if min(len(features), len(target)) < 2:
        raise ValueError(f"a Fréchet distance needs at least two features per set, got {len(features)} and {len(target)}")
    a, b = features.double(), target.double()
    covariance, other = (torch.cov(x.T).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    roots = torch.linalg.eigvals(covariance @ other).real.clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + covariance.trace() + other.trace() - 2 * roots)
