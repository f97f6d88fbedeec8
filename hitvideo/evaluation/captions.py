"""Whether generated videos show what their captions say, on moving shapes, where pixels give the attributes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hitvideo.generation.generator import Generator
from hitvideo.generation.sampling import Sampling
from hitvideo.moving_shapes import probe, scenes
from hitvideo.runs.gallery import save_videos


def show_guidance(generator: Generator, prompts: Sequence[str], sampling: Sampling, run: Path) -> None:
    """Save the same prompts without guidance, with it, and as a storyboard of level 0 in the run's gallery."""
    kinds = (
        ("1", "Without guidance", 1.0, None),
        ("2", f"Guidance {sampling.guidance:g}", sampling.guidance, None),
        ("3", "Storyboard: level 0 alone", sampling.guidance, 1),
    )
    for name, label, guidance, levels in kinds:
        videos = generator.decode(generator.codes(prompts, replace(sampling, guidance=guidance), levels))
        save_videos(run, f"guidance-{name}", label, list(zip(prompts, videos, strict=True)), generator.clip.fps)


def caption_accuracy(
    generator: Generator, num: int, sampling: Sampling, seed: int, progress: Callable[[int], object] | None = None
) -> tuple[dict[str, Any], list[str], list[np.ndarray]]:
    """Generate for `num` captions of moving shapes and read the attributes back; returns scores, prompts and videos."""
    truth = [scene for _, scene, _ in scenes.scenes(num, seed, "1")]
    prompts = [scenes.caption(scene) for scene in truth]
    videos = generator.decode(generator.codes(prompts, sampling, seed=seed, progress=progress))
    found = [probe.read(video, num_things=1) for video in videos]
    scores = {
        "caption_accuracy": probe.accuracy(truth, found),
        "chance": probe.CHANCE,
        "videos": num,
        "guidance": sampling.guidance,
    }
    return scores, prompts, videos
