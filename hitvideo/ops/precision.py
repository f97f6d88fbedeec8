"""The dtypes that settings can name, whether a device computes in bf16, and a context that turns autocast off."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """A context with autocast off on the tensor's device. Does nothing if the device has no autocast (meta)."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16: GPUs from Ampere on, x86 with AVX512-BF16 or AMX. Others emulate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
