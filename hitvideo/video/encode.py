"""MP4 and PNG encoding of frames."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from hitvideo.files import replace_file
from hitvideo.video.colour import SCALING
from hitvideo.video.pixels import Frames

BT709 = 1  # H.264's number for the BT.709 matrix, primaries and transfer function alike


def encode_mp4(frames: Frames, fps: float, crf: int = 18, tags: Mapping[str, str] | None = None) -> bytes:
    """Encode uint8 frames (T, H, W, 3) as H.264 yuv420p in MP4. The same input always gives the same bytes.

    A smaller `crf` gives better quality and a bigger file. `tags`: texts that the file keeps under names of their own
    (`hitvideo.video.tags` reads them). Raises ValueError if H or W is odd: 4:2:0 halves both.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"expected one or more uint8 frames (T, H, W, 3), got {frames.dtype} {frames.shape}")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"H.264 in yuv420p needs an even width and height, got {width}×{height}; crop or pad by one pixel")
    rate = Fraction(fps).limit_denominator(1001)  # 23.976… becomes 24000/1001
    if not tags:
        buffer = io.BytesIO()
        _encode(buffer, frames, rate, crf, {"fflags": "+bitexact"}, {})
        return buffer.getvalue()
    # Without use_metadata_tags the muxer keeps standard names only; faststart, which puts the index before the pictures, reads
    # the file again by its name.
    options = {"fflags": "+bitexact", "movflags": "use_metadata_tags+faststart"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        _encode(str(path), frames, rate, crf, options, tags)
        return path.read_bytes()


def _encode(
    out: io.BytesIO | str, frames: Frames, rate: Fraction, crf: int, options: dict[str, str], tags: Mapping[str, str]
) -> None:
    _, height, width, _ = frames.shape
    with av.open(out, "w", format="mp4", container_options=options) as container:
        container.metadata.update(tags)
        # x264's macroblock tree gives other bytes about once in 300 encodings with AVX-512 (seen in x264 as PyAV 18.1 has it)
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "x264-params": "mbtree=0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # x264's output depends on the number of threads
        context.time_base = 1 / rate
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = ColorRange.MPEG
        for number, pixels in enumerate(frames):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=SCALING, threads=1)
            frame.pts, frame.time_base = number, 1 / rate
            _mux(container, stream.encode(frame), rate)
        _mux(container, stream.encode(None), rate)


def _mux(container: Any, packets: Sequence[Any], rate: Fraction) -> None:
    """Write packets with their durations. The encoder leaves these out, and then the last frame would have no end."""
    for packet in packets:
        packet.duration = round(1 / rate / packet.time_base)
        container.mux(packet)


def write_mp4(path: Path, frames: Frames, fps: float, crf: int = 18, tags: Mapping[str, str] | None = None) -> None:
    """Write `encode_mp4` to a file, atomically."""
    replace_file(path, encode_mp4(frames, fps, crf, tags))


def contact_sheet(rows: Sequence[Frames], path: Path, gap: int = 2) -> None:
    """Write a PNG with one row per video: its frames (T, H, W, 3) side by side, `gap` grey pixels apart."""
    if not rows:
        raise ValueError("a contact sheet needs at least one video")
    height = gap + sum(row.shape[1] + gap for row in rows)
    width = gap + max(row.shape[0] * (row.shape[2] + gap) for row in rows)
    sheet, top = np.full((height, width, 3), 96, np.uint8), gap
    for row in rows:
        for number, pixels in enumerate(row):
            left = gap + number * (row.shape[2] + gap)
            sheet[top : top + row.shape[1], left : left + row.shape[2]] = pixels
        top += row.shape[1] + gap
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "rgb24", Fraction(1)
    packets = encoder.encode(av.VideoFrame.from_ndarray(sheet, format="rgb24")) + encoder.encode(None)
    replace_file(path, b"".join(bytes(packet) for packet in packets))
