"""The global order of samples: a pure function of size, seed and the number of samples drawn, not of ranks or history.

A Feistel network with cycle walking permutes 0 … n-1 without storing the permutation, so a billion samples need no memory
and the state of a loader is one counter. Groups of consecutive samples are permuted, then the samples within each group,
because a group is one sequential read on shared storage.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]
_ROUNDS = 4


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


def permute(index: UInt64s, size: int, seed: int) -> UInt64s:
    """A bijection of 0 … size-1, applied to each index."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    result = np.array(index, dtype=np.uint64)
    outside = np.ones(result.shape, dtype=bool)
    while outside.any():  # cycle walking: the network permutes a power of four; apply it until inside
        left, right = result[outside] >> np.uint64(half), result[outside] & low
        for turn in range(_ROUNDS):
            left, right = right, left ^ (mix(right, seed * _ROUNDS + turn) & low)
        result[outside] = (left << np.uint64(half)) | right
        outside = result >= np.uint64(size)
    return result


class Order:
    """draw (samples drawn before it) → sample index; every epoch has its own permutation.

    Whole groups are permuted; the samples left over come last in every epoch, shuffled among themselves.
    """

    def __init__(self, size: int, seed: int, read_together: int) -> None:
        if size < 1:
            raise ValueError("an order needs at least one sample")
        self.size = size
        self.seed = seed
        self.read_together = min(read_together, size)
        self.whole_groups = size // self.read_together

    def __call__(self, draws: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Draws (n,), in any order → indices (n,)."""
        draws = np.asarray(draws, dtype=np.uint64)
        indices = np.empty(draws.shape, dtype=np.int64)
        epochs = draws // np.uint64(self.size)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            indices[of_epoch] = self._within(draws[of_epoch] % np.uint64(self.size), int(epoch))
        return indices

    def _within(self, offset: UInt64s, epoch: int) -> npt.NDArray[np.int64]:
        seed = int(mix(np.array([epoch], dtype=np.uint64), self.seed)[0]) >> 8
        place, inside = offset // np.uint64(self.read_together), offset % np.uint64(self.read_together)
        which = place.copy()  # the short group stays last
        whole = place < np.uint64(self.whole_groups)
        which[whole] = permute(place[whole], self.whole_groups, seed)
        indices = np.empty(offset.shape, dtype=np.int64)
        for group in np.unique(which):
            here = which == group
            start = int(group) * self.read_together
            shuffled = permute(inside[here], min(self.read_together, self.size - start), seed + 1 + int(group))
            indices[here] = start + shuffled.astype(np.int64)
        return indices
