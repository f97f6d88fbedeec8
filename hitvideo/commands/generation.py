"""Commands that make videos: generate from prompts, and reconstruct one through a tokenizer."""

from __future__ import annotations

import argparse

from hitvideo.commands.common import device, progress_bar, sampling


def generate(words: argparse.Namespace) -> None:
    from hitvideo.generation.generator import load_generator
    from hitvideo.runs.gallery import save_videos
    from hitvideo.video.encode import contact_sheet, write_mp4

    generator = load_generator(words.run, device(), words.video_tokenizer)
    levels = words.levels or generator.levels
    with progress_bar(generator.tokens(levels), "token") as bar:
        codes = generator.codes(words.prompt, sampling(words), levels, words.seed, bar.update)
    videos = generator.decode(codes)
    if words.out is None:
        title = f"Generated: guidance {words.guidance:g}, {levels} levels, seed {words.seed}"
        name = f"generate-levels{levels}-seed{words.seed}"
        for path in save_videos(words.run, name, title, list(zip(words.prompt, videos, strict=True)), generator.clip.fps):
            print(path)
        return
    paths = [words.out] if len(videos) == 1 else [words.out.with_stem(f"{words.out.stem}-{n}") for n in range(len(videos))]
    for path, video, prompt in zip(paths, videos, words.prompt, strict=True):
        write_mp4(path, video, generator.clip.fps)
        contact_sheet([video], path.with_suffix(".png"))
        print(f"{path}  {prompt}")


def reconstruct(words: argparse.Namespace) -> None:
    import torch

    from hitvideo.settings.data import LimitsSection
    from hitvideo.video.decode import decode_clip
    from hitvideo.video.encode import contact_sheet
    from hitvideo.video.pixels import to_uint8, to_unit
    from hitvideo.video_tokenizer.weights import load_video_tokenizer

    video_tokenizer, clip = load_video_tokenizer(words.weights, device())
    frames = decode_clip(words.video, clip, LimitsSection(), name=str(words.video))
    codes = video_tokenizer.encode(torch.from_numpy(to_unit(frames))[None].to(device()))
    decoded = video_tokenizer.decode_prefixes(codes, clip.frames)
    contact_sheet([frames, *(to_uint8(video[0].cpu().numpy()) for video in decoded)], words.out)
    print(words.out)
