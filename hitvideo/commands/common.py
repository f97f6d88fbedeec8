"""What several commands share: paths, device, progress bar, sampling options."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hitvideo.errors import ConfigError, short
from hitvideo.files import process_name
from hitvideo.settings.paths import refuse_url

if TYPE_CHECKING:
    import torch

    from hitvideo.generation.sampling import Sampling


def path(text: str) -> Path:
    """A path with `~` filled in, which shells leave as it is in --option=~/x."""
    return Path(os.path.expanduser(text))


def check_output(path: Path, suffix: str, overwrite: bool = True) -> None:
    """Make an output file's folder. Raises ConfigError if the file cannot be written there: before the work, not after it."""
    refuse_url(str(path))
    if path.suffix.lower() != suffix:
        raise ConfigError(f"{short(path)}: what is written is {suffix[1:].upper()}; give FILE{suffix}")
    try:
        if path.is_dir():
            raise ConfigError(f"{short(path)} is a folder; give {short(path)}/FILE{suffix}")
        if path.exists() and not overwrite:
            raise ConfigError(f"{short(path)} is there already; give another name, or --overwrite")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{process_name()}")  # as `replacing` names it
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise ConfigError(f"{short(path)}: cannot be written: {short(error.strerror)} ({short(error.filename)})") from error


def sampling(words: argparse.Namespace, prompts: list[str], levels: int | None = None) -> Sampling:
    """The sampling options of a command. Raises ConfigError if the run cannot draw as asked, before weights are loaded."""
    from hitvideo.generation.request import check_request
    from hitvideo.generation.sampling import Sampling
    from hitvideo.runs.directory import RunDirectory
    from hitvideo.settings.programs import PretrainRun

    settings = RunDirectory.open(words.run).settings_as(PretrainRun)
    check_request(prompts, words.seed, levels, len(settings.hierarchy.levels))
    return Sampling(words.guidance, words.temperature, words.top_k, words.top_p)


def device() -> torch.device:
    """The GPU if there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def progress_bar(total: int | None, unit: str) -> Any:
    """A bar on a terminal, nothing in a file."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=not sys.stderr.isatty())


def add_generator_options(parser: argparse.ArgumentParser) -> None:
    """Which run generates, and how it draws."""
    parser.add_argument("--run", type=path, required=True, help="run directory of `python -m pretrain`")
    parser.add_argument("--video-tokenizer", type=path, help="its weights, if they have moved since tokenizing")
    parser.add_argument("--guidance", type=float, default=5.0, help="1: none; higher follows the prompt more (default 5)")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 draws likely codes more often (default 1)")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the K likeliest entries; 0: all (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest entries of this total probability")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same videos (default 0)")
