"""Video decoding with PyAV: cut clips out of a file, resized and cropped to a clip's shape.

Clips are cut by presentation timestamp, never by frame index: frame k is what a player shows at start + k/fps after the
first frame, whatever the source's frame rate, gaps or start offset. On variable-rate files, index times average rate is
wrong by seconds. A file that does not decode completely raises `VideoError` with a short reason; it never yields fewer
frames. Video tokenizers are trained on pixels scaled this way, so a change to the scaling invalidates their weights.

Frames are numpy uint8 (T, H, W, 3); `pixels.to_unit` and `pixels.to_uint8` convert to and from the models' [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from av.video.reformatter import VideoReformatter

from hitvideo.errors import VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.container import VideoInfo, described, labelled, within_limits
from hitvideo.video.fitting import Fit, fitted, upright_aspect_of
from hitvideo.video.frames import first_stamp, shown_frames
from hitvideo.video.pictures import without_metadata
from hitvideo.video.pixels import Frames

DECODING = 2  # raised when pixels of any source change: token shards of another number are another dataset
LARGEST_TICK_ERROR = 5e-4  # seconds: Matroska rounds timestamps to milliseconds, so they are off by up to half of one
LATE = 2.0  # seconds: a clip that starts later is decoded from the key frame before it, not from the video's start
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # containers that list their key frames

Result = TypeVar("Result")


def probe(source: bytes | Path, name: str = "") -> VideoInfo:
    """Read the header and the packets' timestamps without decoding a frame. Raises VideoError."""
    return described(source, labelled(source, name))


def upright_aspect(source: bytes | Path, name: str, limits: LimitsSection) -> float:
    """Width / height of the first frame as displayed: after rotation and pixel aspect ratio. Raises VideoError."""
    label = labelled(source, name)

    def first(source: bytes | Path) -> float:
        with within_limits(source, limits, label) as (container, stream):
            for shown in shown_frames(container, stream, label):
                return upright_aspect_of(shown.frame, stream)
        raise _nothing(label)

    return _forgiving(first, source)


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
    limits (checked in the header, before decoding), if any frame on the way cannot be decoded, or if not even one clip fits.
    """
    if min(starts) < 0:
        raise ValueError(f"start is in seconds after the first frame and must not be negative, got {min(starts)}")
    label = labelled(source, name)

    def cut(source: bytes | Path, seek: bool = False) -> Frames:
        with within_limits(source, limits, label) as (container, stream):
            first = _sought(container, stream, starts[0], label) if seek else None
            return _sample(container, stream, clip, starts, limits, label, fit, first)

    if starts[0] >= LATE:
        try:
            return cut(source, seek=True)
        except VideoError as error:  # what is wrong with the video is only certain from its start
            if error.reason != "corrupt":
                raise
    return _forgiving(cut, source)


def _forgiving(work: Callable[[bytes | Path], Result], source: bytes | Path) -> Result:
    """Do the work; for a picture that only its metadata may have spoiled, once more without them."""
    try:
        return work(source)
    except VideoError as error:
        if error.reason != "corrupt":
            raise
        bare = without_metadata(source if isinstance(source, bytes) else source.read_bytes())
        if bare is None:
            raise
        return work(bare)


def _sought(container: Any, stream: Any, start: float, label: str) -> int:
    """Go to the last key frame before `start`; returns the timestamp of the video's first frame."""
    first = first_stamp(container, stream, label) if container.format.name in INDEXED else None
    if first is None:
        raise VideoError("corrupt", f"{label}: no list of key frames")
    container.seek(first + int(Fraction(start) / stream.time_base), stream=stream)
    return first


def _sample(
    container: Any,
    stream: Any,
    clip: ClipShape,
    starts: Sequence[float],
    limits: LimitsSection,
    label: str,
    fit: Fit,
    first: int | None,
) -> Frames:
    """Cut the clips from here on. `first`: as in `shown_frames`."""
    tolerance = min(float(stream.time_base) / 2, LARGEST_TICK_ERROR) + 1e-6
    times = [start + k / clip.fps for start in starts for k in range(clip.frames)]
    reformatter = VideoReformatter()
    out = np.empty((len(times), clip.height, clip.width, 3), np.uint8)
    filled = 0
    shown: Any = None
    interval = 0.0

    def fill(until: float) -> None:
        """Write the current frame to every sample time before `until`, when the next frame replaces it on screen."""
        nonlocal filled
        begin = filled
        while filled < len(times) and times[filled] + tolerance < until:
            filled += 1
        if filled > begin:
            out[begin:filled] = fitted(shown.frame, stream, clip, reformatter, limits, label, fit)

    for following in shown_frames(container, stream, label, first):
        if shown is None and following.at > times[0]:
            raise VideoError("corrupt", f"{label}: no frame at {times[0]:.3f} s")
        if shown is not None:
            fill(following.at)
            if filled == len(times):
                return out.reshape(len(starts), clip.frames, *out.shape[1:])
            interval = following.at - shown.at
        shown = following
    if shown is None:
        raise _nothing(label)
    # The last frame lasts for its own duration, or else the previous frame's, or else the header's average.
    end = shown.at + (shown.seconds or interval or float(1 / (stream.average_rate or np.inf)))
    fill(end)
    clips = filled // clip.frames
    if not clips:
        need = f"{clip.frames} frames at {clip.fps:g} fps from {starts[0]:g} s on need more than"
        raise VideoError("too_short", f"{label}: {end:.3f} seconds of video; {need} {times[clip.frames - 1]:.3f}")
    return out[: clips * clip.frames].reshape(clips, clip.frames, *out.shape[1:])


def _nothing(label: str) -> VideoError:
    return VideoError("corrupt", f"{label}: no frame in the video stream can be decoded")
