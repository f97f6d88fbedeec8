"""Memory of model states under ZeRO as DeepSpeed lays them out (Rajbhandari et al. 2020, arXiv 1910.02054, figure 1)."""

from __future__ import annotations

from dataclasses import dataclass

from hitvideo.ops.precision import DTYPES
from hitvideo.settings.training import ParallelSection, TrainSection

GIB = 1 << 30
FP32_BYTES = 4


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


def model_states(parameters: float, parallel: ParallelSection, train: TrainSection, shards: int) -> ModelStates:
    """Return the states of `parameters` weights (one tensor-parallel rank's share), partitioned over `shards` ranks."""
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
    """Return the bytes of one rank's host copy of its state during a checkpoint: fp32 weights, moments and average."""
    copies = 4 if train.ema else 3
    return copies * FP32_BYTES * parameters / (shards if parallel.zero_stage else 1)
