"""From samples to micro-batches: the same global batches for any number of ranks and threads, resumable by one counter.

    step s consumes positions  s·G … (s+1)·G - 1                     G = global batch
    position p ── Order ──▶ sample index ── source.tensor ──▶ one row
    micro-batch m of data rank r takes places  (m·ranks + r)·micro …  of the step's G

Rows are made ahead of time in threads. A damaged sample is replaced by the one after it, named and counted, and moves
nothing else.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from hitvideo.config import ConfigError
from hitvideo.data import ShardError
from hitvideo.data.order import Order, uniform
from hitvideo.data.token_shards import TokenDataset
from hitvideo.sequence import SequenceLayout
from hitvideo.text import TextTokenizer
from hitvideo.video import VideoError

log = logging.getLogger(__name__)
_STEPS_AHEAD = 2
_DAMAGED_IN_A_ROW = 16
_DROPOUT_SALT = 0x5EED


class Source(Protocol):
    """Samples as tensors of equal shape."""

    def __len__(self) -> int: ...

    def tensor(self, index: int, position: int) -> torch.Tensor:
        """The sample as it is seen at a position of the order. Raises ShardError or VideoError where it is damaged."""


class TokenSource:
    """Rows of ids from token shards. Captions are tokenized here; a share of them is replaced by the empty one."""

    def __init__(
        self, dataset: TokenDataset, layout: SequenceLayout, text: TextTokenizer, seed: int, caption_dropout: float
    ) -> None:
        bits = [level["num_bits"] for level in dataset.manifest["hierarchy"]["levels"]]
        found = [(tuple(grid), b) for grid, b in zip(dataset.manifest["grids"], bits, strict=True)]
        wanted = [(tuple(g), sum(b.bits for b in row)) for g, row in zip(layout.grids, layout.vocab.blocks, strict=True)]
        if found != wanted:
            raise ConfigError(
                f"data.manifest {dataset.path} holds levels of (grid, bits) {found}, the run's hierarchy and video give "
                f"{wanted}; use the hierarchy the video tokenizer was trained with"
            )
        if text.size > layout.vocab.text_size:
            raise ConfigError(f"text.vocab_size {layout.vocab.text_size} is below the text tokenizer's {text.size} pieces")
        self.dataset = dataset
        self.layout = layout
        self.text = text
        self.seed = seed
        self.caption_dropout = caption_dropout

    def __len__(self) -> int:
        return len(self.dataset)

    def tensor(self, index: int, position: int) -> torch.Tensor:  # → (length, width)
        sample = self.dataset[index]
        coin = uniform(np.array([position], dtype=np.uint64), self.seed ^ _DROPOUT_SALT)[0]
        caption = "" if coin < self.caption_dropout else sample.caption
        return torch.from_numpy(self.layout.join(self.text.encode(caption), sample.codes))


class Batches:
    """`batches(step)` → this rank's micro-batches of that step, each (micro_batch, …)."""

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
        block: int,
        threads: int = 1,
    ) -> None:
        """`samples`: the part of the source to draw from (training or validation)."""
        if not samples:
            raise ConfigError(f"no samples to draw from: the dataset has {len(source)}, and validation holds some out")
        self.source = source
        self.samples = samples
        self.order = Order(len(samples), seed, block)
        self.global_batch = global_batch
        places = np.arange(global_batch).reshape(-1, data_ranks, micro_batch)[:, data_rank]
        self.places = places  # (micro-batches, micro_batch)
        self.replaced = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
        self._ahead: dict[int, list[list[Future[torch.Tensor]]]] = {}

    def __call__(self, step: int) -> list[torch.Tensor]:
        for ahead in range(step, step + 1 + _STEPS_AHEAD):
            if ahead not in self._ahead:
                self._ahead[ahead] = self._submit(ahead)
        return [torch.stack([row.result() for row in rows]) for rows in self._ahead.pop(step)]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, step: int) -> list[list[Future[torch.Tensor]]]:
        positions = step * self.global_batch + self.places
        indices = self.order(positions.reshape(-1)).reshape(positions.shape)
        return [
            [self._pool.submit(self._row, int(index), int(position)) for index, position in zip(*pair, strict=True)]
            for pair in zip(indices, positions, strict=True)
        ]

    def _row(self, index: int, position: int) -> torch.Tensor:
        errors: list[Any] = []
        for substitute in range(_DAMAGED_IN_A_ROW):
            try:
                return self.source.tensor(self.samples[(index + substitute) % len(self.samples)], position)
            except (ShardError, VideoError) as error:
                errors.append(error)
                self.replaced += 1
                log.warning("replaced a damaged sample: %s", error)
        raise ShardError(f"{_DAMAGED_IN_A_ROW} damaged samples in a row, the first: {errors[0]}")


def split(size: int, held_out: int) -> tuple[range, range]:
    """Training and validation samples: the last `held_out` are validation (whole sources, where shards keep them together)."""
    held_out = min(held_out, size // 2)
    return range(size - held_out), range(size - held_out, size)
