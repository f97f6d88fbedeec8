"""The sections `run`, `checkpoint`, `faults` and `tracking`: a run's name, its saves, its handling of faults, its log.

Two keys change the numbers: `run.seed`, and `faults.spike_sigmas`, which decides which steps update the weights (as do
`faults.spike_window` and `faults.patience`).
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator

from hitvideo.config import Count, Fraction, Positive, Seconds, Section, Seed
from hitvideo.errors import ConfigError
from hitvideo.settings.paths import Expanded, OutputPath


class RunSection(Section):
    """Name, place and seed of a run."""

    name: Expanded
    """Name of the run directory and of the MLflow run."""
    root: OutputPath = "runs"
    """Directory that holds the run directories."""
    seed: Seed = 0
    """Seed of initial weights, data order and dropout."""

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
            raise ConfigError("a run's name is up to 128 letters, digits, '.', '_' and '-', starting with a letter or digit")
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
    patience_seconds: float = Field(300.0, ge=0, le=1e9)
    """How long the final save waits for disk space before it gives up."""
    most_failures: Positive = 2
    """End with an error after this many checkpoints in a row that could not be written."""


class FaultsSection(Section):
    """How a run handles bad steps and hangs by itself."""

    spike_sigmas: float | None = Field(6.0, gt=0)
    """Skip a step whose loss is this many standard deviations above the mean of recent losses; null: never. A step whose
    loss is not finite is always skipped."""
    spike_window: Positive = Field(128, ge=8)
    """How many good steps that mean covers; until there are that many, only losses that are not finite are skipped."""
    patience: Positive = 5
    """After this many bad steps in a row, return to the last checkpoint and continue past their data."""
    most_rollbacks: Count = 3
    """How often a run may return to a checkpoint before it ends with an error. Restarts do not count anew; a change of its
    settings (--allow-change) does."""
    most_damaged: Fraction = 0.01
    """End with an error if more than this share of the samples drawn, and 16 besides, is damaged: lost, or not as its
    checksum says. Until then each is replaced by another sample."""
    hang_seconds: Seconds = 1800.0
    """If a rank makes no progress for this long, all ranks dump their stacks and the job exits. Collectives time out five
    minutes later."""
    heartbeat_seconds: Seconds = 10.0
    """Seconds between two writes of a rank's heartbeat file."""

    @property
    def collective_seconds(self) -> float:
        """How long a collective may take: longer than a hang, so that the watchdog's stacks come before a bare timeout."""
        return self.hang_seconds + 300


AUTO = "auto"


class TrackingSection(Section):
    """How a run is shown in MLflow. Its directory holds everything; `hitvideo track sync RUN` rebuilds MLflow's view of it."""

    enabled: bool = True
    """Show the run in MLflow."""
    uri: Expanded | None = AUTO
    """MLflow server or store. auto: MLFLOW_TRACKING_URI, else a sqlite file in run.root; null: none. Use a server if several
    nodes write."""
    experiment: str = Field("hitvideo", min_length=1, max_length=500)
    """Name of the MLflow experiment."""
    group: str = ""
    """Tag `group` of the MLflow run, to compare runs that belong together."""
