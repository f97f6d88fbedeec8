"""The noise is a pure function, and its race draws from the model's distribution."""

from __future__ import annotations

import torch

from hitvideo.generation.noise import level_noise, noise_bytes, race
from tests.generation.models import random_model

CPU = torch.device("cpu")
GOLDEN = [-0.3813125, 0.2107970, -0.0939969]  # -log(-log u), u from torch's Mersenne twister seeded by sha256("0:1")
LAYOUT = random_model(sub_bits=((3, 2),) * 4).layout


def test_it_is_a_function_of_seed_level_cell_and_sub_code() -> None:
    """Golden numbers: a change of them changes every video that was ever drawn."""
    tables = level_noise(LAYOUT, 1, [0, 5], CPU)
    assert [tuple(table.shape) for table in tables] == [(2, 16, 8), (2, 16, 4)]
    assert all(table.dtype == torch.float32 for table in tables)
    torch.testing.assert_close(tables[0][0, 0, :3], torch.tensor(GOLDEN), atol=1e-6, rtol=0)
    for seeds, number, row in (([5], 0, 1), ([9, 5, 1], 1, 1), (range(6), 0, 0)):
        again = level_noise(LAYOUT, 1, seeds, CPU)
        assert all(torch.equal(table[number], other[row]) for table, other in zip(again, tables, strict=True))
    parts = [tables[0][0], tables[0][1], level_noise(LAYOUT, 0, [0], CPU)[0][0], level_noise(LAYOUT, 2, [0], CPU)[0][0]]
    values = torch.cat([part.flatten() for part in parts])
    assert len(values.unique()) == len(values), "no number stands twice"
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    level_noise(LAYOUT, 1, [3], CPU)
    assert torch.equal(torch.rand(1), first), "torch's own generator is left alone"


def test_it_is_gumbels_distribution() -> None:
    values = torch.cat([table.flatten() for table in level_noise(LAYOUT, 3, range(200), CPU)]).double()
    count = len(values)
    assert abs(values.mean() - 0.577216) < 5 * 1.2825 / count**0.5  # Euler's constant; standard deviation π/√6
    assert abs(values.std() - 1.2825) < 0.01
    for point in (-1.0, 0.0, 1.0, 4.0):
        expected = torch.tensor(-point).exp().neg().exp()
        assert abs((values < point).double().mean() - expected) < 5 * 0.5 / count**0.5


def test_the_race_follows_the_chances() -> None:
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    noise = torch.cat([table.flatten(0, 1) for table in level_noise(LAYOUT, 3, range(160), CPU)[1:]])
    assert noise.shape == (160 * 128, 4)
    found = race(chances.log().expand(len(noise), -1), noise).bincount(minlength=4) / len(noise)
    torch.testing.assert_close(found, chances, atol=0.014, rtol=0)  # four standard errors: 4 √(0.25 / 20480)


def test_its_size_is_known() -> None:
    for levels in (1, 4):
        largest = max(sum(t.nbytes for t in level_noise(LAYOUT, level, [1], CPU)) for level in range(levels))
        assert noise_bytes(LAYOUT, levels) == largest
