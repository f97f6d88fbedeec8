"""Memory of a model's states under ZeRO, by arithmetic (Rajbhandari et al. 2020, figure 1), as DeepSpeed lays it out."""

from __future__ import annotations

from dataclasses import dataclass

from hitvideo.ops.precision import DTYPES
from hitvideo.settings.training import ParallelSection, TrainSection

GIB = 1 << 30
FP32_BYTES = 4


@dataclass(frozen=True)
class ModelStates:
    """Bytes on one rank."""

    weights: float
    """In the training dtype."""
    gradients: float
    """In fp32."""
    masters: float
    """The fp32 copy of the weights. Without ZeRO the weights are themselves fp32, so there is no copy."""
    moments: float
    """Both of Adam's."""
    average: float
    """The moving average of the weights, if the run keeps one."""
    gathered: float
    """Weights of other ranks, while ZeRO-3 needs them."""
    buckets: float
    """Gradients being reduced."""

    @property
    def optimizer(self) -> float:
        """The fp32 weights and both moments."""
        return self.masters + self.moments

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.average + self.gathered + self.buckets


def model_states(parameters: float, parallel: ParallelSection, train: TrainSection, shards: int) -> ModelStates:
    """States of `parameters` weights (one tensor-parallel rank's share) that ZeRO partitions over `shards` ranks."""
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
        buckets=width * parallel.bucket if stage and shards > 1 else 0,
    )


def host_bytes(parameters: float, parallel: ParallelSection, train: TrainSection, shards: int) -> float:
    """Host memory of one rank's copy of its state while a checkpoint is written: weights, moments, average, all fp32."""
    copies = 4 if train.ema else 3
    return copies * FP32_BYTES * parameters / (shards if parallel.zero_stage else 1)
