"""Statistics of which codes a video tokenizer uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@torch.no_grad()
def code_use(codes: Sequence[Tensor], num_bits: Sequence[int]) -> dict[str, Tensor]:
    """Code statistics of a micro-batch, coarsest level first, which reveal a collapse of the codes early.

    `used_level_k` counts distinct codes; `balance_level_k` is min(mean, 1 - mean) of the most one-sided bit, 0 if it is dead.
    """
    found = {}
    for k, (indices, bits) in enumerate(zip(codes, num_bits, strict=True)):
        shifts = torch.arange(bits, device=indices.device)
        mean = ((indices.flatten()[:, None] >> shifts) & 1).float().mean(dim=0)  # (bits,)
        # By sorting: the number of distinct codes then stays on the device, and so does the host's lead over a GPU.
        found[f"used_level_{k}"] = (indices.flatten().sort().values.diff() != 0).sum().float() + 1
        found[f"balance_level_{k}"] = torch.minimum(mean, 1 - mean).min()
    return found


class CodeCounts:
    """Counts of a level's distinct codes, and of how often each bit is 1."""

    def __init__(self, num_bits: int) -> None:
        self._codes: set[int] = set()
        self._ones = np.zeros(num_bits)
        self._cells = 0

    def add(self, indices: torch.Tensor) -> None:
        """Count `indices`, integers below 2**num_bits of any shape."""
        flat = indices.flatten().cpu().numpy()
        self._codes.update(flat.tolist())
        self._ones += ((flat[:, None] >> np.arange(len(self._ones))) & 1).sum(0)
        self._cells += len(flat)

    @property
    def used(self) -> int:
        return len(self._codes)

    @property
    def balance(self) -> npt.NDArray[np.float64]:
        """min(mean, 1 - mean) of every bit: 0.5 if it is balanced, 0 if it never changes."""
        mean = self._ones / max(self._cells, 1)
        balance: npt.NDArray[np.float64] = np.minimum(mean, 1 - mean)
        return balance
