"""A source of numbers, and loaders of it whose global batches can be put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TypeAlias

import torch

from hitvideo.data.loader import Batches
from hitvideo.data.rows import TokenSource
from hitvideo.errors import ShardError

GLOBAL = 48  # whole micro-batches for 1, 2, 3 and 4 ranks


class Numbers:
    """A source whose rows hold their sample's number and the draw."""

    def __init__(self, size: int, damaged: Collection[int] = ()) -> None:
        self.size = size
        self.damaged = damaged
        self.read: Counter[int] = Counter()

    def __len__(self) -> int:
        return self.size

    def tensor(self, index: int, draw: int) -> torch.Tensor:
        self.read[index] += 1
        if index in self.damaged:
            raise ShardError(f"sample {index} is damaged")
        return torch.tensor([index, draw])


AnySource: TypeAlias = Numbers | TokenSource


def make(source: AnySource, rank: int = 0, ranks: int = 1, micro: int = 4, threads: int = 1, seed: int = 1) -> Batches:
    return Batches(
        source, range(len(source)), global_batch=GLOBAL, micro_batch=micro, data_rank=rank, data_ranks=ranks,
        seed=seed, read_together=8, threads=threads,
    )  # fmt: skip


def global_batch(loaders: list[Batches], step: int) -> torch.Tensor:
    """The step's rows in the order of their places: micro-batch by micro-batch, rank by rank."""
    per_rank = [loader(step) for loader in loaders]
    return torch.cat([rows for micro in zip(*per_rank, strict=True) for rows in micro])
