"""Cells of a level that are drawn together (llm.groups), and the order in which a row then has them.

A level's grid is divided into regions of equal size. A group has one cell of every region, at the same place in each: its cells
are a region apart, are drawn in one pass given all groups before it, and are independent of each other given those. So a level
takes as many passes as a region has cells. The scheme is that of parallelised autoregressive generation (Wang et al. 2024,
arXiv 2412.15119), within each level of a hierarchy.

In the grouped order the slot that holds a cell predicts the cell that the same region draws next. The first group of a level
has no earlier slots at its places. START slots, which hold no ids, predict it, one for each of its cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hitvideo.hierarchy import Grid

START = NO_TARGET = -1  # in `order` and in `target`
Region: TypeAlias = tuple[int, int, int]
Int64s: TypeAlias = npt.NDArray[np.int64]


def cells_by_group(grid: Grid, region: Region | None) -> Int64s:
    """Numbers of a level's cells in the order in which they are drawn: (groups, cells of a group), raster within a region.

    `region`: cells of a region along t, h, w; None: every cell is a group of its own, in raster order. Raises ValueError if
    regions do not divide the grid; a run's settings are checked for that.
    """
    numbers = np.arange(grid.cells)
    if region is None:
        return numbers[:, None]
    t, h, w = region
    regions = numbers.reshape(grid.t // t, t, grid.h // h, h, grid.w // w, w).transpose(1, 3, 5, 0, 2, 4)
    return regions.reshape(t * h * w, -1)


@dataclass(frozen=True)
class GroupedLayout:
    """A row's n input slots in the order in which they become known. A "cell" here is a slot of the raster row.

    Attributes:
        levels: for each level its cells, (groups, cells of a group).
        order (n,): the cell whose ids lie in a slot; START: none.
        target (n,): the cell that a slot predicts; NO_TARGET: none.
        stage (n,): when a slot becomes known: every group has a number, and START slots share that of the group before them.
        shown (n,): when what a slot predicts becomes known; after its own stage if it predicts nothing.
    """

    levels: tuple[Int64s, ...]
    order: Int64s
    target: Int64s
    stage: Int64s
    shown: Int64s

    @property
    def slots(self) -> int:
        """Input slots of a row, START slots included."""
        return len(self.order)

    @cached_property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Whether a slot (rows) sees another (columns): those known before what it predicts. (n, n)"""
        seen: npt.NDArray[np.bool_] = self.stage[None, :] < self.shown[:, None]
        return seen

    @cached_property
    def predicts(self) -> Int64s:
        """The slot that predicts each cell but the first: (cells of the raster row - 1,)."""
        slots = np.flatnonzero(self.target != NO_TARGET)
        found: Int64s = slots[np.argsort(self.target[slots])]
        return found


def grouped_layout(window: int, levels: Sequence[Int64s]) -> GroupedLayout:
    """The order in which each level is drawn by its groups, the `window` slots of text and EOV one by one.

    `levels`: for each level the slots that its cells have in the raster row, (groups, cells of a group).
    """
    end = window + sum(level.size for level in levels)  # EOV's place
    order: list[int] = []
    target: list[int] = []
    stage: list[int] = []
    now = 0
    for section in (np.arange(window)[:, None], *levels, np.array([[end]])):
        size = section.shape[1]
        if size > 1:
            order += [START] * size
            stage += [now - 1] * size
            target += section[0].tolist()
        elif order:
            target[-1] = int(section[0, 0])
        for number, group in enumerate(section):
            order += group.tolist()
            stage += [now] * size
            target += section[number + 1].tolist() if number + 1 < len(section) else [NO_TARGET] * size
            now += 1
    held, aims, stages = (np.array(column[:-1], np.int64) for column in (order, target, stage))  # EOV is predicted, not held
    known = dict(zip(held.tolist(), stages.tolist(), strict=True)) | {end: now - 1}
    pairs = zip(aims.tolist(), stages.tolist(), strict=True)
    shown = [known[cell] if cell != NO_TARGET else own + 1 for cell, own in pairs]
    return GroupedLayout(tuple(levels), held, aims, stages, np.array(shown, np.int64))
