"""The layout of a training row: caption + codes ⇄ ids. Every row of a bucket has the same layout.

    slot       0 … W-1                              W …                                       length-1
    content    BOS caption EOS PAD …   level 0 (t, h, w raster)   level 1   …   level N       EOV

`split` is the exact inverse of `join`: `split(join(text_ids, codes)) == codes`. The level and cell of a slot are the same
in every row, so attention is plain causal and a head computes only the codes that are possible in its slots.

Positions for RoPE: text slot i is at (i, i, i). A cell is at its centre in the finest grid's coordinates, after the text
window; a level-0 cell that covers eight frames of the finest grid is at t = 3.5 of them. (`rope` has two other choices, to
measure against.)

The ancestors of a cell are the cells of the coarser levels that cover it, one on each: they come before it in the row.

A model of rows with `groups` also learns another order of the same slots, in which several cells of a level are drawn together
(groups.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from hitvideo.hierarchy import Extent, Grid, Hierarchy
from hitvideo.sequence.groups import GroupedLayout, Region, cells_by_group, grouped_layout
from hitvideo.sequence.vocab import BOS, EOS, EOV, NONE, PAD, Vocab
from hitvideo.settings.language_model import Rope
from hitvideo.settings.programs import PretrainRun

TEXT = -1  # the "level" of a text slot
NO_SLOT = -1  # in `ancestors`


class SequenceLayout:
    """The fixed map from slot to (level, cell) for one clip extent and one text window.

    Attributes, each a numpy array over the slots:
        levels (length,): TEXT or the level's number; EOV belongs to the last level.
        positions (length, 3): float32 (t, h, w) for RoPE; with rope "1d" all three are the slot's number.
        grouped: the order of llm.groups; None without them.
    """

    def __init__(
        self,
        vocab: Vocab,
        hierarchy: Hierarchy,
        extent: Extent,
        window: int,
        rope: Rope = "3d",
        groups: Sequence[Region | None] | None = None,
    ) -> None:
        """`groups`: for each level the regions of which it draws one cell each in a pass, see groups.py."""
        if window < 2:
            raise ValueError(f"a text window of {window} cannot hold BOS and EOS; use 2 or more")
        self.vocab = vocab
        self.window = window
        self.grids = hierarchy.grids(extent)
        self.starts = np.cumsum([window] + [grid.cells for grid in self.grids]).tolist()  # level k: starts[k] … starts[k+1]
        self.length = self.starts[-1] + 1
        self.levels = np.full(self.length, len(self.grids) - 1, dtype=np.int64)
        self.levels[:window] = TEXT
        self.positions = np.zeros((self.length, 3), dtype=np.float32)
        self.positions[:window] = np.arange(window)[:, None]
        finest = self.grids[-1]
        for level, grid in enumerate(self.grids):
            start, stop = self.starts[level : level + 2]
            self.levels[start:stop] = level
            self.positions[start:stop] = window + _centres(grid, finest)
            if rope == "3d-unaligned":
                self.positions[start:stop] = window + _centres(grid, grid)
        self.positions[-1] = window + np.array(finest)  # EOV: just past the last corner
        if rope == "1d":
            self.positions[:] = np.arange(self.length)[:, None]
        self.grouped: GroupedLayout | None = None
        if groups is not None:
            each = zip(self.starts[:-1], self.grids, groups, strict=True)
            self.grouped = grouped_layout(window, [start + cells_by_group(grid, region) for start, grid, region in each])

    def input_slots(self, grouped: bool = False) -> int:
        """Slots of a row that the model reads: all but EOV, and in the grouped order its START slots too."""
        return self.grouped.slots if grouped and self.grouped else self.length - 1

    def mean_slots(self, grouped: float) -> float:
        """`input_slots` of a row, if this share of the rows is in grouped order."""
        return self.input_slots() + grouped * (self.input_slots(grouped=True) - self.input_slots())

    def text_window(self, text_ids: Sequence[int]) -> np.ndarray:
        """BOS text EOS PAD … (window,). A caption that is too long loses its end, not its EOS."""
        kept = [BOS, *list(text_ids)[: self.window - 2], EOS]
        return np.array(kept + [PAD] * (self.window - len(kept)), dtype=np.int64)

    def join(self, text_ids: Sequence[int], codes: Sequence[np.ndarray]) -> np.ndarray:
        """A caption's ids and every level's indices (t, h, w) → a row of ids (length, width).

        Raises ValueError for indices of another shape, or outside their level's codebook.
        """
        row = np.full((self.length, self.vocab.width), NONE, dtype=np.int64)
        row[: self.window, 0] = self.text_window(text_ids)
        for level, (indices, grid) in enumerate(zip(codes, self.grids, strict=True)):
            if indices.shape != grid:
                raise ValueError(f"level {level} has indices of shape {indices.shape}; its grid is {tuple(grid)}")
            row[self.starts[level] : self.starts[level + 1]] = self.vocab.to_ids(level, indices.reshape(-1))
        row[-1, 0] = EOV
        return row

    def join_rows(self, text_ids: Sequence[Sequence[int]], codes: np.ndarray) -> np.ndarray:
        """`join` for many samples at once: captions' ids and flat codes (B, cells of all levels) → (B, length, width)."""
        if codes.size and ((codes >> self._num_bits).any() or codes.min() < 0):
            raise ValueError("codes hold indices outside their level's codebook")
        rows = np.full((len(codes), self.length, self.vocab.width), NONE, dtype=np.int64)
        for row, ids in zip(rows, text_ids, strict=True):
            row[: self.window, 0] = self.text_window(ids)
        for column, (shift, mask, offset) in enumerate(zip(*self._cell_tables, strict=True)):
            rows[:, self.window : -1, column] = ((codes >> shift) & mask) + offset
        rows[:, -1, 0] = EOV
        return rows

    def split(self, row: np.ndarray, levels: int | None = None) -> list[np.ndarray]:
        """The inverse of `join`: a row (length, width) → the indices (t, h, w) of each level.

        `levels`: only the first levels, for a row that ends after them. Raises ValueError for an id outside its level.
        """
        codes = []
        for level, grid in enumerate(self.grids[:levels]):
            ids = row[self.starts[level] : self.starts[level + 1]]
            codes.append(self.vocab.to_indices(level, ids).reshape(grid))
        return codes

    @cached_property
    def ancestors(self) -> np.ndarray:
        """Slots of the ancestors of each slot's cell: (length, levels - 1), coarsest first, NO_SLOT where there is none.

        A column is a level; the last level is nobody's ancestor. Text slots and EOV have no ancestors.
        """
        table = np.full((self.length, len(self.grids) - 1), NO_SLOT, dtype=np.int64)
        for level, grid in enumerate(self.grids):
            cells = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"))  # (3, t, h, w)
            for above, coarse in enumerate(self.grids[:level]):
                covering = [axis // (fine // few) for axis, fine, few in zip(cells, grid, coarse, strict=True)]
                numbers = np.ravel_multi_index(covering, coarse).reshape(-1)
                table[self.starts[level] : self.starts[level + 1], above] = self.starts[above] + numbers
        return table

    @cached_property
    def _num_bits(self) -> np.ndarray:
        """Bits of each cell's index: (cells,)."""
        return np.repeat([self.vocab.num_bits(level) for level in range(len(self.grids))], [grid.cells for grid in self.grids])

    @cached_property
    def _cell_tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.vocab.cell_tables([grid.cells for grid in self.grids])


def make_layout(settings: PretrainRun) -> SequenceLayout:
    """The layout of a run's rows, from its `hierarchy`, `clip` and `text`."""
    vocab = Vocab(settings.text.vocab_size, settings.hierarchy)
    llm, window = settings.llm, settings.text.window
    return SequenceLayout(vocab, settings.hierarchy, settings.clip.extent, window, llm.rope, llm.groups)


def _centres(grid: Grid, finest: Grid) -> np.ndarray:
    """Centres of a level's cells in the finest grid's coordinates: (cells, 3), raster order t, h, w."""
    axes = [(np.arange(n) + 0.5) * (f / n) - 0.5 for n, f in zip(grid, finest, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)
