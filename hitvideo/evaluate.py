"""How good it is: reconstruction by prefix of levels, and whether generated videos show what their captions say.

PSNR is -10 log10 of the mean squared error on [0, 1]; SSIM is Wang et al. 2004 with an 11×11 Gaussian of σ 1.5 over
valid windows (the convention of pytorch-msssim), per frame and channel. H.264 at the same number of bits stands beside
the reconstructions as the outside reference. Captions are judged on moving shapes, where the
attributes can be read back from the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_msssim
import torch

from hitvideo import moving_shapes
from hitvideo.data.clips import ClipSource
from hitvideo.gallery import save_videos
from hitvideo.generate import Generator
from hitvideo.h264 import h264_at
from hitvideo.llm.sampling import Sampling
from hitvideo.tokenizer.video_tokenizer import VideoTokenizer
from hitvideo.video import Frames, contact_sheet, to_uint8, to_unit

_WINDOW = 11
_DEAD = 0.1


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
    """Mean PSNR and SSIM with the first 1, 2, … levels and of H.264 at all levels' bits; bits per pixel; codes in use.

    `bit_balance`: of a level's bits, how near the most one-sided one comes to never changing: min(mean, 1 - mean).
    `dead_bits`: bits that are 0 or 1 in more than 90 % of the cells.
    """
    device = next(tokenizer.parameters()).device
    levels = tokenizer.hierarchy.levels
    scores = {name: np.zeros((len(samples), len(levels) + 1)) for name in ("psnr", "ssim")}  # the last column is H.264's
    counts = [CodeCounts(level.num_bits) for level in levels]
    outside_bytes = 0
    for row, index in enumerate(samples):
        video = source.tensor(index, 0)[None].to(device)
        codes = tokenizer.encode(video)
        shown = [tokenizer.decode(codes[: k + 1], video.shape[2]) for k in range(len(levels))]
        budget = tokenizer.hierarchy.bits_per_pixel * video[0, 0].numel() / 8
        outside, size = h264_at(to_uint8(video[0].cpu().numpy()), budget, source.clip.fps)
        outside_bytes += size
        shown.append(torch.from_numpy(to_unit(outside))[None].to(device))
        for column, decoded in enumerate(shown):
            scores["psnr"][row, column] = psnr(decoded, video).item()
            scores["ssim"][row, column] = ssim(decoded, video).item() if min(video.shape[-2:]) >= _WINDOW else float("nan")
        for count, indices in zip(counts, codes, strict=True):
            count.add(indices)
        if progress:
            progress(1)
    means = {name: values.mean(0).tolist() for name, values in scores.items()}
    pixels = len(samples) * source.clip.frames * source.clip.height * source.clip.width
    return {
        "clips": len(samples),
        "psnr_by_prefix": [round(value, 3) for value in means["psnr"][:-1]],
        "ssim_by_prefix": [round(value, 4) for value in means["ssim"][:-1]],
        "bpp_by_prefix": np.cumsum([level.bits_per_pixel for level in levels]).round(6).tolist(),
        "codes_used": [count.used for count in counts],
        "codes_possible": [1 << level.num_bits for level in levels],
        "bit_balance": [round(float(count.balance.min()), 3) for count in counts],
        "dead_bits": [int((count.balance < _DEAD).sum()) for count in counts],
        "h264": {
            "psnr": round(means["psnr"][-1], 3),
            "ssim": round(means["ssim"][-1], 4),
            "bpp": round(8 * outside_bytes / pixels, 6),
        },
    }


class CodeCounts:
    """Which of a level's codes occur, and how often each bit of them is 1."""

    def __init__(self, num_bits: int) -> None:
        self._codes: set[int] = set()
        self._ones = np.zeros(num_bits)
        self._cells = 0

    def add(self, indices: torch.Tensor) -> None:
        """Any shape of integers below 2**num_bits."""
        flat = indices.flatten().cpu().numpy()
        self._codes.update(flat.tolist())
        self._ones += ((flat[:, None] >> np.arange(len(self._ones))) & 1).sum(0)
        self._cells += len(flat)

    @property
    def used(self) -> int:
        return len(self._codes)

    @property
    def balance(self) -> npt.NDArray[np.float64]:
        """min(mean, 1 - mean) of every bit: 0.5 is even, 0 never changes."""
        mean = self._ones / max(self._cells, 1)
        balance: npt.NDArray[np.float64] = np.minimum(mean, 1 - mean)
        return balance


def reconstruction_table(figures: dict[str, Any]) -> str:
    """The figures of `reconstruction` as a table for people, a row for each prefix of levels."""
    rows = [("levels", "bpp", "PSNR dB", "SSIM", "codes used", "bit balance", "dead bits")]
    for k, psnr_ in enumerate(figures["psnr_by_prefix"]):
        used = f"{figures['codes_used'][k]:,} of {figures['codes_possible'][k]:,}"
        bits = f"{figures['bit_balance'][k]:.3f}", str(figures["dead_bits"][k])
        quality = f"{figures['bpp_by_prefix'][k]:.5f}", f"{psnr_:.2f}", f"{figures['ssim_by_prefix'][k]:.4f}"
        rows.append((f"0 … {k}", *quality, used, *bits))
    h264 = figures["h264"]
    rows.append(("H.264", f"{h264['bpp']:.5f}", f"{h264['psnr']:.2f}", f"{h264['ssim']:.4f}", "", "", ""))
    sizes = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(size) for cell, size in zip(row, sizes, strict=True)) for row in rows)


def show_reconstructions(tokenizer: VideoTokenizer, source: ClipSource, samples: Sequence[int], run: Path) -> None:
    """Originals beside their reconstructions from 1, 2, … levels and H.264's, into the run's gallery, and as one PNG."""
    device = next(tokenizer.parameters()).device
    sheet: list[Frames] = []
    for index in samples:
        video = source.tensor(index, 0)[None]
        codes = tokenizer.encode(video.to(device))
        rows = [("original", to_uint8(video[0].numpy()))]
        for k in range(1, len(codes) + 1):
            decoded = tokenizer.decode(codes[:k], video.shape[2])[0].cpu().numpy()
            rows.append((f"level 0 … {k - 1}" if k > 1 else "level 0", to_uint8(decoded)))
        budget = tokenizer.hierarchy.bits_per_pixel * video[0, 0].numel() / 8
        rows.append(("H.264 of as many bytes", h264_at(rows[0][1], budget, source.clip.fps)[0]))
        sheet += [frames for _, frames in rows]
        save_videos(run, f"reconstruction-{index}", f"Reconstruction by prefix of levels, clip {index}", rows, source.clip.fps)
    contact_sheet(sheet, run / "samples" / "reconstruction.png")


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
