"""Several datasets as one, drawn by weight: dataset and sample are functions of the draw alone, without state.

Draws come in periods of 1024. In every period dataset k has places in proportion to its weight (largest remainders),
spread by a permutation of the period. So the shares are exact, and the number of samples drawn from each dataset before a
draw is known without counting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hitvideo import config
from hitvideo.config import needed
from hitvideo.data.order import NEWEST_ORDER, ORDERS, derive, feistel, permute
from hitvideo.data.token_records import TokenSample
from hitvideo.data.token_shards import Int64s, TokenDataset, TokenRows
from hitvideo.errors import ConfigError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import TokenDataSection

PERIOD = 1024
_SALT = 0xB1E4D


def open_tokens(data: TokenDataSection, clip: ClipShape | None = None) -> TokenDataset | Blend:
    """The dataset or blend that a run trains on; `clip` chooses the bucket. Raises ConfigError, ShardError."""
    if not data.blend:
        return TokenDataset(needed(data.manifest, "data.manifest"), clip)
    parts = [TokenDataset(part.manifest, clip) for part in data.blend]
    return Blend(parts, [part.weight for part in data.blend], data.validation_samples)


def shares(weights: Sequence[float], places: int = PERIOD) -> list[int]:
    """Whole numbers in proportion to the weights that sum to `places`; each is at least 1."""
    exact = np.array(weights, dtype=np.float64) / sum(weights) * places
    counts = np.maximum(1, np.floor(exact).astype(int))
    while counts.sum() != places:
        step = 1 if counts.sum() < places else -1
        gain = np.where(counts + step >= 1, (exact - counts) * step, -np.inf)
        counts[int(gain.argmax())] += step
    return [int(count) for count in counts]


class BlendedOrder:
    """draw → place in the concatenated parts; a pure function of sizes, weights, seed and draw."""

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], seed: int, read_together: int, version: int = NEWEST_ORDER
    ) -> None:
        self.orders = [ORDERS[version](size, seed + number, read_together) for number, size in enumerate(sizes)]
        self._permute = feistel if version == 1 else permute
        self.first = np.cumsum([0, *sizes])
        self.counts = shares(weights)
        self.bounds = np.cumsum([0, *self.counts])
        self.seed = seed

    def __call__(self, draws: npt.ArrayLike) -> Int64s:
        """Draws (n,) → places (n,)."""
        draws = np.asarray(draws, dtype=np.uint64)
        periods, slots = draws // np.uint64(PERIOD), draws % np.uint64(PERIOD)
        found = np.empty(draws.shape, dtype=np.int64)
        for period in np.unique(periods):
            here = periods == period
            place = self._permute(slots[here], PERIOD, derive(self.seed ^ _SALT, int(period))).astype(np.int64)
            which = np.searchsorted(self.bounds, place, side="right") - 1
            drawn = np.array(self.counts)[which] * int(period) + place - self.bounds[which]
            result = np.empty(place.shape, dtype=np.int64)
            for number in np.unique(which):
                mine = which == number
                result[mine] = self.first[number] + self.orders[number](drawn[mine])
            found[here] = result
        return found


@dataclass(frozen=True)
class _Segment:
    """A run of samples that are consecutive in the blend and in one of its datasets."""

    dataset: int
    first: int
    size: int


class Blend:
    """Several datasets with one numbering: first the training part of each, then the held-out end of each.

    So `split(len(blend), held_out)` holds out samples of all of them, in proportion to their sizes.
    """

    def __init__(self, datasets: Sequence[TokenDataset], weights: Sequence[float], held_out: int) -> None:
        """Raises ConfigError if a dataset is empty, or differs from the first in hierarchy, grids or video tokenizer."""
        self.datasets, self.weights = list(datasets), list(weights)
        self.manifest = self.datasets[0].manifest
        self.path: Path = self.datasets[0].path
        for other in self.datasets[1:]:
            for key in ("hierarchy", "video_tokenizer"):
                if _identity(other.manifest[key]) != _identity(self.manifest[key]) or other.grids != self.datasets[0].grids:
                    raise ConfigError(f"data.blend: {other.path} and {self.path} differ in {key} or grids; tokenize both alike")
        if empty := [str(dataset.path) for dataset in self.datasets if not len(dataset)]:
            raise ConfigError(f"data.blend: {empty[0]} has no samples; leave it out")
        self.grids, self.tokens = self.datasets[0].grids, self.datasets[0].tokens
        parts = [dataset.digest for dataset in self.datasets]
        self.digest = config.fingerprint({"parts": parts, "weights": self.weights, "held_out": held_out})
        sizes = [len(dataset) for dataset in self.datasets]
        held_out = min(held_out, sum(sizes) // 2)
        tails = [held_out * size // sum(sizes) for size in sizes]
        tails[int(np.argmax(sizes))] += held_out - sum(tails)
        bodies = [_Segment(k, 0, size - tail) for k, (size, tail) in enumerate(zip(sizes, tails, strict=True))]
        ends = [_Segment(k, size - tail, tail) for k, (size, tail) in enumerate(zip(sizes, tails, strict=True))]
        self._segments = [*bodies, *ends]
        self._starts = np.cumsum([0] + [segment.size for segment in self._segments])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[TokenSample]:
        return (sample for dataset in self.datasets for sample in dataset)

    def __getitem__(self, sample: int) -> TokenSample:
        """Like `TokenDataset.__getitem__`."""
        number = int(np.searchsorted(self._starts, sample, side="right")) - 1
        segment = self._segments[number]
        return self.datasets[segment.dataset][sample - int(self._starts[number]) + segment.first]

    def place(self, sample: int) -> str:
        """Like `TokenDataset.place`."""
        number = int(np.searchsorted(self._starts, sample, side="right")) - 1
        segment = self._segments[number]
        return self.datasets[segment.dataset].place(sample - int(self._starts[number]) + segment.first)

    def captions(self, most: int | None = None, seed: int = 0) -> Iterator[str]:
        """Like `TokenDataset.captions`; of a sample, each dataset gives a part in proportion to its size."""
        for dataset in self.datasets:
            yield from dataset.captions(None if most is None else max(1, most * len(dataset) // len(self)), seed)

    def order(self, samples: range, seed: int, read_together: int, version: int = NEWEST_ORDER) -> BlendedOrder:
        """The order in which a part of the blend is drawn: draw → place in `samples`, which must be whole segments."""
        inside = [
            (segment.size, self.weights[segment.dataset])
            for segment, start in zip(self._segments, self._starts, strict=False)
            if segment.size and samples.start <= start < samples.stop
        ]
        assert sum(size for size, _ in inside) == len(samples), "samples must be the training part, the held-out part, or all"
        return BlendedOrder([size for size, _ in inside], [weight for _, weight in inside], seed, read_together, version)

    def read(self, samples: Sequence[int] | Int64s) -> TokenRows:
        """Like `TokenDataset.read`."""
        samples = np.asarray(samples, dtype=np.int64)
        rows = TokenRows(np.empty((len(samples), self.tokens), np.int64), [b'""'] * len(samples), {})
        which = np.searchsorted(self._starts, samples, side="right") - 1
        for number in np.unique(which):
            segment, places = self._segments[number], np.flatnonzero(which == number)
            part = self.datasets[segment.dataset].read(samples[places] - self._starts[number] + segment.first)
            rows.codes[places] = part.codes
            for row, caption in zip(places.tolist(), part.captions, strict=True):
                rows.captions[row] = caption
            rows.damaged |= {int(places[row]): error for row, error in part.damaged.items()}
        return rows


def _identity(description: dict[str, Any]) -> dict[str, Any]:
    """A manifest's description without paths, which may differ between equal tokenizers."""
    return {key: value for key, value in description.items() if key != "weights"}
