"""Which files are opened, what is said of the others, and what is known without decoding."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest

from hitvideo.errors import VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import decode_clip, probe
from tests.conftest import CLIPS
from tests.videos import mux_frames, numbered

ODD = CLIPS / "odd"
LIMITS = LimitsSection()
CLIP = ClipShape(frames=1, height=32, width=32, fps=8)
FRAMES = [numbered(k) for k in range(20)]
UNREAD = {  # FFmpeg's name of the container → codec, pixel format
    "gif": ("gif", "rgb8"), "apng": ("apng", "rgb24"), "h264": ("libx264", "yuv420p"), "ivf": ("libvpx", "yuv420p"),
    "mxf": ("mpeg2video", "yuv420p"), "yuv4mpegpipe": ("rawvideo", "yuv420p"), "nut": ("mpeg4", "yuv420p"),
    "mpegvideo": ("mpeg2video", "yuv420p"), "obu": ("libsvtav1", "yuv420p"),
}  # fmt: skip
MUXERS = {"mpegvideo": "mpeg2video"}


def animated_webp() -> bytes:
    pillow = pytest.importorskip("PIL.Image")
    pictures = [pillow.fromarray(frame) for frame in FRAMES[:4]]
    out = io.BytesIO()
    pictures[0].save(out, "webp", save_all=True, append_images=pictures[1:], duration=100)
    return out.getvalue()


@pytest.mark.parametrize("kind", UNREAD)
@pytest.mark.parametrize("as_path", [False, True])
def test_a_container_that_is_not_read_is_named(kind: str, as_path: bool, tmp_path: Path) -> None:
    codec, pixels = UNREAD[kind]
    content = mux_frames(FRAMES, codec, MUXERS.get(kind, kind), 25, pixels)
    path = tmp_path / "clip.mp4"  # the name says something else, and is not asked
    path.write_bytes(content)
    for _ in range(2):  # FFmpeg's log leaves out what it has just said
        with pytest.raises(VideoError, match=f"'{kind}'") as caught:
            decode_clip(path if as_path else content, CLIP, LIMITS)
        assert caught.value.reason == "unsupported"
    assert av.logging.get_level() is None


def test_an_animated_webp_is_named() -> None:
    with pytest.raises(VideoError, match="WebP") as caught:
        decode_clip(animated_webp(), CLIP, LIMITS)
    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp", "apng.png"])
@pytest.mark.skipif(not ODD.is_dir(), reason=f"the odd clips are not at {ODD}")
def test_real_animations_are_named(name: str) -> None:
    for source in (ODD / name, (ODD / name).read_bytes()):
        with pytest.raises(VideoError) as caught:
            decode_clip(source, CLIP, LIMITS)
        assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("name", ["photo.jpg", "photo_000.jpg", "photo%03d.jpg", "photo.mp4", "photo"])
def test_a_picture_is_read_whatever_its_path(name: str, tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    path = tmp_path / name
    pillow.fromarray(FRAMES[5]).save(path, "jpeg", quality=95)
    found = decode_clip(path, ClipShape(frames=1, height=64, width=64, fps=8), LIMITS)
    assert np.abs(found[0].astype(int) - FRAMES[5]).mean() < 3


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi"])
def test_the_duration_is_that_of_the_pictures_not_of_the_sound(container: str) -> None:
    source = mux_frames(FRAMES * 3, container=container, sound=8.0)
    assert probe(source).seconds == pytest.approx(2.0, abs=0.07)
    assert decode_clip(source, ClipShape(frames=15, height=32, width=32, fps=8), LIMITS).shape[0] == 15
    sound_is_long = LimitsSection(max_seconds=5.0)
    assert decode_clip(source, CLIP, sound_is_long).shape[0] == 1
    with pytest.raises(VideoError) as caught:
        decode_clip(source, CLIP, LimitsSection(max_seconds=1.0))
    assert caught.value.reason == "too_long"


def test_a_start_offset_is_no_duration() -> None:
    source = mux_frames(FRAMES, container="mpegts", stamps=[900 + k for k in range(20)])
    assert probe(source).seconds == pytest.approx(20 / 30, abs=0.05)


@pytest.mark.skipif(not ODD.is_dir(), reason=f"the odd clips are not at {ODD}")
def test_a_header_that_lies_about_the_duration_is_not_believed() -> None:
    assert probe(ODD / "duration_lies.mp4").seconds == pytest.approx(8.0, abs=0.1)
    assert decode_clip(ODD / "duration_lies.mp4", CLIP, LimitsSection(max_seconds=60.0)).shape[0] == 1


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    for work in (probe, lambda path: decode_clip(path, CLIP, LIMITS)):
        with pytest.raises(VideoError) as caught:
            work(tmp_path / "absent.mp4")
        assert caught.value.reason == "missing"
