"""Rows with mistakes in their coarse levels, for the input of training (train.corrupt).

When it generates, a model sees coarse codes of its own, not those of a real video. Rows whose coarse cells hold a random
code now and then teach it not to trust each one (as Infinity flips bits of its context: Han et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hitvideo.sequence.layout import SequenceLayout


def corrupted(
    rows: np.ndarray, layout: SequenceLayout, share: float, seed: int, step: int, places: Sequence[int]
) -> np.ndarray:
    """A copy of rows (n, length, width) in which a `share` of the cells of all levels but the finest hold a random code.

    What a row gets is a function of (seed, step, its place in the global batch), so it is the same for any number of ranks.
    """
    rows = rows.copy()
    for row, place in zip(rows, places, strict=True):
        random = np.random.default_rng((seed, step, place))
        for level in range(len(layout.grids) - 1):
            start, stop = layout.starts[level : level + 2]
            chosen = start + np.flatnonzero(random.random(stop - start) < share)
            row[chosen] = layout.vocab.to_ids(level, random.integers(0, 1 << layout.vocab.num_bits(level), len(chosen)))
    return rows
