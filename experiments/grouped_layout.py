"""Which cells of a level are drawn together, and the order in which a row then has them.

A level's cells are divided into groups of equal size. A group is drawn in one pass, given all groups before it; its cells are
independent of each other, given those. Two kinds of groups:

    block 1,2,2     the cells of one block of 1×2×2 cells: neighbours, drawn together
    spread 2,4,4    one cell of every block of 2×4×4 cells: drawn together, and a block's length apart

Groups of one cell are raster order, the model that the library trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from hitvideo.hierarchy import Grid
from hitvideo.sequence.layout import SequenceLayout

START = NO_TARGET = -1  # in `order` and in `target`


class Groups(NamedTuple):
    """How one level is divided. `shape`: extent (t, h, w) of a block; it divides the level's grid."""

    kind: Literal["block", "spread"]
    shape: tuple[int, int, int]

    def cells(self, grid: Grid) -> np.ndarray:
        """Numbers of the cells, in the order in which they are drawn: (groups, cells of a group).

        Cell i of every group is in one place: of its block (`block`), or the same block (`spread`).
        """
        (t, h, w), numbers = self.shape, np.arange(grid.cells).reshape(grid)
        blocks = numbers.reshape(grid.t // t, t, grid.h // h, h, grid.w // w, w).transpose(0, 2, 4, 1, 3, 5)
        of_blocks = blocks.reshape(-1, t * h * w)  # (blocks, cells of a block), both in raster order
        return of_blocks if self.kind == "block" else of_blocks.T


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


@dataclass(frozen=True)
class GroupedLayout:
    """A row's slots in the order in which they become known. A "cell" here is a slot of the raster layout.

    Attributes, each an array over the input slots:
        order: the cell whose ids lie there; START: none. A group of several cells at a level's beginning has no earlier slots
            at its places, so it is predicted by START slots, one for each cell.
        target: the cell that it predicts; NO_TARGET: none.
        stage: when it becomes known: every group has a number, and START slots share that of the group before them.
        shown: when what it predicts becomes known; after the slot's own stage if it predicts nothing.
    """

    order: np.ndarray
    target: np.ndarray
    stage: np.ndarray
    shown: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Whether a slot (rows) sees another (columns): those known before what it predicts."""
        seen: np.ndarray = self.stage[None, :] < self.shown[:, None]
        return seen

    @property
    def predicts(self) -> np.ndarray:
        """The input slot that predicts each cell but the first: (length - 1,)."""
        slots = np.flatnonzero(self.target != NO_TARGET)
        found: np.ndarray = slots[np.argsort(self.target[slots])]
        return found


def grouped_layout(layout: SequenceLayout, levels: Sequence[Groups]) -> GroupedLayout:
    """The layout in which each level is drawn by its groups, text and EOV cell by cell."""
    first = layout.starts[:-1]
    by_level = [start + groups.cells(grid) for start, groups, grid in zip(first, levels, layout.grids, strict=True)]
    sections = [np.arange(layout.window)[:, None], *by_level, np.array([[layout.length - 1]])]
    order: list[int] = []
    target: list[int] = []
    stage: list[int] = []
    now = 0
    for section in sections:
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
    fed, aims, stages = (np.array(column[:-1], np.int64) for column in (order, target, stage))  # EOV is predicted, not fed
    known = dict(zip(fed.tolist(), stages.tolist(), strict=True)) | {layout.length - 1: now - 1}
    pairs = zip(aims.tolist(), stages.tolist(), strict=True)
    shown = [known[cell] if cell != NO_TARGET else own + 1 for cell, own in pairs]
    return GroupedLayout(fed, aims, stages, np.array(shown, np.int64))
