"""What a rank takes of its machine: memory of host and GPU, the GPU's load, power and temperature.

Read from /proc and from NVIDIA's management library, which comes with the driver: no package is needed, and a reading takes
well under a millisecond. What cannot be read is NaN.
"""

from __future__ import annotations

import ctypes
import math
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any


def host_memory_gib() -> float:
    """Memory of this process that is in RAM."""
    return _kib("/proc/self/status", "VmRSS") / 2**20


def host_memory_used() -> float:
    """Share of the machine's memory that is in use, by all processes."""
    return 1 - _kib("/proc/meminfo", "MemAvailable") / _kib("/proc/meminfo", "MemTotal")


def _kib(file: str, name: str) -> float:
    with suppress(OSError, ValueError, IndexError):
        for line in Path(file).read_text().splitlines():
            if line.startswith(f"{name}:"):
                return float(line.split()[1])
    return math.nan


class Gpu:
    """Readings of one GPU, by the id that CUDA gives it (`GPU-…` without its first word)."""

    def __init__(self, uuid: str) -> None:
        self._library, self._handle = _library(), ctypes.c_void_p()
        if self._library and self._library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(self._handle)):
            self._library = None

    @property
    def load(self) -> float:
        """Share of the last moments in which a kernel ran."""
        found = (ctypes.c_uint * 2)()
        return found[0] / 100 if self._reads("nvmlDeviceGetUtilizationRates", found) else math.nan

    @property
    def watts(self) -> float:
        found = ctypes.c_uint()
        return found.value / 1000 if self._reads("nvmlDeviceGetPowerUsage", ctypes.byref(found)) else math.nan

    @property
    def celsius(self) -> float:
        found = ctypes.c_uint()
        return float(found.value) if self._reads("nvmlDeviceGetTemperature", 0, ctypes.byref(found)) else math.nan

    def _reads(self, name: str, *more: Any) -> bool:
        return bool(self._library) and getattr(self._library, name)(self._handle, *more) == 0


@cache
def _library() -> Any:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None
