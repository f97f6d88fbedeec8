"""A trained video tokenizer on its device, and the check that the device computes correctly."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hitvideo import config
from hitvideo.config import needed
from hitvideo.errors import ConfigError
from hitvideo.hierarchy import ClipShape
from hitvideo.ops.precision import DTYPES
from hitvideo.settings.programs import TokenizeRun
from hitvideo.video.fitting import Fit
from hitvideo.video.pixels import Frames, to_uint8, to_unit
from hitvideo.video_tokenizer.weights import load_video_tokenizer, weights_fingerprint
from tokenize_shards.recipe import Recipe

log = logging.getLogger(__name__)


class DeviceTokenizer:
    """A trained video tokenizer with all that decides its codes: device, precision and clips."""

    def __init__(self, settings: TokenizeRun, device: torch.device | None = None) -> None:
        """Raises ConfigError if the weights are missing, a bucket does not fit, or the device computes wrong codes."""
        weights = Path(needed(settings.video_tokenizer.weights, "video_tokenizer.weights"))
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.settings = settings
        self.weights = weights.resolve()
        try:
            self.fingerprint = weights_fingerprint(weights)
            self.video_tokenizer, self.clip = load_video_tokenizer(weights, self.device)
        except ConfigError as error:
            raise ConfigError(f"video_tokenizer.weights: {error}") from error
        data = settings.data
        fit: Fit = data.fit
        buckets = data.buckets or (self.clip,)
        self.recipe = Recipe(buckets, fit, data.clips_per_video, data.clip_stride, settings.limits)
        longest = max(clip.frames / clip.fps for clip in buckets)
        if data.clip_stride and data.clip_stride < longest:
            raise ConfigError(f"data.clip_stride {data.clip_stride:g} makes clips of {longest:g} s overlap; use at least that")
        self.grids = [self.video_tokenizer.hierarchy.grids(clip.extent) for clip in buckets]
        wanted = data.dtype if data.dtype != "auto" else "bf16" if self.device.type == "cuda" else "fp32"
        self.dtype = DTYPES[wanted]
        self.video_tokenizer.to(self.dtype)
        if self.dtype == torch.float32:  # fp32 must not become TF32
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        if self.device.type != "cpu" or self.dtype != torch.float32:
            self._check_device()
        if data.compile:
            self.video_tokenizer.encoder.compile()

    @cached_property
    def contract(self) -> str:
        """Fingerprint of everything that decides a token shard's content: video tokenizer, clips, limits, precision."""
        precision = {"dtype": str(self.dtype), "chunk": self.settings.data.chunk}
        return config.fingerprint(self.fingerprint, self.recipe.described(), precision)

    def described(self) -> dict[str, Any]:
        """Return what a manifest records about its codes."""
        buckets = [
            {"video": clip.model_dump(mode="json"), "grids": [list(grid) for grid in grids]}
            for clip, grids in zip(self.recipe.buckets, self.grids, strict=True)
        ]
        return {
            **buckets[0],
            "buckets": buckets,
            "hierarchy": self.video_tokenizer.hierarchy.model_dump(mode="json"),
            "video_tokenizer": {"fingerprint": self.fingerprint, "weights": str(self.weights)},
        }

    def __call__(self, clips: Sequence[Frames]) -> list[Tensor]:
        """uint8 clips (T, H, W, 3) → indices of each level (B, t, h, w) on the device, which may still be computing."""
        pixels = torch.from_numpy(np.stack(clips))  # (B, T, H, W, 3)
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.device, non_blocking=True)
        video = pixels.permute(0, 4, 1, 2, 3).float().contiguous() / 127.5 - 1  # like `to_unit`
        return self.video_tokenizer.encode(video.to(self.dtype), chunk=self._chunk(video.shape[2]))

    def _chunk(self, frames: int) -> int | None:
        chunk = self.settings.data.chunk
        return chunk if chunk and frames > chunk else None

    def _check_device(self) -> None:
        """Compare a golden clip's codes with fp32 on the CPU, because some devices compute wrong 3D convolutions."""
        oracle, _ = load_video_tokenizer(self.weights, "cpu")
        frames = golden_clip(self.recipe.buckets[0])
        video = torch.from_numpy(to_unit(frames))[None]
        levels = self.video_tokenizer.hierarchy.levels
        for number, (ours, right) in enumerate(zip(self([frames]), oracle.encode(video), strict=True)):
            equal = bit_agreement(ours.cpu(), right, levels[number].num_bits)
            log.info("golden clip, level %d: %.2f %% of bits equal those of fp32 on the CPU", number, 100 * equal)
            if equal < self.settings.data.agreement:
                raise ConfigError(
                    f"on a golden clip, {self.device} in {self.dtype} gives {100 * equal:.1f} % of the bits of level {number} "
                    f"that fp32 on the CPU gives; data.agreement is {100 * self.settings.data.agreement:.1f} %; set "
                    f"data.dtype=fp32, or use another version of torch or cuDNN"
                )


def golden_clip(clip: ClipShape) -> Frames:
    """Return moving waves in three colours that use every pixel value. They depend only on the shape."""
    t, h, w = (np.arange(size) for size in clip.extent)
    waves = [np.sin(0.9 * t[:, None, None] + h[None, :, None] / (5 + k) + w[None, None, :] / (7 - k)) for k in range(3)]
    return to_uint8(np.stack(waves))


def bit_agreement(one: Tensor, other: Tensor, num_bits: int) -> float:
    """Return the share of equal bits in two tensors of indices; by chance it is one half."""
    differing = one ^ other
    ones = sum(int(((differing >> bit) & 1).sum()) for bit in range(num_bits))
    return 1 - ones / (differing.numel() * num_bits)
