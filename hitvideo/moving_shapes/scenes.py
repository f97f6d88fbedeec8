"""Captioned synthetic videos of moving shapes.

"a red circle moves right and a blue square stays still on a white background": a world small enough to learn on a laptop,
with captions that can be checked. The probe (`probe.py`) reads from a video's pixels what it shows, and `scoring.py` compares
that with its prompt. The probe needs no trained model: it looks for palette colours, fits shape templates and follows
centroids. Every sample is a pure function of seed and index; only numpy is used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from hitvideo.errors import ConfigError
from hitvideo.hierarchy import ClipShape

Frames: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float64]
Objects: TypeAlias = Literal["1", "2", "mixed"]
Combinations: TypeAlias = Literal["all", "seen", "held-out"]
"""Of colour, shape and motion: which of them, where a dataset holds some out."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 30, 30),
    "green": (30, 180, 40),
    "blue": (40, 60, 235),
    "yellow": (240, 220, 30),
    "purple": (190, 40, 220),
    "cyan": (30, 220, 225),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {"black": (0, 0, 0), "grey": (128, 128, 128), "white": (255, 255, 255)}
MOTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
"""Direction of each motion as (x, y); y points down."""
SQUARE_SIDE = 0.9
CROSS_ARM = 0.33
SHAPES: dict[str, float] = {
    "circle": np.pi,
    "square": 4 * SQUARE_SIDE**2,
    "triangle": 2.0,
    "cross": 8 * CROSS_ARM - 4 * CROSS_ARM**2,
}
"""Area of each shape at radius 1, which is half the side of the box around it (a square is a bit smaller than its box)."""

SUPERSAMPLING = 4
RADIUS = {1: (0.20, 0.26), 2: (0.15, 0.18)}
"""Range of the radius by number of things, as a share of the frame's shorter side."""
TRAVEL = {1: (0.30, 0.40), 2: (0.28, 0.38)}
"""Range of the distance moved in a clip by number of things, as a share of the frame along the motion."""
CAPTION = re.compile(rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) (?:moves (left|right|up|down)|stays (still))")


@dataclass(frozen=True)
class Thing:
    """One object, described by keys of COLOURS, SHAPES and MOTIONS."""

    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class Scene:
    """One or two things of different colours on a background (a key of BACKGROUNDS)."""

    things: tuple[Thing, ...]
    background: str


def caption(scene: Scene) -> str:
    """Describe the scene in words; `parse` is the exact inverse."""
    parts = [
        f"a {thing.colour} {thing.shape} {'stays' if thing.motion == 'still' else 'moves'} {thing.motion}"
        for thing in scene.things
    ]
    return f"{' and '.join(parts)} on a {scene.background} background"


def parse(text: str) -> Scene:
    """The scene that a caption describes. Raises ValueError for any other text."""
    whole = re.fullmatch(rf"(.+) on a ({'|'.join(BACKGROUNDS)}) background", text)
    parts = [CAPTION.fullmatch(part) for part in whole[1].split(" and ")] if whole else []
    things = tuple(Thing(part[1], part[2], part[3] or part[4]) for part in parts if part)
    if whole is None or not 1 <= len(things) == len(parts) <= 2:
        raise ValueError(f"not a caption of moving shapes: {text!r}; try 'a red circle moves right on a black background'")
    return Scene(things, whole[2])


def sample_scene(rng: np.random.Generator, objects: Literal[1, 2]) -> Scene:
    """Draw a scene with every attribute uniform; two things get different colours."""
    colours = rng.permutation(list(COLOURS))[:objects]
    things = tuple(Thing(str(colour), str(rng.choice(list(SHAPES))), str(rng.choice(list(MOTIONS)))) for colour in colours)
    return Scene(things, str(rng.choice(list(BACKGROUNDS))))


def place(thing: Thing) -> float:
    """A number in [0, 1) that depends on the combination alone: the same on every machine and in every version."""
    digest = hashlib.sha256(f"{thing.colour} {thing.shape} {thing.motion}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def is_held_out(scene: Scene, share: float) -> bool:
    """Whether one of the scene's combinations of colour, shape and motion is among the `share` that a dataset leaves out."""
    return any(place(thing) < share for thing in scene.things)


def check_hold_out(share: float) -> int:
    """How many combinations a share holds out. Raises ConfigError unless that is some of them and not all."""
    everything = [Thing(*names) for names in product(COLOURS, SHAPES, MOTIONS)]
    count = sum(place(thing) < share for thing in everything) if 0 < share < 1 else 0
    if not 0 < count < len(everything):
        raise ConfigError(
            f"a share of {share:g} holds out {count} of {len(everything)} combinations of colour, shape and motion; "
            f"give a share such as 0.15"
        )
    return count


def scenes(
    num: int, seed: int, objects: Objects, hold_out: float = 0.0, combinations: Combinations = "all"
) -> Iterator[tuple[str, Scene, np.random.Generator]]:
    """Yield (key, scene, generator for `render`) for samples 0 … num-1, each a pure function of seed and index.

    `combinations` chooses those that a dataset with this `hold_out` leaves out, those that it does not, or both. Raises
    ConfigError if the choice leaves nothing.
    """
    if combinations != "all":
        check_hold_out(hold_out)
    for index in range(num):
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        count: Literal[1, 2] = 1 if objects == "1" or (objects == "mixed" and rng.random() < 0.5) else 2
        scene = sample_scene(rng, count)
        while combinations != "all" and is_held_out(scene, hold_out) != (combinations == "held-out"):
            scene = sample_scene(rng, count)
        yield f"shapes-{seed}-{index:06d}", scene, rng


def render(scene: Scene, clip: ClipShape, rng: np.random.Generator) -> Frames:
    """Draw antialiased frames, uint8 (T, H, W, 3). Size, distance and start are random; things stay inside and apart."""
    radii, centres = _paths(scene, clip, rng)
    video = np.broadcast_to(np.array(BACKGROUNDS[scene.background], float), (clip.frames, clip.height, clip.width, 3)).copy()
    for thing, radius, path in zip(scene.things, radii, centres, strict=True):
        for frame, centre in zip(video, path, strict=True):
            cover = coverage(thing.shape, radius, centre, clip.height, clip.width)[..., None]
            frame += cover * (np.array(COLOURS[thing.colour]) - frame)
    frames: Frames = np.rint(video).astype(np.uint8)
    return frames


def _paths(scene: Scene, clip: ClipShape, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Radii (things,) and centres (things, T, 2) in pixels (x, y), drawn again until nothing overlaps."""
    count = len(scene.things)
    extent = np.array([clip.width, clip.height], float)
    directions = np.array([MOTIONS[thing.motion] for thing in scene.things])
    time = np.linspace(0, 1, clip.frames)[None, :, None]
    shrink = 1.0
    while True:
        radii = rng.uniform(*RADIUS[count], count) * extent.min() * shrink
        way = (rng.uniform(*TRAVEL[count], count)[:, None] * directions * extent)[:, None]  # (things, 1, 2)
        room = radii[:, None, None] + 1  # a pixel of background on every side
        low = room - np.minimum(way, 0)
        start = low + rng.random((count, 1, 2)) * (extent - room - np.maximum(way, 0) - low)
        centres = start + time * way
        apart = np.abs(centres[0] - centres[-1]).max(axis=1).min() > radii.sum() + 2
        if count == 1 or apart:
            return radii, centres
        shrink *= 0.999  # in a crowded scene, smaller things fit


def coverage(shape: str, radius: float, centre: Floats, height: int, width: int) -> Floats:
    """Share of each pixel that the shape covers, (H, W)."""
    sub = (np.arange(max(height, width) * SUPERSAMPLING) + 0.5) / SUPERSAMPLING
    x = (sub[None, : width * SUPERSAMPLING] - centre[0]) / radius
    y = (sub[: height * SUPERSAMPLING, None] - centre[1]) / radius
    if shape == "circle":
        inside = x * x + y * y <= 1
    elif shape == "square":
        inside = (np.abs(x) <= SQUARE_SIDE) & (np.abs(y) <= SQUARE_SIDE)
    elif shape == "triangle":
        inside = (np.abs(x) <= (y + 1) / 2) & (y <= 1)
    else:
        inside = (np.abs(x) <= 1) & (np.abs(y) <= 1) & (np.minimum(np.abs(x), np.abs(y)) <= CROSS_ARM)
    steps = range(SUPERSAMPLING)
    rows = sum(inside[step::SUPERSAMPLING].view(np.uint8) for step in steps)
    hits = sum(rows[:, step::SUPERSAMPLING] for step in steps)  # adding slices is many times faster than mean() over axes
    cells: Floats = hits / SUPERSAMPLING**2
    return cells
