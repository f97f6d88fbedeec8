"""Decode, sample, resize, crop, write: the only file that knows containers and codecs (PyAV).

A clip is cut by presentation timestamps, never by frame index: frame k is what a player shows at start + k/fps after the
first frame, whatever the source's frame rate, gaps or start offset. Indices times an average rate are wrong by seconds on
variable-rate files. Whatever cannot be decoded whole is a `VideoError` with a reason that can be counted; a damaged file
never gives fewer frames. The way of scaling is part of what a video tokenizer was trained on: do not change it lightly.

Pixels here are numpy, uint8 (T, H, W, 3); `to_unit` and `to_uint8` go to and from the [-1, 1] of the models.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from hitvideo.errors import VideoError
from hitvideo.hierarchy import Clip
from hitvideo.settings.training import LimitsSection

Frames: TypeAlias = npt.NDArray[np.uint8]
Fit: TypeAlias = Literal["cover", "contain", "stretch"]
"""How a picture of another shape fills a clip's H×W: cropped at the centre, with black bars, or out of proportion."""

# Containers that may be opened. A playlist or a concat list would make FFmpeg open other files and addresses.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,jpeg_pipe,png_pipe,webp_pipe"
# Area averaging: no aliasing when scaling down. BITEXACT and ACCURATE_RND: the same pixels on every processor.
SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
LARGEST_TICK_ERROR = 5e-4  # seconds: half a Matroska millisecond, to which such a file rounds its timestamps
BT709 = 1  # matrix, primaries and transfer all have the number 1 in H.264
MEDIA_ERRORS = (av.FFmpegError, ValueError, OSError, ArithmeticError, MemoryError)


@dataclass(frozen=True)
class VideoInfo:
    """What a container's header claims. Width and height are as coded, before rotation."""

    width: int
    height: int
    fps: float | None
    seconds: float | None
    frames: int | None
    codec: str


def probe(source: bytes | Path, name: str = "") -> VideoInfo:
    """Read the header, no frame. Raises VideoError."""
    with _opened(source, _label(source, name)) as (container, stream):
        return VideoInfo(
            width=stream.width,
            height=stream.height,
            fps=float(stream.average_rate) if stream.average_rate else None,
            seconds=_claimed_seconds(container, stream),
            frames=stream.frames or None,
            codec=stream.codec_context.name,
        )


def upright_aspect(source: bytes | Path, name: str, limits: LimitsSection) -> float:
    """Width by height of the first frame as it is shown: after rotation, and with its pixels' own shape. Raises VideoError."""
    label = _label(source, name)
    with _within_limits(source, limits, label) as (container, stream):
        for frame in _frames(container, stream, label):
            aspect: float = frame.width * float(stream.sample_aspect_ratio or 1) / frame.height
            return 1 / aspect if round(frame.rotation / 90) % 2 else aspect
    raise VideoError("corrupt", f"{label}: the video stream holds no frame that can be decoded")


def decode_clip(source: bytes | Path, clip: Clip, limits: LimitsSection, start: float = 0.0, name: str = "") -> Frames:
    """Cut one clip out of a video, covering H×W: uint8 (T, H, W, 3); see `decode_clips`."""
    return decode_clips(source, clip, limits, [start], name).reshape(*clip.extent, 3)


def decode_clips(
    source: bytes | Path,
    clip: Clip,
    limits: LimitsSection,
    starts: Sequence[float] = (0.0,),
    name: str = "",
    fit: Fit = "cover",
) -> Frames:
    """Cut clips out of a video in one pass, as many of `starts` as it is long enough for: uint8 (n, T, H, W, 3), upright.

    `starts` are seconds after the first frame, each clip begins after the one before has ended; `name` stands in
    messages. Decoding stops as soon as the last sample is sure. Raises VideoError where the limits are exceeded (known
    from the header, before decoding), where anything cannot be decoded, or where not one clip ends before the video does.
    """
    if min(starts) < 0:
        raise ValueError(f"start is seconds after the first frame, not negative; got {min(starts)}")
    label = _label(source, name)
    with _within_limits(source, limits, label) as (container, stream):
        return _sample(container, stream, clip, starts, limits, label, fit)


@contextmanager
def _within_limits(source: bytes | Path, limits: LimitsSection, label: str) -> Iterator[tuple[Any, Any]]:
    """As `_opened`, ready to decode, once the file's size and its header's claims are found to be allowed."""
    size = len(source) if isinstance(source, bytes) else _file_size(source, label)
    if not size:
        raise VideoError("empty", f"{label}: the file is empty")
    if size > limits.max_bytes:
        raise VideoError("too_large", f"{label}: {size} bytes, at most {limits.max_bytes} are allowed")
    with _opened(source, label) as (container, stream):
        if stream.width * stream.height > limits.max_pixels:
            found = f"{stream.width}×{stream.height} pixels"
            raise VideoError("too_large", f"{label}: {found}, at most {limits.max_pixels} are allowed per frame")
        seconds = _claimed_seconds(container, stream)
        if seconds is not None and seconds > limits.max_seconds:
            raise VideoError("too_long", f"{label}: {seconds:.1f} seconds, at most {limits.max_seconds:.1f} are allowed")
        stream.codec_context.thread_count = 1  # the job runs one process per core; threads would also hold frames back
        # The size may change in mid-stream; and a picture with an error is refused, not concealed.
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels), "err_detect": "explode"}
        yield container, stream


def _sample(
    container: Any, stream: Any, clip: Clip, starts: Sequence[float], limits: LimitsSection, label: str, fit: Fit
) -> Frames:
    tick = Fraction(stream.time_base)
    tolerance = min(float(tick) / 2, LARGEST_TICK_ERROR) + 1e-6
    times = [start + k / clip.fps for start in starts for k in range(clip.frames)]
    reformatter = VideoReformatter()
    out = np.empty((len(times), clip.height, clip.width, 3), np.uint8)
    filled = 0
    shown: Any = None
    shown_at = interval = 0.0
    first = 0

    def fill(until: float) -> None:
        """The frame in hand is on screen until then: give it to every sample before."""
        nonlocal filled
        begin = filled
        while filled < len(times) and times[filled] + tolerance < until:
            filled += 1
        if filled > begin:
            out[begin:filled] = _fit(shown, stream, clip, reformatter, limits, label, fit)

    for frame in _frames(container, stream, label):
        if shown is None:
            first = frame.pts
        at = float((frame.pts - first) * tick)
        if at < shown_at:
            raise VideoError("corrupt", f"{label}: timestamps run backwards, {at:.3f} s after {shown_at:.3f} s")
        if shown is not None:
            fill(at)
            if filled == len(times):
                return out.reshape(len(starts), clip.frames, *out.shape[1:])
            interval = at - shown_at
        shown, shown_at = frame, at
    if shown is None:
        raise VideoError("corrupt", f"{label}: the video stream holds no frame that can be decoded")
    # The last frame's own duration, else the one before it, else the header's average.
    end = shown_at + (float((shown.duration or 0) * tick) or interval or float(1 / (stream.average_rate or np.inf)))
    fill(end)
    clips = filled // clip.frames
    if not clips:
        need = f"a clip of {clip.frames} frames at {clip.fps:g} fps from {starts[0]:g} s needs more than"
        raise VideoError("too_short", f"{label}: {end:.3f} seconds of video; {need} {times[clip.frames - 1]:.3f}")
    return out[: clips * clip.frames].reshape(clips, clip.frames, *out.shape[1:])


def _frames(container: Any, stream: Any, label: str) -> Iterator[Any]:
    """Frames in presentation order, every one of them whole."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise VideoError("corrupt", f"{label}: a packet is cut or damaged")
        for frame in packet.decode():
            if frame.is_corrupt or frame.pts is None:
                raise VideoError("corrupt", f"{label}: a frame {'is damaged' if frame.is_corrupt else 'has no timestamp'}")
            yield frame


def _fit(
    frame: Any, stream: Any, clip: Clip, reformatter: VideoReformatter, limits: LimitsSection, label: str, fit: Fit
) -> Frames:
    """One frame, upright, in the clip's H×W: (H, W, 3)."""
    turns = round(frame.rotation / 90) % 4  # quarter turns counter-clockwise, as np.rot90 counts
    height, width = (clip.width, clip.height) if turns % 2 else (clip.height, clip.width)
    stretch = float(stream.sample_aspect_ratio or 1)  # width of a pixel by its height
    factors = height / frame.height, width / (frame.width * stretch)
    scale = max(factors) if fit == "cover" else min(factors)
    scaled_height, scaled_width = max(1, round(frame.height * scale)), max(1, round(frame.width * stretch * scale))
    if fit == "stretch":
        scaled_height, scaled_width = height, width
    elif fit == "cover":
        scaled_height, scaled_width = max(height, scaled_height), max(width, scaled_width)
    if scaled_height * scaled_width > limits.max_pixels:
        found = f"{frame.width}×{frame.height} pixels become {scaled_width}×{scaled_height} to cover {width}×{height}"
        raise VideoError("too_large", f"{label}: {found}; more than {limits.max_pixels} are not allowed")
    scaled = reformatter.reformat(frame, scaled_width, scaled_height, "rgb24", interpolation=SCALING, threads=1)
    pixels: Any = scaled.to_ndarray()
    if fit == "contain":
        top, left = (height - scaled_height) // 2, (width - scaled_width) // 2
        bars = ((top, height - scaled_height - top), (left, width - scaled_width - left), (0, 0))
        return np.rot90(np.pad(pixels, bars), turns)
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    return np.rot90(pixels[top : top + height, left : left + width], turns)


@contextmanager
def _opened(source: bytes | Path, label: str) -> Iterator[tuple[Any, Any]]:
    """The container and its main video stream; every failure of the decoder inside the block becomes a VideoError."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
        with av.open(file, options={"format_whitelist": CONTAINERS}, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                raise VideoError("no_video", f"{label}: no video stream in this {container.format.long_name} file")
            if stream.codec_context is None:
                raise VideoError("no_decoder", f"{label}: this FFmpeg has no decoder for the video stream")
            if not stream.width or not stream.height:
                raise VideoError("corrupt", f"{label}: the header gives no picture size that can be decoded")
            yield container, stream
    except VideoError:
        raise
    except MEDIA_ERRORS as error:
        reason = "memory_limit" if isinstance(error, MemoryError) else "corrupt"
        raise VideoError(reason, f"{label}: cannot be decoded: {error}") from error


def _label(source: bytes | Path, name: str) -> str:
    return name or (str(source) if isinstance(source, Path) else "video")


def _file_size(path: Path, label: str) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise VideoError("missing", f"{label}: cannot be opened: {error.strerror}") from error


def _claimed_seconds(container: Any, stream: Any) -> float | None:
    claims = (container.duration or 0) / av.time_base, float((stream.duration or 0) * stream.time_base)
    return max(claims) or None


def encode_mp4(frames: Frames, fps: float, crf: int = 18) -> bytes:
    """H.264 yuv420p in MP4 of frames uint8 (T, H, W, 3); the same bytes for the same input.

    Smaller `crf` is better and bigger. Raises ValueError where H or W is odd: 4:2:0 has no half chroma sample.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"expected uint8 frames (T, H, W, 3), at least one; got {frames.dtype} {frames.shape}")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"H.264 in yuv420p needs even sizes, got {width}×{height} pixels; crop or pad by one")
    rate = Fraction(fps).limit_denominator(1001)  # 23.976… becomes 24000/1001
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # x264 decides differently with other thread counts
        context.time_base = 1 / rate
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = ColorRange.MPEG
        for number, pixels in enumerate(frames):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, interpolation=SCALING, threads=1)
            frame.pts, frame.time_base = number, 1 / rate
            _mux(container, stream.encode(frame), rate)
        _mux(container, stream.encode(None), rate)
    return buffer.getvalue()


def _mux(container: Any, packets: Sequence[Any], rate: Fraction) -> None:
    """With durations, which the encoder leaves out: without them the last frame has no end."""
    for packet in packets:
        packet.duration = round(1 / rate / packet.time_base)
        container.mux(packet)


def write_mp4(path: Path, frames: Frames, fps: float, crf: int = 18) -> None:
    """`encode_mp4` into a file, whole or not at all."""
    _write_whole(path, encode_mp4(frames, fps, crf))


def contact_sheet(rows: Sequence[Frames], path: Path, gap: int = 2) -> None:
    """A PNG with one row per video, its frames (T, H, W, 3) side by side, `gap` grey pixels between."""
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
    _write_whole(path, b"".join(bytes(packet) for packet in packets))


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def to_unit(frames: Frames) -> npt.NDArray[np.float32]:
    """uint8 (T, H, W, 3) → float32 (3, T, H, W) in [-1, 1]."""
    return np.ascontiguousarray(frames.transpose(3, 0, 1, 2), dtype=np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(video: npt.NDArray[Any]) -> Frames:
    """Floats (3, T, H, W) → uint8 (T, H, W, 3); values beyond [-1, 1] are clipped. Inverse of `to_unit`."""
    return np.ascontiguousarray(np.rint((np.clip(video, -1, 1) + 1) * 127.5).transpose(1, 2, 3, 0), dtype=np.uint8)
