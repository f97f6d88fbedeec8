"""Several datasets by weight: exact shares, every sample of each once per epoch, the same batches for any layout."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hitvideo.data.blend import PERIOD, Blend, BlendedOrder, open_tokens, shares
from hitvideo.data.loader import Batches, split
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError
from hitvideo.settings.data import BlendPart, TokenDataSection
from tests.samples import make_token_shards


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1], [1024]), ([1, 1], [512, 512]), ([3, 1], [768, 256]), ([1, 1, 1], [342, 341, 341]), ([1e9, 1], [1023, 1])],
)
def test_shares(weights: list[float], expected: list[int]) -> None:
    assert sorted(shares(weights)) == sorted(expected)
    assert shares(weights)[0] == max(expected)


def test_each_part_is_drawn_epoch_by_epoch_at_its_share() -> None:
    sizes, weights = [300, 50, 1000], [2.0, 1.0, 1.0]
    found = BlendedOrder(sizes, weights, seed=3, read_together=16)(np.arange(4 * PERIOD))
    which = np.searchsorted(np.cumsum(sizes), found, side="right")
    for period in range(4):
        assert np.bincount(which[period * PERIOD :][:PERIOD]).tolist() == [512, 256, 256]
    counts = np.bincount(found, minlength=sum(sizes))
    # 2048 draws of 300 samples, 1024 of 50, 1024 of 1000: every sample draws / samples times, rounded down or up.
    for start, size, draws in ((0, 300, 2048), (300, 50, 1024), (350, 1000, 1024)):
        assert set(counts[start : start + size].tolist()) <= {draws // size, draws // size + 1}
    runs = np.flatnonzero(np.diff(which)) + 1
    assert np.diff(runs).max() < 30, "the parts are mixed, not one after the other"


def test_any_draws_in_any_order() -> None:
    order = BlendedOrder([30, 7], [1, 2], seed=1, read_together=4)
    whole = order(np.arange(5000))
    draws = np.random.default_rng(0).integers(0, 5000, 200)
    np.testing.assert_array_equal(order(draws), whole[draws])


def test_old_checkpoints_keep_their_order() -> None:
    """The numbers of the first release."""
    order = BlendedOrder([30, 7], [1, 2], seed=1, read_together=4, version=1)
    assert order(np.arange(12)).tolist() == [36, 35, 31, 12, 36, 5, 31, 32, 29, 35, 35, 34]
    assert BlendedOrder([30, 7], [1, 2], seed=1, read_together=4)(np.arange(12)).tolist() != order(np.arange(12)).tolist()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [
        make_token_shards(tmp_path_factory.mktemp(f"part{number}"), shards, per_shard)
        for number, (shards, per_shard) in enumerate([(2, 40), (1, 10), (3, 10)])
    ]


class Rows:
    """Codes without captions; test_loader.py tests `TokenSource`."""

    def __init__(self, blend: Blend) -> None:
        self.blend = blend
        self.order = blend.order

    def __len__(self) -> int:
        return len(self.blend)

    def tensor(self, index: int, draw: int) -> torch.Tensor:
        return self.rows(np.array([index]), np.array([draw]))[0][0]

    def rows(self, indices: np.ndarray, draws: np.ndarray) -> tuple[torch.Tensor, dict]:
        found = self.blend.read(indices)
        return torch.from_numpy(found.codes), found.damaged


def make_blend(parts: list[Path], held_out: int = 12) -> Blend:
    given = tuple(BlendPart(manifest=str(path), weight=weight) for path, weight in zip(parts, (1, 2, 1), strict=True))
    blend = open_tokens(TokenDataSection(blend=given, validation_samples=held_out))
    assert isinstance(blend, Blend)
    return blend


def test_the_numbering_holds_out_the_end_of_each(parts: list[Path]) -> None:
    blend, datasets = make_blend(parts), [TokenDataset(path) for path in parts]
    training, held_out = split(len(blend), 12)
    whole = [dataset.read(range(len(dataset))).codes for dataset in datasets]
    found = blend.read(range(len(blend))).codes
    tails = [8, 1, 3]  # 12 of 80, 10 and 30 samples
    expected = [rows[: len(rows) - tail] for rows, tail in zip(whole, tails, strict=True)]
    np.testing.assert_array_equal(found[: training.stop], np.concatenate(expected))
    expected = [rows[len(rows) - tail :] for rows, tail in zip(whole, tails, strict=True)]
    np.testing.assert_array_equal(found[held_out.start :], np.concatenate(expected))
    assert len(list(blend.captions())) == len(blend) == 120
    some = list(blend.captions(most=30, seed=1))
    assert len(some) == 20 + 2 + 7, "in proportion to 80, 10 and 30 samples"
    assert blend.place(0) == datasets[0].place(0)
    assert blend.place(119) == datasets[2].place(29)


@pytest.mark.parametrize("part", [0, 1])
def test_the_same_batches_for_any_world(parts: list[Path], part: int) -> None:
    def batches(ranks: int, threads: int) -> torch.Tensor:
        source = Rows(make_blend(parts))
        samples = split(len(source), 12)[part]
        loaders = [
            Batches(
                source, samples, global_batch=12, micro_batch=3, data_rank=rank, data_ranks=ranks, seed=1, read_together=8,
                threads=threads,
            )
            for rank in range(ranks)
        ]  # fmt: skip
        steps = [[loader(step) for loader in loaders] for step in range(5)]
        return torch.stack([torch.cat([rows for micro in zip(*step, strict=True) for rows in micro]) for step in steps])

    whole = batches(1, 0)
    for ranks, threads in ((1, 2), (2, 1), (4, 3)):
        assert torch.equal(batches(ranks, threads), whole)


def test_refusals(parts: list[Path], tmp_path: Path) -> None:
    datasets = [TokenDataset(path) for path in parts[:2]]
    datasets[1].manifest = json.loads(json.dumps(datasets[1].manifest).replace("made-up", "another"))
    with pytest.raises(ConfigError, match="video_tokenizer"):
        Blend(datasets, [1, 1], 0)
    with pytest.raises(ConfigError, match=r"'data\.manifest'"):
        open_tokens(TokenDataSection())
    empty = make_token_shards(tmp_path, shards=1, per_shard=0)
    with pytest.raises(ConfigError, match=re.escape(f"data.blend: {empty}")):
        Blend([datasets[0], TokenDataset(empty)], [1, 1], 0)
    assert dataclasses.is_dataclass(datasets[0].read([0]))
