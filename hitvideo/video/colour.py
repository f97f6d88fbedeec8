"""A picture's colours as a player shows them on an ordinary (SDR) screen: 8-bit RGB.

- The matrix is the one in the file. If the file names none, it is BT.709 from 720 lines or 1280 pixels a line up, and
  BT.601 below, as in players. WebP, VP8 and JPEG are BT.601 at any size: their formats say so.
- What is transparent shows black behind it.
- HDR (PQ and HLG) is mapped to SDR, see hdr.py.
- Colour profiles and primaries are not applied; the difference on ordinary files is small.
"""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from hitvideo.errors import VideoError
from hitvideo.video import hdr
from hitvideo.video.pixels import Frames

# AREA averages, so downscaling does not alias. BITEXACT and ACCURATE_RND give the same pixels on every processor.
SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
HD_LINES, HD_WIDTH = 720, 1280
_UNNAMED = 2
_ALWAYS_BT601 = ("vp8", "webp", "mjpeg")
# Numbers of H.273 for colours that swscale would take for BT.601 without a word.
_UNKNOWN_MATRICES = {8: "YCgCo", 10: "BT.2020 constant luminance", 11: "Y'D'zD'x", 14: "ICtCp", 15: "IPT-C2"}


def scaled_rgb(frame: Any, codec: str, width: int, height: int, reformatter: VideoReformatter, label: str) -> Frames:
    """The frame in a size of width×height pixels: uint8 (H, W, 3). Raises VideoError if its colours cannot be read."""
    if name := _UNKNOWN_MATRICES.get(frame.colorspace):
        raise VideoError("unsupported", f"{label}: colours coded as {name}, which are not read; convert it to BT.709")
    matrix = _matrix(frame, codec)
    if frame.color_trc in hdr.TRANSFERS:
        wide = reformatter.reformat(frame, width, height, "rgb48le", src_colorspace=matrix, interpolation=SCALING, threads=1)
        codes: Any = wide.to_ndarray()
        return hdr.to_sdr(codes, frame.color_trc)
    if frame.format.has_palette or any(component.is_alpha for component in frame.format.components):
        frame = _over_black(frame, matrix)
    scaled = reformatter.reformat(frame, width, height, "rgb24", src_colorspace=matrix, interpolation=SCALING, threads=1)
    pixels: Frames = np.asarray(scaled.to_ndarray(), np.uint8)
    return pixels


def _matrix(frame: Any, codec: str) -> Colorspace | None:
    """The colour matrix to use instead of the frame's own."""
    if frame.colorspace != _UNNAMED or codec in _ALWAYS_BT601:
        return None
    if frame.color_trc in hdr.TRANSFERS:
        return Colorspace.BT2020
    return Colorspace.ITU709 if frame.height >= HD_LINES or frame.width >= HD_WIDTH else None


def _over_black(frame: Any, matrix: Colorspace | None) -> Any:
    """The frame as it looks on black, before it is scaled: hidden colours must not bleed into what is seen."""
    rgba: Any = frame.reformat(format="rgba", src_colorspace=matrix, interpolation=SCALING, threads=1).to_ndarray()
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return frame
    return av.VideoFrame.from_ndarray(((rgba[..., :3] * alpha + 127) // 255).astype(np.uint8), format="rgb24")
