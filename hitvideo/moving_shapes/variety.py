"""How a set of moving-shapes videos looks, whatever it shows: how varied it is, how much moves, and how saturated it is.

Guidance that is too strong lifts accuracy at the price of these: everything starts at one place, or colours burn out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hitvideo.moving_shapes import probe
from hitvideo.moving_shapes.scenes import Frames


def start_spread(videos: Sequence[Frames]) -> float | None:
    """Standard deviation of where things start, as a share of the frame: the root mean square of x's and y's.

    None for fewer than two videos in which the probe sees a thing.
    """
    tracks = [track for video in videos if (track := probe.track(video)) is not None]
    if len(tracks) < 2:
        return None
    starts = np.stack([track[0] for track in tracks])  # (videos, 2)
    return float(np.sqrt(starts.var(axis=0).mean()))


def travel(videos: Sequence[Frames]) -> float | None:
    """Mean distance from a thing's first place to its last, as a share of the frame; None if the probe sees no thing."""
    tracks = [track for video in videos if (track := probe.track(video)) is not None]
    return float(np.mean([np.linalg.norm(track[-1] - track[0]) for track in tracks])) if tracks else None


def motion_magnitude(videos: Sequence[Frames]) -> float:
    """Mean absolute change from frame to frame, in levels of 0 … 255; 0 for single frames."""
    changes = [np.abs(np.diff(video.astype(np.int16), axis=0)).mean() for video in videos if len(video) > 1]
    return float(np.mean(changes)) if changes else 0.0


def saturation(videos: Sequence[Frames]) -> float:
    """Mean of (max - min) / max over the three colours of every pixel, the S of HSV; 0 for black."""
    means = []
    for video in videos:
        most, least = video.max(axis=-1).astype(float), video.min(axis=-1).astype(float)
        means.append(((most - least) / np.maximum(most, 1)).mean())
    return float(np.mean(means)) if means else 0.0


def variety(videos: Sequence[Frames]) -> dict[str, float | None]:
    """All of these by name, rounded."""
    figures = {
        "start_spread": start_spread(videos),
        "travel": travel(videos),
        "motion_magnitude": motion_magnitude(videos),
        "saturation": saturation(videos),
    }
    return {name: None if value is None else round(value, 4) for name, value in figures.items()}
