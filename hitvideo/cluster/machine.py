"""What a node has for its ranks: GPUs, their driver, torch's CUDA build, and CPU cores near each GPU."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

SYSTEM = Path("/sys")
DEVICES = Path("/dev")
DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/sys/module/amdgpu/version"))
_BROKEN = (RuntimeError, AssertionError)  # what torch raises for a GPU that does not answer, or without CUDA
LEAST_CPUS = 2
"""Of a rank: its own thread, and those that load data, write checkpoints and run collectives."""


def hardware() -> dict[str, str]:
    """The GPUs' number and name, the driver and the build of torch, which must be equal on all nodes."""
    import torch

    count = torch.cuda.device_count()
    try:
        names = sorted({torch.cuda.get_device_name(number) for number in range(count)})
    except _BROKEN as error:
        names = [f"unreadable: {error}"]
    build = torch.version.cuda or (torch.version.hip and f"rocm {torch.version.hip}")
    return {"GPUs": str(count), "GPU": ", ".join(names) or "none", "driver": _driver() or "none", "CUDA": build or "none"}


def _driver() -> str | None:
    """The version of the GPUs' kernel driver; None without a driver."""
    for path in DRIVERS:
        with suppress(OSError):
            text = path.read_text()
            found = re.search(r"\d+\.\d+(\.\d+)?", text.splitlines()[0])
            return found[0] if found else text.strip()
    return None


def granted_gpus(environment: Mapping[str, str]) -> int:
    """How many GPUs this step of a Slurm job was given: as Slurm says, else the device files; 0 outside a job."""
    if "SLURM_JOB_ID" not in environment:
        return 0
    said = environment.get("SLURM_GPUS_ON_NODE", "")
    return int(said) if said.isdigit() else len(list(DEVICES.glob("nvidia[0-9]*")))


def node_name(environment: Mapping[str, str]) -> str:
    """This node's name in Slurm, which need not be its host name; outside a job its host name without the domain."""
    return environment.get("SLURMD_NODENAME") or os.uname().nodename.split(".")[0]


def no_numa_binding() -> str | None:
    """Why torchrun's --numa-binding=node would end a rank here; None if it works."""
    import torch

    if not torch.cuda.device_count():
        return "there are no GPUs"
    if shutil.which("numactl") is None:
        return "numactl is not installed"
    allowed = os.sched_getaffinity(0)
    for number in range(torch.cuda.device_count()):
        try:
            gpu = torch.cuda.get_device_properties(number)
            address = f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0"  # type: ignore[attr-defined]
            node = max(int((SYSTEM / f"bus/pci/devices/{address}/numa_node").read_text()), 0)  # -1: the only one
            near = cpu_list((SYSTEM / f"devices/system/node/node{node}/cpulist").read_text())
        except (OSError, *_BROKEN) as error:
            return f"the NUMA node of GPU {number} is not known: {error}"
        if not near & allowed:
            return f"the job has no CPU on the NUMA node of GPU {number}"
    return None


def cpu_list(text: str) -> set[int]:
    """The numbers in Linux' notation: `0-2,8` is {0, 1, 2, 8}."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found
