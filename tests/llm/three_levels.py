"""A small row of three levels, for the tests of grouped orders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hitvideo.hierarchy import Extent, Hierarchy, Level
from hitvideo.sequence.groups import Region
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.vocab import Vocab
from hitvideo.settings.language_model import LLMSection

HIERARCHY = Hierarchy(
    levels=(
        Level(down=(4, 8, 8), num_bits=3),
        Level(down=(4, 4, 4), num_bits=4, sub_bits=(2, 2)),
        Level(down=(2, 2, 2), num_bits=4),
    )
)  # grids of the clip below: 1×1×2, 1×2×4, 2×4×8
EXTENT, WINDOW, TEXT_SIZE = Extent(4, 8, 16), 5, 300
SECTION = LLMSection(layers=3, width=24, heads=4, kv_heads=2, hidden=40, rope_axes=(2, 2, 2), qk_norm=True, ancestors=True)
Order = Sequence[Region | None]


def layout(groups: Order | None = None) -> SequenceLayout:
    return SequenceLayout(Vocab(TEXT_SIZE, HIERARCHY), HIERARCHY, EXTENT, WINDOW, groups=groups)


def rows_of(count: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    grids = layout().grids
    codes = [
        [rng.integers(0, 1 << level.num_bits, grid) for level, grid in zip(HIERARCHY.levels, grids, strict=True)]
        for _ in range(count)
    ]
    return torch.from_numpy(np.stack([layout().join([7, 9], one) for one in codes]))
