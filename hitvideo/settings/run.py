"""The typed sections that say where a run runs and how it is kept: checkpoints, faults, tracking, cluster, Slurm.

None of them changes a number. What a key means is the string under it.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator

from hitvideo.config import Positive, Section
from hitvideo.errors import ConfigError


class CheckpointSection(Section):
    every: Positive = 1000
    """Steps between checkpoints; the last step always saves one."""
    keep_last: Positive = 2
    """Newest ones that are kept."""
    keep_every: Positive | None = None
    """Those of steps that are multiples of this are kept for good."""
    patience_seconds: float = Field(300.0, ge=0)
    """How long a run that ends or stops waits for space on a full disk before its last steps are lost."""


class FaultsSection(Section):
    """What a run does when something goes wrong that nobody can mend while it runs."""

    spike_sigmas: float | None = Field(6.0, gt=0)
    """A step is skipped where its loss is not finite, or (null: never) so many standard deviations above the mean …"""
    spike_window: int = Field(128, ge=8)
    """… of so many good steps before it; until there are that many, only losses that are not finite count."""
    patience: Positive = 5
    """So many bad steps in a row, and the run goes back to its last checkpoint and on with the data behind them …"""
    most_rollbacks: int = Field(3, ge=0)
    """… at most so often; then it ends as a fault."""
    hang_seconds: float = Field(1800.0, gt=0)
    """Without a sign of life for so long, every rank writes its stacks beside its heartbeat, and the job ends."""
    heartbeat_seconds: float = Field(10.0, gt=0)
    """Between two writings of a rank's heartbeat file."""


class TrackingSection(Section):
    enabled: bool = True
    uri: str | None = None
    """MLflow server or store; null: MLFLOW_TRACKING_URI, else sqlite beside the runs."""
    experiment: str = "hitvideo"


class RunSection(Section):
    name: str
    """Names the run directory and the MLflow run."""
    root: str = "runs"
    """Directory of run directories."""
    seed: int = 0

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ConfigError("a run's name is letters, digits, '.', '_' and '-', starting with a letter or digit")
        return name

    @property
    def directory(self) -> Path:
        return Path(self.root) / self.name
