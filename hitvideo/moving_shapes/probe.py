"""The probe: reads the scene of a moving-shapes video back from its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from hitvideo.moving_shapes.scenes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Floats, Frames, Scene, Thing, _coverage

CHANCE = {"colour": 1 / len(COLOURS), "shape": 1 / len(SHAPES), "motion": 1 / len(MOTIONS), "background": 1 / len(BACKGROUNDS)}
STILL = 0.14
"""Things that travel less than this share of the frame count as still; it is half the least travel ever drawn."""
SECOND_THING = 0.35
"""A second colour counts as a thing, not a fringe, above this share of the first colour's pixels."""
LEAST_RADIUS = 1.5
"""Smallest radius of a thing, in pixels."""


def read(frames: Frames, num_things: int | None = None) -> Scene | None:
    """The scene that uint8 frames (T, H, W, 3) show, or None if nothing is recognisable.

    `num_things` is how many things to look for; None means two if there is a second colour, else one. Things are
    ordered by the area of their colour, largest first.
    """
    video = frames.astype(float)
    border = np.concatenate([video[:, [0, -1]].reshape(-1, 3), video[:, :, [0, -1]].reshape(-1, 3)])
    found = np.median(border, axis=0)
    background = min(BACKGROUNDS, key=lambda name: float(np.abs(found - BACKGROUNDS[name]).sum()))
    cover, misfit = _unmix(video, found)
    best = np.argmin(np.where(cover > 0.5, misfit, np.inf), axis=0)
    votes = np.bincount(best[cover.max(axis=0) > 0.5], minlength=len(COLOURS))
    order = np.argsort(-votes, kind="stable")
    if num_things is None:
        num_things = 2 if votes[order[1]] > SECOND_THING * votes[order[0]] else 1
    chosen = order[:num_things]
    owner = chosen[np.argmin(misfit[chosen], axis=0)]
    things = []
    for colour in chosen:
        # A soft mask with contrast stretched around one half, which keeps the area of edges and removes faint noise.
        mask = np.where(owner == colour, np.clip((cover[colour] - 0.2) / 0.6, 0, 1), 0)
        thing = _read_thing(mask)
        if thing is None:
            return None
        things.append(Thing(list(COLOURS)[colour], *thing))
    return Scene(tuple(things), background)


def _unmix(video: Floats, background: Floats) -> tuple[Floats, Floats]:
    """Fit each pixel as background + cover · (colour - background), for every colour: cover and misfit, (6, T, H, W).

    Taking the nearest colour would fail: the rim of a yellow thing on black is dark yellow, which is nearer to green.
    """
    difference = video - background
    ways = np.array(list(COLOURS.values()), float) - background
    length = (ways**2).sum(axis=1)[:, None, None, None]
    along = np.moveaxis(difference @ ways.T, -1, 0)  # (6, T, H, W)
    cover = np.clip(along / length, 0, 1.2)
    misfit = (difference**2).sum(axis=-1) - 2 * cover * along + cover**2 * length  # |difference - cover · way|²
    return cover, misfit


def _read_thing(mask: Floats) -> tuple[str, str] | None:
    """Shape and motion of one soft mask (T, H, W), or None if too few frames show a thing."""
    _, height, width = mask.shape
    area = mask.sum(axis=(1, 2))
    seen = np.flatnonzero(area > max(0.5 * np.median(area), LEAST_RADIUS**2 * np.pi))
    if len(seen) * 2 < len(mask):
        return None
    mask, area = mask[seen], area[seen]
    pixel_x, pixel_y = np.arange(width) + 0.5, np.arange(height) + 0.5
    x = (mask.sum(axis=1) @ pixel_x) / area
    y = (mask.sum(axis=2) @ pixel_y) / area
    return _fit_shape(mask, area, x, y), _fit_motion(seen, x / width, y / height)


def _fit_shape(mask: Floats, area: Floats, x: Floats, y: Floats) -> str:
    """The shape whose template, of equal area and centroid, overlaps the mask best on average over up to eight frames."""
    scores = dict.fromkeys(SHAPES, 0.0)
    for index in np.unique(np.linspace(0, len(mask) - 1, 8).round().astype(int)):
        for shape in SHAPES:
            radius = float(np.sqrt(area[index] / SHAPES[shape]))
            middle = y[index] - radius / 3 if shape == "triangle" else y[index]  # its centroid is below the middle of its box
            template = _coverage(shape, radius, np.array([x[index], middle]), *mask.shape[1:])
            both = np.minimum(mask[index], template).sum()
            scores[shape] += float(both / (np.maximum(mask[index], template).sum() + 1e-9))
    return max(scores, key=scores.__getitem__)


def _fit_motion(seen: npt.NDArray[Any], x: Floats, y: Floats) -> str:
    """Direction of the straight line fitted to the centroids, which are given as shares of the frame."""
    if len(seen) < 2:
        return "still"
    way = np.polyfit(seen, np.stack([x, y], axis=1), 1)[0] * (seen[-1] - seen[0])
    if np.abs(way).max() < STILL:
        return "still"
    if abs(way[0]) > abs(way[1]):
        return "right" if way[0] > 0 else "left"
    return "down" if way[1] > 0 else "up"


def accuracy(truth: Sequence[Scene], found: Sequence[Scene | None]) -> dict[str, float]:
    """Share of things whose colour, shape and motion were read correctly, and share of scenes whose background was.

    Things are paired so that most attributes agree. A missing or an extra thing counts as wrong in every attribute.
    """
    right = dict.fromkeys(CHANCE, 0)
    total = 0
    for scene, other in zip(truth, found, strict=True):
        seen: tuple[Thing | None, ...] = other.things if other else ()
        slots = max(len(scene.things), len(seen))
        total += slots
        right["background"] += other is not None and other.background == scene.background
        wanted = scene.things + (None,) * (slots - len(scene.things))
        pairings = [list(zip(wanted, order, strict=True)) for order in permutations(seen + (None,) * (slots - len(seen)))]
        names = ("colour", "shape", "motion")
        agreed = [{name: sum(_agree(a, b, name) for a, b in pairs) for name in names} for pairs in pairings]
        for name, count in max(agreed, key=lambda counts: sum(counts.values())).items():
            right[name] += count
    return {name: count / max(1, len(truth) if name == "background" else total) for name, count in right.items()}


def _agree(one: Thing | None, other: Thing | None, name: str) -> bool:
    return one is not None and other is not None and getattr(one, name) == getattr(other, name)
