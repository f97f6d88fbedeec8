"""What a run is and takes besides its settings: facts of a start, and what its ranks use of their machines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from hitvideo.planning.flops import meta_model
from hitvideo.runs.system import Gpu, host_memory_gib, host_memory_used
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun

if TYPE_CHECKING:
    from pretrain.task import Task


def facts_of(task: Task, settings: VideoTokenizerRun | PretrainRun) -> dict[str, Any]:
    """Parameters, tokens of a step, layout and device."""
    topology = task.topology
    model = meta_model(settings) if isinstance(settings, PretrainRun) else task.engine.model
    counts = [getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters()]
    device = topology.device
    return {
        "parameters": sum(counts),
        "tokens_per_step": task.cost(0).tokens * task.train.global_batch,
        "ranks": topology.world,
        "layout": f"data {topology.data} x tensor {topology.tensor} x context {topology.context}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "data": task.fingerprint.data,
    }


class Usage:
    """Memory, load, power and temperature over all ranks: of memory and temperature the greatest, else the mean."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._gpu = Gpu(str(torch.cuda.get_device_properties(device).uuid)) if device.type == "cuda" else None

    def row(self) -> dict[str, float]:
        """Equal on all ranks, all of which must call it; without what a rank could not read."""
        greatest = {"host_memory_gib": host_memory_gib(), "host_memory_used": host_memory_used()}
        mean = {}
        if self._gpu:
            greatest["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self._device) / 2**30
            greatest["gpu_celsius"] = self._gpu.celsius
            mean = {"gpu_load": self._gpu.load, "gpu_watts": self._gpu.watts}
        values = [*greatest.values(), *mean.values()]
        packed = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(packed[: len(greatest)], op=dist.ReduceOp.MAX)
        if mean:
            dist.all_reduce(packed[len(greatest) :])
            packed[len(greatest) :] /= dist.get_world_size()
        found = zip([*greatest, *mean], packed.tolist(), strict=True)
        return {name: value for name, value in found if not math.isnan(value)}
