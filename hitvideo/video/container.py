"""Opening a video file: which containers are read, what the header says, and the limits it must keep.

A container that is not read is named (`unsupported`), and so it is not taken for a damaged file (`corrupt`).
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import av

from hitvideo.errors import VideoError
from hitvideo.settings.data import LimitsSection
from hitvideo.video.pictures import is_animated_webp

# Allowed containers. Playlists and concat lists are left out because FFmpeg would open the files and URLs they name.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,jpeg_pipe,png_pipe,webp_pipe"
MEDIA_ERRORS = (av.FFmpegError, ValueError, OSError, ArithmeticError, MemoryError)

_log_settings = threading.Lock()


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video without decoding it. Width and height are as coded, before rotation."""

    width: int
    height: int
    fps: float | None
    seconds: float | None
    """From the first picture to the end of the last one, by the packets' timestamps; headers and sound may say more."""
    frames: int | None
    """As the header says, if it does."""
    codec: str


def described(source: bytes | Path, label: str) -> VideoInfo:
    """Read the header and the packets' timestamps; nothing is decoded. Raises VideoError."""
    with opened(source, label) as (container, stream):
        return VideoInfo(
            width=stream.width,
            height=stream.height,
            fps=float(stream.average_rate) if stream.average_rate else None,
            frames=stream.frames or None,
            codec=stream.codec_context.name,
            seconds=_seconds(container, stream),
        )


@contextmanager
def within_limits(source: bytes | Path, limits: LimitsSection, label: str) -> Iterator[tuple[Any, Any]]:
    """Like `opened`, but first check file size and header against the limits, and set up the decoder."""
    size = len(source) if isinstance(source, bytes) else _file_size(source, label)
    if not size:
        raise VideoError("empty", f"{label}: the file is empty")
    if size > limits.max_bytes:
        raise VideoError("too_large", f"{label}: {size} bytes; the limit is {limits.max_bytes}")
    with opened(source, label) as (container, stream):
        if stream.width * stream.height > limits.max_pixels:
            found = f"{stream.width}×{stream.height} pixels"
            raise VideoError("too_large", f"{label}: {found}; the limit per frame is {limits.max_pixels}")
        if (seconds := _claimed_seconds(container, stream) or 0.0) > limits.max_seconds:
            seconds = min(seconds, described(source, label).seconds or 0.0)  # the claim may be wrong
            if seconds > limits.max_seconds:
                raise VideoError("too_long", f"{label}: {seconds:.1f} seconds; the limit is {limits.max_seconds:.1f}")
        stream.codec_context.thread_count = 1  # the offline job runs one process per core; threads would also delay frames
        # The frame size can change mid-stream, hence max_pixels here too; "explode" raises on errors instead of hiding them.
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels), "err_detect": "explode"}
        yield container, stream


@contextmanager
def opened(source: bytes | Path, label: str) -> Iterator[tuple[Any, Any]]:
    """Yield the container and its main video stream. Any decoder error inside the block becomes a VideoError."""
    with ExitStack() as stack:
        file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(_file(source, label))
        try:
            container = stack.enter_context(_open(file))
            stream = container.streams.best("video")
            if stream is None:
                raise VideoError("no_video", f"{label}: no video stream in this {container.format.long_name} file")
            if stream.codec_context is None:
                raise VideoError("no_decoder", f"{label}: this FFmpeg has no decoder for the video stream")
            if not stream.width or not stream.height:
                if is_animated_webp(_head(file)):
                    raise VideoError("unsupported", f"{label}: an animated WebP, which is not read; convert it to MP4")
                raise VideoError("corrupt", f"{label}: the header does not give a usable frame size")
            yield container, stream
        except VideoError:
            raise
        except MEDIA_ERRORS as error:
            if isinstance(error, av.ArgumentError) and (kind := _unlisted(file)):
                known = CONTAINERS.replace("_pipe", "").replace(",", ", ")
                found = f"a container of the kind '{kind}', which is not read; convert it to one of {known}"
                raise VideoError("unsupported", f"{label}: {found}") from error
            reason = "memory_limit" if isinstance(error, MemoryError) else "corrupt"
            what = (isinstance(error, OSError) and error.strerror) or error  # FFmpeg's errors are OSErrors, too
            raise VideoError(reason, f"{label}: cannot be decoded: {what}") from error


def labelled(source: bytes | Path, name: str) -> str:
    """What errors call a video: `name`, or its path."""
    return name or (str(source) if isinstance(source, Path) else "video")


def _open(file: BinaryIO) -> Any:
    # FFmpeg gets no name: it would guess the container from it, and take photo.jpg for a sequence of pictures.
    nameless = SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)
    return av.open(nameless, options={"format_whitelist": CONTAINERS}, metadata_errors="replace")


def _unlisted(file: BinaryIO) -> str | None:
    """FFmpeg's name of a container that is not in CONTAINERS. It has looked at the first bytes only, and says so in its log."""
    file.seek(0)
    with _log_settings:
        level, skip = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
        try:
            with av.logging.Capture() as lines, suppress(*MEDIA_ERRORS):
                _open(file).close()
        finally:
            av.logging.set_level(level)
            av.logging.set_skip_repeated(skip)
    return next((name for _, name, text in lines if "whitelist" in text), None)


def _file(path: Path, label: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise VideoError("missing", f"{label}: cannot be opened: {error.strerror}") from error


def _file_size(path: Path, label: str) -> int:
    with _file(path, label) as file:
        return file.seek(0, io.SEEK_END)


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(64)


def _seconds(container: Any, stream: Any) -> float | None:
    first, end = float("inf"), float("-inf")
    for packet in container.demux(stream):
        at = packet.dts if packet.pts is None else packet.pts
        if at is not None and not packet.is_discard:
            first, end = min(first, at), max(end, at + (packet.duration or 0))
    return float((end - first) * stream.time_base) if end > first else None


def _claimed_seconds(container: Any, stream: Any) -> float | None:
    """The header's duration of the video stream; of the container, whose sound may be longer, only if the stream has none."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None
