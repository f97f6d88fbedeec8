"""One run = one directory = one resolved YAML = one MLflow run: its files, its metrics, its stop signal.

    runs/NAME/
        config.yaml     resolved            metrics.jsonl   one object per logged step
        checkpoints/    full state          weights/        the model alone
        samples/        pictures, videos    report.html     DONE, written last
        heartbeats/     what each rank does     skipped.jsonl   steps left out, and their samples
        started         seconds since 1970      meeting.json    the ranks' hosts, and how fast they are
        STOP            touch it to stop: ranks agree at a step boundary, save, and exit 75
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from hitvideo import config
from hitvideo.config import Section
from hitvideo.errors import ConfigError
from hitvideo.files import replace_file, replace_json
from hitvideo.runs.ownership import ENVIRONMENT, refuse_if_taken_over
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun

# What may differ between the start of a run and its continuation: none of it changes the numbers of a step.
FREE_KEYS = (
    "train.steps", "train.micro_batch", "train.log_every", "train.validate_every", "train.validation_batches",
    "data.manifest", "data.blend", "data.video_shards", "data.workers",
)  # fmt: skip
FREE_SECTIONS = ("parallel.", "checkpoint.", "faults.", "tracking.", "cluster.", "run.root")


class RunDirectory:
    """The files of one run. `writer` is the one process that writes them; the others only read."""

    def __init__(self, settings: VideoTokenizerRun | PretrainRun, writer: bool) -> None:
        self.path = settings.run.directory
        self.writer = writer
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights"
        self.samples = self.path / "samples"
        self._refuse_another(settings)
        if writer:
            for directory in (self.checkpoints, self.samples):
                directory.mkdir(parents=True, exist_ok=True)
            if ENVIRONMENT not in os.environ:  # an attempt of Slurm's has done so at its beginning; a request since then counts
                (self.path / "STOP").unlink(missing_ok=True)
            if not (self.path / "started").is_file():
                replace_file(self.path / "started", f"{time.time():.0f}\n")
            replace_file(self.path / "config.yaml", config.to_yaml(settings))

    def _refuse_another(self, settings: Section) -> None:
        """A directory belongs to one run: settings that decide its numbers may not change under it."""
        existing = self.path / "config.yaml"
        if not existing.is_file():
            return
        before, now = config.flat(config.read_yaml(existing)), config.flat(settings)
        for key in sorted(before.keys() | now.keys()):
            if key not in FREE_KEYS and not key.startswith(FREE_SECTIONS) and before.get(key) != now.get(key):
                raise ConfigError(
                    f"{self.path} holds a run with {key}: {before.get(key)}, this one has {now.get(key)}; "
                    f"choose another run.name, or remove the directory to start over"
                )

    @property
    def done(self) -> bool:
        return (self.path / "DONE").is_file()

    def mark_done(self, step: int) -> None:
        if self.writer:
            refuse_if_taken_over(self.path)
            replace_file(self.path / "DONE", f"{step}\n")

    def write_meeting(self, report: dict[str, Any]) -> None:
        """How the ranks met before the first step (hitvideo/parallel/meeting.py)."""
        if self.writer:
            replace_json(self.path / "meeting.json", report, indent=1)

    def append_metrics(self, row: dict[str, float]) -> None:
        if self.writer:
            refuse_if_taken_over(self.path)
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")

    def forget_metrics_after(self, step: int) -> None:
        """On resuming: rows of steps that a kill has undone would stand twice."""
        path = self.path / "metrics.jsonl"
        if self.writer and path.is_file():
            kept = [row for row in read_metrics(path) if row["step"] <= step]
            replace_file(path, "".join(json.dumps(row) + "\n" for row in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line cut by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
