"""The time of one training step on a GPU, part by part, from what a rank computes, moves and sends.

    GEMM            FLOPs / (peak × efficiency); a narrow matrix reaches less
    attention       FLOPs of the causal half / the rate of attention kernels; their backward takes 2.5 forwards
    elementwise     bytes of norms, RoPE, activations, residuals and losses, each tensor once / memory bandwidth, × what eager
                    kernels move instead; and the optimizer's wrapper's copies of weights and gradients
    traffic         what compute does not hide of ZeRO's collectives; all of the tensor and context axes'
    optimizer       bytes of Adam's update / memory bandwidth
    host            a step's Python, and what launching kernels and ZeRO-3's loops over ranks take longer than the GPU

The rates are `cluster.rates`; published runs fit most of them (fitting.py). This module knows no model: `run_work.py` fills
`Work` for a run, `published.py` for a published measurement.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from hitvideo.errors import ConfigError
from hitvideo.settings.cluster import ClusterSection, RatesSection

ATTENTION_BACKWARD = 2.5  # FLOPs, in those of the forward: it computes the scores again (Dao 2023, arXiv 2307.08691)
_NARROW_HEAD, _NARROW_HEAD_RATE = 128, 0.8  # an assumption: kernels reach a fifth less with heads of 64; no row tells
_ADAM_BYTES = 30  # read and write fp32 weight and moments, read the gradient, write the bf16 weight


@dataclass(frozen=True)
class Work:
    """What one rank does: per micro-batch, if not said otherwise."""

    gemms: tuple[tuple[float, float], ...]
    """FLOPs of forward, backward and recomputation, and the narrowest side of these matrices on the rank."""
    attention_flops: float
    """Of one forward, with half of the keys."""
    attention_again: float
    """Share of it that the backward pass computes once more."""
    head_dim: int
    elementwise_bytes: float
    """Of forward, backward and recomputation, if every tensor is read or written once."""
    fused: bool
    """Whether a compiler fuses elementwise kernels: then they move each tensor once."""
    copied_bytes: float
    """Copies of weights and gradients, for what is gathered and reduced."""
    hidden_traffic_s: float
    """ZeRO's traffic that can pass while the GPU computes."""
    hidden_calls: float
    """Its collectives."""
    open_traffic_s: float
    """Traffic that the next kernel waits for, of the tensor and context axes."""
    last_traffic_s: float
    """Traffic after a step's last backward: per step."""
    last_calls: float
    """Its collectives: per step."""
    shards: int
    """Ranks in each of ZeRO's collectives."""
    nodes: int
    """Nodes that they are on."""
    updated: float
    """Weights that this rank's optimizer updates."""
    layers: int
    partitioned: float
    """Parameters × collectives that ZeRO-3's Python loops over all shards for."""
    accumulation: int


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step by part."""

    gemm: float
    attention: float
    elementwise: float
    exposed_traffic: float
    optimizer: float
    host: float

    @property
    def total(self) -> float:
        return float(sum(astuple(self)))


@dataclass(frozen=True)
class Machine:
    """The figures of a cluster file that a step's time depends on."""

    peak: float
    """FLOP/s."""
    memory: float
    """Bytes per second."""
    rates: RatesSection


def machine(cluster: ClusterSection) -> Machine:
    """Raises ConfigError if the cluster's memory bandwidth is not given."""
    if cluster.memory_gbs is None:
        raise ConfigError("cluster.memory_gbs is not set; give the memory bandwidth of a device (an H100: 3350)")
    return Machine(cluster.peak_tflops * 1e12, cluster.memory_gbs * 1e9, cluster.rates)


def step_time(work: Work, machine: Machine) -> StepTime:
    """Seconds of a step of `work`."""
    rates = machine.rates
    reached = machine.peak * rates.gemm_efficiency
    gemm = sum(flops / reached * (1 + rates.gemm_narrow / side) for flops, side in work.gemms)
    attended = machine.peak * rates.attention_efficiency * rates.attention_gain
    attended *= 1 if work.head_dim >= _NARROW_HEAD else _NARROW_HEAD_RATE
    attention = work.attention_flops * (1 + work.attention_again + ATTENTION_BACKWARD) / attended
    moved = work.elementwise_bytes * (1 if work.fused else rates.elementwise)
    elementwise = (moved + work.copied_bytes) / machine.memory
    computing = gemm + attention + elementwise
    call = _ring_seconds(work, rates)
    wires = work.hidden_traffic_s + work.hidden_calls * call
    exposed = max(wires - computing, (1 - rates.overlap) * wires) + wires / work.layers + work.open_traffic_s
    launching = (work.layers * rates.host_ms_per_layer + work.partitioned * work.shards * rates.host_us_per_shard / 1e3) / 1e3
    waiting = max(launching - computing - exposed, 0.0)
    optimizer = work.updated * _ADAM_BYTES / machine.memory
    once = work.last_traffic_s + work.last_calls * call
    return StepTime(
        gemm=work.accumulation * gemm,
        attention=work.accumulation * attention,
        elementwise=work.accumulation * elementwise,
        exposed_traffic=work.accumulation * exposed + once,
        optimizer=optimizer,
        host=work.accumulation * waiting + rates.host_ms_per_step / 1e3,
    )


def _ring_seconds(work: Work, rates: RatesSection) -> float:
    """The latency of one collective: a ring passes every rank but one, over NVLink or between two nodes."""
    between = work.nodes - 1
    return ((work.shards - 1 - between) * rates.near_latency_us + between * rates.far_latency_us) / 1e6
