"""The learning-rate schedule."""

from __future__ import annotations

import itertools
import math
import random

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


def test_wsd_is_level_until_its_last_steps_and_then_falls_on_a_line() -> None:
    train = TRAIN.model_copy(update={"schedule": "wsd", "decay_steps": 20})
    found = [learning_rate(train, step) for step in (10, 60, 90, 95, 100, 110, 999)]
    assert found == pytest.approx([1.0, 1.0, 1.0, 0.1 + 0.9 * 0.75, 0.55, 0.1, 0.1])


@pytest.mark.parametrize("seed", range(30))
def test_every_schedule_rises_to_lr_and_never_after_and_wsd_is_not_stretched(seed: int) -> None:
    draw = random.Random(seed)
    steps, lr, least = draw.randint(1, 400), draw.uniform(1e-5, 1), draw.random()
    warmup = draw.randint(0, steps)
    decay = draw.choice([None, draw.randint(1, 500)])
    common = {"steps": steps, "global_batch": 1, "micro_batch": 1, "lr": lr, "min_lr_ratio": least, "warmup_steps": warmup}
    for schedule in ("cosine", "wsd", "constant"):
        train = TrainSection(**common, schedule=schedule, decay_steps=decay if schedule == "wsd" else None)
        rates = [learning_rate(train, step) for step in range(steps + 1)]
        assert all(least * lr * (1 - 1e-9) <= rate <= lr for rate in rates[warmup:])
        assert all(later <= earlier for earlier, later in itertools.pairwise(rates[warmup:]))
        assert all(later >= earlier * (1 - 1e-9) for earlier, later in itertools.pairwise(rates[: warmup + 1]))
        assert warmup == steps or rates[-1] == pytest.approx(lr if schedule == "constant" else lr * least)
        level = steps - max(decay or 0, steps // 10, 1)
        longer = train.model_copy(update={"steps": 3 * steps, "decay_steps": train.decay_steps or max(steps // 10, 1)})
        if schedule != "cosine":
            assert all(learning_rate(longer, step) == rates[step] for step in range(max(level, 0)))


def test_decay_steps_belong_to_wsd() -> None:
    with pytest.raises(ValueError, match=r"train\.decay_steps"):
        TrainSection(steps=9, global_batch=1, micro_batch=1, decay_steps=3)
