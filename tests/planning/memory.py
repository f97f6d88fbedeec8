"""Measures memory of CPU tensors, for tests that compare it with a plan."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def live_bytes() -> int:
    """Return the bytes of all CPU tensors in this process."""
    gc.collect()
    storages = [t.untyped_storage() for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.device.type == "cpu"]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def peak_above(step: Callable[[], object]) -> int:
    """Return the most bytes that `step` has allocated at any time, above those at its start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as memory:
        step()
    above = most = 0
    for event in sorted(memory.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            above += event.nbytes()
            most = max(most, above)
    return most
