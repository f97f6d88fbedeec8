"""A run's predicted step: time by part, MFU with a range, days and cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hitvideo.planning.flops import mfu
from hitvideo.planning.simulation.run_work import Counts, run_work
from hitvideo.planning.simulation.step import StepTime, machine, step_time
from hitvideo.settings.programs import PretrainRun

NINE_IN_TEN = 0.09
"""Nine of ten published rows are this near to what the constants predict that were fitted to other rows."""
DEEPSPEED = 0.05
"""What DeepSpeed may take beyond the published stacks, which use FSDP: 2 % (Hugging Face, "From DeepSpeed to FSDP and Back
Again") to 5 % (deepspeedai/DeepSpeed, issue 5047)."""
_HOUR, _DAY = 3600, 86400


@dataclass(frozen=True)
class Range:
    """A predicted figure, and where a measurement should be."""

    low: float
    middle: float
    high: float

    @classmethod
    def around(cls, middle: float) -> Range:
        return cls(middle * (1 - NINE_IN_TEN) * (1 - DEEPSPEED), middle, middle * (1 + NINE_IN_TEN))


@dataclass(frozen=True)
class Prediction:
    """The prediction of a run on its cluster."""

    devices: int
    parts: StepTime
    """Seconds of a step by part."""
    step_s: float
    tokens_per_s_per_device: float
    mfu_causal: Range
    mfu_full_attention: Range
    days: float
    usd: float | None
    """null: cluster.usd_per_device_hour is not given."""
    longest: str
    """The part that takes longest."""

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def predict(settings: PretrainRun, count: Counts | None = None) -> Prediction:
    """The prediction of a run; `count` saves counting again for runs of one model.

    Raises ConfigError if the batch does not divide, or the cluster's memory bandwidth is not given.
    """
    count, cluster, train = count or Counts(settings), settings.cluster, settings.train
    parts = step_time(run_work(settings, count), machine(cluster))
    devices, step = cluster.nodes * cluster.devices_per_node, parts.total
    rate, seconds = train.global_batch / step, train.steps * step
    price = cluster.usd_per_device_hour
    return Prediction(
        devices=devices,
        parts=parts,
        step_s=step,
        tokens_per_s_per_device=rate * count.model.layout.length / devices,
        mfu_causal=Range.around(mfu(count.row_flops * rate, devices, cluster)),
        mfu_full_attention=Range.around(mfu(count.row_flops_full_attention * rate, devices, cluster)),
        days=seconds / _DAY,
        usd=price * devices * seconds / _HOUR if price is not None else None,
        longest=max(asdict(parts).items(), key=lambda part: part[1])[0],
    )
