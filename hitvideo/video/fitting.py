"""One frame upright, in a clip's shape: rotation, mirroring, pixel aspect ratio, scaling and cropping."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter

from hitvideo.errors import VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.colour import scaled_rgb
from hitvideo.video.filters import Filter
from hitvideo.video.pixels import Frames

Fit: TypeAlias = Literal["cover", "contain", "stretch"]
"""How a frame of another shape fills a clip's H×W: cropped at the centre, padded with black bars, or stretched."""

_EXIF = "31"  # FFmpeg's number of a kind of side data that PyAV cannot name


class Orientation(NamedTuple):
    """How a coded frame becomes upright: first rows and columns change places, then it is mirrored."""

    swapped: bool = False
    left_right: bool = False
    top_bottom: bool = False

    def upright(self, pixels: Frames) -> Frames:
        """Coded pixels (H, W, 3) → upright ones."""
        if self.swapped:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1]


def orientation(frame: Any, codec: str) -> Orientation:
    """The frame's display matrix, or EXIF orientation, as the nearest of the eight without a slant."""
    if not (matrix := _display_matrix(frame, codec)):
        return Orientation()
    # FFmpeg's matrix: a coded pixel (x, y) is shown at (a·x + c·y, b·x + d·y), plus an offset
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def upright_aspect_of(frame: Any, stream: Any) -> float:
    """Width / height of a frame as displayed."""
    aspect: float = frame.width * float(stream.sample_aspect_ratio or 1) / frame.height
    return 1 / aspect if orientation(frame, stream.codec_context.name).swapped else aspect


def fitted(
    frame: Any, stream: Any, clip: ClipShape, reformatter: VideoReformatter, limits: LimitsSection, label: str, fit: Fit
) -> Frames:
    """The frame, upright and fitted to the clip's H×W: (H, W, 3)."""
    codec = stream.codec_context.name
    turn = orientation(frame, codec)
    height, width = (clip.width, clip.height) if turn.swapped else (clip.height, clip.width)
    stretch = float(stream.sample_aspect_ratio or 1)  # pixel width / pixel height
    factors = height / frame.height, width / (frame.width * stretch)
    scale = max(factors) if fit == "cover" else min(factors)
    scaled_height, scaled_width = max(1, round(frame.height * scale)), max(1, round(frame.width * stretch * scale))
    if fit == "stretch":
        scaled_height, scaled_width = height, width
    elif fit == "cover":
        scaled_height, scaled_width = max(height, scaled_height), max(width, scaled_width)
    if scaled_height * scaled_width > limits.max_pixels:
        found = f"{frame.width}×{frame.height} pixels scaled to {scaled_width}×{scaled_height} to cover {width}×{height}"
        raise VideoError("too_large", f"{label}: {found}; the limit per frame is {limits.max_pixels}")
    pixels = scaled_rgb(frame, codec, scaled_width, scaled_height, reformatter, label)
    if fit == "contain":
        top, left = (height - scaled_height) // 2, (width - scaled_width) // 2
        bars = ((top, height - scaled_height - top), (left, width - scaled_width - left), (0, 0))
        return turn.upright(np.pad(pixels, bars))
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    return turn.upright(pixels[top : top + height, left : left + width])


def _display_matrix(frame: Any, codec: str) -> list[int] | None:
    if codec == "png":
        # A PNG's colour profile has a name, and PyAV 18.1 frees it twice if it lists it.
        frame = _without(frame, "ICC_PROFILE")
    try:
        found = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV lists no side data at all if it cannot name one of them
        found = _without(frame, _EXIF).side_data.get(Type.DISPLAYMATRIX)
    return np.frombuffer(bytes(found), np.int32).tolist() if found else None


def _without(frame: Any, kind: str) -> Any:
    """The frame without one kind of side data."""
    (less,) = Filter("sidedata", f"mode=delete:type={kind}", frame, Fraction(1)).push(frame)
    return less
