"""How many slots one pass of the model draws.

    sequential   one slot a pass: the reference
    jacobi       a window of slots a pass. Each is drawn given guesses of those before it; up to the first draw that differs
                 from its guess all are final, and the draws after it are the next guesses (fixed-point iteration of Song et
                 al. 2021, with draws coupled by fixed noise). In exact arithmetic the codes are those of `sequential`; in fp32
                 they are the same unless two entries tie to the last bits.
    auto         the faster of these two, level by level
    grouped      all cells of a group a pass, in the order of llm.groups (sequence/groups.py), which the model must have
                 learned. The cells of a group are drawn without knowing of each other: the codes are not the other plans'.

A window costs more arithmetic and fewer passes. How many fewer depends on the weights, and what a pass costs on the machine and
on the batch; so `auto` measures: the first passes of every level try both, and the level goes on with the one that takes less
time a slot. Where rounding shows, as in bf16, the codes depend on the plan, and a choice by the clock would not draw a video
again: there `auto` is `sequential`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from hitvideo.errors import ConfigError
from hitvideo.generation.sampling import Plan, Sampling
from hitvideo.sequence.layout import SequenceLayout

WINDOW = 16
TRIES, MOST_TRIES, HOPELESS = 3, 8, 2.0
"""`auto` tries TRIES passes of one slot, then MOST_TRIES of a window, whose first ones have poor guesses; after TRIES of them
it stops trying if they take HOPELESS times as long a slot."""


@dataclass
class _Tried:
    """What the passes of one window have taken and brought."""

    passes: int = 0
    slots: int = 0
    seconds: float = float("inf")
    """Of the quickest pass: one that another process delays, or that also reads the prompt, does not count."""

    @property
    def seconds_per_slot(self) -> float:
        return self.seconds * self.passes / self.slots


class Pace:
    """Decides, pass by pass, how many slots of a level in raster order are tried. `exact`: the codes do not depend on that."""

    def __init__(self, plan: Plan, exact: bool) -> None:
        windows: dict[Plan, tuple[int, ...]] = {"sequential": (1,), "jacobi": (WINDOW,), "auto": (1, WINDOW) if exact else (1,)}
        self._tried = {window: _Tried() for window in windows[plan]}

    @property
    def window(self) -> int:
        """Slots of the next pass; 1 is sequential."""
        if len(self._tried) == 1:
            return next(iter(self._tried))
        one, several = self._tried.values()
        if one.passes < TRIES:
            return 1
        most = MOST_TRIES if several.passes < TRIES or several.seconds_per_slot < HOPELESS * one.seconds_per_slot else 0
        if several.passes < most or several.seconds_per_slot <= one.seconds_per_slot:
            return WINDOW
        return 1

    def passed(self, window: int, gained: int, seconds: float) -> None:
        """Take down a pass of `window` slots, of which `gained` are final."""
        tried = self._tried[window]
        tried.passes += 1
        tried.slots += gained
        tried.seconds = min(tried.seconds, seconds)


def offered(layout: SequenceLayout) -> list[Plan]:
    """The plans that a model of these rows can draw by."""
    return [plan for plan in get_args(Plan) if plan != "grouped" or layout.grouped]


def check(sampling: Sampling, layout: SequenceLayout) -> None:
    """Raise ConfigError if the run's model did not learn the order of the plan `grouped`."""
    if sampling.plan == "grouped" and layout.grouped is None:
        raise ConfigError(
            "plan grouped draws cells together, and this run did not learn to: llm.groups is null; use plan auto, or train a "
            "run with llm.groups (train.start_from begins it with these weights)"
        )


def slots(sampling: Sampling, layout: SequenceLayout, levels: int) -> int:
    """Slots that the cache of a row of the first `levels` levels must have."""
    stop = int(layout.starts[levels])
    return stop if sampling.plan != "grouped" or layout.grouped is None else int(layout.grouped.predicts[stop - 2]) + 1
