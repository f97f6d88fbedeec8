"""The learning-rate schedule."""

from __future__ import annotations

import itertools
import math

import pytest

from hitvideo.settings.training import TrainSection
from pretrain.task import learning_rate

TRAIN = TrainSection(steps=110, global_batch=1, micro_batch=1, lr=1.0, min_lr_ratio=0.1, warmup_steps=10)


def test_warm_up_is_linear_and_ends_at_lr() -> None:
    assert [learning_rate(TRAIN, step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])


def test_the_cosine_passes_its_middle_and_ends_at_the_minimum() -> None:
    """0.1 + 0.9 · (1 + cos πx) / 2 at x = 0.25, 0.5, 1 of the 100 steps after warm-up."""
    quarter = 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    assert [learning_rate(TRAIN, step) for step in (35, 60, 110, 999)] == pytest.approx([quarter, 0.55, 0.1, 0.1])


def test_it_never_rises_after_warm_up() -> None:
    rates = [learning_rate(TRAIN, step) for step in range(10, 111)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))


def test_a_phase_has_steps_and_lr_of_its_own() -> None:
    assert learning_rate(TRAIN, 60, steps=60, lr=2.0) == pytest.approx(0.2)
