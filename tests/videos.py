"""Videos made for tests: numbered or given frames at chosen times, and files whose header lies."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

TICK = Fraction(1, 90000)


def numbered(number: int, height: int = 64, width: int = 64) -> np.ndarray:
    """A frame whose ten vertical bars are the bits of its number."""
    bits = [(number >> bit) & 1 for bit in range(10)]
    row = np.repeat(bits, -(-width // 10))[:width] * 255
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


def number_of(pixels: np.ndarray) -> int:
    """The inverse of `numbered`, for a frame of any size."""
    width = pixels.shape[1]
    step = -(-width // 10)
    centres = [min(width - 1, bit * step + step // 2) for bit in range(10)]
    return sum(1 << bit for bit, at in enumerate(centres) if pixels[pixels.shape[0] // 2, at].mean() > 127)


def mux(seconds: list[float], codec: str = "libx264", container: str = "mp4", size: int = 64, tick: Fraction = TICK) -> bytes:
    """A file whose k-th frame shows the number k, from seconds[k] on."""
    options = {"crf": "10"} if codec == "libx264" else {}
    frames = [numbered(number, size, size) for number in range(len(seconds))]
    return mux_frames(frames, codec, container, options=options, stamps=[round(at / tick) for at in seconds], tick=tick)


def mux_frames(
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    container: str = "mp4",
    rate: int = 30,
    pixels: str = "yuv420p",
    options: Mapping[str, str] = {},
    stamps: Sequence[int] | None = None,
    tick: Fraction | None = None,
    matrix: int | None = None,
    tags: Mapping[str, int] = {},
    sound: float = 0.0,
) -> bytes:
    """A file of RGB frames (H, W, 3), at a constant rate or at `stamps` in units of `tick`.

    `matrix`: the colour matrix to encode with. `tags`: what the stream says of its colours. `sound`: seconds of silence.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=rate, options=dict(options))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if tick:
            stream.codec_context.time_base = tick
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        audio: Any = file.add_stream("aac", rate=16000) if sound else None
        for number, picture in enumerate(frames):
            kind = "rgb48le" if picture.dtype == np.uint16 else "rgb24"
            frame = av.VideoFrame.from_ndarray(picture, format=kind).reformat(format=pixels, dst_colorspace=matrix, threads=1)
            frame.pts, frame.time_base = stamps[number] if stamps else number, tick or Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        for place in range(round(sound * 16000 / 1024)):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 16000, place * 1024, Fraction(1, 16000)
            file.mux(audio.encode(silence))
        if audio:
            file.mux(audio.encode(None))
    return buffer.getvalue()


def claiming(width: int) -> bytes:
    """A tiny file that claims to be `width` pixels square: FFV1 takes its frame size from the Matroska header."""
    source = mux([0, 0.1], codec="ffv1", container="matroska", size=300)
    for tag in (b"\xb0\x82", b"\xba\x82"):
        source = source.replace(tag + (300).to_bytes(2, "big"), tag + width.to_bytes(2, "big"))
    return source


def with_display_matrix(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """The same MP4, to be shown with its pixels (x, y) at (a·x + c·y, b·x + d·y)."""
    at = mp4.index(b"tkhd") + 44
    rows = ((a, b, 0), (c, d, 0), (0, 0, 0x4000))
    content = b"".join((value << 16).to_bytes(4, "big", signed=True) for row in rows for value in row)
    return mp4[:at] + content + mp4[at + len(content) :]
