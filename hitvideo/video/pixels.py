"""Conversions between uint8 frames and the models' [-1, 1] floats."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Frames: TypeAlias = npt.NDArray[np.uint8]


def to_unit(frames: Frames) -> npt.NDArray[np.float32]:
    """uint8 (T, H, W, 3) → float32 (3, T, H, W) in [-1, 1]."""
    return np.ascontiguousarray(frames.transpose(3, 0, 1, 2), dtype=np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(video: npt.NDArray[Any]) -> Frames:
    """Floats (3, T, H, W) → uint8 (T, H, W, 3), clipped to [-1, 1] first. The inverse of `to_unit`."""
    return np.ascontiguousarray(np.rint((np.clip(video, -1, 1) + 1) * 127.5).transpose(1, 2, 3, 0), dtype=np.uint8)
