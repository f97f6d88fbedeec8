"""Work that is divided over the processes of torchrun, one for each GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among all; alone unless torchrun started it."""

    rank: int
    world: int

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's items."""
        return items[self.rank :: self.world]

    def agreed(self, value: T) -> T:
        """Rank 0's value."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def gathered(self, items: Sequence[T]) -> list[T]:
        """Every rank's items in the order that `share` divided: the inverse of `share`, on every rank."""
        if self.world == 1:
            return list(items)
        import torch.distributed as dist

        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, list(items))
        return [parts[number % self.world][number // self.world] for number in range(sum(map(len, parts)))]


@contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes that torchrun started, met; or this one alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(0, 1)
        return
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        yield Ranks(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
