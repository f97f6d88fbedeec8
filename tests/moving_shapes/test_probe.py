"""The probe against ground truth, after H.264 compression, and the renderer's guarantees."""

import re
from itertools import product

import numpy as np
import pytest

from hitvideo.hierarchy import ClipShape
from hitvideo.moving_shapes.probe import read
from hitvideo.moving_shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Scene,
    Thing,
    caption,
    parse,
    render,
    sample_scene,
    scenes,
)
from hitvideo.moving_shapes.scoring import CHANCE, accuracy
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import decode_clip
from hitvideo.video.encode import encode_mp4

SMALL = ClipShape(frames=8, height=32, width=32, fps=8)
MIDDLE = ClipShape(frames=16, height=64, width=64, fps=8)


def through_h264(clip: ClipShape, objects: str, num: int, num_is_known: bool) -> dict[str, float]:
    truth, found = [], []
    for _, scene, rng in scenes(num, 7, objects):
        frames = decode_clip(encode_mp4(render(scene, clip, rng), clip.fps), clip, LimitsSection())
        truth.append(scene)
        found.append(read(frames, len(scene.things) if num_is_known else None))
    return accuracy(truth, found)


@pytest.mark.parametrize("num_is_known", [True, False])
def test_probe_one_thing_small(num_is_known: bool) -> None:
    found = through_h264(SMALL, "1", 300, num_is_known)
    assert min(found.values()) >= 0.99, found


@pytest.mark.parametrize("num_is_known", [True, False])
def test_probe_two_things_small(num_is_known: bool) -> None:
    found = through_h264(SMALL, "2", 60, num_is_known)
    assert min(found.values()) >= 0.97, found


@pytest.mark.slow
@pytest.mark.parametrize(("objects", "least"), [("1", 0.99), ("2", 0.97), ("mixed", 0.97)])
def test_probe_middle(objects: str, least: float) -> None:
    found = through_h264(MIDDLE, objects, 300, num_is_known=objects != "mixed")
    assert min(found.values()) >= least, found


def test_probe_through_noise_and_blur() -> None:
    truth, found = [], []
    for _, scene, rng in scenes(100, 3, "1"):
        frames = render(scene, SMALL, rng).astype(float)
        for axis in (1, 2):
            frames = (np.roll(frames, 1, axis) + 2 * frames + np.roll(frames, -1, axis)) / 4
        frames += rng.normal(0, 12, frames.shape)
        truth.append(scene)
        found.append(read(np.clip(frames, 0, 255).astype(np.uint8), 1))
    rates = accuracy(truth, found)
    assert min(rates.values()) >= 0.95, rates


def test_probe_sees_nothing_in_noise_or_emptiness() -> None:
    assert read(np.full((8, 32, 32, 3), 128, np.uint8)) is None
    assert read(np.zeros((8, 32, 32, 3), np.uint8), 2) is None
    noise = np.random.default_rng(0).integers(0, 256, (40, 8, 32, 32, 3), dtype=np.uint8)
    truth = [scene for _, scene, _ in scenes(40, 0, "1")]
    rates = accuracy(truth, [read(video, 1) for video in noise])
    assert all(rates[name] < CHANCE[name] + 0.25 for name in ("colour", "shape", "motion")), rates


def test_every_caption_parses_back() -> None:
    things = [Thing(*choice) for choice in product(COLOURS, SHAPES, MOTIONS)]
    for background in BACKGROUNDS:
        for one, other in zip(things, things[::-1], strict=True):
            for scene in (Scene((one,), background), Scene((one, other), background)):
                assert parse(caption(scene)) == scene
    two = Scene((Thing("red", "circle", "right"), Thing("blue", "square", "still")), "white")
    assert caption(two) == "a red circle moves right and a blue square stays still on a white background"


@pytest.mark.parametrize("text", ["", "a red circle", "a red circle moves still on a black background", "on a background"])
def test_other_texts_do_not_parse(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse(text)


def test_scenes_are_a_pure_function_of_seed_and_index() -> None:
    def drawn(num: int, seed: int) -> list[tuple[str, Scene, bytes]]:
        return [(key, scene, render(scene, SMALL, rng).tobytes()) for key, scene, rng in scenes(num, seed, "mixed")]

    assert drawn(12, 5)[:6] == drawn(6, 5)
    assert drawn(6, 5) != drawn(6, 6)
    assert {len(scene.things) for _, scene, _ in scenes(50, 0, "mixed")} == {1, 2}


def test_things_stay_in_the_frame_and_apart_and_move_clearly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        scene = sample_scene(rng, 2)
        assert scene.things[0].colour != scene.things[1].colour
        video = render(scene, SMALL, rng).astype(int)
        border = np.concatenate([video[:, [0, -1]].reshape(-1, 3), video[:, :, [0, -1]].reshape(-1, 3)])
        assert (border == BACKGROUNDS[scene.background]).all()
        for thing in scene.things:
            mask = np.abs(video - COLOURS[thing.colour]).sum(axis=-1) < 5
            centre = np.array([np.argwhere(frame).mean(axis=0) for frame in mask])  # (T, 2) in (y, x)
            way = (centre[-1] - centre[0]) / 32
            direction = np.array(MOTIONS[thing.motion])[::-1]
            assert np.dot(way, direction) >= 0.24 or thing.motion == "still"
            assert np.abs(way - np.dot(way, direction) * direction).max() < 0.05
            assert mask.sum(axis=(1, 2)).min() > 10


def test_render_fits_other_sizes() -> None:
    scene = parse("a green triangle moves up and a red cross moves left on a grey background")
    for height, width, frames in ((32, 64, 4), (64, 32, 1), (48, 80, 5)):
        clip = ClipShape(frames=frames, height=height, width=width, fps=8)
        assert render(scene, clip, np.random.default_rng(1)).shape == (frames, height, width, 3)
