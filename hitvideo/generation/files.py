"""The files of generated videos: names that tell them apart, codes before pictures, contact sheets."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hitvideo.errors import ConfigError, short
from hitvideo.generation.engine import Request
from hitvideo.generation.generator import Generator
from hitvideo.generation.record import SUFFIX, TAG, Record
from hitvideo.video.encode import write_mp4
from hitvideo.video.pixels import Frames

LONGEST_SLUG = 40
SHEET_FRAMES = 8


def file_names(out: Path, requests: Sequence[Request]) -> list[Path]:
    """One MP4 for each request: `out` itself if there is one, else with number, prompt and seed in the name."""
    if len(requests) == 1:
        return [out]
    digits = len(str(len(requests) - 1))
    return [
        out.with_name(f"{out.stem}-{number:0{digits}}{slug(request.prompt)}-seed{request.seed}{out.suffix}")
        for number, request in enumerate(requests)
    ]


def slug(prompt: str) -> str:
    """The prompt's beginning as a part of a file name: ASCII letters, digits and hyphens; empty for other scripts."""
    plain = unicodedata.normalize("NFKD", prompt[: 4 * LONGEST_SLUG]).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain)[:LONGEST_SLUG].strip("-")
    return f"-{words}" if words else ""


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines are left out. Raises ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{short(path)}: cannot be read as UTF-8 text: {short(error)}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ConfigError(f"{path}: has no prompts; write one a line")
    return prompts


def save_and_decode(generator: Generator, records: Sequence[Record], paths: Sequence[Path]) -> list[Frames]:
    """Write every record's MP4. All codes are saved first, as NAME.codes: nothing that was drawn is lost if decoding fails."""
    for path, record in zip(paths, records, strict=True):
        record.save(path.with_suffix(SUFFIX))
    videos = []
    for path, record in zip(paths, records, strict=True):
        (frames,) = generator.decode([indices[None] for indices in record.codes])
        write_mp4(path, frames, generator.clip.fps, tags={TAG: record.to_json()})
        path.with_suffix(SUFFIX).unlink()
        videos.append(frames)
    return videos


def sheet_row(frames: Frames) -> Frames:
    """Some frames of a video, evenly spaced from the first to the last."""
    row: Frames = frames[np.linspace(0, len(frames) - 1, min(SHEET_FRAMES, len(frames))).round().astype(int)]
    return row
