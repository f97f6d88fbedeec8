"""Rates of collectives between this run's ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist

from hitvideo.measuring.timing import seconds


def gather_rate(size: int, device: torch.device) -> float:
    """Bytes per second that a rank receives while all gather a buffer of `size` bytes."""
    world = dist.get_world_size()
    mine = torch.ones(size // world // 2, dtype=torch.bfloat16, device=device)
    whole = torch.empty(world * len(mine), dtype=torch.bfloat16, device=device)
    taken = seconds(lambda: dist.all_gather_into_tensor(whole, mine), device, repeats=5)
    return (world - 1) * mine.nbytes / taken


def latency_us(device: torch.device) -> float:
    """Time of the smallest collective for each rank that its ring passes."""
    value = torch.ones(1, device=device)
    return 1e6 * seconds(lambda: dist.all_reduce(value), device, repeats=50) / (2 * (dist.get_world_size() - 1))
