"""Measure what a language model draws for captions of moving shapes, beyond `hitvideo evaluate captions`.

    python -m experiments.drawn --run RUN --num 256 --guidance 3 --temperature 0.4

Prints JSON: the counts of what is right, and how the videos look (hitvideo/moving_shapes/variety.py), with the travel of
moving things only. The same figures of the same scenes, rendered, are in `rendered`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from hitvideo.moving_shapes import probe, scoring
from hitvideo.moving_shapes.scenes import Frames, Scene, caption, render, scenes
from hitvideo.moving_shapes.variety import variety

BATCH = 32


def measure(truth: Sequence[Scene], videos: Sequence[Frames]) -> dict[str, Any]:
    """The figures of videos for their scenes."""
    counts = scoring.counts(truth, [probe.read(video) for video in videos])
    moving = [video for scene, video in zip(truth, videos, strict=True) if scene.things[0].motion != "still"]
    looks = {**variety(videos), "travel": variety(moving)["travel"]}
    right = {name: list(pair) for name, pair in counts.items()}
    return {"counts": right, **{name: value or 0.0 for name, value in looks.items()}}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--num", type=int, default=256)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--guidance", help="one number, or one for each level: 3,1,1,1; default: what `hitvideo generate` does")
    parser.add_argument("--temperature", help="the same")
    parser.add_argument("--plan", help="as `hitvideo generate` takes it; default: what it does")
    parser.add_argument("--ramp", action="store_true", help="guidance rises from 1 at the first slot to its value at the last")
    return parser


def main() -> None:
    import torch

    from hitvideo.generation.generator import load_generator
    from hitvideo.generation.sampling import Sampling

    words = parser().parse_args()
    given = {"guidance": words.guidance, "temperature": words.temperature}
    chosen: dict[str, Any] = {name: tuple(map(float, text.split(","))) for name, text in given.items() if text}
    chosen |= {"plan": words.plan} if words.plan else {}
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
