"""Measure what a language model draws for captions of moving shapes, beyond `hitvideo evaluate captions`.

    python -m experiments.drawn --run RUN --num 256 --guidance 3 --temperature 0.4

Prints JSON: the counts of what is right; the spread of the places where things begin (0 if all begin at one place); how far
moving things travel; and how saturated their colours are, which too much guidance raises. The same figures of the
same scenes, rendered, are in `rendered`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from hitvideo.moving_shapes import probe, scoring
from hitvideo.moving_shapes.scenes import Frames, Scene, caption, render, scenes

BATCH = 32
FAR = 48.0
"""Distance from the background colour, in grey values summed over channels, above which a pixel belongs to a thing."""


def away(video: Frames) -> np.ndarray:
    """How far each pixel is from the background, 0 up to FAR: (T, H, W)."""
    frames = video.astype(float)
    border = np.concatenate([frames[:, [0, -1]].reshape(-1, 3), frames[:, :, [0, -1]].reshape(-1, 3)])
    distance = np.abs(frames - np.median(border, axis=0)).sum(-1)
    found: np.ndarray = np.where(distance > FAR, distance, 0.0)
    return found


def saturation(video: Frames) -> float | None:
    """Mean chroma, largest minus smallest channel from 0 to 1, of the pixels of things; None if there are none."""
    chroma = (video.max(-1).astype(float) - video.min(-1))[away(video) > 0] / 255
    return float(chroma.mean()) if chroma.size else None


def centres(video: Frames) -> np.ndarray | None:
    """Centre of what differs from the background in the first and the last frame, as shares of the frame: (2, 2) of x, y."""
    masks = away(video)[[0, -1]]
    weight = masks.sum((1, 2))
    if (weight == 0).any():
        return None
    _, height, width = masks.shape
    x = masks.sum(1) @ (np.arange(width) + 0.5) / weight / width
    y = masks.sum(2) @ (np.arange(height) + 0.5) / weight / height
    found: np.ndarray = np.stack([x, y], axis=1)
    return found


def measure(truth: Sequence[Scene], videos: Sequence[Frames]) -> dict[str, Any]:
    """The figures of videos for their scenes."""
    counts = scoring.counts(truth, [probe.read(video) for video in videos])
    found = [centres(video) for video in videos]
    moving = [scene.things[0].motion != "still" for scene in truth]
    travelled = [float(np.abs(c[1] - c[0]).max()) for c, moves in zip(found, moving, strict=True) if c is not None and moves]
    starts = np.array([c[0] for c in found if c is not None])
    chroma = [value for video in videos if (value := saturation(video)) is not None]
    return {
        "counts": {name: list(pair) for name, pair in counts.items()},
        "start_spread": round(float(starts.std(axis=0).mean()), 4) if len(starts) else 0.0,
        "travel": round(float(np.mean(travelled)), 4) if travelled else 0.0,
        "saturation": round(float(np.mean(chroma)), 4) if chroma else 0.0,
        "blank": sum(c is None for c in found),
    }


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--num", type=int, default=256)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--guidance", help="one number, or one for each level: 3,1,1,1; default: what `hitvideo generate` does")
    parser.add_argument("--temperature", help="the same")
    parser.add_argument("--ramp", action="store_true", help="guidance rises from 1 at the first slot to its value at the last")
    return parser


def main() -> None:
    import torch

    from hitvideo.generation.generator import load_generator
    from hitvideo.generation.sampling import Sampling

    words = parser().parse_args()
    given = {"guidance": words.guidance, "temperature": words.temperature}
    chosen: dict[str, Any] = {name: tuple(map(float, text.split(","))) for name, text in given.items() if text}
    sampling = Sampling(guidance_ramp=words.ramp, **chosen)
    generator = load_generator(words.run, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    drawn = list(scenes(words.num, words.seed, "1"))
    truth, videos = [scene for _, scene, _ in drawn], []
    for start in range(0, len(truth), BATCH):
        prompts = [caption(scene) for scene in truth[start : start + BATCH]]
        videos += generator.decode(generator.codes(prompts, sampling, seed=words.seed + start))
    rendered = measure(truth, [render(scene, generator.clip, rng) for _, scene, rng in drawn])
    print(json.dumps({**measure(truth, videos), "rendered": rendered, "videos": len(videos)}))


if __name__ == "__main__":
    main()
