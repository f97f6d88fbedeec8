"""What several commands share: device, progress bar, sampling options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from hitvideo.generation.sampling import Sampling


def sampling(words: argparse.Namespace) -> Sampling:
    """The sampling options of a command."""
    from hitvideo.generation.sampling import Sampling

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
    parser.add_argument("--run", type=Path, required=True, help="run directory of `python -m pretrain`")
    parser.add_argument("--video-tokenizer", type=Path, help="its weights, if they have moved since tokenizing")
    parser.add_argument("--guidance", type=float, default=5.0, help="1: none; higher follows the prompt more (default 5)")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1 draws likely codes more often (default 1)")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the K likeliest entries; 0: all (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest entries of this total probability")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same videos (default 0)")
