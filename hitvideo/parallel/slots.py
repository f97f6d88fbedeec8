"""Collectives that divide a row's slots over the ranks of a group: each rank holds l = L / ranks consecutive slots.

ZeRO averages gradients over data × context ranks, but context ranks hold parts of one row, not separate rows. So for them
(`averaged=True`) gradients between scatter and gather are multiplied by the number of ranks, and nowhere else.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.mappings import all_to_all


def scatter(x: torch.Tensor, group: dist.ProcessGroup, averaged: bool = False) -> torch.Tensor:
    """Keep this rank's slots: (B, L, D), equal on all ranks → (B, l, D)."""
    return cast(torch.Tensor, _Scatter.apply(x, group, averaged))  # type: ignore[no-untyped-call]


def gather(x: torch.Tensor, group: dist.ProcessGroup, averaged: bool = False) -> torch.Tensor:
    """Join all ranks' slots: (B, l, D) → (B, L, D), equal on all ranks, which must all compute the same from it."""
    return cast(torch.Tensor, _Gather.apply(x, group, averaged))  # type: ignore[no-untyped-call]


def to_heads(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Trade l slots of all heads for all slots of n = N / ranks heads: (B, l, N, K) → (B, L, n, K)."""
    ranks = group.size()
    batch, slots, heads, dims = x.shape
    sent = x.view(batch, slots, ranks, heads // ranks, dims).permute(2, 0, 1, 3, 4)
    got: torch.Tensor = all_to_all(group, sent)  # (ranks, B, l, n, K), in the order of the slots
    return got.permute(1, 0, 2, 3, 4).reshape(batch, ranks * slots, heads // ranks, dims)


def to_slots(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Invert `to_heads`: (B, L, n, K) → (B, l, N, K)."""
    ranks = group.size()
    batch, slots, heads, dims = x.shape
    sent = x.view(batch, ranks, slots // ranks, heads, dims).transpose(0, 1)
    got: torch.Tensor = all_to_all(group, sent)  # (ranks, B, l, n, K), in the order of the heads
    return got.permute(1, 2, 0, 3, 4).reshape(batch, slots // ranks, ranks * heads, dims)


def _mine(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    return x.chunk(group.size(), dim=1)[group.rank()].contiguous()


def _all(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(group.size())]
    dist.all_gather(parts, x.contiguous(), group=group)
    return torch.cat(parts, dim=1)


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup, averaged: bool) -> torch.Tensor:
        ctx.group, ctx.scale = group, group.size() if averaged else 1
        return _mine(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        return _all(gradient / ctx.scale, ctx.group), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup, averaged: bool) -> torch.Tensor:
        ctx.group, ctx.scale = group, group.size() if averaged else 1
        return _all(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        return _mine(gradient, ctx.group) * ctx.scale, None, None
