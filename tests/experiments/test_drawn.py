"""The measures of drawn videos, on rendered scenes where the answer is known."""

from __future__ import annotations

import numpy as np

from experiments.drawn import measure
from hitvideo.hierarchy import ClipShape
from hitvideo.moving_shapes.scenes import Scene, Thing, render, scenes

CLIP = ClipShape(frames=8, height=32, width=32, fps=8)


def test_rendered_scenes_are_all_right_and_travel_as_drawn() -> None:
    drawn = list(scenes(200, 4, "1"))
    truth = [scene for _, scene, _ in drawn]
    found = measure(truth, [render(scene, CLIP, rng) for _, scene, rng in drawn])
    assert found["counts"]["all_right"] == [200, 200]
    assert 0.30 < found["travel"] < 0.40  # scenes.TRAVEL
    assert 0.1 < found["start_spread"] < 0.25  # a uniform start in 60 % of the frame has 0.17


def test_grey_and_frozen_videos_show_in_the_figures() -> None:
    scene = Scene((Thing("red", "circle", "right"),), "black")
    video = render(scene, CLIP, np.random.default_rng(0))
    right, frozen = (measure([scene] * 3, [clip] * 3) for clip in (video, np.repeat(video[:1], 8, 0)))
    assert right["start_spread"] == frozen["start_spread"] == 0
    assert right["travel"] > 0.29
    assert frozen["travel"] == 0
    assert frozen["counts"]["motion"] == [0, 3]
    grey = video.mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1)
    assert measure([scene], [grey])["saturation"] == 0
    assert right["saturation"] > 0
