"""Every plan draws the same codes; jacobi takes fewer passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hitvideo.generation import plans
from hitvideo.generation.engine import Request, draw
from hitvideo.generation.sampling import Sampling
from hitvideo.hierarchy import Extent
from hitvideo.llm.model import LanguageModel
from tests.generation.models import PROMPTS, TEXT, random_model

MODEL = random_model(ancestors=True)
ODD = {
    "1 level, 1 cell": (((2, 4, 4),), ((4,),), Extent(2, 4, 4)),
    "1 level": (((1, 4, 4),), ((2, 1, 3),), Extent(5, 12, 4)),
    "2 levels, the first of 1 cell": (((4, 8, 8), (1, 4, 8)), ((1,), (3, 1)), Extent(4, 8, 8)),
    "3 levels": (((4, 8, 8), (4, 4, 4), (1, 4, 4)), ((2,), (1, 1, 1, 1), (5, 2)), Extent(8, 24, 8)),
    "5 levels": (
        ((8, 8, 8), (8, 8, 4), (4, 8, 4), (2, 4, 4), (1, 2, 2)), ((3,), (2, 2), (1,), (3, 2, 1), (4, 4)), Extent(8, 8, 8),
    ),
}


def both(model: LanguageModel, requests: list[Request], **settings: Any) -> tuple[list[np.ndarray], list[np.ndarray], int, int]:
    """Codes of sequential and of jacobi, and the passes of each."""
    one = draw(model, TEXT, requests, Sampling(plan="sequential", **settings))
    other = draw(model, TEXT, requests, Sampling(plan="jacobi", **settings))
    return one.codes, other.codes, sum(one.passes), sum(other.passes)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_jacobi_draws_what_sequential_draws(guidance: float, temperature: float) -> None:
    requests = [Request(f"{PROMPTS[number % 3]} {number}", number) for number in range(64)]
    one, other, slow, fast = both(MODEL, requests, guidance=guidance, temperature=temperature)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert fast < slow
    assert all(len(np.unique(level[0])) > 1 for level in one), "not all the same code"


@pytest.mark.parametrize("name", ODD)
def test_on_odd_hierarchies(name: str) -> None:
    model = random_model(*ODD[name])
    requests = [Request(PROMPTS[number % 3], number) for number in range(6)]
    for settings in ({}, {"temperature": 1.0, "top_k": 3, "top_p": 0.9, "guidance_ramp": True, "apg": 1.0, "negative": "b"}):
        one, other, slow, fast = both(model, requests, **settings)
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
        assert [level.shape for level in one] == [(6, *grid) for grid in model.layout.grids]
        assert fast <= slow == sum(grid.cells for grid in model.layout.grids)


def test_draws_depend_on_the_slots_before() -> None:
    """Otherwise jacobi would be right after two passes, and equality would say little."""
    passes = draw(MODEL, TEXT, [Request("a", 0)], Sampling(temperature=1.0, plan="jacobi")).passes
    assert min(passes) > 2


@pytest.mark.parametrize("window", [2, 3, 64, 1000])
def test_any_window(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "WINDOW", window)
    one, other, _, _ = both(MODEL, [Request("a", 0), Request("b", 1)], temperature=1.0)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("of_window", "gained", "tries", "chosen"),
    [(1.5, 2, plans.MOST_TRIES, plans.WINDOW), (2.5, 2, plans.MOST_TRIES, 1), (15.0, 16, plans.MOST_TRIES, plans.WINDOW),
     (4.5, 2, plans.TRIES, 1)],
)  # fmt: skip
def test_auto_settles_on_what_takes_less_time_a_slot(of_window: float, gained: int, tries: int, chosen: int) -> None:
    """By times that are made up; one slow pass of each kind does not count."""
    pace, taken = plans.Pace("auto", exact=True), []
    for number in range(40):
        taken.append(window := pace.window)
        slow = 50.0 if number in (plans.TRIES - 1, plans.TRIES + tries - 1) else 0.0
        pace.passed(window, gained if window > 1 else 1, slow + (of_window if window > 1 else 1.0))
    assert taken[: plans.TRIES + tries] == [1] * plans.TRIES + [plans.WINDOW] * tries
    assert set(taken[plans.TRIES + tries :]) == {chosen}


def test_auto_leaves_a_window_that_no_longer_pays() -> None:
    pace = plans.Pace("auto", exact=True)
    for _ in range(plans.TRIES + plans.MOST_TRIES):
        pace.passed(pace.window, 4 if pace.window > 1 else 1, 2.0 if pace.window > 1 else 1.0)
    assert pace.window == plans.WINDOW
    for _ in range(20):
        pace.passed(plans.WINDOW, 1, 2.0)
    assert pace.window == 1


def test_where_rounding_shows_the_clock_decides_nothing() -> None:
    for plan, window in (("auto", 1), ("sequential", 1), ("jacobi", plans.WINDOW)):
        pace = plans.Pace(plan, exact=False)  # type: ignore[arg-type]
        for seconds in (9.0, 1.0, 5.0, 0.1, 7.0, 3.0, 2.0):
            assert pace.window == window
            pace.passed(window, 1, seconds)


@pytest.mark.parametrize("name", [None, *ODD])
def test_whatever_auto_chooses_the_codes_are_the_same(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rng = random_model(*ODD[name]) if name else MODEL, np.random.default_rng(0)
    requests = [Request(PROMPTS[number % 3], number) for number in range(4)]
    one = draw(model, TEXT, requests, Sampling(temperature=1.0, plan="sequential"))
    chosen: list[int] = []

    def at_random(pace: plans.Pace) -> int:
        chosen.append(int(rng.choice([1, plans.WINDOW])))
        return chosen[-1]

    monkeypatch.setattr(plans.Pace, "window", property(at_random))
    for _ in range(3):
        other = draw(model, TEXT, requests, Sampling(temperature=1.0))
        assert all(np.array_equal(a, b) for a, b in zip(one.codes, other.codes, strict=True))
    assert len(set(chosen)) == 2 or len(chosen) < 9, "both kinds of passes alternate"


@torch.no_grad()
def test_a_window_of_cached_slots_equals_the_whole_row() -> None:
    """Guesses that are refused leave no trace: their keys are written over."""
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 64, grid) for grid in MODEL.layout.grids]
    row = torch.from_numpy(MODEL.layout.join(TEXT.encode("a"), codes))[None]
    whole, cache, parts = MODEL.hidden(row[:, :-1]), MODEL.new_cache(1), []
    first, last = 0, MODEL.layout.window
    while last < row.shape[1]:
        wrong = row.clone()
        ahead = min(last + 5, row.shape[1] - 1)
        wrong[:, last:ahead] = row[:, last - 1 : last]
        MODEL.hidden(wrong[:, first:ahead], first, cache, rows=wrong)
        cache.rewind(first)
        parts.append(MODEL.hidden(row[:, first:last], first, cache, rows=row))
        first, last = last, last + int(rng.integers(1, 9))
    parts.append(MODEL.hidden(row[:, first:-1], first, cache, rows=row))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)
