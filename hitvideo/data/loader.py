"""Micro-batches from samples: the same global batches for any number of ranks and threads, from any step on.

    step s consumes draws  s·G … (s+1)·G - 1                     G = global batch; other draws if `go_on_from` said so
    draw p ── Order ──▶ sample index ── source.tensor ──▶ one row
    micro-batch m of data rank r takes places  (m·ranks + r)·micro …  of the step's G

Threads make micro-batches ahead of time (reading, checksums and copies release the interpreter lock). A damaged sample is
replaced by the one 1 after it, else 2, 4, 8 … after it: after a few tries that is in another shard, however large a missing
one is. It is logged and counted, and is not read again; every other sample keeps its place.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from hitvideo.data.damage import DamageRecord
from hitvideo.data.order import NEWEST_ORDER, ORDERS
from hitvideo.data.token_shards import Int64s
from hitvideo.errors import ConfigError, ShardError, VideoError

_STEPS_AHEAD = 2
_DAMAGED_IN_A_ROW = 16

Damage = dict[int, ShardError]
"""Row → what is wrong with it."""
Ordering = Callable[[npt.ArrayLike], Int64s]
"""Draws (n,) → places (n,)."""


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

    def order(self, samples: range, seed: int, read_together: int, version: int) -> Ordering:
        """The order of the draws: draw → place in `samples`."""


class _MicroBatch:
    """Rows of one micro-batch in the memory that training reads, which threads fill in place: a copy would not be pinned."""

    def __init__(self, size: int, pinned: bool) -> None:
        self._size = size
        self._pinned = pinned
        self._lock = Lock()
        self.rows: torch.Tensor | None = None
        """(size, …), once there are any."""

    def put(self, at: int, rows: torch.Tensor) -> None:
        """Set rows `at` … of the micro-batch."""
        if len(rows) == self._size and not self._pinned:
            self.rows = rows
            return
        with self._lock:
            if self.rows is None:
                self.rows = torch.empty((self._size, *rows.shape[1:]), dtype=rows.dtype, pin_memory=self._pinned)
        if rows.shape[1:] != self.rows.shape[1:]:
            raise ValueError(f"samples of one micro-batch have the shapes {rows.shape[1:]} and {self.rows.shape[1:]}")
        self.rows[at : at + len(rows)] = rows


class _Unit(NamedTuple):
    """Rows of a micro-batch that one thread makes: where they go, their places in `samples`, and their draws."""

    batch: _MicroBatch
    at: int
    indices: Int64s
    draws: Int64s


class Batches:
    """`batches(step)` → this rank's micro-batches of a step, each (micro_batch, …); in pinned memory if there is a GPU.

    Use it in a `with` block: no thread goes on making rows after its end.
    """

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
        most_damaged: float = 1.0,
        lasting: bool = True,
    ) -> None:
        """`samples`: the part of the source to draw from (training or validation). `threads` 0: make nothing ahead.

        `most_damaged`: share of the samples drawn that may be damaged. `lasting`: a sample that failed at one draw fails at
        all, and so is not read again; False if that depends on the draw. Raises ConfigError if there are no samples.
        """
        if not samples:
            raise ConfigError(f"no samples to draw from: the dataset has {len(source)}, part of which validation holds out")
        self.source = source
        self._bulk = source if isinstance(source, BatchSource) else None
        self.samples = samples
        self.global_batch = global_batch
        places = np.arange(global_batch).reshape(-1, data_ranks, micro_batch)[:, data_rank]
        self.places = places  # (micro-batches, micro_batch)
        self.replaced = 0
        """Rows returned so far that hold another sample than the one drawn, which is damaged."""
        self._damage = DamageRecord(len(samples), most_damaged)
        self._lasting = lasting
        self._substitutes: dict[int, int] = {}
        self.go_on_from(0, 0)
        self._ordering = seed, read_together
        self.use_order(NEWEST_ORDER)
        self._unit = micro_batch if self._bulk else 1  # rows per unit of work: videos one by one, tokens in bulk
        self._pin = torch.cuda.is_available()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loader") if threads else None
        self._ahead: dict[int, list[tuple[_MicroBatch, list[Future[int]]]]] = {}

    def use_order(self, version: int) -> None:
        """Before the first step: draw in the order of this version. Raises ConfigError if it is not known."""
        if version not in ORDERS:
            known = ", ".join(map(str, ORDERS))
            raise ConfigError(f"the checkpoint has version {version} of the data order, this program knows {known}; update it")
        self.order_version = version
        self.order: Ordering = (
            self._bulk.order(self.samples, *self._ordering, version)
            if self._bulk
            else ORDERS[version](len(self.samples), *self._ordering)
        )

    def go_on_from(self, step: int, draw: int) -> None:
        """This step consumes the draws from `draw` on, and each later step those that follow."""
        self._start = step, draw

    def first_draw(self, step: int) -> int:
        """The draw at which a step begins: how many samples of the order are consumed before it."""
        start, draw = self._start
        return draw + (step - start) * self.global_batch

    def step_of(self, draw: int) -> int:
        """The step that consumes a draw."""
        start, first = self._start
        return start + (draw - first) // self.global_batch

    def __call__(self, step: int) -> list[torch.Tensor]:
        """This rank's micro-batches of a step. Raises ShardError if too many samples are damaged, in a row or in all."""
        first = self.first_draw(step)
        if self._pool is None:
            return [self._join(units[0].batch, [self._make(unit) for unit in units]) for units in self._work(first)]
        for ahead in range(first, first + (1 + _STEPS_AHEAD) * self.global_batch, self.global_batch):
            if ahead not in self._ahead:
                work = self._work(ahead)
                submit = self._pool.submit
                self._ahead[ahead] = [(units[0].batch, [submit(self._make, unit) for unit in units]) for units in work]
        return [self._join(batch, [made.result() for made in units]) for batch, units in self._ahead.pop(first)]

    def close(self) -> None:
        """Stop the threads. What is not yet begun is never made."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _work(self, first: int) -> list[list[_Unit]]:
        """The units of work of each micro-batch of the step that begins at a draw."""
        draws = first + self.places
        indices = self.order(draws.reshape(-1)).reshape(draws.shape)
        self._damage.drawn += draws.size
        cuts = range(0, draws.shape[1], self._unit)
        batches = [_MicroBatch(draws.shape[1], self._pin) for _ in draws]
        return [
            [_Unit(batch, cut, drawn[cut : cut + self._unit], at[cut : cut + self._unit]) for cut in cuts]
            for batch, drawn, at in zip(batches, indices, draws, strict=True)
        ]

    def _make(self, unit: _Unit) -> int:
        """Put a unit's rows into their micro-batch; returns how many of them hold another sample than the one drawn."""
        indices, draws = unit.indices, unit.draws
        if self._bulk:
            used = [self._substitutes.get(index, index) for index in indices.tolist()]
            rows, damaged = self._bulk.rows(np.array(used, np.int64) + self.samples.start, draws)
            for row, error in damaged.items():
                self._damage.add(used[row], error)
                used[row], rows[row] = self._row(int(indices[row]), int(draws[row]))
        else:  # a unit of one row
            place, made = self._row(int(indices[0]), int(draws[0]))
            used, rows = [place], made[None]
        replaced = [index for index, place in zip(indices.tolist(), used, strict=True) if place != index]
        for index in replaced:
            self._damage.count(index)
        unit.batch.put(unit.at, rows)
        return len(replaced)

    def _row(self, index: int, draw: int) -> tuple[int, torch.Tensor]:
        """The place of the first undamaged sample among `index` and 1, 2, 4, 8 … after it, and its row at this draw."""
        size = len(self.samples)
        tries = max(_DAMAGED_IN_A_ROW, size.bit_length() + 1)
        for later in (0, *(1 << k for k in range(tries - 1))):
            used = (index + later) % size
            if used in self._damage and self._lasting:
                continue
            try:
                row = self.source.tensor(self.samples[used], draw)
            except (ShardError, VideoError) as error:
                self._damage.add(used, error)
                continue
            if used != index and self._lasting:
                self._substitutes[index] = used
            return used, row
        raise ShardError(f"{tries} damaged samples in a row, the first: {self._damage[index]}")

    def _join(self, batch: _MicroBatch, replaced: list[int]) -> torch.Tensor:
        self.replaced += sum(replaced)
        assert batch.rows is not None
        return batch.rows


def split(size: int, held_out: int) -> tuple[range, range]:
    """Training and validation samples: the last `held_out`, at most half, are validation."""
    held_out = min(held_out, size // 2)
    return range(size - held_out), range(size - held_out, size)
