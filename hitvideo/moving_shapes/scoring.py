"""How what the probe found agrees with the scenes that were asked for: counts, shares and confusion tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import permutations

from hitvideo.metrics.intervals import share
from hitvideo.moving_shapes.scenes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, Thing

OF_THINGS = ("colour", "shape", "motion")
ATTRIBUTES = (*OF_THINGS, "background")
CHANCE = {"colour": 1 / len(COLOURS), "shape": 1 / len(SHAPES), "motion": 1 / len(MOTIONS), "background": 1 / len(BACKGROUNDS)}
"""The share that guessing gets right, by attribute."""
MISSING, EXTRA = "missing", "extra"
"""Rows and columns of a confusion table for a thing that was not found, and for one that was not asked for."""
Pair = tuple[Thing | None, Thing | None]


def pairs(scene: Scene, found: Scene | None) -> list[Pair]:
    """The things of both, paired so that most attributes agree; None where one of them has no more things."""
    seen = found.things if found else ()
    slots = max(len(scene.things), len(seen))
    wanted = scene.things + (None,) * (slots - len(scene.things))
    orders = permutations(seen + (None,) * (slots - len(seen)))
    return max((list(zip(wanted, order, strict=True)) for order in orders), key=_agreements)


def counts(truth: Sequence[Scene], found: Sequence[Scene | None]) -> dict[str, tuple[int, int]]:
    """How many were right, and out of how many: things for colour, shape and motion, else videos.

    A missing or an extra thing counts as wrong in every attribute. `all_right`: videos with nothing wrong.
    """
    right, things = Counter[str](), 0
    for scene, other in zip(truth, found, strict=True):
        paired = pairs(scene, other)
        things += len(paired)
        agreed = [{name: _agree(*pair, name) for name in OF_THINGS} for pair in paired]
        for name in OF_THINGS:
            right[name] += sum(pair[name] for pair in agreed)
        background = other is not None and other.background == scene.background
        right["background"] += background
        right["all_right"] += background and all(all(pair.values()) for pair in agreed)
    return {name: (right[name], things if name in OF_THINGS else len(truth)) for name in (*ATTRIBUTES, "all_right")}


def shares(truth: Sequence[Scene], found: Sequence[Scene | None]) -> dict[str, dict[str, float]]:
    """The counts as rates with their 95 % intervals."""
    return {name: share(*count) for name, count in counts(truth, found).items()}


def accuracy(truth: Sequence[Scene], found: Sequence[Scene | None]) -> dict[str, float]:
    """The counts of the attributes as rates alone."""
    counted = counts(truth, found)
    return {name: right / max(of, 1) for name, (right, of) in counted.items() if name in ATTRIBUTES}


def confusion(truth: Sequence[Scene], found: Sequence[Scene | None]) -> dict[str, dict[str, dict[str, int]]]:
    """Attribute → asked for → found → how many. Whether a thing was found at all is said by MISSING and EXTRA."""
    tables = {name: Counter[tuple[str, str]]() for name in ATTRIBUTES}
    for scene, other in zip(truth, found, strict=True):
        for wanted, seen in pairs(scene, other):
            for name in OF_THINGS:
                tables[name][getattr(wanted, name, EXTRA), getattr(seen, name, MISSING)] += 1
        tables["background"][scene.background, other.background if other else MISSING] += 1
    return {name: _rows(table) for name, table in tables.items()}


def _rows(table: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    for (wanted, seen), count in sorted(table.items()):
        rows.setdefault(wanted, {})[seen] = count
    return rows


def _agreements(paired: Sequence[Pair]) -> int:
    return sum(_agree(*pair, name) for pair in paired for name in OF_THINGS)


def _agree(one: Thing | None, other: Thing | None, name: str) -> bool:
    return one is not None and other is not None and bool(getattr(one, name) == getattr(other, name))
