"""The global order of samples: a pure function of size, seed and the number of samples drawn, not of ranks or history.

No permutation of the whole is stored, so a billion samples need no memory and the state of a loader is one counter. An
epoch's order is made in three steps (version 2; a checkpoint names its version, and version 1 is kept for old ones):

    blocks     of `read_together` samples are permuted over the whole set
    windows    of about 65,536 samples are cut from the permuted blocks: what a reader touches for some time
    rounds     deal a window out: each round takes one of every 32 neighbours, and shuffles what it took

So a batch has samples of hundreds of blocks, and the clips of one video are in different rounds.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]
WINDOW = 1 << 16
"""Samples in a window, about."""
EXACT = 1 << 16
"""Up to this size a permutation is a sort of hashes; the network's few rounds are too few for small sizes."""
_ONE = np.uint64(1)
_FEISTEL_ROUNDS = 4
_NEIGHBOURS = 32  # a power of two


def mix(value: UInt64s, salt: int) -> UInt64s:
    """splitmix64's finaliser: every bit of value and salt affects every bit of the result."""
    with np.errstate(over="ignore"):
        z = value + np.uint64((salt * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(value: UInt64s, salt: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each value, for random choices such as caption dropout."""
    return (mix(value, salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def derive(seed: int, number: int) -> int:
    """The seed of one epoch, window or round."""
    return int(mix(np.array([number], dtype=np.uint64), seed)[0]) >> 8


def permute(index: UInt64s, size: int, seed: int) -> UInt64s:
    """A bijection of 0 … size-1, applied to each index."""
    return _shuffled(size, seed)[index] if size <= EXACT else feistel(index, size, seed)


@lru_cache(maxsize=64)
def _shuffled(size: int, seed: int) -> UInt64s:
    return np.argsort(mix(np.arange(size, dtype=np.uint64), seed)).astype(np.uint64)


@lru_cache(maxsize=64)
def _round(first: int, end: int, blocks: int, strips: int, deal: int, turn: int, seed: int) -> UInt64s:
    """The samples of a round of one window, the permuted blocks `first` … `end`-1 of `blocks`: one of each strip.

    A block is `strips` strips of `deal` neighbours.
    """
    block = permute(np.arange(first, end, dtype=np.uint64), blocks, seed)
    strip: UInt64s = np.add.outer(block * np.uint64(strips), np.arange(strips, dtype=np.uint64)).reshape(-1)
    coin = mix(strip, seed + 1)  # any start and an odd step: in its own order, a strip gives each sample in one of the turns
    within = (np.uint64(turn) * (coin >> np.uint64(32) | _ONE) + coin) % np.uint64(deal)
    shuffle = np.argsort(mix(strip, derive(seed + 2, turn)))
    return (strip * np.uint64(deal) + within)[shuffle]


def feistel(index: UInt64s, size: int, seed: int) -> UInt64s:
    """A bijection of 0 … size-1 for any size, by a Feistel network with cycle walking."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    result = np.array(index, dtype=np.uint64)
    outside = np.ones(result.shape, dtype=bool)
    while outside.any():  # cycle walking: the network permutes a power of four; apply it until inside
        left, right = result[outside] >> np.uint64(half), result[outside] & low
        for turn in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (mix(right, seed * _FEISTEL_ROUNDS + turn) & low)
        result[outside] = (left << np.uint64(half)) | right
        outside = result >= np.uint64(size)
    return result


class Order:
    """draw (samples drawn before it) → sample index; every epoch has its own permutation."""

    def __init__(self, size: int, seed: int, read_together: int) -> None:
        if size < 1:
            raise ValueError("an order needs at least one sample")
        self.size = size
        self.seed = seed
        self.read_together = min(read_together, size)
        self._blocks = -(-size // self.read_together)
        self._windows = max(1, round(self._blocks / max(1, WINDOW // self.read_together)))
        self._deal = math.gcd(self.read_together, _NEIGHBOURS)  # rounds of a window, and neighbours that none has two of

    def __call__(self, draws: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Draws (n,), in any order → indices (n,)."""
        draws = np.asarray(draws, dtype=np.uint64)
        indices = np.empty(draws.shape, dtype=np.int64)
        epochs = draws // np.uint64(self.size)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            indices[of_epoch] = self._within(draws[of_epoch] % np.uint64(self.size), derive(self.seed, int(epoch)))
        return indices

    def _within(self, offset: UInt64s, seed: int) -> UInt64s:
        """Places in an epoch → indices."""
        if self._windows == 1:
            return permute(offset, self.size, seed)
        found = self._dealt(offset, seed)
        while (outside := found >= np.uint64(self.size)).any():  # the last block is short: walk on from its missing samples
            found[outside] = self._dealt(found[outside], seed)
        return found

    def _dealt(self, place: UInt64s, seed: int) -> UInt64s:
        """A bijection of the samples of all blocks, counting the last one as whole."""
        together, deal, blocks, windows = self.read_together, self._deal, self._blocks, self._windows
        window = ((place // np.uint64(together) + _ONE) * np.uint64(windows) - _ONE) // np.uint64(blocks)
        found = np.empty_like(place)
        for number in np.unique(window).tolist():
            first, end = (w * blocks // windows for w in (number, number + 1))
            of_window = np.flatnonzero(window == np.uint64(number))
            per_round = (end - first) * together // deal
            turn, within = np.divmod(place[of_window] - np.uint64(first * together), np.uint64(per_round))
            for taken in np.unique(turn).tolist():
                here = turn == np.uint64(taken)
                key = first, end, blocks, together // deal, deal, taken, seed
                found[of_window[here]] = _round(*key)[within[here]]
        return found


class FirstOrder(Order):
    """Version 1: whole blocks are permuted, then the samples of each; those left over come last in every epoch."""

    def _within(self, offset: UInt64s, seed: int) -> UInt64s:
        together, whole_blocks = np.uint64(self.read_together), self.size // self.read_together
        place, inside = offset // together, offset % together
        which = place.copy()  # the short block stays last
        whole = place < np.uint64(whole_blocks)
        which[whole] = feistel(place[whole], whole_blocks, seed)
        indices = np.empty_like(offset)
        for block in np.unique(which):
            here = which == block
            start = int(block) * self.read_together
            shuffled = feistel(inside[here], min(self.read_together, self.size - start), seed + 1 + int(block))
            indices[here] = np.uint64(start) + shuffled
        return indices


ORDERS: dict[int, type[Order]] = {1: FirstOrder, 2: Order}
"""Version → the order of samples. A checkpoint without a version has 1."""
NEWEST_ORDER = max(ORDERS)
