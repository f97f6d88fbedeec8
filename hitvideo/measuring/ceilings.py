"""What this machine reaches at best: rates of a large matrix product, of convolutions and of a copy in memory.

A benchmark measures them in the same run as what it compares, and gives its figures as fractions of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hitvideo.measuring.timing import seconds

_SIDE = {"cuda": 8192, "cpu": 1024}
_COPIED = {"cuda": 1 << 30, "cpu": 1 << 28}  # bytes


def product_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """FLOP/s of a product of two square matrices."""
    side = side or _SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * side**3 / seconds(lambda: left @ right, device, repeats=4)


def convolution_rate(device: torch.device, dtype: torch.dtype, channels: int = 128) -> float:
    """FLOP/s of a 3 × 3 convolution that keeps its channels, which lie last in memory, on 8 pictures."""
    pictures = torch.randn(8, channels, 64, 64, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    flops = 2.0 * pictures.numel() * channels * 9
    with torch.no_grad():
        return flops / seconds(lambda: F.conv2d(pictures, weight, padding=1), device, repeats=2)


def copy_rate(device: torch.device, size: int | None = None) -> float:
    """Bytes per second that a copy reads and writes together."""
    source = torch.ones((size or _COPIED[device.type]) // 4, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / seconds(lambda: target.copy_(source), device, repeats=2)
