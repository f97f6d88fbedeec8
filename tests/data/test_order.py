"""The order of samples: a permutation in every epoch, and a pure function of the draw."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hitvideo.data.order import Order, mix, permute, uniform


@pytest.mark.parametrize("size", [*range(1, 70), 100, 255, 256, 257, 1000, 4097])
def test_permute_is_a_bijection(size: int) -> None:
    for seed in (0, 1, 12345):
        found = permute(np.arange(size, dtype=np.uint64), size, seed)
        assert sorted(found.tolist()) == list(range(size))


@pytest.mark.parametrize(("size", "read_together"), [(1, 1), (7, 3), (64, 8), (65, 8), (100, 256), (1000, 32), (33, 1), (5, 5)])
def test_every_epoch_holds_every_sample_once(size: int, read_together: int) -> None:
    order = Order(size, seed=3, read_together=read_together)
    for epoch in range(4):
        found = order(np.arange(epoch * size, (epoch + 1) * size))
        assert sorted(found.tolist()) == list(range(size))


def test_any_draws_in_any_order_and_number() -> None:
    order = Order(103, seed=1, read_together=8)
    whole = order(np.arange(500))
    draws = np.random.default_rng(0).integers(0, 500, 300)
    np.testing.assert_array_equal(order(draws), whole[draws])
    np.testing.assert_array_equal([order([p])[0] for p in draws], whole[draws])
    np.testing.assert_array_equal(Order(103, seed=1, read_together=8)(np.arange(499, -1, -1)), whole[::-1])
    assert order([]).shape == (0,)


def test_groups_stay_together() -> None:
    """Every 8 draws are one group of 8 samples; the 103 - 96 left over come last."""
    order = Order(103, seed=2, read_together=8)
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
    """A run resumed after an upgrade must have the same order: these are the numbers of the first release."""
    found = Order(20, seed=7, read_together=4)(np.arange(20)).tolist()
    assert found == [13, 14, 12, 15, 18, 17, 19, 16, 5, 7, 6, 4, 11, 9, 8, 10, 2, 0, 3, 1]


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
