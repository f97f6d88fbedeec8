"""The numbers of the paper's hierarchy, and the rules that every hierarchy must satisfy."""

from __future__ import annotations

import math

import pytest

from hitvideo import config
from hitvideo.errors import ConfigError
from hitvideo.hierarchy import ClipShape, Extent, Hierarchy, Level
from tests.conftest import ROOT


def pyramid(*downs: tuple[int, int, int], num_bits: int = 9) -> Hierarchy:
    return Hierarchy(levels=tuple(Level(down=down, num_bits=num_bits) for down in downs))


def paper() -> tuple[Hierarchy, ClipShape]:
    content = config.resolve(ROOT / "yaml_configs/parts/hierarchy/paper_4level.yaml")
    return Hierarchy(**content["hierarchy"]), ClipShape(**content["clip"])


def test_the_papers_figures() -> None:
    hierarchy, clip = paper()
    assert clip.extent == Extent(64, 256, 256)
    assert hierarchy.grids(clip.extent) == [(1, 8, 8), (2, 8, 8), (4, 16, 16), (8, 16, 16)]
    assert hierarchy.tokens(clip.extent) == 64 + 128 + 1024 + 2048 == 3264
    # A cell of level 0 covers 64·32·32 = 65,536 pixels, then 32,768, 4,096 and 2,048; each has 18 bits. All are powers
    # of two, so the sum is exact in binary: 18 · 51 / 65,536.
    bpp = 18 * (1 / 65536 + 1 / 32768 + 1 / 4096 + 1 / 2048)
    assert hierarchy.bits_per_pixel == bpp == 0.014007568359375
    assert round(hierarchy.compression, 1) == round(24 / bpp, 1) == 1713.4
    # "70 % fewer bits": against one level of 12 bits for 4×8×8 pixels.
    assert 1 - bpp / (12 / (4 * 8 * 8)) == pytest.approx(0.701, abs=5e-4)


def test_the_papers_other_pyramid() -> None:
    """17 bits, with twice the cells in time on the first two levels, and exactly the same bits per pixel."""
    content = config.resolve(ROOT / "yaml_configs/parts/hierarchy/paper_17bit.yaml")
    hierarchy, clip = Hierarchy(**content["hierarchy"]), ClipShape(**content["clip"])
    assert hierarchy.grids(clip.extent) == [(2, 8, 8), (4, 8, 8), (4, 16, 16), (8, 16, 16)]
    assert hierarchy.tokens(clip.extent) == 128 + 256 + 1024 + 2048 == 3456
    assert hierarchy.bits_per_pixel == paper()[0].bits_per_pixel
    assert round(hierarchy.compression, 1) == 1713.4


def test_describe() -> None:
    hierarchy, clip = paper()
    figures = hierarchy.describe(clip.extent)
    assert {key: figures[key] for key in ("tokens", "bpp", "compression")} == {
        "tokens": 3264, "bpp": 0.014007568359375, "compression": 1713.4,
    }  # fmt: skip
    assert figures["levels"][3] == {"grid": [8, 16, 16], "tokens": 2048, "num_bits": 18, "down": [8, 16, 16]}  # type: ignore[index]


def test_bits_per_pixel_are_bits_over_pixels() -> None:
    """Checks the definition on a clip that consists of whole cells."""
    hierarchy, clip = paper()
    grids = hierarchy.grids(clip.extent)
    bits = sum(grid.cells * level.num_bits for grid, level in zip(grids, hierarchy.levels, strict=True))
    assert bits / math.prod(clip.extent) == hierarchy.bits_per_pixel


@pytest.mark.parametrize("frames", range(1, 20))
def test_any_number_of_frames_is_padded_up(frames: int) -> None:
    hierarchy = pyramid((8, 16, 16), (4, 8, 8), (2, 4, 4))
    coarse, middle, fine = hierarchy.grids(Extent(frames, 32, 48))
    assert coarse == (math.ceil(frames / 8), 2, 3)
    assert middle == (2 * coarse.t, 4, 6)
    assert fine == (4 * coarse.t, 8, 12)


def test_height_and_width_must_divide() -> None:
    hierarchy = pyramid((8, 32, 16), (4, 8, 8))
    with pytest.raises(ConfigError, match=r"height 48 .*\b32\b.*try 64"):
        hierarchy.grids(Extent(8, 48, 48))
    with pytest.raises(ConfigError, match=r"width 40 .*\b16\b.*try 32"):
        hierarchy.grids(Extent(8, 64, 40))


@pytest.mark.parametrize("height", range(1, 200, 7))
def test_the_suggested_size_is_accepted(height: int) -> None:
    hierarchy = pyramid((8, 32, 16))
    try:
        hierarchy.grids(Extent(8, height, 16))
    except ConfigError as error:
        hierarchy.grids(Extent(8, int(str(error).rpartition("try ")[2]), 16))


def test_levels_must_be_coarsest_first() -> None:
    with pytest.raises(ValueError, match=r"level 0 down \[4, 8, 8\] .*level 1 down \[8, 8, 8\]"):
        pyramid((4, 8, 8), (8, 8, 8))
    with pytest.raises(ValueError, match=r"level 1 down \[4, 8, 4\] .*level 2 down \[2, 4, 8\]"):
        pyramid((8, 8, 8), (4, 8, 4), (2, 4, 8))
    with pytest.raises(ValueError, match="levels"):
        Hierarchy(levels=())


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ({"down": (3, 8, 8), "num_bits": 9}, r"down .*powers of two.*\[3, 8, 8\]"),
        ({"down": (0, 8, 8), "num_bits": 9}, r"down .*powers of two.*\[0, 8, 8\]"),
        ({"down": (-4, 8, 8), "num_bits": 9}, r"down .*powers of two.*\[-4, 8, 8\]"),
        ({"down": (8, 8), "num_bits": 9}, r"down"),
        ({"down": (8, 8, 8), "num_bits": 0}, r"num_bits"),
        ({"down": (8, 8, 8), "num_bits": 18, "sub_bits": (9, 8)}, r"sub_bits \[9, 8\] .*num_bits 18.*\b17\b"),
        ({"down": (8, 8, 8), "num_bits": 18}, r"262144 .*num_bits 18 .*sub_bits .*\b12\b"),
        ({"down": (8, 8, 8), "num_bits": 9, "sub_bits": (10, -1)}, r"sub_bits|positive|greater"),
        ({"down": (8, 8, 8), "num_bits": 9, "sub_bits": (9, 0)}, r"sub_bits|positive|greater"),
    ],
)
def test_refused_levels(level: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Level.model_validate(level)


def test_one_sub_code_by_default() -> None:
    assert Level(down=(1, 1, 1), num_bits=12).sub_codes == (12,)
    assert Level(down=(1, 1, 1), num_bits=18, sub_bits=(9, 9)).sub_codes == (9, 9)
