"""Measures memory of CPU tensors, for tests that compare it with a plan."""

from __future__ import annotations

import gc

import torch


def live_bytes() -> int:
    """Return the bytes of all CPU tensors in this process."""
    gc.collect()
    storages = [t.untyped_storage() for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.device.type == "cpu"]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())
