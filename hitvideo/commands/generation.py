"""Commands that make videos: generate from prompts, and reconstruct one through a tokenizer."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hitvideo.commands.common import SAMPLING_OPTIONS, check_output, device, progress_bar, sampling
from hitvideo.commands.ranks import Ranks, ranks
from hitvideo.errors import ConfigError, short
from hitvideo.generation.request import LARGEST_SEED
from hitvideo.generation.sampling import per_level

if TYPE_CHECKING:
    from hitvideo.generation.engine import Request
    from hitvideo.generation.generator import Drawing, Generator
    from hitvideo.generation.record import Record
    from hitvideo.generation.sampling import Sampling

log = logging.getLogger(__name__)
FROM_FILE = (*SAMPLING_OPTIONS, "seed", "prompt", "prompts", "drafts")


@dataclass(frozen=True)
class Asked:
    """What a command line asks for."""

    requests: list[Request]
    sampling: list[Sampling]
    """Of each request."""
    records: list[Record]
    """Of the files that are refined."""


def generate(words: argparse.Namespace) -> int:
    if words.same:
        return _repeat(words)
    asked = _refined(words) if words.refine else _new(words)
    with ranks() as processes:
        _generate(words, asked, processes)
    return 0


def show(words: argparse.Namespace) -> None:
    from hitvideo.generation.record import read_record

    record = read_record(words.file)
    print(record.to_json() if words.json else "\n".join(record.lines()))


def _new(words: argparse.Namespace) -> Asked:
    """Prompts × seeds: every prompt has the same seeds, so that a prompt's videos do not depend on its neighbours."""
    from hitvideo.generation.engine import Request
    from hitvideo.generation.files import read_prompts

    prompts = [*(words.prompt or []), *(read_prompts(words.prompts) if words.prompts else [])]
    if not prompts:
        raise ConfigError("nothing to generate: give --prompt TEXT, --prompts FILE, --refine FILE or --same FILE")
    drafts, first = 1 if words.drafts is None else words.drafts, words.seed or 0
    if drafts < 1:
        raise ConfigError(f"--drafts {drafts}: give at least 1")
    drawing = sampling(words, prompts, words.levels)
    if (last := first + drafts - 1) > LARGEST_SEED:
        raise ConfigError(f"--seed {first}: {drafts} drafts have seeds up to {last}; the largest is {LARGEST_SEED}")
    requests = [Request(prompt, first + number) for prompt in prompts for number in range(drafts)]
    return Asked(requests, [drawing] * len(requests), [])


def _refined(words: argparse.Namespace) -> Asked:
    from hitvideo.generation.engine import Request

    records = [_record(words, file) for file in words.refine]
    return Asked([Request(r.prompt, r.seed, r.codes) for r in records], [r.sampling for r in records], records)


def _record(words: argparse.Namespace, file: Path) -> Record:
    """The record of a file whose settings are taken over. Raises ConfigError if the command line gives others."""
    from hitvideo.generation.record import read_record

    given = [name for name in FROM_FILE if getattr(words, name) is not None]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{options}: --refine and --same take this from the file; leave it out")
    return read_record(file)


def _generate(words: argparse.Namespace, asked: Asked, processes: Ranks) -> None:
    from hitvideo.generation.files import file_names, save_and_decode, sheet_row
    from hitvideo.generation.generator import load_generator
    from hitvideo.runs.gallery import list_videos
    from hitvideo.video.encode import contact_sheet

    guidance, seed = per_level(asked.sampling[0].guidance), asked.requests[0].seed
    samples = words.run / "samples"
    storyboard = f"levels{words.levels}-" if words.levels else ""
    group = processes.agreed(new_group(samples, f"{storyboard}guidance{guidance}-seed{seed}"))
    out = words.out or samples / f"{group}.mp4"
    check_output(out, ".mp4", overwrite=True)  # a name that several can be made of
    paths = file_names(out, asked.requests)
    several = len(paths) > 1
    if processes.rank == 0:
        for path in paths:
            check_output(path, ".mp4", words.overwrite)
            check_output(path.with_suffix(".codes"), ".codes", words.overwrite)
        check_output(out.with_suffix(".png"), ".png", words.overwrite)

    generator = load_generator(words.run, device(), words.video_tokenizer)
    for record, file in zip(asked.records, words.refine or [], strict=True):
        generator.check_record(record, str(file))
    numbers = processes.share(range(len(paths)))
    records = _draw(words, generator, asked, numbers)
    _tell_of_equal_drafts(records)
    videos = save_and_decode(generator, records, [paths[number] for number in numbers])
    rows = processes.gathered([sheet_row(frames) if several else frames for frames in videos])
    if processes.rank == 0:
        contact_sheet(rows, out.with_suffix(".png"))
        if words.out is None:
            part = f"first {words.levels} of {generator.levels} levels, " if words.levels else ""  # all have one title
            listed = [(request.prompt, path.name) for request, path in zip(asked.requests, paths, strict=True)]
            list_videos(words.run, group, f"Generated: guidance {guidance}, {part}seed {seed}", listed)
        for path, request in zip(paths, asked.requests, strict=True):
            print(f"{path}  {short(request.prompt)}")
        if several:
            print(f"{out.with_suffix('.png')}  all of them, one a row")


def _tell_of_equal_drafts(records: Sequence[Record]) -> None:
    """Say so if most seeds of a prompt drew what another seed did: nothing to choose from."""
    for prompt in dict.fromkeys(record.prompt for record in records):
        drawn = [b"".join(level.tobytes() for level in each.codes) for each in records if each.prompt == prompt]
        if 2 * len(set(drawn)) <= len(drawn):
            log.warning(
                "%d seeds of '%s' drew only %d different videos; a higher --temperature, such as 0.7,0.4 for level 0 and the "
                "others, varies them", len(drawn), short(prompt), len(set(drawn)),
            )  # fmt: skip


def _draw(words: argparse.Namespace, generator: Generator, asked: Asked, numbers: Sequence[int]) -> list[Record]:
    """This rank's videos; those of equal settings together."""
    found: dict[int, Record] = {}
    for drawing in dict.fromkeys(asked.sampling[number] for number in numbers):
        part = [number for number in numbers if asked.sampling[number] == drawing]
        requests = [asked.requests[number] for number in part]
        drawn = _watched(generator, requests, drawing, words.levels, words.memory_gib)
        found |= zip(part, drawn.records, strict=True)
    return [found[number] for number in numbers]


def _watched(
    generator: Generator, requests: list[Request], drawing: Sampling, levels: int | None, memory_gib: float | None
) -> Drawing:
    """Draw with a bar that names the level and the time left, then log what each level took."""
    from hitvideo.generation.engine import Listener

    with progress_bar(generator.tokens(levels, min(len(request.given) for request in requests)), "token") as bar:
        listener = Listener(bar.update, lambda level: bar.set_description(f"level {level}"))
        drawn = generator.draw(requests, drawing, levels, listener, memory_gib)
    for level, (passes, seconds) in enumerate(zip(drawn.passes, drawn.seconds, strict=True)):
        if passes:
            cells = generator.model.layout.grids[level].cells
            log.info("level %d: %d tokens × %d videos in %d passes, %.2f s", level, cells, len(requests), passes, seconds)
    return drawn


def _repeat(words: argparse.Namespace) -> int:
    """Draw a file's video again; 0 if its codes are the same."""
    from hitvideo.generation.engine import Request
    from hitvideo.generation.files import save_and_decode
    from hitvideo.generation.generator import load_generator

    if words.levels is not None or words.refine:
        raise ConfigError("--same draws what the file holds; leave --levels and --refine out")
    record = _record(words, words.same)
    if words.out:
        check_output(words.out, ".mp4", words.overwrite)
    generator = load_generator(words.run, device(), words.video_tokenizer)
    generator.check_record(record, str(words.same))
    requests = [Request(record.prompt, record.seed)]
    drawn = _watched(generator, requests, record.sampling, len(record.codes), words.memory_gib).records[0]
    if words.out:
        save_and_decode(generator, [drawn], [words.out])
    pairs = list(zip(drawn.codes, record.codes, strict=True))
    different, cells = sum(int((a != b).sum()) for a, b in pairs), sum(a.size for a, _ in pairs)
    print(f"{words.same}: {different} of {cells} codes differ" if different else f"{words.same}: all {cells} codes are equal")
    return int(different > 0)


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
