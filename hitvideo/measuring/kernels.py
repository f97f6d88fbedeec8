"""Rates of a language model's kernels on this device, as the step model (planning/simulation/step.py) counts them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from hitvideo.measuring.timing import seconds
from hitvideo.ops.attention import attention, choose
from hitvideo.ops.precision import DTYPES
from hitvideo.planning.simulation.step import ATTENTION_BACKWARD
from hitvideo.settings.programs import PretrainRun

_REPEATS = {"cuda": 50, "cpu": 1}  # long enough for a GPU's power limit to show


class Products(NamedTuple):
    """What large matrix products reach: share of the peak, and the width at which they reach half of it."""

    efficiency: float
    narrow: float


def products(settings: PretrainRun, slots: int, device: torch.device) -> Products:
    """From products of the run's slots with matrices whose narrower side is the model's width, and an eighth of it."""
    llm, dtype = settings.llm, DTYPES[settings.train.dtype]
    x = torch.randn(settings.train.micro_batch * slots, llm.hidden, device=device, dtype=dtype)
    per_flop = {}
    for side in (llm.width, max(llm.width // 8, 1)):
        weight = torch.randn(llm.hidden, side, device=device, dtype=dtype)
        taken = seconds(lambda weight=weight: x @ weight, device, repeats=_REPEATS[device.type])  # type: ignore[misc]
        per_flop[side] = taken / (2.0 * x.numel() * side)
    return fitted(per_flop, settings.cluster.peak_tflops * 1e12)


def fitted(per_flop: dict[int, float], peak: float) -> Products:
    """The constants that explain the seconds for a FLOP at two sides: (1 + narrow / side) / (peak × efficiency)."""
    (wide, quick), (thin, slow) = sorted(per_flop.items(), reverse=True)
    slope = max(slow - quick, 0.0) / (1 / thin - 1 / wide)  # narrow / (peak × efficiency)
    best = max(quick - slope / wide, quick / 2)
    return Products(min(1 / (best * peak), 1.0), slope / best)


def attention_efficiency(settings: PretrainRun, slots: int, device: torch.device) -> tuple[float, float, float]:
    """Share of the peak that attention reaches in forward and backward, and seconds of both, for one layer's micro-batch."""
    llm, dtype, rows = settings.llm, DTYPES[settings.train.dtype], settings.train.micro_batch
    shapes = [(rows, slots, heads, llm.head_dim) for heads in (llm.heads, llm.kv_heads, llm.kv_heads)]
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for shape in shapes)
    backend = choose(llm.attention, device, dtype)

    def forward() -> torch.Tensor:
        return attention(q, k, v, causal=True, backend=backend)

    gradient = torch.randn_like(forward())

    def both() -> None:
        torch.autograd.grad(forward(), (q, k, v), gradient)

    repeats = _REPEATS[device.type]
    with torch.no_grad():
        once = seconds(forward, device, repeats=repeats)
    twice = seconds(both, device, repeats=repeats)
    flops = rows * 2.0 * slots * slots * llm.heads * llm.head_dim  # q·k and p·v of half the keys
    share = (1 + ATTENTION_BACKWARD) * flops / twice / (settings.cluster.peak_tflops * 1e12)
    return min(share, 1.0), once, max(twice - once, 0.0)
