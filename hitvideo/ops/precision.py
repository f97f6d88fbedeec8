"""Number formats."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Autocast switched off on the tensor's device; nothing to do where there is none (meta)."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
