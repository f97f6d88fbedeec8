"""Micro-batches from samples: the same global batches for any number of ranks and threads, from any step on.

    step s consumes draws  s·G … (s+1)·G - 1                     G = global batch
    draw p ── Order ──▶ sample index ── source.tensor ──▶ one row
    micro-batch m of data rank r takes places  (m·ranks + r)·micro …  of the step's G

Threads make micro-batches ahead of time (reading, checksums and copies release the interpreter lock). A damaged sample is
replaced by the one 1 after it, else 2, 4, 8 … after it, which gets past a whole missing shard. It is logged and counted,
and every other sample keeps its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from hitvideo.data.order import Order
from hitvideo.data.token_shards import Int64s
from hitvideo.errors import ConfigError, ShardError, VideoError

_STEPS_AHEAD = 2
_DAMAGED_IN_A_ROW = 16

Damage = dict[int, ShardError]
"""Row → what is wrong with it."""
Ordering = Callable[[npt.ArrayLike], Int64s]
"""Draws (n,) → places (n,)."""

log = logging.getLogger(__name__)


class Source(Protocol):
    """Samples as tensors of equal shape."""

    def __len__(self) -> int: ...

    def tensor(self, index: int, draw: int) -> torch.Tensor:
        """The sample as drawn at `draw`. Raises ShardError or VideoError if it is damaged."""


@runtime_checkable
class BatchSource(Source, Protocol):
    """A source with its own order that makes many rows at once faster than one by one."""

    def rows(self, indices: Int64s, draws: Int64s) -> tuple[torch.Tensor, Damage]:
        """Samples (n,) at draws (n,) → rows (n, …), and the damaged ones among them."""

    def order(self, samples: range, seed: int, read_together: int) -> Ordering:
        """The order of the draws: draw → place in `samples`."""


class Batches:
    """`batches(step)` → this rank's micro-batches of a step, each (micro_batch, …); in pinned memory if there is a GPU."""

    def __init__(
        self,
        source: Source,
        samples: range,
        *,
        global_batch: int,
        micro_batch: int,
        data_rank: int,
        data_ranks: int,
        seed: int,
        read_together: int,
        threads: int = 1,
    ) -> None:
        """`samples`: the part of the source to draw from (training or validation). `threads` 0: make nothing ahead.

        Raises ConfigError if there are no samples.
        """
        if not samples:
            raise ConfigError(f"no samples to draw from: the dataset has {len(source)}, part of which validation holds out")
        self.source = source
        self.samples = samples
        bulk = source if isinstance(source, BatchSource) else None
        self.order: Ordering = bulk.order(samples, seed, read_together) if bulk else Order(len(samples), seed, read_together)
        self.global_batch = global_batch
        places = np.arange(global_batch).reshape(-1, data_ranks, micro_batch)[:, data_rank]
        self.places = places  # (micro-batches, micro_batch)
        self.replaced = 0
        self._unit = micro_batch if bulk else 1  # rows per unit of work: videos are decoded one by one, tokens read in bulk
        self._pin = torch.cuda.is_available()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loader") if threads else None
        self._ahead: dict[int, list[list[Future[torch.Tensor]]]] = {}

    def __call__(self, step: int) -> list[torch.Tensor]:
        """This rank's micro-batches of a step. Raises ShardError if too many samples in a row are damaged."""
        if self._pool is None:
            return [torch.cat([self._rows(*unit) for unit in units]) for units in self._work(step)]
        for ahead in range(step, step + 1 + _STEPS_AHEAD):
            if ahead not in self._ahead:
                self._ahead[ahead] = [[self._pool.submit(self._rows, *unit) for unit in units] for units in self._work(ahead)]
        return [torch.cat([rows.result() for rows in units]) for units in self._ahead.pop(step)]

    def close(self) -> None:
        """Stop the threads."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _work(self, step: int) -> list[list[tuple[Int64s, Int64s]]]:
        """The units of work of each micro-batch: places in `samples`, and draws."""
        draws = step * self.global_batch + self.places
        indices = self.order(draws.reshape(-1)).reshape(draws.shape)
        cuts = range(0, draws.shape[1], self._unit)
        return [
            [(drawn[cut : cut + self._unit], at[cut : cut + self._unit]) for cut in cuts]
            for drawn, at in zip(indices, draws, strict=True)
        ]

    def _rows(self, indices: Int64s, draws: Int64s) -> torch.Tensor:
        if not isinstance(self.source, BatchSource):
            rows = torch.stack([self._row(*pair) for pair in zip(indices.tolist(), draws.tolist(), strict=True)])
        else:
            rows, damaged = self.source.rows(indices + self.samples.start, draws)
            for row, error in damaged.items():
                rows[row] = self._row(int(indices[row]), int(draws[row]), error)
        return rows.pin_memory() if self._pin else rows

    def _row(self, index: int, draw: int, first: ShardError | None = None) -> torch.Tensor:
        """One row, or its replacement; `first`: the error, if the sample is known to be damaged."""
        errors: list[ShardError | VideoError] = []
        for attempt in range(_DAMAGED_IN_A_ROW):
            later = 1 << (attempt - 1) if attempt else 0
            try:
                if first and not attempt:
                    raise first
                return self.source.tensor(self.samples[(index + later) % len(self.samples)], draw)
            except (ShardError, VideoError) as error:
                errors.append(error)
                self.replaced += 1
                log.warning("replaced a damaged sample: %s", error)
        raise ShardError(f"{_DAMAGED_IN_A_ROW} damaged samples in a row, the first: {errors[0]}")


def split(size: int, held_out: int) -> tuple[range, range]:
    """Training and validation samples: the last `held_out`, at most half, are validation."""
    held_out = min(held_out, size // 2)
    return range(size - held_out), range(size - held_out, size)
