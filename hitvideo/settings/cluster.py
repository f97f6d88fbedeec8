"""The section `cluster` and its part `slurm`: devices, links between them, and the head of a Slurm script."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from hitvideo.config import Fraction, Positive, Section
from hitvideo.errors import ConfigError


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

    partition: str | None = None
    """Slurm partition to submit to."""
    account: str | None = None
    """Slurm account to charge."""
    qos: str | None = None
    """Slurm quality of service."""
    time: str = "24:00:00"
    """Time limit of one attempt, in Slurm's format. The job saves before it, requeues itself and resumes."""
    grace_seconds: Positive = 600
    """How long before the limit the job is signalled to save; allow for twice the time of a step and a save."""
    cpus_per_node: Positive | None = None
    """CPU cores per node."""
    spares: int = Field(0, ge=0)
    """Extra nodes that replace those whose pre-flight check fails."""

    @field_validator("partition", "account", "qos", "time")
    @classmethod
    def _one_word(cls, word: str | None) -> str | None:
        if word is not None and not re.fullmatch(r"[\w.,:+-]+", word):
            raise ConfigError("must be one word of letters, digits and . , : + - (it goes into an #SBATCH line)")
        return word

    @model_validator(mode="after")
    def _longer_than_its_grace(self) -> SlurmSection:
        limit = slurm_seconds(self.time)
        if limit is not None and limit < self.grace_seconds + 60:  # Slurm signals up to a minute early
            raise ConfigError(
                f"time {self.time} is not a minute longer than grace_seconds {self.grace_seconds}: "
                "every attempt would be stopped as it starts; raise time or lower grace_seconds"
            )
        return self


class ClusterSection(Section):
    """The machine a run is planned for; MFU and `hitvideo plan` use it."""

    nodes: Positive = 1
    """Nodes that train."""
    devices_per_node: Positive = 1
    """GPUs (or CPU processes) per node."""
    peak_tflops: float = Field(gt=0)
    """Dense peak of one device in the training dtype (an H100 in bf16: 989)."""
    memory_gib: float = Field(gt=0)
    """Memory of one device."""
    near_gbs: float = Field(450.0, gt=0)
    """Bandwidth from a device to another in its node, in 10⁹ bytes per second (NVLink 4: 450)."""
    far_gbs: float = Field(50.0, gt=0)
    """Bandwidth from a device to another node, in 10⁹ bytes per second (400 Gbit/s per device: 50)."""
    assumed_mfu: Fraction = 0.4
    """Share of the peak that the plan assumes a step reaches."""
    slurm: SlurmSection = SlurmSection()
