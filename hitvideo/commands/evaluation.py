"""Commands that measure."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hitvideo.commands.common import device, progress_bar, sampling
from hitvideo.errors import ConfigError

if TYPE_CHECKING:
    from hitvideo.hierarchy import ClipShape

EXAMPLES = 4
FEWEST = 4  # clips that `evaluate meaning` measures
FITTED = 4
"""The linear probe of `evaluate meaning` is fitted to this many times the clips that are measured."""


def evaluate_reconstruction(words: argparse.Namespace) -> None:
    from hitvideo.data.clips import ClipSource
    from hitvideo.data.pack import pack
    from hitvideo.data.video_shards import list_shards
    from hitvideo.evaluation import reconstruction
    from hitvideo.metrics.i3d import check_golden, load_i3d
    from hitvideo.metrics.lpips import load_lpips
    from hitvideo.runs.directory import RunDirectory
    from hitvideo.runs.gallery import save_figures
    from hitvideo.settings.data import LimitsSection
    from hitvideo.settings.programs import VideoTokenizerRun
    from hitvideo.video_tokenizer.weights import load_video_tokenizer

    if words.clips is not None and words.clips < 1:
        raise ConfigError(f"--clips {words.clips}: give at least 1")
    run = RunDirectory(words.run)
    settings = run.settings_as(VideoTokenizerRun) if run.config.is_file() else None
    video_tokenizer, clip = load_video_tokenizer(run.weights, device())
    networks = reconstruction.MetricNetworks(
        load_lpips(words.lpips_weights, device()) if words.lpips_weights else None,
        load_i3d(words.fvd_weights, device()) if words.fvd_weights else None,
    )
    if networks.i3d:
        check_golden(networks.i3d, words.fvd_weights)
    with tempfile.TemporaryDirectory() as folder:
        if words.videos:
            pack(words.videos, Path(folder), per_shard=64)
        shards = list_shards(words.video_shards or folder)
        source = ClipSource(shards, clip, LimitsSection())
        known = settings if words.video_shards else None
        samples, trained = reconstruction.choose_clips(words.clips, words.include_training, shards, len(source), known)
        with progress_bar(len(samples), "clip") as bar:
            figures = reconstruction.reconstruction(video_tokenizer, source, samples, bar.update, networks)
        figures["training_clips"] = trained
        if networks.i3d:
            figures["fvd"] = _how_fvd_was_measured(words.fvd_weights, figures["clips"], clip)
        save_figures(words.run, "reconstruction", figures)
        if words.json:
            print(json.dumps(figures))
        else:
            print(reconstruction.reconstruction_table(figures))
            left_out = f"; {figures['skipped']} more cannot be decoded, see the warnings" if figures["skipped"] else ""
            of_training = "an unknown number" if trained is None else trained
            print(f"{figures['clips']} clips measured{left_out}; {of_training} of them may have been in the run's training")
            if "fvd" in figures:
                print("rFVD of " + ", ".join(f"{name} {value}" for name, value in figures["fvd"].items()))
        reconstruction.show_reconstructions(video_tokenizer, source, samples, words.run)


def evaluate_meaning(words: argparse.Namespace) -> None:
    from hitvideo.evaluation.meaning import meaning, meaning_table, refuse_training_seed, rendered
    from hitvideo.runs.directory import RunDirectory
    from hitvideo.runs.gallery import save_figures
    from hitvideo.settings.programs import VideoTokenizerRun
    from hitvideo.video_tokenizer.weights import load_video_tokenizer

    if words.num < FEWEST:
        raise ConfigError(f"--num {words.num}: give at least {FEWEST}")
    run = RunDirectory(words.run)
    if run.config.is_file():
        refuse_training_seed(run.settings_as(VideoTokenizerRun), words.seed)
    video_tokenizer, clip = load_video_tokenizer(run.weights, device())
    total = (1 + FITTED) * words.num
    with progress_bar(words.num + total, "clip") as bar:
        clips = list(rendered(total, words.seed, clip))
        figures = meaning(video_tokenizer, clips[: words.num], clips[words.num :], bar.update)
    figures["seed"] = words.seed
    table = meaning_table(figures)
    save_figures(words.run, "meaning", {**figures, "table": table})
    print(json.dumps(figures) if words.json else table)


def _how_fvd_was_measured(weights: Path, clips: int, clip: ClipShape) -> dict[str, object]:
    """What an FVD can only be compared by."""
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = f"{clip.height}x{clip.width}"
    return {"clips": clips, "frames": clip.frames, "fps": clip.fps, "size": size, "weights_sha256": sha256}


def evaluate_captions(words: argparse.Namespace) -> None:
    from hitvideo.evaluation import captions
    from hitvideo.generation.generator import load_generator
    from hitvideo.metrics.clip_similarity import ClipSimilarity
    from hitvideo.runs.gallery import save_figures, save_videos

    drawing = sampling(words, [])
    if words.num < 1:
        raise ConfigError(f"--num {words.num}: give at least 1")
    hold_out = captions.hold_out_of(words.run) if words.combinations != "all" else 0.0
    similarity = ClipSimilarity(words.clip_weights, device()) if words.clip_weights else None
    generator = load_generator(words.run, device(), words.video_tokenizer)
    with progress_bar(generator.tokens(), "token") as bar:
        figures, prompts, videos = captions.caption_accuracy(
            generator, words.num, drawing, words.seed, bar.update, words.combinations, hold_out
        )
    if similarity:
        found = similarity(prompts, videos)
        figures["clip_similarity"] = round(sum(found) / len(found), 3)
    table = captions.caption_table(figures)
    name = "captions" if words.combinations == "all" else f"captions-{words.combinations}"
    save_figures(words.run, name, {**figures, "table": table})
    shown = list(zip(prompts, videos, strict=True))[: 2 * EXAMPLES]
    save_videos(words.run, "prompts", f"Prompts, guidance {captions.guidance_text(drawing)}", shown, generator.clip.fps)
    captions.show_guidance(generator, prompts[:EXAMPLES], drawing, words.run)
    print(table, file=sys.stderr)  # the standard output is the figures alone
    print(json.dumps(figures))
