"""The noise that draws are made with: a pure function of seed, level, cell, sub-code and entry.

A draw is argmax(log p + Gumbel noise), which takes entry i with probability p(i) (Gumbel 1954; Maddison et al. 2014). Because
the noise is fixed beforehand, a video depends on no other video of the batch, on no number of devices and on no number of
drawn levels; a storyboard goes on from its codes alone; and every order of evaluating the slots gives the same codes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from hitvideo.sequence.layout import SequenceLayout


def level_noise(layout: SequenceLayout, level: int, seeds: Sequence[int], device: torch.device) -> list[torch.Tensor]:
    """Gumbel noise of a level for every video: fp32 (B, cells, entries) for each of its sub-codes.

    Drawn on the CPU, so that every device gets the same.
    """
    cells = layout.grids[level].cells
    tables = [[table.to(device) for table in _tables(layout, level, cells, seed)] for seed in seeds]
    return [torch.stack(column) for column in zip(*tables, strict=True)]


def noise_bytes(layout: SequenceLayout, levels: int) -> int:
    """The most that `level_noise` takes for one video of the first `levels` levels."""
    return max(4 * layout.grids[k].cells * sum(each.size for each in layout.vocab.ranges[k]) for k in range(levels))


def race(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Logits and noise (…, entries) → the entry that wins (…)."""
    return (logits + noise).argmax(-1)


def _tables(layout: SequenceLayout, level: int, cells: int, seed: int) -> list[torch.Tensor]:
    digest = hashlib.sha256(f"{seed}:{level}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    # In fp64: of the 2^24 numbers that fp32 has in [0, 1) several would be equal in a level of a million entries.
    sizes = [each.size for each in layout.vocab.ranges[level]]
    drawn = [torch.rand(cells, size, generator=generator, dtype=torch.float64) for size in sizes]
    return [(-(-uniform.clamp_(min=1e-300).log()).log()).float() for uniform in drawn]
