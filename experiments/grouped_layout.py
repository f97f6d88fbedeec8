"""Ways to divide a level into cells that are drawn together: what the library offers, and what it was compared with.

    spread 2,4,4    one cell of every region of 2×4×4 cells: drawn together, and a region's length apart (llm.groups)
    block 1,2,2     the cells of one block of 1×2×2 cells: neighbours, drawn together

Groups of one cell are raster order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from hitvideo.hierarchy import Grid
from hitvideo.sequence.groups import GroupedLayout, cells_by_group, grouped_layout
from hitvideo.sequence.layout import SequenceLayout


class Groups(NamedTuple):
    """How one level is divided. `shape`: extent (t, h, w) of a block; it divides the level's grid."""

    kind: Literal["block", "spread"]
    shape: tuple[int, int, int]

    def cells(self, grid: Grid) -> np.ndarray:
        """Numbers of the cells, in the order in which they are drawn: (groups, cells of a group)."""
        spread: np.ndarray = cells_by_group(grid, self.shape)
        return spread if self.kind == "spread" else spread.T


RASTER = Groups("block", (1, 1, 1))


def parse_groups(text: str) -> Groups:
    """raster, block:t,h,w or spread:t,h,w. Raises ValueError for anything else."""
    if text == "raster":
        return RASTER
    kind, _, numbers = text.partition(":")
    t, h, w = map(int, numbers.split(","))
    if kind not in ("block", "spread"):
        raise ValueError(f"{text}: write block:t,h,w or spread:t,h,w")
    return Groups("block" if kind == "block" else "spread", (t, h, w))


def order(layout: SequenceLayout, levels: Sequence[Groups]) -> GroupedLayout:
    """The order of a row whose levels are divided so."""
    pairs = zip(layout.starts, levels, layout.grids, strict=False)
    return grouped_layout(layout.window, [start + groups.cells(grid) for start, groups, grid in pairs])
