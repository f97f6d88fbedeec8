"""The probe: reads the scene of a moving-shapes video back from its pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hitvideo.moving_shapes.scenes import BACKGROUNDS, COLOURS, SHAPES, Floats, Frames, Scene, Thing, coverage

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
    background, masks = _masks(frames, num_things)
    things = []
    for colour, mask in masks:
        thing = _read_thing(mask)
        if thing is None:
            return None
        things.append(Thing(colour, *thing))
    return Scene(tuple(things), background)


def track(frames: Frames) -> Floats | None:
    """Where the largest thing is in the frames that show it, (frames, 2): x and y as shares of the frame; None: nowhere."""
    _, masks = _masks(frames, 1)
    path = _path(masks[0][1])
    return None if path is None else path.places


def _masks(frames: Frames, num_things: int | None) -> tuple[str, list[tuple[str, Floats]]]:
    """The background's name, and the colour and soft mask (T, H, W) of each thing."""
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
    # A soft mask with contrast stretched around one half, which keeps the area of edges and removes faint noise.
    return background, [
        (list(COLOURS)[colour], np.where(owner == colour, np.clip((cover[colour] - 0.2) / 0.6, 0, 1), 0)) for colour in chosen
    ]


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


class _Path(NamedTuple):
    """A thing in the frames that show it."""

    seen: npt.NDArray[Any]
    """Which frames these are."""
    area: Floats
    places: Floats
    """Its centroids, (frames, 2): x and y as shares of the frame."""


def _path(mask: Floats) -> _Path | None:
    """The path of one soft mask (T, H, W), or None if too few frames show a thing."""
    _, height, width = mask.shape
    area = mask.sum(axis=(1, 2))
    seen = np.flatnonzero(area > max(0.5 * np.median(area), LEAST_RADIUS**2 * np.pi))
    if len(seen) * 2 < len(mask):
        return None
    mask, area = mask[seen], area[seen]
    x = (mask.sum(axis=1) @ (np.arange(width) + 0.5)) / area
    y = (mask.sum(axis=2) @ (np.arange(height) + 0.5)) / area
    return _Path(seen, area, np.stack([x / width, y / height], axis=1))


def _read_thing(mask: Floats) -> tuple[str, str] | None:
    """Shape and motion of one soft mask (T, H, W), or None if too few frames show a thing."""
    path = _path(mask)
    if path is None:
        return None
    _, height, width = mask.shape
    x, y = path.places.T
    return _fit_shape(mask[path.seen], path.area, x * width, y * height), _fit_motion(path.seen, x, y)


def _fit_shape(mask: Floats, area: Floats, x: Floats, y: Floats) -> str:
    """The shape whose template, of equal area and centroid, overlaps the mask best on average over up to eight frames."""
    scores = dict.fromkeys(SHAPES, 0.0)
    for index in np.unique(np.linspace(0, len(mask) - 1, 8).round().astype(int)):
        for shape in SHAPES:
            radius = float(np.sqrt(area[index] / SHAPES[shape]))
            middle = y[index] - radius / 3 if shape == "triangle" else y[index]  # its centroid is below the middle of its box
            template = coverage(shape, radius, np.array([x[index], middle]), *mask.shape[1:])
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
