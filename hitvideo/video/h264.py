"""H.264 at a given number of bytes: the baseline that a video tokenizer's reconstructions are compared with.

x264 through PyAV: preset `veryslow`, 4:2:0, one group of pictures, no container. The size counts parameter sets and
pictures, but not the SEI text in which x264 lists its settings. The quality is the best constant rate factor that fits.
"""

from __future__ import annotations

import re
from fractions import Fraction

import av
import numpy as np

from hitvideo.video.pixels import Frames

_WORST = 51
_SEI = 6
_START = re.compile(rb"\x00\x00\x00?\x01")


def h264_at(frames: Frames, max_bytes: float, fps: float = 8.0) -> tuple[Frames, int]:
    """uint8 (T, H, W, 3) → the frames after H.264 compression to at most `max_bytes`, and the bytes used.

    If even the worst quality does not fit, it is returned anyway, with its size. Height and width must be even.
    """
    low, high = 0, _WORST
    stream = _encode(frames, high, fps)
    while low < high and len(stream) <= max_bytes:
        middle = (low + high) // 2
        tried = _encode(frames, middle, fps)
        if len(tried) <= max_bytes:
            high, stream = middle, tried
        else:
            low = middle + 1
    return _decode(stream), len(stream)


def _encode(frames: Frames, crf: int, fps: float) -> bytes:
    context = av.CodecContext.create("libx264", "w")
    context.height, context.width = frames.shape[1:3]
    context.pix_fmt = "yuv420p"
    context.time_base = 1 / Fraction(fps).limit_denominator(1000)
    context.thread_count = 1
    context.options = {"preset": "veryslow", "crf": str(crf), "x264-params": "keyint=infinite:annexb=1"}
    packets = []
    for number, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = number
        packets += context.encode(frame)
    packets += context.encode(None)
    units = [unit for unit in _START.split(b"".join(bytes(packet) for packet in packets)) if unit]
    return b"".join(b"\x00\x00\x01" + unit for unit in units if unit[0] & 0x1F != _SEI)


def _decode(stream: bytes) -> Frames:
    context = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    decoded = [frame for packet in [*context.parse(stream), *context.parse(b""), None] for frame in context.decode(packet)]
    return np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
