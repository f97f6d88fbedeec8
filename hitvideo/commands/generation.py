"""Commands that make videos: generate from prompts, and reconstruct one through a tokenizer."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from hitvideo.commands.common import check_output, device, progress_bar, sampling
from hitvideo.errors import short


def generate(words: argparse.Namespace) -> None:
    drawing = sampling(words, words.prompt, words.levels)
    samples = words.run / "samples"
    storyboard = f"levels{words.levels}-" if words.levels else ""
    group = new_group(samples, f"{storyboard}guidance{words.guidance:g}-seed{words.seed}")
    out = words.out or samples / f"{group}.mp4"
    several = len(words.prompt) > 1
    paths = [out.parent / f"{out.stem}-{n}{out.suffix}" for n in range(len(words.prompt))] if several else [out]
    for path in paths:
        check_output(path, ".mp4", words.overwrite)
        check_output(path.with_suffix(".png"), ".png", words.overwrite)

    from hitvideo.generation.generator import load_generator
    from hitvideo.runs.gallery import save_videos
    from hitvideo.video.encode import contact_sheet, write_mp4

    generator = load_generator(words.run, device(), words.video_tokenizer)
    levels = generator.levels if words.levels is None else words.levels
    with progress_bar(generator.tokens(levels), "token") as bar:
        codes = generator.codes(words.prompt, drawing, levels, words.seed, bar.update)
    videos = generator.decode(codes)
    if words.out is None:
        title = f"Generated: guidance {words.guidance:g}, {levels} levels, seed {words.seed}"
        paths = save_videos(words.run, group, title, list(zip(words.prompt, videos, strict=True)), generator.clip.fps)
    else:
        for path, video in zip(paths, videos, strict=True):
            write_mp4(path, video, generator.clip.fps)
            contact_sheet([video], path.with_suffix(".png"))
    for path, prompt in zip(paths, words.prompt, strict=True):
        print(f"{path}  {short(prompt)}")


def new_group(samples: Path, settings: str) -> str:
    """A name for generated videos that no earlier ones have: they are numbered."""
    taken = [int(found[1]) for path in samples.glob("generate-*") if (found := re.match(r"generate-(\d+)-", path.name))]
    return f"generate-{max(taken, default=0) + 1:03d}-{settings}"


def reconstruct(words: argparse.Namespace) -> None:
    import torch

    from hitvideo.settings.data import LimitsSection
    from hitvideo.video.decode import decode_clip
    from hitvideo.video.encode import contact_sheet
    from hitvideo.video.pixels import to_uint8, to_unit
    from hitvideo.video_tokenizer.weights import load_video_tokenizer

    check_output(words.out, ".png")
    video_tokenizer, clip = load_video_tokenizer(words.weights, device())
    frames = decode_clip(words.video, clip, LimitsSection(), name=str(words.video))
    codes = video_tokenizer.encode(torch.from_numpy(to_unit(frames))[None].to(device()))
    decoded = video_tokenizer.decode_prefixes(codes, clip.frames)
    contact_sheet([frames, *(to_uint8(video[0].cpu().numpy()) for video in decoded)], words.out)
    print(words.out)
