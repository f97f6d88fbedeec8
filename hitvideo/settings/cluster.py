"""The section `cluster` and its part `slurm`: devices, links between them, and the head of a Slurm script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hitvideo.config import Count, Fraction, Positive, Section
from hitvideo.errors import ConfigError, short
from hitvideo.settings.paths import Expanded


def slurm_seconds(limit: str) -> int | None:
    """Seconds of a Slurm limit: [DAYS-]HOURS:MINUTES:SECONDS, MINUTES[:SECONDS] or DAYS-HOURS[:MINUTES]; None: no limit.

    Raises ConfigError for any other format.
    """
    if limit.upper() in ("UNLIMITED", "INFINITE"):
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", limit)
    if not found:
        raise ConfigError(f"{limit} is not a time limit; write MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS")
    parts = [int(part) for part in found[2].split(":")]
    units = (3600, 60, 1) if found[1] or len(parts) == 3 else (60, 1)
    return 86400 * int(found[1] or 0) + sum(part * unit for part, unit in zip(parts, units, strict=False))


class SlurmSection(Section):
    """The #SBATCH lines that `hitvideo slurm` writes; null leaves a line out."""

    partition: Expanded | None = None
    """Slurm partition to submit to."""
    account: Expanded | None = None
    """Slurm account to charge."""
    qos: Expanded | None = None
    """Slurm quality of service."""
    time: str = "24:00:00"
    """Time limit of one attempt, in Slurm's format. The job saves before it, requeues itself and resumes."""
    grace_seconds: Positive = 600
    """How long before the limit the job is signalled to save; allow for twice the time of a step and a save."""
    cpus_per_node: Positive | None = None
    """CPU cores per node; null: all of them, if the job is exclusive."""
    gpu_option: Literal["gpus-per-node", "gres"] | None = "gpus-per-node"
    """The option that asks for GPUs; null: none, for sites where an exclusive job gets all without asking."""
    gpu_type: Expanded | None = None
    """Type of the GPUs, as in `--gpus-per-node=h100:8`; null: any."""
    mem: Expanded | None = "0"
    """Memory per node, as in `--mem=500G`; 0: all of it. An exclusive job gets no more than it asks for."""
    exclusive: bool = True
    """Whether the job shares its nodes with no other."""
    chain: Literal["requeue", "resubmit"] = "requeue"
    """How a job goes on after its time limit or a fault: Slurm requeues it or, if the site forbids that, it submits itself
    again as a new job (which also happens if a requeue is refused)."""
    extra: tuple[str, ...] = ()
    """Further #SBATCH options, such as `[--constraint=h100&ib, --mail-type=END]`."""
    spares: Count = 0
    """Extra nodes that replace those whose pre-flight check fails."""

    @field_validator("partition", "account", "qos", "time", "gpu_type", "mem")
    @classmethod
    def _one_word(cls, word: str | None) -> str | None:
        if word is not None and not re.fullmatch(r"[\w.,:+-]+", word):
            raise ConfigError("must be one word of letters, digits and . , : + - (it goes into an #SBATCH line)")
        return word

    @field_validator("extra")
    @classmethod
    def _one_option_each(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            if not re.fullmatch(r"--[a-z][\w-]*(=[^\r\n]*)?", option):
                raise ConfigError(f"{short(option)} is not an option of sbatch; write --name or --name=value")
        return options

    @model_validator(mode="after")
    def _longer_than_its_grace(self) -> SlurmSection:
        limit = slurm_seconds(self.time)
        if limit is not None and limit < self.grace_seconds + 60:  # Slurm signals up to a minute early
            raise ConfigError(
                f"time {self.time} is not a minute longer than grace_seconds {self.grace_seconds}: "
                "every attempt would be stopped as it starts; raise time or lower grace_seconds"
            )
        return self


class RatesSection(Section):
    """What the machine and the software on it reach, for `hitvideo plan --simulate` and `--search`. The defaults are an H100's,
    fitted to published runs; measure your own and put them here."""

    gemm_efficiency: Fraction = 0.724
    """Share of the peak that large matrix products reach over hours, under the GPU's power limit."""
    gemm_narrow: float = Field(96.0, ge=0)
    """Width at which a matrix product reaches half of that; the narrowest side of a rank's share counts."""
    attention_efficiency: Fraction = 0.186
    """Share of the peak that attention kernels reach, if a query counts half the keys."""
    attention_gain: float = Field(1.0, gt=0)
    """Speed of the attention kernels in units of FlashAttention 2, which the published runs used."""
    elementwise: float = Field(3.76, ge=1)
    """Memory traffic of norms, RoPE, activations and residuals, in units of moving each tensor once, as fused kernels do."""
    overlap: Fraction = 0.371
    """Share of ZeRO's traffic that can pass at no cost while the GPU computes."""
    near_latency_us: float = Field(3.4, ge=0)
    """Time of a collective for each rank of a node that its ring passes (NCCL's own model of a ring over NVLink: 3.4)."""
    far_latency_us: float = Field(9.6, ge=0)
    """Time of a collective for each node that its ring passes (NCCL's own model of a ring over a network: 9.6)."""
    host_ms_per_step: float = Field(13.2, ge=0)
    """Time of Python in a step while the GPU waits: optimizer, logging, data."""
    host_ms_per_layer: float = Field(2.0, ge=0)
    """Time of Python to launch a layer's forward and backward; it costs a step only what it takes longer than the GPU."""
    host_us_per_shard: float = Field(4.0, ge=0)
    """Time of Python for each parameter, collective and rank in ZeRO-3, which loops over the ranks."""


_A_CPUS_PEAK = 10  # TFLOP/s


class ClusterSection(Section):
    """The machine a run is planned for; MFU and `hitvideo plan` use it."""

    nodes: Positive = 1
    """Nodes that train."""
    devices_per_node: Positive = 1
    """GPUs (or CPU processes) per node."""
    devices: Literal["gpu", "cpu"] | None = None
    """What trains; null: GPUs, if peak_tflops is above that of any CPU, 10. A job whose nodes were given GPUs, but show none,
    trains on the CPU only if this is cpu."""
    peak_tflops: float = Field(gt=0)
    """Dense peak of one device in the training dtype (an H100 in bf16: 989)."""
    memory_gib: float = Field(gt=0)
    """Memory of one device."""
    memory_gbs: float | None = Field(None, gt=0)
    """Bandwidth of a device's memory, in 10⁹ bytes per second (an H100: 3350); null: the step time cannot be predicted."""
    near_gbs: float = Field(450.0, gt=0)
    """Bandwidth from a device to another in its node, in 10⁹ bytes per second (NVLink 4: 450)."""
    nics_per_node: Positive | None = None
    """Network adapters of a node for traffic to other nodes; null: one for each device."""
    nic_gbs: float = Field(50.0, gt=0)
    """Bandwidth of one adapter, in 10⁹ bytes per second (400 Gbit/s: 50). The former `far_gbs`, a device's, is read as this."""
    storage_gbs: float = Field(5.0, gt=0)
    """Rate at which all nodes together write to the run directory's disk, in 10⁹ bytes per second. The default is a guess."""
    assumed_mfu: Fraction = 0.4
    """Share of the peak that the plan assumes of all FLOPs that the devices execute, recomputed ones included."""
    usd_per_device_hour: float | None = Field(None, gt=0)
    """Price of a device's hour, for the cost of a run; null: no cost is told."""
    rates: RatesSection = RatesSection()
    slurm: SlurmSection = SlurmSection()

    @model_validator(mode="before")
    @classmethod
    def _former(cls, content: Any) -> Any:
        """Take the bandwidth of a device in older files, when each had an adapter of its own."""
        if not isinstance(content, Mapping) or "far_gbs" not in content:
            return content
        kept = {key: value for key, value in content.items() if key not in ("far_gbs", "nics_per_node")}
        return kept | {"nic_gbs": content["far_gbs"]}

    @property
    def node_gbs(self) -> float:
        """Bandwidth of a node to others, all adapters together."""
        return (self.nics_per_node or self.devices_per_node) * self.nic_gbs

    @property
    def far_gbs(self) -> float:
        """A device's share of `node_gbs`."""
        return self.node_gbs / self.devices_per_node

    @property
    def trains_on(self) -> Literal["gpu", "cpu"]:
        return self.devices or ("gpu" if self.peak_tflops > _A_CPUS_PEAK else "cpu")
