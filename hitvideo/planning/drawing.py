"""How long one device takes to draw a video: what each pass must read and compute, and what Python takes to launch it.

A pass reads all weights of the trunk, its level's head, and the keys and values of all slots before it. With few slots a pass,
as when drawing one by one, that reading is the time (Pope et al. 2022). A pass that is launched kernel by kernel also waits for
Python, a third of a training layer's time for each layer; compiled into a CUDA graph, it does not.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from hitvideo.llm.model import LanguageModel
from hitvideo.settings.cluster import ClusterSection

_ROWS = 2  # of one video with guidance
_BYTES = 2  # of bf16
_FORWARD = 1 / 3  # of a layer's forward and backward


class Drawing(NamedTuple):
    """Of the first levels of one video, with guidance, in bf16 on one device."""

    passes: int
    device_s: float
    """Reading and computing."""
    launched_s: float
    """The same if Python launches every kernel: the longer of both, pass by pass."""


def drawing(model: LanguageModel, cluster: ClusterSection, levels: int, grouped: bool = False) -> Drawing | None:
    """Drawn one by one, or with `grouped` by groups; None without cluster.memory_gbs, or if weights and cache do not fit."""
    layout, llm, order = model.layout, model.section, model.layout.grouped if grouped else None
    bandwidth = (cluster.memory_gbs or 0) * 1e9
    trunk, slot = _matrices(model.trunk), _ROWS * 2 * llm.layers * llm.kv_heads * llm.head_dim * _BYTES
    if not bandwidth or trunk * _BYTES + layout.starts[levels] * slot > cluster.memory_gib * (1 << 30):
        return None
    python = llm.layers * cluster.rates.host_ms_per_layer * _FORWARD / 1e3
    device = launched = 0.0
    passes, seen = 0, 0
    for level in range(levels):
        cells = layout.grids[level].cells
        count = len(order.levels[level]) if order else cells
        head = _matrices(model.heads[level])
        for _ in range(count):
            new = (layout.window if not passes else 0) + cells // count
            reads = (trunk + head) * _BYTES + (seen + new) * slot
            flops = 2 * _ROWS * (trunk * new + head * cells // count)
            time = max(reads / bandwidth, flops / (cluster.peak_tflops * 1e12 * cluster.rates.gemm_efficiency))
            device, launched = device + time, launched + max(time, python)
            passes, seen = passes + 1, seen + new
    return Drawing(passes, device, launched)


def _matrices(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)
