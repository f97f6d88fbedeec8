"""Settings of the machine: devices, links, Slurm."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from hitvideo.config import Fraction, Positive, Section
from hitvideo.errors import ConfigError


def slurm_seconds(limit: str) -> int | None:
    """A limit in Slurm's formats, [DAYS-]HOURS:MINUTES:SECONDS, MINUTES[:SECONDS] or DAYS-HOURS[:MINUTES]; None: no limit.

    Raises ConfigError for anything else.
    """
    if limit.upper() in ("UNLIMITED", "INFINITE"):
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", limit)
    if not found:
        raise ConfigError(f"{limit} is no time limit; write MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS")
    parts = [int(part) for part in found[2].split(":")]
    units = (3600, 60, 1) if found[1] or len(parts) == 3 else (60, 1)
    return 86400 * int(found[1] or 0) + sum(part * unit for part, unit in zip(parts, units, strict=False))


class SlurmSection(Section):
    """What `hitvideo slurm` writes at the head of a job's script; null leaves a line out."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str = "24:00:00"
    """Limit of one attempt in Slurm's format; the job saves, requeues itself and goes on."""
    grace_seconds: Positive = 600
    """How long before the limit the job is told to save: a step and a save, twice over."""
    cpus_per_node: Positive | None = None
    spares: int = Field(0, ge=0)
    """Nodes beyond those that train, for one whose pre-flight fails."""

    @field_validator("partition", "account", "qos", "time")
    @classmethod
    def _one_word(cls, word: str | None) -> str | None:
        if word is not None and not re.fullmatch(r"[\w.,:+-]+", word):
            raise ConfigError("one word of letters, digits and . , : + - is wanted; it stands in a line of the script")
        return word

    @model_validator(mode="after")
    def _longer_than_its_grace(self) -> SlurmSection:
        limit = slurm_seconds(self.time)
        if limit is not None and limit < self.grace_seconds + 60:  # Slurm signals up to a minute early
            raise ConfigError(
                f"time {self.time} is not a minute longer than grace_seconds {self.grace_seconds}: "
                "every attempt would be told to stop as it starts; raise the one or lower the other"
            )
        return self


class ClusterSection(Section):
    """The machine, for MFU and `hitvideo plan`."""

    nodes: Positive = 1
    devices_per_node: Positive = 1
    peak_tflops: float = Field(gt=0)
    """Dense peak of one device in the training dtype (an H100 in bf16: 989)."""
    memory_gib: float = Field(gt=0)
    """Per device."""
    near_gbs: float = Field(450.0, gt=0)
    """What a device sends to another of its node, in 10⁹ bytes per second (NVLink 4: 450)."""
    far_gbs: float = Field(50.0, gt=0)
    """What a device sends to another node (400 Gbit/s for each: 50)."""
    assumed_mfu: Fraction = 0.4
    slurm: SlurmSection = SlurmSection()
