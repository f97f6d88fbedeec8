"""The sections `run`, `checkpoint`, `faults` and `tracking`: a run's name, its saves, its handling of faults, its log.

Two keys change the numbers: `run.seed`, and `faults.spike_sigmas`, which decides which steps update the weights (as do
`faults.spike_window` and `faults.patience`).
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator

from hitvideo.config import Positive, Section
from hitvideo.errors import ConfigError


class RunSection(Section):
    """Name, place and seed of a run."""

    name: str
    """Name of the run directory and of the MLflow run."""
    root: str = "runs"
    """Directory that holds the run directories."""
    seed: int = 0
    """Seed of initial weights, data order and dropout."""

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ConfigError("a run's name is letters, digits, '.', '_' and '-', starting with a letter or digit")
        return name

    @property
    def directory(self) -> Path:
        return Path(self.root) / self.name


class CheckpointSection(Section):
    """When checkpoints are saved, and which are kept."""

    every: Positive = 1000
    """Steps between checkpoints; the last step always saves one."""
    keep_last: Positive = 2
    """How many of the newest checkpoints are kept."""
    keep_every: Positive | None = None
    """Checkpoints at multiples of this step are kept for good; null: none."""
    patience_seconds: float = Field(300.0, ge=0)
    """How long the final save waits for disk space before it gives up."""


class FaultsSection(Section):
    """How a run handles bad steps and hangs by itself."""

    spike_sigmas: float | None = Field(6.0, gt=0)
    """Skip a step whose loss is this many standard deviations above the mean of recent losses; null: never. A step whose
    loss is not finite is always skipped."""
    spike_window: int = Field(128, ge=8)
    """How many good steps that mean covers; until there are that many, only losses that are not finite are skipped."""
    patience: Positive = 5
    """After this many bad steps in a row, return to the last checkpoint and continue past their data."""
    most_rollbacks: int = Field(3, ge=0)
    """How often a run may return to a checkpoint before it ends with an error."""
    hang_seconds: float = Field(1800.0, gt=0)
    """If a rank makes no progress for this long, all ranks dump their stacks and the job exits."""
    heartbeat_seconds: float = Field(10.0, gt=0)
    """Seconds between two writes of a rank's heartbeat file."""


class TrackingSection(Section):
    """The MLflow log of a run."""

    enabled: bool = True
    """Log to MLflow, in addition to the files of the run directory."""
    uri: str | None = None
    """MLflow server or store; null: MLFLOW_TRACKING_URI, else a sqlite file in run.root."""
    experiment: str = "hitvideo"
    """Name of the MLflow experiment."""
