"""The order of samples: a permutation in every epoch, and a pure function of the draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from hitvideo.data.order import EXACT, ORDERS, FirstOrder, Order, feistel, mix, permute, uniform

MILLION = 10**6
BATCH = 512


@pytest.mark.parametrize("bijection", [permute, feistel])
@pytest.mark.parametrize("size", [*range(1, 70), 100, 255, 256, 257, 1000, 4097, EXACT, EXACT + 1])
def test_permute_is_a_bijection(size: int, bijection: Callable[..., npt.NDArray[np.uint64]]) -> None:
    for seed in (0, 1, 12345):
        found = bijection(np.arange(size, dtype=np.uint64), size, seed)
        np.testing.assert_array_equal(np.sort(found), np.arange(size))


def test_every_permutation_of_few_places_is_drawn_equally_often() -> None:
    """6,000 seeds, 24 permutations of 4: each 250 ± 15.5 times; five standard deviations."""
    drawn = Counter(tuple(permute(np.arange(4, dtype=np.uint64), 4, seed).tolist()) for seed in range(6000))
    assert len(drawn) == 24
    assert max(abs(count - 250) for count in drawn.values()) < 78


SMALL = [(1, 1), (7, 3), (64, 8), (65, 8), (100, 256), (1000, 32), (33, 1), (5, 5), (300, 256)]
LARGE = [(66_000, 256), (200_000, 256), (200_001, 100), (131_077, 1024), (150_000, 7), (98_305, 3), (200_003, 70_000)]


@pytest.mark.parametrize(
    ("version", "size", "read_together"),
    [*((version, *case) for version in ORDERS for case in SMALL), *((2, *case) for case in LARGE)],
)
def test_every_epoch_holds_every_sample_once(version: int, size: int, read_together: int) -> None:
    order = ORDERS[version](size, seed=3, read_together=read_together)
    for epoch in range(4 if size < 1000 else 2):
        found = order(np.arange(epoch * size, (epoch + 1) * size))
        np.testing.assert_array_equal(np.sort(found), np.arange(size))


@pytest.mark.parametrize(("version", "size"), [(1, 103), (2, 103), (2, 140_001)])
def test_any_draws_in_any_order_and_number(version: int, size: int) -> None:
    order, many = ORDERS[version](size, seed=1, read_together=8), size * 2
    whole = order(np.arange(many))
    draws = np.random.default_rng(0).integers(0, many, 300)
    np.testing.assert_array_equal(order(draws), whole[draws])
    np.testing.assert_array_equal([order([p])[0] for p in draws], whole[draws])
    np.testing.assert_array_equal(ORDERS[version](size, seed=1, read_together=8)(np.arange(many - 1, -1, -1)), whole[::-1])
    assert order([]).shape == (0,)


def batches(order: Order, count: int, start: int = 0) -> list[npt.NDArray[np.int64]]:
    return [order(np.arange(start + step * BATCH, start + (step + 1) * BATCH)) for step in range(count)]


@pytest.mark.parametrize("start", [0, MILLION - 100, 5 * MILLION + 77], ids=["first", "across", "later"])
def test_a_batch_covers_many_blocks_and_few_clips_of_one_video(start: int) -> None:
    """Of a random draw, 512 · 511 / 2 pairs are of one video of 8 clips with probability 7 / 999,999: 0.92 a batch."""
    found = batches(Order(MILLION, seed=1, read_together=256), 400, start)
    assert min(len(set((batch // 256).tolist())) for batch in found) >= 60
    pairs = [count * (count - 1) / 2 for batch in found for count in Counter((batch // 8).tolist()).values()]
    assert sum(pairs) / len(found) <= 2 * BATCH * (BATCH - 1) / 2 * 7 / (MILLION - 1)


def test_small_sets_are_shuffled_without_any_structure() -> None:
    """Of 3,000 samples in batches of 512: neighbours meet in a batch as often as any two do."""
    order, met = Order(3000, seed=4, read_together=256), 0
    for epoch in range(40):
        batch = np.empty(3000, np.int64)
        batch[order(np.arange(epoch * 3000, (epoch + 1) * 3000))] = np.arange(3000) // BATCH
        met += int((batch[1:] == batch[:-1]).sum())
    assert met / (40 * 2999) == pytest.approx(sum(n * (n - 1) for n in [512] * 5 + [440]) / (3000 * 2999), rel=0.05)


def test_epochs_shuffle_across_blocks() -> None:
    """Those that met in a batch of one epoch are apart in the next: of 130,816 pairs, 67 meet again by chance."""
    order = Order(MILLION, seed=2, read_together=256)
    place = np.empty(MILLION, np.int64)
    place[order(np.arange(MILLION, 2 * MILLION))] = np.arange(MILLION) // BATCH
    again = [sum(n * (n - 1) // 2 for n in Counter(place[batch].tolist()).values()) for batch in batches(order, 20)]
    assert sum(again) / len(again) < 2 * 67


def test_the_short_block_is_not_always_last() -> None:
    """300 samples in blocks of 256: the last 44 were the last draws of every epoch once."""
    order = Order(300, seed=5, read_together=256)
    ends = [order(np.arange(epoch * 300 + 256, (epoch + 1) * 300)) for epoch in range(20)]
    share = np.mean([(end >= 256).mean() for end in ends])
    assert share == pytest.approx(44 / 300, abs=0.06)  # 880 places, standard error 0.012


def test_groups_stay_together_in_version_1() -> None:
    """Every 8 draws are one group of 8 samples; the 103 - 96 left over come last."""
    order = FirstOrder(103, seed=2, read_together=8)
    for epoch in range(3):
        found = order(np.arange(epoch * 103, (epoch + 1) * 103))
        groups = [set(found[start : start + 8] // 8) for start in range(0, 103, 8)]
        assert all(len(group) == 1 for group in groups)
        assert groups[-1] == {12}
        firsts = [min(group) for group in groups[:-1]]
        assert firsts != sorted(firsts), "the groups themselves are shuffled"
        within = found[:8] % 8
        assert within.tolist() != sorted(within.tolist()), "and the samples within"


def test_epochs_and_seeds_differ() -> None:
    size = 256
    orders = [Order(size, seed, 16) for seed in range(4)]
    epochs = [tuple(order(np.arange(epoch * size, (epoch + 1) * size))) for order in orders for epoch in range(4)]
    assert len(set(epochs)) == len(epochs)
    # Two unrelated permutations agree in about one place (a Poisson number with mean 1; above 8 by 1e-6).
    for one, other in pairwise(epochs):
        assert sum(a == b for a, b in zip(one, other, strict=True)) <= 12


def test_far_draws() -> None:
    """After 2^40 samples nothing overflows."""
    size = 10**9 + 7
    found = Order(size, seed=9, read_together=256)(np.arange(2**40, 2**40 + 1000))
    assert found.min() >= 0
    assert found.max() < size
    assert len(set(found.tolist())) == 1000


def test_golden() -> None:
    """A run resumed after an upgrade must have the same order: these are the numbers of the releases that brought them."""
    found = FirstOrder(20, seed=7, read_together=4)(np.arange(20)).tolist()
    assert found == [13, 14, 12, 15, 18, 17, 19, 16, 5, 7, 6, 4, 11, 9, 8, 10, 2, 0, 3, 1]
    assert FirstOrder(1000, seed=5, read_together=64)([0, 1, 999, 1000, 2500]).tolist() == [239, 205, 962, 153, 367]
    found = Order(20, seed=7, read_together=4)(np.arange(20)).tolist()
    assert found == [14, 15, 19, 12, 11, 0, 7, 18, 16, 5, 13, 4, 9, 8, 6, 10, 2, 1, 17, 3]
    found = Order(200_000, seed=7, read_together=256)([0, 1, 2, 99_999, 199_999, 200_000]).tolist()
    assert found == [10191, 124454, 157181, 127362, 68332, 124723]


def test_mix_is_splitmix64() -> None:
    # The first outputs of splitmix64 seeded with 0 (Vigna's reference code): state 1·γ, 2·γ, 3·γ, finalised.
    reference = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(mix(np.zeros(1, np.uint64), salt)[0]) for salt in (1, 2, 3)] == reference


def test_uniform() -> None:
    numbers = uniform(np.arange(100_000, dtype=np.uint64), 5)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
    # Each tenth holds 10,000 ± 95; five standard deviations.
    np.testing.assert_allclose(counts, 10_000, atol=475)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02
    assert not np.array_equal(numbers, uniform(np.arange(100_000, dtype=np.uint64), 6))


def test_an_empty_order_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Order(0, 0, 1)
