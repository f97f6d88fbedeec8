"""The dtypes that settings can name, and a context that turns autocast off."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """A context with autocast off on the tensor's device. Does nothing if the device has no autocast (meta)."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
