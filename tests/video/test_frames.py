"""The pictures of a stream: their order, their times, and which of them are left out."""

from __future__ import annotations

import numpy as np
import pytest

from hitvideo.errors import VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video import decode
from hitvideo.video.decode import decode_clip, decode_clips
from hitvideo.video.pixels import Frames
from tests.conftest import CLIPS
from tests.videos import mux_frames, number_of, numbered

ODD = CLIPS / "odd"
LIMITS = LimitsSection()
PACKET = 188  # bytes of a transport stream packet
GOP = {"g": "30", "bf": "2", "crf": "10", "sc_threshold": "0"}


def clip(frames: int, fps: float = 30, size: int = 64) -> ClipShape:
    return ClipShape(frames=frames, height=size, width=size, fps=fps)


def numbers(source: bytes, frames: int, fps: float = 30, start: float = 0.0) -> list[int]:
    return [number_of(pixels) for pixels in decode_clip(source, clip(frames, fps), LIMITS, start)]


def film(count: int) -> list[np.ndarray]:
    return [numbered(k) for k in range(count)]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("b_frames", [0, 1, 3])
def test_avi_shows_every_picture_in_turn_at_the_headers_rate(codec: str, b_frames: int) -> None:
    options = {"bf": str(b_frames), "crf": "10"} if codec == "libx264" else {"bf": str(b_frames), "q": "2"}
    source = mux_frames(film(60), codec, "avi", options=options)
    assert numbers(source, 60) == list(range(60))
    assert numbers(source, 14, fps=15, start=1.0) == list(range(30, 58, 2))


@pytest.mark.skipif(not ODD.is_dir(), reason=f"the odd clips are not at {ODD}")
def test_an_avi_with_b_frames_is_read_whole() -> None:
    frames = decode_clip(ODD / "bframes.avi", clip(58, size=144), LIMITS)
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3)).max() < 70  # the title card fades in steps


@pytest.mark.parametrize(("codec", "container"), [("libx264", "mpegts"), ("mpeg2video", "mpegts"), ("mpeg2video", "mpeg")])
def test_pictures_before_the_first_key_frame_are_left_out(codec: str, container: str) -> None:
    options = GOP if codec == "libx264" else {"g": "15", "bf": "2", "b": "4000000"}
    whole = mux_frames(film(90), codec, container, options=options)
    size = PACKET if container == "mpegts" else 2048
    start = len(whole) // 4 // size * size
    found = numbers(whole[start:], 20)
    assert found == list(range(found[0], found[0] + 20))
    assert found[0] % int(options["g"]) == 0
    assert found[0] > 0


@pytest.mark.parametrize("length", [60, 61, 64, 75, 120])
def test_a_joined_transport_stream_runs_on(length: int) -> None:
    """Where the counters of its packets jump, up to three pictures before the second part may be cut, and are left out."""
    part = mux_frames(film(length), container="mpegts", options=GOP)
    found = numbers(part + part, 2 * length - 6)
    second = found.index(0, 1)
    assert all(k - 3 <= number <= k for k, number in enumerate(found[:second]))
    assert length - 3 <= second <= length
    assert found[second:] == list(range(len(found) - second))


def test_parts_that_begin_hours_later_are_joined_without_a_pause() -> None:
    first = mux_frames(film(60), container="mpegts", options=GOP)
    later = mux_frames(film(60), container="mpegts", options=GOP, stamps=[100_000 + k for k in range(60)])
    assert numbers(first + later, 100)[60:] == numbers(first + first, 100)[60:]


@pytest.mark.parametrize("lost", [1, 40])
def test_a_transport_stream_that_lost_packets_is_refused(lost: int) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(60)]
    whole = mux_frames(noise, container="mpegts", options=GOP)
    with pytest.raises(VideoError) as caught:
        decode_clip(whole[: PACKET * 200] + whole[PACKET * (200 + lost) :], clip(50), LIMITS)
    assert caught.value.reason == "corrupt"


SEEKABLE = {
    "h264": ("libx264", "mp4", {"g": "30", "bf": "3"}),
    "h264 open groups": ("libx264", "matroska", {"x264-params": "keyint=30:open-gop=1:bframes=3"}),
    "h264 without key frames": ("libx264", "mp4", {"x264-params": "keyint=30:intra-refresh=1"}),
    "h265": ("libx265", "mp4", {"x265-params": "keyint=30:bframes=4:open-gop=1:log-level=none"}),
    "vp9": ("libvpx-vp9", "webm", {"g": "30", "deadline": "realtime", "cpu-used": "8"}),
    "mpeg4": ("mpeg4", "mp4", {"g": "30", "bf": "2"}),
    "transport stream": ("libx264", "mpegts", {"g": "30", "bf": "3"}),
}


@pytest.mark.parametrize("kind", SEEKABLE)
@pytest.mark.parametrize("start", [2.0, 2.96, 3.0, 4.4])
def test_a_late_clip_is_the_same_as_when_all_is_decoded(kind: str, start: float, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, container, options = SEEKABLE[kind]
    rng = np.random.default_rng(1)
    noise = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(150)]
    source = mux_frames(noise, codec, container, options=options)
    found = decode_clips(source, clip(6, 10), LIMITS, [start])
    monkeypatch.setattr(decode, "LATE", float("inf"))
    assert np.array_equal(found, decode_clips(source, clip(6, 10), LIMITS, [start]))


def test_a_late_clip_does_not_decode_what_is_before_its_key_frame() -> None:
    """Damage there, which decoding from the start would meet, is not met."""
    rng = np.random.default_rng(2)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(150)]
    source = bytearray(mux_frames(noise, options={"g": "15"}))
    source[len(source) // 5 : len(source) // 5 + 3000] = bytes(3000)
    with pytest.raises(VideoError):
        decode_clip(bytes(source), clip(6, 10), LIMITS, 1.9)
    assert decode_clip(bytes(source), clip(6, 10), LIMITS, 4.0).shape == (6, 64, 64, 3)


def combed(k: int) -> np.ndarray:
    """A bar that moves 4 pixels a field: odd lines are a field later than even ones."""
    lines = np.zeros((64, 96, 3), np.uint8)
    for parity in (0, 1):
        left = (8 * k + 4 * parity) % 80
        lines[parity::2, left : left + 12] = 255
    return lines


def comb(frames: Frames) -> float:
    """Mean difference from line to line."""
    return float(np.abs(np.diff(frames.astype(int), axis=1)).mean())


INTERLACED = {"flags": "+ildct+ilme", "top": "1", "b": "6000000"}


@pytest.mark.parametrize("container", ["mpegts", "matroska"])
def test_interlaced_pictures_lose_their_combs(container: str) -> None:
    shape = ClipShape(frames=24, height=64, width=96, fps=25)
    frames = [combed(k) for k in range(24)]
    flagged = decode_clip(mux_frames(frames, "mpeg2video", container, 25, options=INTERLACED), shape, LIMITS)
    as_it_is = decode_clip(mux_frames(frames, "mpeg2video", container, 25, options={"b": "6000000"}), shape, LIMITS)
    assert comb(as_it_is) > 15
    assert comb(flagged) < comb(as_it_is) / 3
    assert flagged.shape == as_it_is.shape
    bars = [int(np.median(np.where(frame[:, :, 0].mean(0) > 100)[0])) for frame in flagged]
    assert bars[:9] == [8 * k + bars[0] for k in range(9)], "a picture is missing, doubled, or at another time"
    late = decode_clip(
        mux_frames([combed(k) for k in range(75)], "mpeg2video", container, 25, options=INTERLACED),
        shape.model_copy(update={"frames": 10}), LIMITS, 2.2,
    )  # fmt: skip
    assert late.shape[0] == 10
