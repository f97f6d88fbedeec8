"""Video decoding with PyAV: cut clips out of a file, resized and cropped to a clip's shape.

Clips are cut by presentation timestamp, never by frame index: frame k is what a player shows at start + k/fps after the
first frame, whatever the source's frame rate, gaps or start offset. On variable-rate files, index times average rate is
wrong by seconds. A file that does not decode completely raises `VideoError` with a short reason; it never yields fewer
frames. Video tokenizers are trained on pixels scaled this way, so a change to the scaling invalidates their weights.

Frames are numpy uint8 (T, H, W, 3); `pixels.to_unit` and `pixels.to_uint8` convert to and from the models' [-1, 1].
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeAlias

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from hitvideo.errors import VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.pixels import Frames

Fit: TypeAlias = Literal["cover", "contain", "stretch"]
"""How a frame of another shape fills a clip's H×W: cropped at the centre, padded with black bars, or stretched."""

# Allowed containers. Playlists and concat lists are left out because FFmpeg would open the files and URLs they name.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,jpeg_pipe,png_pipe,webp_pipe"
# AREA averages, so downscaling does not alias. BITEXACT and ACCURATE_RND give the same pixels on every processor.
SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
LARGEST_TICK_ERROR = 5e-4  # seconds: Matroska rounds timestamps to milliseconds, so they are off by up to half of one
MEDIA_ERRORS = (av.FFmpegError, ValueError, OSError, ArithmeticError, MemoryError)


@dataclass(frozen=True)
class VideoInfo:
    """A container header's claims. Width and height are as coded, before rotation."""

    width: int
    height: int
    fps: float | None
    seconds: float | None
    frames: int | None
    codec: str


def probe(source: bytes | Path, name: str = "") -> VideoInfo:
    """Read the header without decoding a frame. Raises VideoError."""
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
    """Width / height of the first frame as displayed: after rotation and pixel aspect ratio. Raises VideoError."""
    label = _label(source, name)
    with _within_limits(source, limits, label) as (container, stream):
        for frame in _frames(container, stream, label):
            aspect: float = frame.width * float(stream.sample_aspect_ratio or 1) / frame.height
            return 1 / aspect if round(frame.rotation / 90) % 2 else aspect
    raise VideoError("corrupt", f"{label}: no frame in the video stream can be decoded")


def decode_clip(source: bytes | Path, clip: ClipShape, limits: LimitsSection, start: float = 0.0, name: str = "") -> Frames:
    """Cut one clip, scaled to cover H×W and cropped: uint8 (T, H, W, 3). See `decode_clips`."""
    return decode_clips(source, clip, limits, [start], name).reshape(*clip.extent, 3)


def decode_clips(
    source: bytes | Path,
    clip: ClipShape,
    limits: LimitsSection,
    starts: Sequence[float] = (0.0,),
    name: str = "",
    fit: Fit = "cover",
) -> Frames:
    """Cut the clips at `starts` in one pass, leaving out those the video is too short for: uint8 (n, T, H, W, 3), upright.

    `starts` are seconds after the first frame; each clip must begin after the previous one ends. `name` labels the video
    in error messages. Decoding stops once the last needed frame is known. Raises VideoError if the video exceeds the
    limits (checked in the header, before decoding), if any frame cannot be decoded, or if not even one clip fits.
    """
    if min(starts) < 0:
        raise ValueError(f"start is in seconds after the first frame and must not be negative, got {min(starts)}")
    label = _label(source, name)
    with _within_limits(source, limits, label) as (container, stream):
        return _sample(container, stream, clip, starts, limits, label, fit)


@contextmanager
def _within_limits(source: bytes | Path, limits: LimitsSection, label: str) -> Iterator[tuple[Any, Any]]:
    """Like `_opened`, but first check file size and header against the limits, and set up the decoder."""
    size = len(source) if isinstance(source, bytes) else _file_size(source, label)
    if not size:
        raise VideoError("empty", f"{label}: the file is empty")
    if size > limits.max_bytes:
        raise VideoError("too_large", f"{label}: {size} bytes; the limit is {limits.max_bytes}")
    with _opened(source, label) as (container, stream):
        if stream.width * stream.height > limits.max_pixels:
            found = f"{stream.width}×{stream.height} pixels"
            raise VideoError("too_large", f"{label}: {found}; the limit per frame is {limits.max_pixels}")
        seconds = _claimed_seconds(container, stream)
        if seconds is not None and seconds > limits.max_seconds:
            raise VideoError("too_long", f"{label}: {seconds:.1f} seconds; the limit is {limits.max_seconds:.1f}")
        stream.codec_context.thread_count = 1  # the offline job runs one process per core; threads would also delay frames
        # The frame size can change mid-stream, hence max_pixels here too; "explode" raises on errors instead of hiding them.
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels), "err_detect": "explode"}
        yield container, stream


def _sample(
    container: Any, stream: Any, clip: ClipShape, starts: Sequence[float], limits: LimitsSection, label: str, fit: Fit
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
        """Write the current frame to every sample time before `until`, when the next frame replaces it on screen."""
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
            raise VideoError("corrupt", f"{label}: timestamps run backwards, from {shown_at:.3f} s to {at:.3f} s")
        if shown is not None:
            fill(at)
            if filled == len(times):
                return out.reshape(len(starts), clip.frames, *out.shape[1:])
            interval = at - shown_at
        shown, shown_at = frame, at
    if shown is None:
        raise VideoError("corrupt", f"{label}: no frame in the video stream can be decoded")
    # The last frame lasts for its own duration, or else the previous frame's, or else the header's average.
    end = shown_at + (float((shown.duration or 0) * tick) or interval or float(1 / (stream.average_rate or np.inf)))
    fill(end)
    clips = filled // clip.frames
    if not clips:
        need = f"{clip.frames} frames at {clip.fps:g} fps from {starts[0]:g} s on need more than"
        raise VideoError("too_short", f"{label}: {end:.3f} seconds of video; {need} {times[clip.frames - 1]:.3f}")
    return out[: clips * clip.frames].reshape(clips, clip.frames, *out.shape[1:])


def _frames(container: Any, stream: Any, label: str) -> Iterator[Any]:
    """Yield frames in presentation order. Raises VideoError if a packet or frame is damaged."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise VideoError("corrupt", f"{label}: a packet is truncated or damaged")
        for frame in packet.decode():
            if frame.is_corrupt or frame.pts is None:
                raise VideoError("corrupt", f"{label}: a frame {'is damaged' if frame.is_corrupt else 'has no timestamp'}")
            yield frame


def _fit(
    frame: Any, stream: Any, clip: ClipShape, reformatter: VideoReformatter, limits: LimitsSection, label: str, fit: Fit
) -> Frames:
    """One frame, rotated upright and fitted to the clip's H×W: (H, W, 3)."""
    turns = round(frame.rotation / 90) % 4  # counter-clockwise quarter turns, as np.rot90 takes
    height, width = (clip.width, clip.height) if turns % 2 else (clip.height, clip.width)
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
    """Yield the container and its main video stream. Any decoder error inside the block becomes a VideoError."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
        with av.open(file, options={"format_whitelist": CONTAINERS}, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                raise VideoError("no_video", f"{label}: no video stream in this {container.format.long_name} file")
            if stream.codec_context is None:
                raise VideoError("no_decoder", f"{label}: this FFmpeg has no decoder for the video stream")
            if not stream.width or not stream.height:
                raise VideoError("corrupt", f"{label}: the header does not give a usable frame size")
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
