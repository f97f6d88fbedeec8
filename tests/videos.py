"""Videos made for tests: numbered frames at chosen times, and files whose header lies."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np

TICK = Fraction(1, 90000)


def numbered(number: int, height: int = 64, width: int = 64) -> np.ndarray:
    """A frame whose ten vertical bars are the bits of its number."""
    bits = [(number >> bit) & 1 for bit in range(10)]
    row = np.repeat(bits, -(-width // 10))[:width] * 255
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


def mux(seconds: list[float], codec: str = "libx264", container: str = "mp4", size: int = 64, tick: Fraction = TICK) -> bytes:
    """A file whose k-th frame shows the number k, from seconds[k] on."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=30, options={"crf": "10"} if codec == "libx264" else {})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = tick
        for number, at in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(numbered(number, size, size), format="rgb24")
            frame.pts, frame.time_base = round(at / tick), tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def claiming(width: int) -> bytes:
    """A tiny file that claims to be `width` pixels square: FFV1 takes its frame size from the Matroska header."""
    source = mux([0, 0.1], codec="ffv1", container="matroska", size=300)
    for tag in (b"\xb0\x82", b"\xba\x82"):
        source = source.replace(tag + (300).to_bytes(2, "big"), tag + width.to_bytes(2, "big"))
    return source
