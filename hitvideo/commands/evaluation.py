"""Commands that measure."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from hitvideo.commands.common import device, progress_bar, sampling

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
    from hitvideo.video_tokenizer.weights import load_video_tokenizer

    video_tokenizer, clip = load_video_tokenizer(RunDirectory(words.run).weights, device())
    networks = reconstruction.MetricNetworks(
        load_lpips(words.lpips_weights, device()) if words.lpips_weights else None,
        load_i3d(words.fvd_weights, device()) if words.fvd_weights else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        if words.videos:
            pack(words.videos, Path(folder), per_shard=64)
        source = ClipSource(list_shards(words.video_shards or folder), clip, LimitsSection())
        samples = range(max(0, len(source) - words.clips), len(source))
        with progress_bar(len(samples), "clip") as bar:
            figures = reconstruction.reconstruction(video_tokenizer, source, samples, bar.update, networks)
        reconstruction.show_reconstructions(video_tokenizer, source, samples[:EXAMPLES], words.run)
    save_figures(words.run, "reconstruction", figures)
    print(json.dumps(figures) if words.json else reconstruction.reconstruction_table(figures))


def evaluate_captions(words: argparse.Namespace) -> None:
    from hitvideo.evaluation import captions
    from hitvideo.generation.generator import load_generator
    from hitvideo.runs.gallery import save_figures, save_videos

    generator = load_generator(words.run, device(), words.video_tokenizer)
    with progress_bar(generator.tokens(), "token") as bar:
        figures, prompts, videos = captions.caption_accuracy(
            generator, words.num, sampling(words), words.seed, bar.update
        )
    save_figures(words.run, "captions", figures)
    shown = list(zip(prompts, videos, strict=True))[: 2 * EXAMPLES]
    save_videos(words.run, "prompts", f"Prompts, guidance {words.guidance:g}", shown, generator.clip.fps)
    captions.show_guidance(generator, prompts[:EXAMPLES], sampling(words), words.run)
    print(json.dumps(figures))
