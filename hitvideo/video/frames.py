"""The pictures of a video stream as a player shows them: in order, whole, and each with the time at which it appears.

- Pictures before the first key frame are left out, as players do: they show parts of pictures that are not there.
- A picture that is cut or damaged is an error. A transport stream that was joined from parts is not: where a part ends,
  its last pictures are left out if they may be cut, and the next part goes on from its key frame without a pause.
- H.264 and H.265 in AVI have no presentation times: their pictures come in the decoder's order at the header's rate.
- Interlaced pictures are deinterlaced by bwdif: a picture of two fields becomes one of whole lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from hitvideo.errors import VideoError
from hitvideo.video.filters import Filter

_BROADCAST = ("mpegts", "mpeg")  # containers whose timestamps may start anew
_LONGEST_STEP = 10.0  # seconds; a longer step between two pictures of a broadcast is a new part, as in ffmpeg
_MOST_CUT = 3  # packets that may be lost where parts of a transport stream join


class Shown(NamedTuple):
    """A picture, when it appears in seconds after the stream's first one, and for how long, 0 if that is not known."""

    at: float
    seconds: float
    frame: Any


def shown_frames(container: Any, stream: Any, label: str, first: int | None = None) -> Iterator[Shown]:
    """Yield the pictures in order of time. Raises VideoError if one is damaged.

    `first`: the timestamp of the stream's first picture, after a seek to a later key frame. Then a stream that cannot
    be read exactly as from its start (its key frames are none, or it is interlaced) is an error too.
    """
    tick = Fraction(stream.time_base)
    seeking = first is not None
    broadcast = container.format.name in _BROADCAST
    shift = 0.0
    last: Shown | None = None
    interval = 0.0
    for stamp, frame in _deinterlaced(_decoded(container, stream, label, seeking), tick, label, seeking):
        if first is None:
            first = stamp
        at = float((stamp - first) * tick) + shift
        if last:
            step = at - last.at
            if broadcast and (step > _LONGEST_STEP or (step < 0 and frame.key_frame)):
                end = last.at + (last.seconds or interval)
                shift, at = shift + end - at, end
            elif step < 0:
                raise VideoError("corrupt", f"{label}: timestamps run backwards, from {last.at:.3f} s to {at:.3f} s")
            interval = at - last.at
        last = Shown(at, float((frame.duration or 0) * (frame.time_base or tick)), frame)
        yield last


def first_stamp(container: Any, stream: Any, label: str) -> int | None:
    """The timestamp of the first picture, in ticks of the stream."""
    return next((stamp for stamp, _ in _decoded(container, stream, label, False)), None)


def _decoded(container: Any, stream: Any, label: str, seeking: bool) -> Iterator[tuple[int, Any]]:
    """Yield the stream's pictures with their timestamps, from a key frame on."""
    codec = stream.codec_context
    places: deque[int] | None = deque() if container.format.name == "avi" and codec.name in ("h264", "hevc") else None
    key: int | None = None  # the timestamp of the key frame that was waited for, until its picture has come
    waiting, lost = True, 0

    def stamped(frames: list[Any]) -> Iterator[tuple[int, Any]]:
        nonlocal key
        for frame in frames:
            stamp = frame.pts if places is None else places.popleft() if places else None
            if frame.is_corrupt or stamp is None:
                raise VideoError("corrupt", f"{label}: a frame {'is damaged' if frame.is_corrupt else 'has no timestamp'}")
            if key is not None and places is None:
                if stamp < key:
                    continue
                if seeking and stamp != key:
                    raise VideoError("corrupt", f"{label}: the picture of a key frame is missing")
                key = None
            yield stamp, frame

    for packet in container.demux(stream):
        if packet.is_corrupt:
            if container.format.name != "mpegts":
                raise VideoError("corrupt", f"{label}: a packet is truncated or damaged")
            if not waiting:
                yield from stamped(codec.decode(None))
                codec.flush_buffers()
                waiting, lost = True, 1
                continue
        if waiting and packet.size:
            if not packet.is_keyframe or packet.is_corrupt:
                if lost:
                    lost += 1
                if lost > _MOST_CUT:
                    raise VideoError("corrupt", f"{label}: a packet is truncated or damaged")
                continue
            key, waiting, lost = packet.pts, False, 0
        if places is not None and packet.size:
            places.append(packet.dts)
        yield from stamped(packet.decode())
    if lost:
        raise VideoError("corrupt", f"{label}: a packet is truncated or damaged")


def _deinterlaced(frames: Iterator[tuple[int, Any]], tick: Fraction, label: str, seeking: bool) -> Iterator[tuple[int, Any]]:
    """Pass whole pictures on, and make whole ones of those that are flagged as interlaced."""
    bwdif: Filter | None = None
    shape: Any = None
    for stamp, frame in frames:
        if bwdif is None and not frame.interlaced_frame:
            yield stamp, frame
            continue
        if seeking:
            raise VideoError("corrupt", f"{label}: interlaced, so a picture depends on the one before it")
        frame.pts, frame.time_base = stamp, tick
        if shape != (shape := (frame.width, frame.height, frame.format.name)):
            yield from _stamped(bwdif.push(None) if bwdif else [], tick)
            bwdif = Filter("bwdif", "mode=send_frame:deint=interlaced", frame, tick)
        assert bwdif
        yield from _stamped(bwdif.push(frame), tick)
    yield from _stamped(bwdif.push(None) if bwdif else [], tick)


def _stamped(frames: list[Any], tick: Fraction) -> Iterator[tuple[int, Any]]:
    for frame in frames:
        yield int(frame.pts * frame.time_base / tick), frame
