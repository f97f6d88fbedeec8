"""Whether generated videos show what their captions say, on moving shapes, where pixels give the attributes back.

Beside the share that is right: the ceiling, which the same probe gives the true clips of the same captions and their
reconstructions (no language model can show more than its codes decode to), and the floor, which it gives the generated
videos under each other's captions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError
from hitvideo.evaluation.meaning import ORIGINALS, UNQUANTISED, columns, pixel_ceiling, rendered
from hitvideo.generation.generator import Generator
from hitvideo.generation.sampling import Sampling
from hitvideo.metrics.intervals import share_text
from hitvideo.moving_shapes import probe, scoring
from hitvideo.moving_shapes.scenes import Combinations, Scene, caption, check_hold_out
from hitvideo.moving_shapes.variety import variety
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.gallery import save_videos
from hitvideo.settings.programs import PretrainRun
from hitvideo.video.pixels import Frames

DECODED_TOGETHER = 32


def hold_out_of(run: Path) -> float:
    """The share of combinations that the run's dataset holds out, from the metadata of its first sample.

    Raises ConfigError if the dataset holds none out, or is not there to say so.
    """
    data = RunDirectory.open(run).settings_as(PretrainRun).data
    manifest = data.blend[0].manifest if data.blend else data.manifest
    if not manifest or not Path(manifest).is_file():
        raise ConfigError(f"{run}: its manifest {manifest} is not there to say what its dataset holds out; start where it is")
    found = TokenDataset(Path(manifest))[0].metadata.get("hold_out")
    if not isinstance(found, float):
        raise ConfigError(
            f"{manifest}: its dataset holds no combinations out, so all were seen in training; make one with "
            f"`hitvideo data moving-shapes … --hold-out 0.15`, or leave --combinations out"
        )
    check_hold_out(found)
    return found


def show_guidance(generator: Generator, prompts: Sequence[str], sampling: Sampling, run: Path) -> None:
    """Save the same prompts without guidance, with it, and as a storyboard of level 0 in the run's gallery."""
    kinds = (
        ("1", "Without guidance", replace(sampling, guidance=1.0), None),
        ("2", f"Guidance {guidance_text(sampling)}", sampling, None),
        ("3", "Storyboard: level 0 alone", sampling, 1),
    )
    for name, label, drawing, levels in kinds:
        videos = generator.decode(generator.codes(prompts, drawing, levels))
        save_videos(run, f"guidance-{name}", label, list(zip(prompts, videos, strict=True)), generator.clip.fps)


def guidance_text(sampling: Sampling) -> str:
    """Guidance for people; of several levels, coarsest first."""
    return ", ".join(f"{each:g}" for each in np.atleast_1d(sampling.guidance))


def caption_accuracy(
    generator: Generator,
    num: int,
    sampling: Sampling,
    seed: int,
    progress: Callable[[int], object] | None = None,
    combinations: Combinations = "all",
    hold_out: float = 0.0,
) -> tuple[dict[str, Any], list[str], list[Frames]]:
    """Generate for `num` captions of moving shapes and read the scenes back; returns figures, prompts and videos.

    `caption_accuracy` has the rates and `intervals` their 95 % intervals; `ceiling` and `floor` are described above, and
    `look` compares the videos with the true clips. `combinations` other than "all" needs the dataset's `hold_out`.
    """
    true_clips = list(rendered(num, seed, generator.clip, "1", hold_out, combinations))
    truth = [scene for _, scene in true_clips]
    prompts = [caption(scene) for scene in truth]
    codes = generator.codes(prompts, sampling, seed=seed, progress=progress)
    videos: list[Frames] = []
    for start in range(0, num, DECODED_TOGETHER):
        videos += generator.decode([indices[start : start + DECODED_TOGETHER] for indices in codes])
    found = [probe.read(video) for video in videos]  # not told how many things to look for
    shares = scoring.shares(truth, found)
    figures = {
        "caption_accuracy": scoring.accuracy(truth, found),
        "all_right": shares["all_right"]["rate"],
        "intervals": {name: [each["low"], each["high"]] for name, each in shares.items()},
        "chance": scoring.CHANCE,
        "ceiling": _ceiling(pixel_ceiling(generator.video_tokenizer, true_clips)["rows"]),
        "floor": floor(truth, found),
        "videos": num,
        "seed": seed,
        "guidance": sampling.guidance,
        "sampling": asdict(sampling),
        "combinations": combinations,
        "hold_out": hold_out,
        "nothing_seen": sum(scene is None for scene in found),
        "too_many_things": sum(scene is not None and len(scene.things) > 1 for scene in found),
        "confusion": scoring.confusion(truth, found),
        "look": {"generated": variety(videos), "true": variety([frames for frames, _ in true_clips])},
    }
    return figures, prompts, videos


def floor(truth: Sequence[Scene], found: Sequence[Scene | None]) -> dict[str, dict[str, float]] | None:
    """What the same videos score with the captions moved on by one video; None for a single video."""
    return scoring.shares([*truth[1:], truth[0]], found) if len(truth) > 1 else None


def _ceiling(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by_name = {row["levels"]: row["pixels"] for row in rows}
    prefixes = [shares for name, shares in by_name.items() if isinstance(name, int)]
    return {"by_prefix": prefixes, UNQUANTISED: by_name[UNQUANTISED], ORIGINALS: by_name[ORIGINALS]}


def caption_table(figures: dict[str, Any]) -> str:
    """The figures of `caption_accuracy` as a table for people."""
    names = (*scoring.ATTRIBUTES, "all_right")
    rates = {**figures["caption_accuracy"], "all_right": figures["all_right"]}
    generated = {
        name: {"rate": rates[name], "low": figures["intervals"][name][0], "high": figures["intervals"][name][1]}
        for name in names
    }
    ceiling = figures["ceiling"]
    kinds = [("true clips", ceiling[ORIGINALS]), ("decoded without quantisation", ceiling[UNQUANTISED])]
    last = len(ceiling["by_prefix"]) - 1
    kinds += [(f"decoded from levels 0 … {k}", ceiling["by_prefix"][k]) for k in range(last, -1, -1)]
    kinds += [("GENERATED", generated), *([("with each other's captions", figures["floor"])] if figures["floor"] else [])]
    rows = [("", *(name.replace("_", " ") for name in names))]
    rows += [(label, *(share_text(shares[name]) for name in names)) for label, shares in kinds]
    chance = (f"{100 * figures['chance'][name]:.0f} %" if name in figures["chance"] else "" for name in names)
    rows.append(("guessing", *chance))
    return f"{columns(rows)}\n{figures['videos']} videos; 95 % intervals"
