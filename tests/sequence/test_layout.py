"""SequenceLayout: `split` inverts `join`, every row has one layout, and a cell's position is its centre."""

from __future__ import annotations

import numpy as np
import pytest

from hitvideo.hierarchy import Extent, Hierarchy, Level
from hitvideo.sequence.layout import NO_SLOT, TEXT, SequenceLayout
from hitvideo.sequence.vocab import BOS, EOS, EOV, NONE, PAD, Vocab


def random_layout(rng: np.random.Generator) -> tuple[SequenceLayout, Hierarchy]:
    """One to four levels, each halved or kept along each axis; one to three sub-codes."""
    down = np.array([1, 1, 1])
    levels: list[Level] = []
    for _ in range(rng.integers(1, 5)):
        bits = tuple(int(b) for b in rng.integers(1, 6, rng.integers(1, 4)))
        levels.insert(0, Level(down=tuple(down.tolist()), num_bits=sum(bits), sub_bits=bits))
        down = down * rng.integers(1, 3, 3)
    hierarchy = Hierarchy(levels=tuple(levels))
    coarsest = levels[0].down
    clip = Extent(int(rng.integers(1, 9)), *(int(rng.integers(1, 3)) * factor for factor in coarsest[1:]))
    return SequenceLayout(Vocab(300, hierarchy), hierarchy, clip, int(rng.integers(2, 12))), hierarchy


def random_codes(layout: SequenceLayout, hierarchy: Hierarchy, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(0, 1 << level.num_bits, grid) for level, grid in zip(hierarchy.levels, layout.grids, strict=True)]


@pytest.mark.parametrize("seed", range(40))
def test_split_is_the_inverse_of_join(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layout, hierarchy = random_layout(rng)
    codes = random_codes(layout, hierarchy, rng)
    row = layout.join(rng.integers(5, 300, rng.integers(0, 20)).tolist(), codes)
    assert row.shape == (layout.length, layout.vocab.width)
    assert layout.length == layout.window + sum(grid.cells for grid in layout.grids) + 1
    for found, expected in zip(layout.split(row), codes, strict=True):
        np.testing.assert_array_equal(found, expected)
    for k in range(1, len(codes) + 1):  # a row that ends after level k
        prefix = layout.split(row[: layout.starts[k]], k)
        assert len(prefix) == k
        np.testing.assert_array_equal(prefix[-1], codes[k - 1])
    assert row[-1].tolist() == [EOV] + [NONE] * (layout.vocab.width - 1)


@pytest.mark.parametrize("seed", range(10))
def test_every_slot_holds_its_own_levels_ids(seed: int) -> None:
    """The layout is the same for every row: the range of a slot's ids does not depend on the row."""
    rng = np.random.default_rng(100 + seed)
    layout, hierarchy = random_layout(rng)
    row = layout.join([7, 8, 9], random_codes(layout, hierarchy, rng))
    for slot, level in enumerate(layout.levels[:-1]):
        if level == TEXT:
            assert row[slot, 0] < layout.vocab.text_size
        else:
            for column, id_range in enumerate(layout.vocab.ranges[level]):
                assert id_range.offset <= row[slot, column] < id_range.offset + id_range.size
    assert layout.levels[-1] == len(layout.grids) - 1
    assert (np.diff(layout.levels) >= 0).all()  # text, level 0, level 1, …


def tiny(window: int = 6) -> SequenceLayout:
    hierarchy = Hierarchy(levels=(Level(down=(8, 4, 4), num_bits=3), Level(down=(1, 2, 4), num_bits=4, sub_bits=(2, 2))))
    return SequenceLayout(Vocab(300, hierarchy), hierarchy, Extent(8, 4, 8), window)


def test_golden_row() -> None:
    # Grids (1, 1, 2) and (8, 2, 2). Ids: level 0 from 300, level 1 from 308 and 312.
    layout = tiny()
    assert layout.grids == [(1, 1, 2), (8, 2, 2)]
    fine = np.zeros((8, 2, 2), int)
    fine[0, 0, 1] = 0b1101  # raster: the second cell of its level, slot 6 + 2 + 1
    row = layout.join([40, 41], [np.array([[[5, 7]]]), fine])
    assert row[:6].tolist() == [[BOS, 0], [40, 0], [41, 0], [EOS, 0], [PAD, 0], [PAD, 0]]
    assert row[6:10].tolist() == [[305, 0], [307, 0], [308, 312], [308 + 3, 312 + 1]]
    assert row[-1].tolist() == [EOV, 0]
    assert layout.length == 6 + 2 + 32 + 1


def test_golden_positions() -> None:
    layout = tiny(window=6)
    positions = layout.positions
    assert positions.dtype == np.float32
    np.testing.assert_array_equal(positions[:6], np.arange(6)[:, None] * [1, 1, 1])  # text on the diagonal
    # Level 0 covers all 8 × 2 fine cells along t and h: its centre is t = 3.5, h = 0.5. Along w it is as fine as level 1.
    np.testing.assert_array_equal(positions[6:8], 6 + np.array([[3.5, 0.5, 0], [3.5, 0.5, 1]]))
    fine = np.array([[t, h, w] for t in range(8) for h in range(2) for w in range(2)])
    np.testing.assert_array_equal(positions[8:40], 6 + fine)  # the finest level has whole numbers
    np.testing.assert_array_equal(positions[40], [14, 8, 8])  # EOV past the last corner


@pytest.mark.parametrize("seed", range(20))
def test_a_coarse_cell_is_at_the_mean_of_the_fine_cells_it_covers(seed: int) -> None:
    layout, _ = random_layout(np.random.default_rng(200 + seed))
    finest = layout.grids[-1]
    cells = np.stack(np.meshgrid(*map(np.arange, finest), indexing="ij"), -1).astype(float)  # (t, h, w, 3)
    for level, (t, h, w) in enumerate(layout.grids):
        covered = cells.reshape(t, finest.t // t, h, finest.h // h, w, finest.w // w, 3)
        expected = layout.window + covered.mean((1, 3, 5)).reshape(-1, 3)
        start, stop = layout.starts[level : level + 2]
        np.testing.assert_allclose(layout.positions[start:stop], expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_ancestors_are_the_coarser_cells_that_cover_a_cell(seed: int) -> None:
    layout, hierarchy = random_layout(np.random.default_rng(300 + seed))
    boxes: list[tuple[int, list[range]]] = []  # of each cell in raster order: its level, and the pixels it covers on each axis
    for number, (level, grid) in enumerate(zip(hierarchy.levels, layout.grids, strict=True)):
        for cell in np.ndindex(*grid):
            boxes.append((number, [range(at * size, (at + 1) * size) for at, size in zip(cell, level.down, strict=True)]))
    for cell, (level, box) in enumerate(boxes):
        expected = [NO_SLOT] * (len(layout.grids) - 1)
        for other, (above, larger) in enumerate(boxes):
            if above < level and all(b[0] in a and b[-1] in a for a, b in zip(larger, box, strict=True)):
                assert expected[above] == NO_SLOT, "two cells of a level cover the same"
                expected[above] = layout.window + other
        assert layout.ancestors[layout.window + cell].tolist() == expected
        assert all(slot < layout.window + cell for slot in expected)
    assert (layout.ancestors[: layout.window] == NO_SLOT).all()
    assert (layout.ancestors[-1] == NO_SLOT).all()


def test_golden_positions_of_the_other_ropes() -> None:
    hierarchy = Hierarchy(levels=(Level(down=(8, 4, 4), num_bits=3), Level(down=(1, 2, 4), num_bits=4, sub_bits=(2, 2))))
    vocab, extent = Vocab(300, hierarchy), Extent(8, 4, 8)
    line = SequenceLayout(vocab, hierarchy, extent, 6, "1d").positions
    np.testing.assert_array_equal(line, np.arange(41)[:, None] * [1, 1, 1])
    unaligned = SequenceLayout(vocab, hierarchy, extent, 6, "3d-unaligned").positions
    np.testing.assert_array_equal(unaligned[6:8], 6 + np.array([[0, 0, 0], [0, 0, 1]]))
    np.testing.assert_array_equal(unaligned[8:], tiny(window=6).positions[8:])  # the finest level and EOV are where they were


@pytest.mark.parametrize("length", range(10))
def test_a_long_caption_keeps_its_eos(length: int) -> None:
    window = tiny(window=6).text_window(list(range(10, 10 + length)))
    assert window.shape == (6,)
    kept = min(length, 4)
    assert window.tolist() == [BOS, *range(10, 10 + kept), EOS] + [PAD] * (4 - kept)


def test_the_smallest_window() -> None:
    assert tiny(window=2).text_window([9, 9]).tolist() == [BOS, EOS]
    with pytest.raises(ValueError, match="window of 1 "):
        tiny(window=1)


def test_foreign_codes_are_refused() -> None:
    layout = tiny()
    good = [np.zeros(grid, int) for grid in layout.grids]
    with pytest.raises(ValueError, match=r"level 1 .*\(32,\).*\(8, 2, 2\)"):
        layout.join([], [good[0], good[1].reshape(-1)])
    with pytest.raises(ValueError, match=r"zip\(\)"):
        layout.join([], good[:1])
    with pytest.raises(ValueError, match=r"level 0 .* 8,"):
        layout.join([], [good[0] + 8, good[1]])
    row = layout.join([], good)
    row[6, 0] = 299
    with pytest.raises(ValueError, match="level 0"):
        layout.split(row)
