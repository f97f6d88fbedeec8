"""How many videos are drawn at once: as many as a limit of memory holds. What they take is known beforehand."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from hitvideo.errors import ConfigError
from hitvideo.generation import plans
from hitvideo.generation.noise import noise_bytes
from hitvideo.generation.sampling import Sampling
from hitvideo.llm.model import LanguageModel

GIB = 1 << 30
FREE_SHARE = 0.7  # of the free memory; the rest is for what a pass computes
T = TypeVar("T")


def bytes_per_video(model: LanguageModel, sampling: Sampling, levels: int, given: int = 0) -> int:
    """Bytes of cache and noise for one video of the first `levels` levels, of which `given` are drawn already."""
    llm, weight = model.section, model.level.weight
    kv_heads = llm.kv_heads // model.layers.tensor_parallel
    slot = 2 * llm.layers * kv_heads * llm.head_dim * weight.element_size()
    rows = 2 if sampling.guides(given, levels) else 1
    cache: int = rows * plans.slots(sampling, model.layout, levels) * slot
    return cache + noise_bytes(model.layout, levels)


def videos_at_once(each: int, limit_gib: float | None, device: torch.device) -> int:
    """How many videos of `each` bytes a limit holds, by default FREE_SHARE of the free memory.

    Raises ConfigError if a given limit does not hold one video; without a limit one is always tried.
    """
    if limit_gib is None:
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
        return max(1, int(FREE_SHARE * free) // each)
    if not limit_gib > 0 or not math.isfinite(limit_gib):
        raise ConfigError(f"memory-gib is {limit_gib}; it must be above 0")
    if limit_gib * GIB < each:
        raise ConfigError(f"memory-gib is {limit_gib:g}; one video takes {each / GIB:.3g} GiB: give that, or fewer levels")
    return int(limit_gib * GIB / each)


def chunks(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """The items in parts of nearly equal size, none above `most`."""
    parts = -(-len(items) // most)
    for number in range(parts):
        yield items[number * len(items) // parts : (number + 1) * len(items) // parts]


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
