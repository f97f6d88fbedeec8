"""Rows with random coarse codes: how many, where, and the same for any division of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from hitvideo.hierarchy import Extent, Hierarchy, Level
from hitvideo.sequence.corruption import corrupted
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.vocab import Vocab

HIERARCHY = Hierarchy(
    levels=(
        Level(down=(4, 8, 8), num_bits=6, sub_bits=(3, 3)),
        Level(down=(4, 4, 4), num_bits=5, sub_bits=(3, 2)),
        Level(down=(1, 4, 4), num_bits=3),
    )
)
LAYOUT = SequenceLayout(Vocab(300, HIERARCHY), HIERARCHY, Extent(8, 32, 32), 5)
COARSE = slice(LAYOUT.starts[0], LAYOUT.starts[2])


def make_rows(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    cells = [(level.num_bits, grid.cells) for level, grid in zip(HIERARCHY.levels, LAYOUT.grids, strict=True)]
    codes = [np.concatenate([rng.integers(0, 1 << bits, number) for bits, number in cells]) for _ in range(count)]
    return LAYOUT.join_rows([[7, 8]] * count, np.stack(codes))


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_share_of_the_coarse_cells_holds_a_random_code(share: float) -> None:
    rows = make_rows(200)
    found = corrupted(rows, LAYOUT, share, 3, 14, range(200))
    changed = (found != rows).any(-1)
    assert not np.delete(changed, np.s_[COARSE], axis=1).any()  # captions, the finest level and EOV
    for level in (0, 1):
        cells = changed[:, LAYOUT.starts[level] : LAYOUT.starts[level + 1]]
        expected = share * (1 - 0.5 ** HIERARCHY.levels[level].num_bits)  # a random code may be the one that was there
        assert cells.mean() == pytest.approx(expected, abs=4 * (0.25 / cells.size) ** 0.5)
    for row in found[:20]:
        LAYOUT.split(row)  # raises for an id outside its level


def test_all_codes_of_a_level_are_drawn() -> None:
    found = corrupted(make_rows(100), LAYOUT, 1.0, 3, 14, range(100))
    for level in (0, 1):
        drawn = [LAYOUT.split(row)[level].reshape(-1) for row in found]
        counts = np.bincount(np.concatenate(drawn), minlength=1 << HIERARCHY.levels[level].num_bits)
        mean = counts.mean()
        assert abs(counts - mean).max() < 5 * mean**0.5


def test_it_depends_on_seed_step_and_place_alone() -> None:
    rows = make_rows(8)
    whole = corrupted(rows, LAYOUT, 0.5, 3, 14, range(8))
    for part in ([0, 1, 4, 5], [7]):  # as another rank or micro-batch would hold them
        np.testing.assert_array_equal(corrupted(rows[part], LAYOUT, 0.5, 3, 14, part), whole[part])
    for seed, step in ((4, 14), (3, 15)):
        assert (corrupted(rows, LAYOUT, 0.5, seed, step, range(8)) != whole).any()
    assert len({row.tobytes() for row in corrupted(rows[:1].repeat(8, 0), LAYOUT, 0.5, 3, 14, range(8))}) == 8
