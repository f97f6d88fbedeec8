"""Figures of how videos look, against renderings whose figures are known."""

import numpy as np
import pytest

from hitvideo.hierarchy import ClipShape
from hitvideo.moving_shapes.scenes import TRAVEL, Scene, parse, render, scenes
from hitvideo.moving_shapes.variety import motion_magnitude, saturation, start_spread, travel, variety

CLIP = ClipShape(frames=8, height=32, width=32, fps=8)
MOVING = parse("a red circle moves right on a black background")
STILL = parse("a red circle stays still on a black background")


def rendered(scene: Scene, num: int) -> list[np.ndarray]:
    return [render(scene, CLIP, np.random.default_rng(seed)) for seed in range(num)]


def test_equal_videos_have_no_spread_and_others_have_theirs() -> None:
    videos = rendered(STILL, 24)
    assert start_spread(videos[:1] * 5) == pytest.approx(0, abs=1e-9)
    centres = []
    for video in videos:
        rows, columns = np.nonzero(video[0, ..., 0] > 100)
        centres.append([columns.mean() / 32, rows.mean() / 32])
    assert start_spread(videos) == pytest.approx(float(np.sqrt(np.var(centres, axis=0).mean())), abs=0.01)
    assert start_spread(videos[:1]) is None


def test_travel_is_what_was_rendered() -> None:
    low, high = TRAVEL[1]
    assert low < (travel(rendered(MOVING, 12)) or 0) < high
    assert travel(rendered(STILL, 4)) == pytest.approx(0, abs=0.01)
    grey = np.full((8, 32, 32, 3), 128, np.uint8)
    assert variety([grey]) == {"start_spread": None, "travel": None, "motion_magnitude": 0.0, "saturation": 0.0}


def test_motion_and_saturation_by_hand() -> None:
    video = np.zeros((3, 2, 2, 3), np.uint8)
    video[1] = 60  # changes of 60 and 60
    assert motion_magnitude([video]) == 60
    assert motion_magnitude([video[:1]]) == 0
    half = np.zeros((1, 2, 2, 3), np.uint8)
    half[0, 0] = (200, 100, 100)  # S = 0.5 in two of four pixels
    assert saturation([half]) == pytest.approx(0.25)


def test_true_clips_have_figures() -> None:
    videos = [render(scene, CLIP, rng) for _, scene, rng in scenes(8, 0, "1")]
    assert all(value is not None and value > 0 for value in variety(videos).values())
