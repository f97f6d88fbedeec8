"""Rotary position embedding over any number of axes, always in fp32 (Su et al. 2021; the axis split of Cosmos and flux).

A head's dimensions are divided among the axes, each with its own frequencies: axis a with d dimensions turns pair i by
position[a] · theta^(-2i/d). Pairs are (x[i], x[i + K/2]), the half-split convention of Llama. With one axis this is
Llama's RoPE. Positions may be fractions: a coarse cell is at its centre among finer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


class Rotation(NamedTuple):
    """cos and sin of every pair's angle, each (…, L, K/2) in fp32."""

    cos: torch.Tensor
    sin: torch.Tensor


def rotation(positions: torch.Tensor, axes: Sequence[int], theta: float) -> Rotation:
    """positions (…, L, len(axes)) → the rotation of every pair. `axes`: dimensions per axis, even, summing to K."""
    angles = []
    for axis, dims in enumerate(axes):
        ladder = theta ** (-torch.arange(0, dims, 2, dtype=torch.float64, device=positions.device) / dims)
        angles.append(positions[..., axis, None].double() * ladder)  # (…, L, dims/2)
    turn = torch.cat(angles, dim=-1)
    return Rotation(turn.cos().float(), turn.sin().float())


def rotate(x: torch.Tensor, turn: Rotation) -> torch.Tensor:
    """x (B, L, N, K) rotated by `turn` (L, K/2); computed in fp32, returned in x's dtype."""
    cos, sin = turn.cos[..., None, :], turn.sin[..., None, :]  # (L, 1, K/2)
    x1, x2 = x.float().chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1).to(x.dtype)
