"""Decoding against ground truth: every test frame carries its number as black and white bars."""

import io
import os
import pickle
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import VideoError, decode_clip, probe
from hitvideo.video.encode import contact_sheet, encode_mp4, write_mp4
from hitvideo.video.pixels import to_uint8, to_unit
from tests.conftest import CLIPS
from tests.videos import TICK, claiming, mux, number_of, numbered

ODD = CLIPS / "odd"
LIMITS = LimitsSection()


def clip(frames: int, fps: float = 8, size: int = 64) -> ClipShape:
    return ClipShape(frames=frames, height=size, width=size, fps=fps)


def refused(source: bytes | Path, wanted: ClipShape, limits: LimitsSection = LIMITS) -> VideoError:
    with pytest.raises(VideoError) as caught:
        decode_clip(source, wanted, limits, name="clip-7")
    assert "clip-7" in str(caught.value)
    return caught.value


RNG = np.random.default_rng(0)
VARIABLE = list(np.cumsum(RNG.uniform(0.01, 0.12, 100)))
TIMINGS = {
    "constant 30": [k / 30 for k in range(150)],
    "constant 24": [k / 24 for k in range(120)],
    "ntsc": [k * 1001 / 30000 for k in range(150)],
    "variable": VARIABLE,
    "gap of 1.3 s": [k / 30 + (1.3 if k >= 40 else 0) for k in range(120)],
    "start at 5 s": [5 + k / 30 for k in range(150)],
    "slower than sampled": [k / 3 for k in range(20)],
}


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("start", [0.0, 0.7])
def test_frames_on_screen_by_timestamp(timing: str, container: str, start: float) -> None:
    seconds = np.array(TIMINGS[timing]) - TIMINGS[timing][0]
    if container == "matroska":
        stamps = [int(round(at / TICK) / 90 + 0.5) / 1000 for at in TIMINGS[timing]]  # Matroska stores milliseconds
        seconds = np.array(stamps) - stamps[0]
    wanted = clip(int((seconds[-1] - start) * 8))
    found = [number_of(f) for f in decode_clip(mux(TIMINGS[timing], container=container), wanted, LIMITS, start)]
    times = start + np.arange(wanted.frames) / 8
    expected = np.searchsorted(seconds, times + (5e-4 if container == "matroska" else 1e-5), side="right") - 1
    assert found == expected.tolist()


@pytest.mark.parametrize("fps", [15, 24, 30, 24000 / 1001])
def test_at_its_own_rate_every_frame_comes_once_even_with_rounded_timestamps(fps: float) -> None:
    source = mux([k / fps for k in range(40)], container="matroska")
    assert [number_of(f) for f in decode_clip(source, clip(40, fps), LIMITS)] == list(range(40))


def test_too_short_is_exact_to_the_last_frames_end() -> None:
    source = encode_mp4(np.stack([numbered(k) for k in range(16)]), fps=8)
    assert len(decode_clip(source, clip(16), LIMITS)) == 16
    error = refused(source, clip(17))
    assert error.reason == "too_short"
    assert "2.000" in str(error)
    assert len(decode_clip(source, clip(4, fps=4), LIMITS, start=1.0)) == 4
    with pytest.raises(VideoError, match=r"2\.000 seconds"):
        decode_clip(source, clip(4, fps=4), LIMITS, start=1.5)
    with pytest.raises(ValueError, match=r"start .*-0\.1"):
        decode_clip(source, clip(4), LIMITS, start=-0.1)


def test_one_frame() -> None:
    source = encode_mp4(numbered(5)[None], fps=8)
    assert number_of(decode_clip(source, clip(1), LIMITS)[0]) == 5
    assert refused(source, clip(2)).reason == "too_short"


def test_covers_and_crops_at_the_centre() -> None:
    wide = np.zeros((2, 64, 192, 3), np.uint8)
    wide[:, :, 64:128] = 255
    assert decode_clip(encode_mp4(wide, 8), clip(2, size=32), LIMITS).min() > 235
    tall = np.ascontiguousarray(wide.transpose(0, 2, 1, 3))
    assert decode_clip(encode_mp4(tall, 8), clip(2, size=32), LIMITS).min() > 235
    assert decode_clip(encode_mp4(tall, 8), ClipShape(frames=2, height=96, width=128, fps=8), LIMITS).shape == (2, 96, 128, 3)


def test_colours_survive() -> None:
    flat = np.empty((2, 64, 64, 3), np.uint8)
    for colour in [(230, 30, 30), (30, 180, 40), (40, 60, 235), (240, 220, 30)]:
        flat[:] = colour
        assert np.abs(decode_clip(encode_mp4(flat, 8), clip(2), LIMITS).astype(int) - colour).max() <= 4


def test_truncated_and_flipped_files_raise() -> None:
    source = mux([k / 30 for k in range(150)], container="matroska")
    whole = mux([k / 30 for k in range(150)])
    assert refused(whole[: len(whole) * 6 // 10], clip(4)).reason == "corrupt"  # the index at the end is gone
    assert refused(source[: len(source) * 6 // 10], clip(36)).reason in ("corrupt", "too_short")
    for data in (source, whole):
        for seed in range(10):
            rng = np.random.default_rng(seed)
            damaged = bytearray(data)
            for place in rng.integers(200, len(data), 200):
                damaged[place] ^= 1 << int(rng.integers(8))
            refused(bytes(damaged), clip(36))


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"\0" * 5000, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"])
def test_files_that_are_not_videos(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "page.mp4"
    path.write_bytes(content)
    assert refused(path, clip(1)).reason == "corrupt"
    assert refused(content, clip(1)).reason == "corrupt"


def test_empty_missing_and_sound_only(tmp_path: Path) -> None:
    assert refused(b"", clip(1)).reason == "empty"
    assert refused(tmp_path / "absent.mp4", clip(1)).reason == "missing"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert refused(buffer.getvalue(), clip(1)).reason == "no_video"


def test_limits_are_known_from_the_header() -> None:
    assert number_of(decode_clip(claiming(300), clip(1), LIMITS)[0]) == 0
    error = refused(claiming(8000), clip(1))
    assert error.reason == "too_large"
    assert "8000×8000" in str(error)
    assert refused(claiming(30000), clip(1)).reason == "corrupt"  # larger than FFmpeg itself accepts
    error = refused(mux([0, 1, 36000], tick=Fraction(1, 30)), clip(1))
    assert error.reason == "too_long"
    assert "36000" in str(error)
    assert refused(mux([0, 1]), clip(1), LimitsSection(max_bytes=100)).reason == "too_large"
    thin = encode_mp4(np.zeros((1, 2, 512, 3), np.uint8), 8)
    assert refused(thin, clip(1, size=512), LimitsSection(max_pixels=512 * 512)).reason == "too_large"


def test_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(refused(b"", clip(1))))
    assert (error.reason, str(error)) == ("empty", refused(b"", clip(1)).message)


@pytest.mark.skipif(not ODD.is_dir(), reason=f"the odd clips are not at {ODD}")
@pytest.mark.parametrize(("name", "frames", "fps"), [("av1.mkv", 36, 8), ("h265_10bit.mp4", 8, 8), ("no_duration.webm", 36, 8)])
def test_odd_clips_decode(name: str, frames: int, fps: float) -> None:
    found = decode_clip(ODD / name, clip(frames, fps), LIMITS)
    assert found.shape == (frames, 64, 64, 3)
    assert found.std() > 1


@pytest.mark.skipif(not ODD.is_dir(), reason=f"the odd clips are not at {ODD}")
def test_odd_clip_rotated_and_damaged() -> None:
    path = ODD / "rot90.mov"
    upright = decode_clip(path, ClipShape(frames=3, height=568, width=320, fps=30), LIMITS)
    with av.open(str(path)) as file:
        coded = next(file.decode(video=0))
    assert (coded.height, coded.width, coded.rotation) == (320, 568, -90)
    turned = np.rot90(coded.to_ndarray(format="rgb24"), -1)  # clockwise: the letters on the keys are upright
    assert np.abs(upright[0].astype(int) - turned).mean() < 2
    assert probe(path).width == 568
    assert refused(ODD / "decord_corrupted.mp4", clip(40)).reason == "corrupt"


def test_encode_is_deterministic_and_probed(tmp_path: Path) -> None:
    frames = RNG.integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
    assert encode_mp4(frames, 8) == encode_mp4(frames, 8)
    assert b"mbtree=0" in encode_mp4(frames, 8), "with it about one encoding in 300 gives other bytes"
    path = tmp_path / "deep" / "clip.mp4"
    write_mp4(path, frames, 24000 / 1001)
    assert os.listdir(path.parent) == ["clip.mp4"]
    info = probe(path)
    assert (info.width, info.height, info.frames, info.codec) == (48, 32, 12, "h264")
    assert info.fps == pytest.approx(23.976, abs=1e-3)
    assert info.seconds == pytest.approx(12 * 1001 / 24000, abs=1e-3)


def test_encode_refuses() -> None:
    with pytest.raises(ValueError, match="33×32"):
        encode_mp4(np.zeros((2, 32, 33, 3), np.uint8), 8)
    for wrong in (np.zeros((2, 32, 32), np.uint8), np.zeros((0, 32, 32, 3), np.uint8), np.zeros((2, 32, 32, 3), np.float32)):
        with pytest.raises(ValueError, match=re.escape(f"{wrong.dtype} {wrong.shape}")):
            encode_mp4(wrong, 8)


def test_unit_and_back() -> None:
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
    video = to_unit(frames)
    assert (video.dtype, video.shape, video.min(), video.max()) == (np.float32, (3, 4, 8, 8), -1, 1)
    assert (to_uint8(video) == frames).all()
    assert to_uint8(video * 3).max() == 255


def test_contact_sheet(tmp_path: Path) -> None:
    rows = [np.stack([numbered(k) for k in range(3)]), np.full((2, 32, 16, 3), 200, np.uint8)]
    contact_sheet(rows, tmp_path / "sheet.png")
    with av.open(str(tmp_path / "sheet.png")) as file:
        sheet = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert sheet.shape == (2 + 66 + 34, 2 + 3 * 66, 3)
    assert number_of(sheet[2:66, 134:198]) == 2
    assert (sheet[68:100, 2:18] == 200).all()
