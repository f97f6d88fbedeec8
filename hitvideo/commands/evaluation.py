"""Commands that measure."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from hitvideo.commands.common import device, progress_bar, sampling
from hitvideo.errors import ConfigError

EXAMPLES = 4


def evaluate_reconstruction(words: argparse.Namespace) -> None:
    from hitvideo.data.clips import ClipSource
    from hitvideo.data.pack import pack
    from hitvideo.data.video_shards import list_shards
    from hitvideo.evaluation import reconstruction
    from hitvideo.metrics.i3d import load_i3d
    from hitvideo.metrics.lpips import load_lpips
    from hitvideo.runs.directory import RunDirectory
    from hitvideo.runs.gallery import save_figures
    from hitvideo.settings.data import LimitsSection
    from hitvideo.settings.programs import VideoTokenizerRun
    from hitvideo.video_tokenizer.weights import load_video_tokenizer

    if words.clips < 1:
        raise ConfigError(f"--clips {words.clips}: give at least 1")
    run = RunDirectory(words.run)
    settings = run.settings_as(VideoTokenizerRun) if run.config.is_file() else None
    video_tokenizer, clip = load_video_tokenizer(run.weights, device())
    networks = reconstruction.MetricNetworks(
        load_lpips(words.lpips_weights, device()) if words.lpips_weights else None,
        load_i3d(words.fvd_weights, device()) if words.fvd_weights else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        if words.videos:
            pack(words.videos, Path(folder), per_shard=64)
        shards = list_shards(words.video_shards or folder)
        source = ClipSource(shards, clip, LimitsSection())
        samples = range(max(0, len(source) - words.clips), len(source))
        with progress_bar(len(samples), "clip") as bar:
            figures = reconstruction.reconstruction(video_tokenizer, source, samples, bar.update, networks)
        known = settings if words.video_shards else None
        trained = reconstruction.training_clips(samples, shards, len(source), known) if known else None
        figures["training_clips"] = trained
        save_figures(words.run, "reconstruction", figures)
        if words.json:
            print(json.dumps(figures))
        else:
            print(reconstruction.reconstruction_table(figures))
            left_out = f"; {figures['skipped']} more cannot be decoded, see the warnings" if figures["skipped"] else ""
            of_training = "an unknown number" if trained is None else trained
            print(f"{figures['clips']} clips measured{left_out}; {of_training} of them may have been in the run's training")
        reconstruction.show_reconstructions(video_tokenizer, source, samples, words.run)


def evaluate_captions(words: argparse.Namespace) -> None:
    from hitvideo.evaluation import captions
    from hitvideo.generation.generator import load_generator
    from hitvideo.runs.gallery import save_figures, save_videos

    drawing = sampling(words, [])
    if words.num < 1:
        raise ConfigError(f"--num {words.num}: give at least 1")
    generator = load_generator(words.run, device(), words.video_tokenizer)
    with progress_bar(generator.tokens(), "token") as bar:
        figures, prompts, videos = captions.caption_accuracy(generator, words.num, drawing, words.seed, bar.update)
    save_figures(words.run, "captions", figures)
    shown = list(zip(prompts, videos, strict=True))[: 2 * EXAMPLES]
    save_videos(words.run, "prompts", f"Prompts, guidance {words.guidance:g}", shown, generator.clip.fps)
    captions.show_guidance(generator, prompts[:EXAMPLES], drawing, words.run)
    print(json.dumps(figures))
