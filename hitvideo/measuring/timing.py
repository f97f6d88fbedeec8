"""Times calls on a device, one or several in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], Any]


def finish(device: torch.device) -> None:
    """Wait until the device has done what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(calls: Mapping[str, Call], device: torch.device, rounds: int = 5) -> dict[str, float]:
    """Median seconds of each call. They alternate, so that whatever else the machine does meets all alike; the first round is
    a warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            finish(device)
            start = time.perf_counter()
            call()
            finish(device)
            if number:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def seconds(call: Call, device: torch.device, rounds: int = 5, repeats: int = 1) -> float:
    """Median seconds of one call; `repeats` of them are launched before the device is waited for."""

    def several() -> None:
        for _ in range(repeats):
            call()

    return in_turn({"": several}, device, rounds)[""] / repeats


def peak_bytes(call: Call, device: torch.device) -> int:
    """The most bytes that the call has allocated at any time, above those at its start."""
    if device.type == "cuda":
        finish(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        finish(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as memory:
        call()
    above = most = 0
    for event in sorted(memory.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            above += event.nbytes()
            most = max(most, above)
    return most
