"""The hierarchy of levels: grid shapes, token counts and bits per pixel of a clip. Does not import torch.

Level 0 is the coarsest: it is semantic and is generated first. (The paper's abstract calls such layers "higher".) Every
level covers the whole clip; one cell of a level covers `down = (dt, dh, dw)` frames × pixels × pixels:

    level   down (t, h, w)   grid of a 64×256×256 clip    tokens     (yaml_configs/parts/hierarchy/paper_4level.yaml)
    0       64, 32, 32       1, 8, 8                          64
    1       32, 32, 32       2, 8, 8                         128
    2       16, 16, 16       4, 16, 16                     1,024
    3        8, 16, 16       8, 16, 16                     2,048

bits per pixel = Σ num_bits / (dt·dh·dw); compression = 24 / bits per pixel.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from hitvideo.config import Section, Size
from hitvideo.errors import ConfigError

RAW_BITS_PER_PIXEL = 24
MOST_TOKENS = 1 << 24  # of a clip: what a row may have and a layout be held in memory for
LARGEST_SUB_CODE = 12


class Grid(NamedTuple):
    """Size of a level, in latent cells."""

    t: int
    h: int
    w: int

    @property
    def cells(self) -> int:
        return self.t * self.h * self.w


class Extent(NamedTuple):
    """Size of a clip, in frames and pixels."""

    frames: int
    height: int
    width: int


class ClipShape(Section):
    """Shape of a run's clips: length, size and frame rate."""

    frames: Size
    """Number of frames per clip, T."""
    height: Size
    """Height of a clip in pixels, H."""
    width: Size
    """Width of a clip in pixels, W."""
    fps: float = Field(gt=0)
    """Rate at which the source video is sampled, in frames per second."""

    @property
    def extent(self) -> Extent:
        return Extent(self.frames, self.height, self.width)


class Level(Section):
    """One level of the hierarchy."""

    down: tuple[int, int, int]
    """Frames × pixels × pixels covered by one cell, (dt, dh, dw); each is a power of two."""
    num_bits: int = Field(gt=0, le=62)
    """Bits per code; the codebook has 2**num_bits entries."""
    sub_bits: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Bits of the sub-codes that the language model splits an index into, most significant first; empty: one sub-code."""

    @model_validator(mode="after")
    def _check(self) -> Level:
        if any(factor < 1 or factor & (factor - 1) for factor in self.down):
            raise ConfigError(f"down must contain only powers of two, got {list(self.down)}")
        if sum(self.sub_codes) != self.num_bits:
            raise ConfigError(f"sub_bits {list(self.sub_bits)} must sum to num_bits {self.num_bits}, not {sum(self.sub_bits)}")
        if max(self.sub_codes) > LARGEST_SUB_CODE:
            raise ConfigError(
                f"a sub-code of {max(self.sub_codes)} bits needs a softmax over {2 ** max(self.sub_codes)} entries; "
                f"split num_bits {self.num_bits} into sub_bits of at most {LARGEST_SUB_CODE} each, as in sub_bits: [9, 9]"
            )
        return self

    @property
    def sub_codes(self) -> tuple[int, ...]:
        """Bits of each sub-code."""
        return self.sub_bits or (self.num_bits,)

    @property
    def bits_per_pixel(self) -> float:
        return self.num_bits / math.prod(self.down)


class Hierarchy(Section):
    """All levels, coarsest first."""

    levels: tuple[Level, ...] = Field(min_length=1)
    """The levels, coarsest first; each one's `down` is a multiple of the next one's."""

    @model_validator(mode="after")
    def _check(self) -> Hierarchy:
        for number, (coarse, fine) in enumerate(zip(self.levels, self.levels[1:], strict=False)):
            if any(c % f for c, f in zip(coarse.down, fine.down, strict=True)):
                raise ConfigError(
                    f"level {number} down {list(coarse.down)} is not divisible by level {number + 1} down "
                    f"{list(fine.down)}; list the levels coarsest first, each down a multiple of the next"
                )
        return self

    @property
    def finest(self) -> Level:
        return self.levels[-1]

    @property
    def bits_per_pixel(self) -> float:
        return sum(level.bits_per_pixel for level in self.levels)

    @property
    def compression(self) -> float:
        """Compression ratio compared with raw 24-bit RGB."""
        return RAW_BITS_PER_PIXEL / self.bits_per_pixel

    def grids(self, extent: Extent) -> list[Grid]:
        """Every level's grid for a clip of (T, H, W), with T rounded up to whole coarsest cells.

        Raises ConfigError if H or W is not a multiple of the coarsest level's cell, or the clip has too many tokens.
        """
        coarsest = self.levels[0].down
        for name, size, factor in (("height", extent.height, coarsest[1]), ("width", extent.width, coarsest[2])):
            if size % factor:
                near = max(factor, round(size / factor) * factor)
                raise ConfigError(f"{name} {size} is not a multiple of {factor}, the coarsest level's cell; try {near}")
        padded = extent.frames + -extent.frames % coarsest[0]
        downs = (level.down for level in self.levels)
        grids = [Grid(padded // dt, extent.height // dh, extent.width // dw) for dt, dh, dw in downs]
        if (tokens := sum(grid.cells for grid in grids)) > MOST_TOKENS:
            raise ConfigError(f"a clip of {tuple(extent)} has {tokens:,} tokens, {MOST_TOKENS:,} are possible; make it smaller")
        return grids

    def tokens(self, extent: Extent) -> int:
        return sum(grid.cells for grid in self.grids(extent))

    def describe(self, extent: Extent) -> dict[str, object]:
        """The numbers that `hitvideo inspect HIERARCHY.yaml --json` prints."""
        rows = [
            {"grid": list(grid), "tokens": grid.cells, "num_bits": level.num_bits, "down": list(level.down)}
            for grid, level in zip(self.grids(extent), self.levels, strict=True)
        ]
        return {
            "levels": rows,
            "tokens": self.tokens(extent),
            "bpp": self.bits_per_pixel,
            "compression": round(self.compression, 1),
        }
