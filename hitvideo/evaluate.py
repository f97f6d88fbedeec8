"""How good it is: reconstruction by prefix of levels, and whether generated videos show what their captions say.

PSNR is -10 log10 of the mean squared error on [0, 1]; SSIM is Wang et al. 2004 with an 11×11 Gaussian of σ 1.5 over
valid windows (the convention of pytorch-msssim), per frame and channel. Captions are judged on moving shapes, where the
attributes can be read back from the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_msssim
import torch

from hitvideo import moving_shapes
from hitvideo.data.clips import ClipSource
from hitvideo.gallery import save_videos
from hitvideo.generate import Generator
from hitvideo.llm.sampling import Sampling
from hitvideo.tokenizer.video_tokenizer import VideoTokenizer
from hitvideo.video import to_uint8

_WINDOW = 11


def psnr(video: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Two (B, 3, T, H, W) in [-1, 1] → dB of each clip (B,)."""
    error = (video - target).float().div(2).square().flatten(1).mean(1)
    return -10 * torch.log10(error.clamp(min=1e-10))


def ssim(video: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Two (B, 3, T, H, W) in [-1, 1], H and W at least 11 → mean structural similarity of each clip's frames (B,)."""
    frames = [x.float().add(1).div(2).transpose(1, 2).flatten(0, 1) for x in (video, target)]  # (B·T, 3, H, W)
    per_frame: torch.Tensor = pytorch_msssim.ssim(*frames, data_range=1.0, size_average=False)
    return per_frame.view(len(video), -1).mean(1)


@torch.no_grad()
def reconstruction(
    tokenizer: VideoTokenizer, source: ClipSource, samples: Sequence[int], progress: Callable[[int], object] | None = None
) -> dict[str, Any]:
    """Mean PSNR and SSIM with the first 1, 2, … levels, bits per pixel of each prefix, and the share of codes in use."""
    device = next(tokenizer.parameters()).device
    levels = tokenizer.hierarchy.levels
    scores = {name: np.zeros((len(samples), len(levels))) for name in ("psnr", "ssim")}
    used: list[set[int]] = [set() for _ in levels]
    for row, index in enumerate(samples):
        video = source.tensor(index, 0)[None].to(device)
        codes = tokenizer.encode(video)
        for k in range(len(levels)):
            decoded = tokenizer.decode(codes[: k + 1], video.shape[2])
            scores["psnr"][row, k] = psnr(decoded, video).item()
            scores["ssim"][row, k] = ssim(decoded, video).item() if min(video.shape[-2:]) >= _WINDOW else float("nan")
            used[k].update(codes[k].flatten().tolist())
        if progress:
            progress(1)
    return {
        "clips": len(samples),
        "psnr_by_prefix": [round(value, 3) for value in scores["psnr"].mean(0).tolist()],
        "ssim_by_prefix": [round(value, 4) for value in scores["ssim"].mean(0).tolist()],
        "bpp_by_prefix": np.cumsum([level.bits_per_pixel for level in levels]).round(6).tolist(),
        "codes_used": [len(codes) for codes in used],
        "codes_possible": [1 << level.num_bits for level in levels],
    }


def show_reconstructions(tokenizer: VideoTokenizer, source: ClipSource, samples: Sequence[int], run: Path) -> None:
    """Originals beside their reconstructions from 1, 2, … levels, into the run's gallery."""
    device = next(tokenizer.parameters()).device
    for index in samples:
        video = source.tensor(index, 0)[None]
        codes = tokenizer.encode(video.to(device))
        rows = [("original", to_uint8(video[0].numpy()))]
        for k in range(1, len(codes) + 1):
            decoded = tokenizer.decode(codes[:k], video.shape[2])[0].cpu().numpy()
            rows.append((f"level 0 … {k - 1}" if k > 1 else "level 0", to_uint8(decoded)))
        save_videos(run, f"reconstruction-{index}", f"Reconstruction by prefix of levels, clip {index}", rows, source.clip.fps)


def show_guidance(generator: Generator, prompts: Sequence[str], sampling: Sampling, run: Path) -> None:
    """The same prompts without guidance, with it, and as a storyboard of level 0, into the run's gallery."""
    kinds = (
        ("1", "Without guidance", 1.0, None),
        ("2", f"Guidance {sampling.guidance:g}", sampling.guidance, None),
        ("3", "Storyboard: level 0 alone", sampling.guidance, 1),
    )
    for name, label, guidance, levels in kinds:
        videos = generator.videos(prompts, replace(sampling, guidance=guidance), levels)
        save_videos(run, f"guidance-{name}", label, list(zip(prompts, videos, strict=True)), generator.clip.fps)


def caption_accuracy(
    generator: Generator, num: int, sampling: Sampling, seed: int, progress: Callable[[int], object] | None = None
) -> tuple[dict[str, Any], list[str], list[np.ndarray]]:
    """Generate for `num` moving-shapes captions and read the attributes back; returns scores, prompts and videos."""
    truth = [scene for _, scene, _ in moving_shapes.scenes(num, seed, "1")]
    prompts = [moving_shapes.caption(scene) for scene in truth]
    videos = generator.videos(prompts, sampling, seed=seed, progress=progress)
    found = [moving_shapes.read(video, num_things=1) for video in videos]
    scores = {
        "caption_accuracy": moving_shapes.accuracy(truth, found),
        "chance": moving_shapes.CHANCE,
        "videos": num,
        "guidance": sampling.guidance,
    }
    return scores, prompts, videos
