"""What several commands share: paths, device, progress bar, sampling options."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hitvideo.errors import ConfigError, short
from hitvideo.files import process_name
from hitvideo.generation.sampling import Plan, Sampling, per_level
from hitvideo.settings.named_files import refuse_url

if TYPE_CHECKING:
    import torch

SAMPLING_OPTIONS = tuple(field.name for field in fields(Sampling))


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
    from hitvideo.runs.directory import RunDirectory
    from hitvideo.settings.programs import PretrainRun

    settings = RunDirectory.open(words.run).settings_as(PretrainRun)
    check_request(prompts, words.seed or 0, levels, len(settings.hierarchy.levels))
    given = {name: value for name in SAMPLING_OPTIONS if (value := getattr(words, name)) is not None}
    return Sampling(**given)


def device() -> torch.device:
    """The GPU if there is one; of several, torchrun's rank on this node has one each."""
    import torch

    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


def progress_bar(total: int | None, unit: str) -> Any:
    """A bar on a terminal, nothing in a file."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=not sys.stderr.isatty())


def add_generator_options(parser: argparse.ArgumentParser) -> None:
    """Which run generates, and how it draws. A sampling option that is not given is None."""
    numbers, counts = _per_level(float), _per_level(int)
    listed = "; a list such as 5,3,1 gives each level its own, coarsest first"
    add = parser.add_argument
    add("--run", type=path, required=True, help="run directory of `python -m pretrain`")
    add("--video-tokenizer", type=path, help="its weights, if they have moved since tokenizing")
    add("--guidance", type=numbers, help=f"1: none; higher follows the prompt more {_default('guidance')}{listed}")
    add("--guidance-ramp", action="store_const", const=True, help="guidance rises from 1 to --guidance along the video's slots")
    add("--apg", type=float, metavar="RMS", help=f"adaptive projected guidance, cut to this; 0: plain {_default('apg')}")
    add("--negative", metavar="TEXT", help="prompt that guidance leads away from; default: the empty one")
    add("--temperature", type=numbers, help=f"below 1 draws likely codes more often {_default('temperature')}{listed}")
    add("--top-k", type=counts, help=f"draw from the K likeliest entries; 0: all {_default('top_k')}{listed}")
    add("--top-p", type=numbers, help=f"draw from the likeliest entries of this total probability {_default('top_p')}{listed}")
    plans = "auto, sequential, jacobi: the same codes at another speed; grouped: fewest passes, for a run with llm.groups"
    add("--plan", choices=get_args(Plan), help=f"how many slots a pass of the model draws. {plans} (default auto)")
    add("--seed", type=int, default=0, help="the same seed draws the same videos (default 0)")


def _default(name: str) -> str:
    return f"(default {per_level(getattr(Sampling, name))})"


def _per_level(number: type[Any]) -> Any:
    """An argparse type: 3 → 3, and 1,3,3 → (1, 3, 3)."""

    def parse(text: str) -> Any:
        values = tuple(number(part) for part in text.split(","))
        return values if len(values) > 1 else values[0]

    parse.__name__ = f"{number.__name__} or list of {number.__name__}s"
    return parse
