"""The id space: ranges that do not overlap, and exact maps between indices and ids."""

from __future__ import annotations

import numpy as np
import pytest

from hitvideo.hierarchy import Hierarchy, Level
from hitvideo.sequence.vocab import NONE, Vocab


def vocab_of(*sub_bits: tuple[int, ...], text_size: int = 300) -> Vocab:
    levels = (Level(down=(1, 1, 1), num_bits=sum(bits), sub_bits=bits) for bits in sub_bits)
    return Vocab(text_size, Hierarchy(levels=tuple(levels)))


MIXED = ((3,), (4, 2), (9, 9), (2, 3, 4))


def test_ranges_tile_the_id_space() -> None:
    vocab = vocab_of(*MIXED)
    ranges = [id_range for row in vocab.ranges for id_range in row]
    covered = [id for id_range in ranges for id in range(id_range.offset, id_range.offset + id_range.size)]
    assert covered == list(range(300, vocab.size))
    # 8 + (16 + 4) + (512 + 512) + (4 + 8 + 16)
    assert vocab.size == 300 + 8 + 20 + 1024 + 28
    assert vocab.width == 3


@pytest.mark.parametrize("level", range(len(MIXED)))
def test_every_index_there_and_back(level: int) -> None:
    vocab = vocab_of(*MIXED)
    indices = np.arange(1 << sum(MIXED[level]))  # all of them, 2^18 for level 2
    ids = vocab.to_ids(level, indices)
    assert ids.shape == (len(indices), vocab.width)
    np.testing.assert_array_equal(vocab.to_indices(level, ids), indices)
    for column, id_range in enumerate(vocab.ranges[level]):
        assert ids[:, column].min() == id_range.offset
        assert ids[:, column].max() == id_range.offset + id_range.size - 1
    assert (ids[:, len(MIXED[level]) :] == NONE).all()
    assert len(np.unique(ids, axis=0)) == len(indices)


def test_eighteen_bits_as_nine_and_nine() -> None:
    vocab = vocab_of((9, 9), text_size=1000)
    # 0b101010101_000000011: the most significant half, 341, comes first; the second range starts 512 later.
    ids = vocab.to_ids(0, np.array([0b101010101_000000011]))
    assert ids.tolist() == [[1000 + 341, 1512 + 3]]


def test_shapes_are_kept() -> None:
    vocab = vocab_of((4, 2))
    indices = np.random.default_rng(0).integers(0, 64, (2, 3, 4, 5), dtype=np.uint16)
    assert vocab.to_ids(0, indices).shape == (2, 3, 4, 5, 2)
    np.testing.assert_array_equal(vocab.to_indices(0, vocab.to_ids(0, indices)), indices)
    assert vocab.to_ids(0, np.zeros((0,), np.uint16)).shape == (0, 2)


@pytest.mark.parametrize("index", [-1, 64, 1 << 40])
def test_foreign_indices_are_refused(index: int) -> None:
    with pytest.raises(ValueError, match=r"level 0 .* 64,"):
        vocab_of((4, 2)).to_ids(0, np.array([0, index]))


def test_every_foreign_id_is_refused() -> None:
    vocab = vocab_of((2,), (2, 1))
    good = vocab.to_ids(1, np.array([5]))
    for column, id_range in enumerate(vocab.ranges[1]):
        for id in range(-1, vocab.size + 1):
            changed = good.copy()
            changed[0, column] = id
            if id_range.offset <= id < id_range.offset + id_range.size:
                vocab.to_indices(1, changed)
            else:
                with pytest.raises(ValueError, match=f"sub-code {column} .*level 1"):
                    vocab.to_indices(1, changed)
