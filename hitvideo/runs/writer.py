"""The run directory of a training program: one rank writes settings, metric rows and marks, the others only read."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any

from hitvideo import config
from hitvideo.errors import ConfigError
from hitvideo.files import replace_file, replace_json
from hitvideo.runs.directory import RunDirectory, read_metrics
from hitvideo.runs.ownership import ENVIRONMENT, refuse_if_taken_over
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun

# What may change between the start of a run and its continuation, because it changes no number of any step.
FREE_KEYS = (
    "train.steps", "train.micro_batch", "train.log_every", "train.validate_every", "train.validation_batches",
    "data.manifest", "data.blend", "data.video_shards", "data.workers", "run.root",
    "faults.most_rollbacks", "faults.hang_seconds", "faults.heartbeat_seconds",
)  # fmt: skip
FREE_SECTIONS = ("parallel.", "checkpoint.", "tracking.", "cluster.")


class RunWriter(RunDirectory):
    """The run directory of a training program that starts or resumes."""

    def __init__(self, settings: VideoTokenizerRun | PretrainRun, writer: bool) -> None:
        """`writer`: whether this rank is the one that writes. Raises ConfigError if the directory holds another run."""
        super().__init__(settings.run.directory)
        self.writer = writer
        self._refuse_another_run(settings)
        self._new = not self.path.exists()
        if writer:
            for directory in (self.checkpoints, self.samples):
                directory.mkdir(parents=True, exist_ok=True)
            # Under Slurm the attempt already cleared STOP; one written since is a real request.
            if ENVIRONMENT not in os.environ:
                self.stop.unlink(missing_ok=True)
            if not self.started.is_file():
                replace_file(self.started, f"{time.time():.0f}\n")
            replace_file(self.config, config.to_yaml(settings))

    def _refuse_another_run(self, settings: VideoTokenizerRun | PretrainRun) -> None:
        """A directory belongs to one run: settings that decide its numbers must not change."""
        if not self.config.is_file():
            return
        before, now = config.flat(config.read_yaml(self.config)), config.flat(settings)
        for key in sorted(before.keys() | now.keys()):
            if key not in FREE_KEYS and not key.startswith(FREE_SECTIONS) and before.get(key) != now.get(key):
                raise ConfigError(
                    f"{self.path} holds a run with {key}: {before.get(key)}, this one has {now.get(key)}; "
                    f"choose another run.name, or remove the directory to start over"
                )

    def discard_if_new(self) -> None:
        """Remove the directory if this start made it: a start that was refused leaves nothing behind."""
        if self.writer and self._new and not any(self.checkpoints.iterdir()):
            shutil.rmtree(self.path)

    def mark_done(self, step: int) -> None:
        """The run is complete: DONE holds its last step."""
        if self.writer:
            refuse_if_taken_over(self.path)
            replace_file(self.done_mark, f"{step}\n")

    def write_meeting(self, report: dict[str, Any]) -> None:
        """How the ranks met before the first step (hitvideo/parallel/meeting.py)."""
        if self.writer:
            replace_json(self.meeting, report, indent=1)

    def append_metrics(self, row: dict[str, float]) -> None:
        """Add one row to metrics.jsonl. Raises TakenOverError if a newer attempt owns the run."""
        if self.writer:
            refuse_if_taken_over(self.path)
            with self.metrics_file.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def forget_metrics_after(self, step: int) -> None:
        """On resuming, drop the rows of steps that a kill or a rollback has undone, so that none is there twice."""
        if self.writer and self.metrics_file.is_file():
            kept = [row for row in read_metrics(self.metrics_file) if row["step"] <= step]
            replace_file(self.metrics_file, "".join(json.dumps(row) + "\n" for row in kept))
