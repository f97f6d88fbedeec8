"""Memory of model states under ZeRO as DeepSpeed lays them out (Rajbhandari et al. 2020, arXiv 1910.02054, figure 1)."""

from __future__ import annotations

from dataclasses import dataclass

from hitvideo.ops.precision import DTYPES
from hitvideo.settings.training import ParallelSection, TrainSection

GIB = 1 << 30
FP32_BYTES = 4
_CONTEXT = 0.5 * GIB
"""CUDA's context, loaded kernels and cuBLAS' workspace: an assumption."""
_FIRST_COMMUNICATOR, _COMMUNICATOR = 1.0 * GIB, 0.65 * GIB
"""Buffers of NCCL's communicators, the first with what all share: 0.54 to 0.69 GB each on four A100 (NVIDIA/nccl, issue 964),
1 GiB and 0.65 GiB for each further one with RCCL (Lumi-supercomputer/LUMI-AI-Guide, issue 111)."""


@dataclass(frozen=True)
class ModelStates:
    """Bytes of each kind of state on one rank."""

    weights: float
    """Weights in the training dtype."""
    gradients: float
    """Gradients in fp32."""
    masters: float
    """The fp32 copy of the weights; 0 without ZeRO, when the weights themselves are fp32."""
    moments: float
    """Both Adam moments."""
    average: float
    """The moving average of the weights, if the run keeps one."""
    gathered: float
    """Weights of other ranks while ZeRO-3 needs them."""
    buckets: float
    """Gradients being reduced."""

    @property
    def optimizer(self) -> float:
        """The fp32 weights and both moments."""
        return self.masters + self.moments

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.average + self.gathered + self.buckets


def model_states(
    parameters: float, parallel: ParallelSection, train: TrainSection, shards: int, block: float = 0
) -> ModelStates:
    """Return the states of `parameters` weights (one tensor-parallel rank's share), partitioned over `shards` ranks.

    `block`: weights of the largest module that ZeRO-3 gathers at once.
    """
    stage, width = parallel.zero_stage, DTYPES[train.dtype].itemsize
    weights_by, gradients_by, optimizer_by = (shards if stage >= limit else 1 for limit in (3, 2, 1))
    fp32 = FP32_BYTES * parameters
    return ModelStates(
        weights=width * parameters / weights_by,
        gradients=fp32 / gradients_by,
        masters=fp32 / optimizer_by if stage else 0,
        moments=2 * fp32 / optimizer_by,
        average=fp32 / optimizer_by if train.ema else 0,
        gathered=width * min(parameters, parallel.live_parameters) if stage == 3 and shards > 1 else 0,
        buckets=_bucket_bytes(stage, width) * (max(parallel.bucket, block) if stage == 3 else parallel.bucket),
    )


def _bucket_bytes(stage: int, width: int) -> int:
    """Bytes for each entry of a bucket of gradients, as DeepSpeed 0.19 allocates them in fp32.

    ZeRO-2 and -3 have a buffer and, while they reduce, one more in which gradients lie end to end; ZeRO-2 has a second buffer
    to fill meanwhile, ZeRO-3 fp32 copies of bf16 gradients. ZeRO-1 of fp32 weights has a buffer; that of bf16 weights reduces
    the fp32 gradients themselves, after the last backward, when activations are gone.
    """
    if stage >= 2:
        return 3 * FP32_BYTES if width < FP32_BYTES else 2 * FP32_BYTES
    return FP32_BYTES if stage == 1 and width == FP32_BYTES else 0


def host_bytes(parameters: float, parallel: ParallelSection, train: TrainSection, shards: int) -> float:
    """Return the bytes of one rank's host copy of its state during a checkpoint: fp32 weights, moments and average."""
    copies = 4 if train.ema else 3
    return copies * FP32_BYTES * parameters / (shards if parallel.zero_stage else 1)


def software_bytes(parallel: ParallelSection, world: int) -> float:
    """Return a GPU's memory that CUDA and NCCL take: the world, the ranks that ZeRO shards over, tensor and context ranks."""
    if world == 1:
        return _CONTEXT
    further = 1 + (parallel.tensor > 1) + (parallel.context > 1)
    return _CONTEXT + _FIRST_COMMUNICATOR + further * _COMMUNICATOR
