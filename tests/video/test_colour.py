"""Colours as players show them: matrices, transparency and HDR, against tagged twins, Pillow and FFmpeg's filters."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from hitvideo.errors import VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video import hdr
from hitvideo.video.decode import decode_clip
from hitvideo.video.filters import Filter
from tests.conftest import CLIPS
from tests.videos import mux_frames

ODD = CLIPS / "odd"
LIMITS = LimitsSection()
BT709, BT601, BT2020 = 1, 5, 9
SWS_BT709, SWS_BT601, SWS_BT2020 = 1, 5, 9
RED = (230, 30, 30)


def flat(height: int, width: int, colour: tuple[int, int, int] = RED) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def decoded(source: bytes, height: int = 64, width: int = 64) -> np.ndarray:
    pixels: np.ndarray = decode_clip(source, ClipShape(frames=1, height=height, width=width, fps=8), LIMITS)[0]
    return pixels


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (720, 576), (1280, 720), (544, 1280), (1080, 1920)])
def test_untagged_hd_is_bt709(height: int, width: int) -> None:
    frames = [flat(height, width)]
    tagged = decoded(mux_frames(frames, matrix=SWS_BT709, tags={"colorspace": BT709}))
    untagged = decoded(mux_frames(frames, matrix=SWS_BT709))
    assert np.array_equal(untagged, tagged)
    assert np.abs(untagged.astype(int) - RED).max() <= 4


@pytest.mark.parametrize(("height", "width"), [(480, 640), (576, 720), (718, 1278), (64, 64)])
def test_untagged_sd_is_bt601(height: int, width: int) -> None:
    frames = [flat(height, width)]
    tagged = decoded(mux_frames(frames, matrix=SWS_BT601, tags={"colorspace": BT601}))
    assert np.array_equal(decoded(mux_frames(frames, matrix=SWS_BT601)), tagged)
    assert np.abs(tagged.astype(int) - RED).max() <= 4


@pytest.mark.parametrize(("matrix", "tag"), [(SWS_BT601, BT601), (SWS_BT2020, BT2020)])
def test_a_tag_counts_at_any_size(matrix: int, tag: int) -> None:
    found = decoded(mux_frames([flat(720, 1280)], matrix=matrix, tags={"colorspace": tag}))
    assert np.abs(found.astype(int) - RED).max() <= 4


def test_vp8_is_bt601_at_any_size() -> None:
    found = decoded(mux_frames([flat(720, 1280)], "libvpx", "webm", matrix=SWS_BT601, options={"crf": "4", "b": "4000000"}))
    assert np.abs(found.astype(int) - RED).max() <= 6


@pytest.mark.parametrize(
    ("pixels", "codec"), [("yuv420p10le", "ffv1"), ("yuv444p", "libx264"), ("yuv422p", "libx264"), ("yuvj420p", "libx264")]
)
def test_other_pixel_formats(pixels: str, codec: str) -> None:
    options = {"crf": "4"} if codec == "libx264" else {}
    found = decoded(
        mux_frames(
            [flat(66, 98)], codec, "matroska", pixels=pixels, matrix=SWS_BT709, tags={"colorspace": BT709}, options=options
        )
    )
    assert np.abs(found.astype(int) - RED).max() <= 4


def test_a_matrix_that_is_not_read_is_named() -> None:
    with pytest.raises(VideoError, match="YCgCo") as caught:
        decoded(mux_frames([flat(64, 64)], pixels="yuv444p", tags={"colorspace": 8}))
    assert caught.value.reason == "unsupported"


# Pictures, as Pillow shows them


def gradient(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, 255 - x * 255 // width], axis=-1).astype(np.uint8)


PICTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("RGB", "jpeg", {"quality": 95, "subsampling": 0}),
    "jpeg 4:2:0": ("RGB", "jpeg", {"quality": 95}),
    "progressive jpeg": ("RGB", "jpeg", {"quality": 95, "progressive": True}),
    "gray jpeg": ("L", "jpeg", {"quality": 95}),
    "cmyk jpeg": ("CMYK", "jpeg", {"quality": 95}),
    "webp": ("RGB", "webp", {"quality": 95}),
    "lossless webp": ("RGB", "webp", {"lossless": True}),
    "png": ("RGB", "png", {}),
    "opaque png": ("RGBA", "png", {}),
    "palette png": ("P", "png", {}),
    "gray png": ("L", "png", {}),
    "two colours": ("1", "png", {}),
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("size", [(65, 97), (720, 1280)])
def test_pictures_as_pillow_shows_them(kind: str, size: tuple[int, int]) -> None:
    pillow = pytest.importorskip("PIL.Image")
    mode, container, options = PICTURES[kind]
    out = io.BytesIO()
    pillow.fromarray(gradient(*size)).convert(mode).save(out, container, **options)
    expected = np.asarray(pillow.open(io.BytesIO(out.getvalue())).convert("RGB"))
    assert np.abs(decoded(out.getvalue(), *size).astype(int) - expected).mean() < 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_black(mode: str) -> None:
    pillow = pytest.importorskip("PIL.Image")
    hidden = pillow.fromarray(gradient(64, 64)).convert("RGBA")
    alpha = np.zeros((64, 64), np.uint8)
    alpha[16:48, 16:48] = np.linspace(0, 255, 32).astype(np.uint8)
    hidden.putalpha(pillow.fromarray(alpha))
    out = io.BytesIO()
    hidden.convert(mode).save(out, "png")
    known = pillow.open(io.BytesIO(out.getvalue())).convert("RGBA")
    expected = pillow.alpha_composite(pillow.new("RGBA", (64, 64), (0, 0, 0, 255)), known).convert("RGB")
    found = decoded(out.getvalue())
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 2
    assert found[:8].max() == 0
    small = decoded(out.getvalue(), 8, 8)
    assert small[0].max() == 0, "hidden colours bleed into what is seen"


def test_transparency_in_a_video() -> None:
    half = flat(64, 64)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mov") as file:
        stream: Any = file.add_stream("prores_ks", rate=8, options={"profile": "4444"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuva444p10le"
        rgba = np.concatenate([half, np.full((64, 64, 1), 128, np.uint8)], axis=2)
        frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="yuva444p10le")
        frame.pts = 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert np.abs(decoded(buffer.getvalue()).astype(int) - np.array(RED) / 2).max() <= 4


# HDR


def codes(transfer: int, signal: float) -> np.ndarray:
    return np.full((2, 2, 3), round(signal * 65535), np.uint16)


def pq(nits: float) -> float:
    """The inverse of ST 2084's curve."""
    y = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


def test_known_points_of_both_curves() -> None:
    """BT.2100: PQ 0.5081 is 100 cd/m² and 0.7518 is 1,000. BT.2408: the white of a page is 0.5806 in PQ and 0.75 in HLG."""
    assert [round(pq(nits), 4) for nits in (100, 203, 1000)] == [0.5081, 0.5807, 0.7518]
    white = [hdr.to_sdr(codes(*point), point[0]) for point in ((hdr.PQ, pq(203)), (hdr.HLG, 0.75))]
    assert np.abs(white[0].astype(int) - white[1]).max() <= 1
    assert 200 < white[0][0, 0, 0] < 235
    for transfer, peak in ((hdr.PQ, pq(1000)), (hdr.HLG, 1.0)):
        assert hdr.to_sdr(codes(transfer, peak), transfer).min() >= 254
        assert hdr.to_sdr(codes(transfer, 0.0), transfer).max() == 0
        ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, 2)
        assert (np.diff(hdr.to_sdr(ramp, transfer)[..., 0].ravel().astype(int)) >= 0).all()


def test_the_tone_curve_is_ffmpegs_mobius() -> None:
    rng = np.random.default_rng(0)
    light = (rng.random((16, 16, 3)) ** 2 * hdr.PEAK).astype(np.float32)
    frame = av.VideoFrame(16, 16, "gbrpf32le")
    for plane, channel in zip(frame.planes, (1, 2, 0), strict=True):
        plane.update(np.ascontiguousarray(np.pad(light[..., channel], ((0, 0), (0, plane.line_size // 4 - 16)))))
    frame.color_trc, frame.pts = 8, 0  # linear
    (mapped,) = Filter("tonemap", f"tonemap=mobius:param={hdr.KNEE}:peak={hdr.PEAK}:desat=0", frame, Fraction(1)).push(frame)
    planes = [np.frombuffer(bytes(plane), np.float32).reshape(16, -1)[:, :16] for plane in mapped.planes]
    expected = np.stack([planes[2], planes[0], planes[1]], axis=-1)
    assert np.abs(hdr.tone_mapped(light) - expected).max() < 1e-4


@pytest.mark.parametrize("transfer", [hdr.PQ, hdr.HLG])
def test_an_hdr_video_is_not_taken_for_sdr(transfer: int) -> None:
    """A page's white comes out as SDR white, not as the grey that its codes would be."""
    signal = pq(203) if transfer == hdr.PQ else 0.75
    frames = [np.full((64, 64, 3), round(signal * 65535), np.uint16)] * 2
    tags = {"colorspace": BT2020, "color_primaries": BT2020, "color_trc": transfer}
    source = mux_frames(frames, "ffv1", "matroska", pixels="yuv420p10le", matrix=SWS_BT2020, tags=tags)
    assert np.abs(decoded(source).astype(int) - hdr.to_sdr(codes(transfer, signal), transfer)[0, 0]).max() <= 2
    untagged = mux_frames(frames, "ffv1", "matroska", pixels="yuv420p10le", matrix=SWS_BT601)
    assert np.abs(decoded(untagged).astype(int) - 255 * signal).max() <= 2


@pytest.mark.skipif(not ODD.is_dir(), reason=f"the odd clips are not at {ODD}")
def test_real_hdr_clips_use_the_whole_range() -> None:
    """pq_av1.mp4 came out between 60 and 185 before; the chart in hlg.mp4 has white and black patches."""
    for name, low, high in (("pq_av1.mp4", 80, 220), ("hlg.mp4", 60, 240)):
        found = decode_clip(ODD / name, ClipShape(frames=1, height=256, width=256, fps=8), LIMITS)[0]
        assert np.percentile(found, 1) < low
        assert np.percentile(found, 99) > high
