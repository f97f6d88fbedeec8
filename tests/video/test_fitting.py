"""Upright in a clip's shape: every orientation against its definition, against FFmpeg's filters and against Pillow."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import decode_clip, upright_aspect
from hitvideo.video.filters import Filter
from hitvideo.video.fitting import Orientation, orientation
from tests.conftest import CLIPS
from tests.videos import mux_frames, with_display_matrix

ODD = CLIPS / "odd"
LIMITS = LimitsSection()
WIDTH, HEIGHT = 96, 64
MATRICES = [
    (1, 0, 0, 1),
    (-1, 0, 0, 1),
    (-1, 0, 0, -1),
    (1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, 1, -1, 0),
    (0, -1, -1, 0),
    (0, -1, 1, 0),
]


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)


def clip_of(shape: tuple[int, ...]) -> ClipShape:
    return ClipShape(frames=1, height=shape[0], width=shape[1], fps=8)


def shown_at(pixels: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Each pixel (x, y) goes to (a·x + c·y, b·x + d·y): the definition of a display matrix."""
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    columns, rows = a * x + c * y, b * x + d * y
    out = np.zeros((np.ptp(rows) + 1, np.ptp(columns) + 1, 3), np.uint8)
    out[rows - rows.min(), columns - columns.min()] = pixels
    return out


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_whole_display_matrix_is_applied(matrix: tuple[int, int, int, int]) -> None:
    plain = mux_frames([picture()] * 3, options={"crf": "4"})
    turned = with_display_matrix(plain, *matrix)
    expected = shown_at(decode_clip(plain, clip_of((HEIGHT, WIDTH)), LIMITS)[0], *matrix)
    assert np.array_equal(decode_clip(turned, clip_of(expected.shape), LIMITS)[0], expected)
    assert upright_aspect(turned, "x", LIMITS) == pytest.approx(expected.shape[1] / expected.shape[0])


FILTERS = {
    "hflip": (-1, 0, 0, 1),
    "vflip": (1, 0, 0, -1),
    "transpose=clock": (0, 1, -1, 0),
    "transpose=cclock_flip": (0, 1, 1, 0),
    "transpose=clock_flip": (0, -1, -1, 0),
}


@pytest.mark.parametrize("name", FILTERS)
def test_as_ffmpegs_own_filters_turn(name: str) -> None:
    frame = av.VideoFrame.from_ndarray(picture(), format="rgb24")
    frame.pts = 0
    filter_name, _, options = name.partition("=")
    (turned,) = Filter(filter_name, f"dir={options}" if options else "", frame, Fraction(1)).push(frame)
    assert np.array_equal(turned.to_ndarray(format="rgb24"), shown_at(picture(), *FILTERS[name]))


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_exif_orientations_as_pillow_shows_them(kind: str, number: int) -> None:
    pillow = pytest.importorskip("PIL.Image")
    from PIL import ImageOps

    exif = pillow.Exif()
    exif[0x112] = number
    out = io.BytesIO()
    pillow.fromarray(picture()).save(out, kind, exif=exif, **({} if kind == "png" else {"quality": 95}))
    expected = np.asarray(ImageOps.exif_transpose(pillow.open(io.BytesIO(out.getvalue()))).convert("RGB"))
    found = decode_clip(out.getvalue(), clip_of(expected.shape), LIMITS)[0]
    assert np.abs(found.astype(int) - expected).mean() < 1
    assert upright_aspect(out.getvalue(), "x", LIMITS) == pytest.approx(expected.shape[1] / expected.shape[0])


@pytest.mark.skipif(not ODD.is_dir(), reason=f"the odd clips are not at {ODD}")
def test_a_real_mirrored_video_against_its_twin() -> None:
    clip = ClipShape(frames=4, height=128, width=128, fps=8)
    turned = decode_clip(ODD / "rotate_reflect.mp4", clip, LIMITS)
    assert np.array_equal(turned, decode_clip(ODD / "rotate_reflect_twin.mp4", clip, LIMITS).transpose(0, 2, 1, 3))


@pytest.mark.skipif(not ODD.is_dir(), reason=f"the odd clips are not at {ODD}")
@pytest.mark.parametrize("name", ["exif_2.jpg", "exif_5.jpg"])
def test_real_mirrored_pictures_as_pillow_shows_them(name: str) -> None:
    pillow = pytest.importorskip("PIL.Image")
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(pillow.open(ODD / name)).convert("RGB"))
    assert np.abs(decode_clip(ODD / name, clip_of(expected.shape), LIMITS)[0].astype(int) - expected).mean() < 1


def test_a_slanted_or_empty_matrix_becomes_the_nearest_right_angle() -> None:
    class Frame:
        def __init__(self, *matrix: float) -> None:
            a, b, c, d = (round(65536 * value) for value in matrix)
            content = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32).tobytes()
            self.side_data: dict[Any, bytes] = dict.fromkeys([Type.DISPLAYMATRIX], content)

    from av.sidedata.sidedata import Type

    assert orientation(Frame(0, 0, 0, 0), "h264") == Orientation()
    assert orientation(Frame(0.98, 0.17, -0.17, 0.98), "h264") == Orientation()
    assert orientation(Frame(0.17, 0.98, -0.98, 0.17), "h264") == Orientation(True, True, False)
