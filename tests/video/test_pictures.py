"""Pictures with damaged metadata: the pixels decide."""

from __future__ import annotations

import io

import numpy as np
import pytest

from hitvideo.errors import VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import decode_clip, upright_aspect
from hitvideo.video.pictures import is_animated_webp, without_metadata
from tests.videos import numbered

LIMITS = LimitsSection()
CLIP = ClipShape(frames=1, height=64, width=64, fps=8)
DAMAGE = [
    b"",
    b"\0" * 7,
    b"MM\0*\xff\xff\xff\xff",
    b"II*\0\x08\0\0\0\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\0\x20\x01\x12",
    b"nonsense" * 9,
]


def saved(kind: str, **more: object) -> bytes:
    pillow = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    pillow.fromarray(numbered(341)).save(out, kind, **({} if kind == "png" else {"quality": 95}), **more)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("field", ["exif", "icc_profile"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_metadata_costs_nothing(kind: str, field: str, damage: bytes) -> None:
    if kind == "jpeg" and field == "exif" and not damage.startswith(b"Exif"):
        damage = b"Exif\0\0" + damage
    source = saved(kind, **{field: damage})
    assert np.array_equal(decode_clip(source, CLIP, LIMITS), decode_clip(saved(kind), CLIP, LIMITS))
    assert upright_aspect(source, "x", LIMITS) == 1


def test_without_metadata_keeps_all_that_makes_the_pixels() -> None:
    for kind in ("jpeg", "png", "webp"):
        plain, rich = saved(kind), saved(kind, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0", icc_profile=b"profile" * 40)
        bare = without_metadata(rich)
        assert bare is not None
        assert len(bare) < len(rich)
        assert np.array_equal(decode_clip(bare, CLIP, LIMITS), decode_clip(plain, CLIP, LIMITS))
        assert without_metadata(bare) is None
    assert without_metadata(b"\0\0\0\x18ftypisom") is None


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_damaged_pixels_are_refused_with_and_without_metadata(kind: str) -> None:
    for source in (saved(kind), saved(kind, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")):
        for part in (source[: len(source) * 2 // 3], source[:20]):
            with pytest.raises(VideoError) as caught:
                decode_clip(part, CLIP, LIMITS)
            assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_any_beginning_of_a_file_is_looked_at_safely(cut: int) -> None:
    for kind in ("jpeg", "png", "webp"):
        part = saved(kind, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")[:cut]
        without_metadata(part)
        assert not is_animated_webp(part)
