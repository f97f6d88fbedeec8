"""What several commands share."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def sampling(words: argparse.Namespace) -> Any:
    from hitvideo.generation.sampling import Sampling

    return Sampling(words.guidance, words.temperature, words.top_k, words.top_p)


def device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def progress_bar(total: int | None, unit: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=not sys.stderr.isatty())
