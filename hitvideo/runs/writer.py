"""The run directory of a training program: one rank writes settings, metric rows and marks, the others only read."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

from hitvideo import config
from hitvideo.checkpoints.listing import Fingerprint, complete, read_state, step_of
from hitvideo.errors import ConfigError
from hitvideo.files import replace_file, replace_json
from hitvideo.runs.directory import RunDirectory, read_metrics
from hitvideo.runs.ownership import ENVIRONMENT, LOCK, refuse_if_taken_over
from hitvideo.runs.secrets import masked_settings
from hitvideo.settings.programs import COMMANDS, PretrainRun, VideoTokenizerRun

log = logging.getLogger(__name__)

# What may change between the start of a run and its continuation. All but train.steps, whose change is announced, change
# no number of any step. Data and video tokenizer are compared by their fingerprints, not by their paths.
FREE_KEYS = (
    "train.steps", "train.micro_batch", "train.log_every", "train.validate_every", "train.validation_batches",
    "data.manifest", "data.blend", "data.video_shards", "data.workers", "video_tokenizer.weights", "run.root",
    "faults.most_rollbacks", "faults.most_damaged", "faults.hang_seconds", "faults.heartbeat_seconds",
)  # fmt: skip
FREE_SECTIONS = ("parallel.", "checkpoint.", "tracking.", "cluster.")
_SHOWN = 200  # characters of a value


class RunWriter(RunDirectory):
    """The run directory of a training program that starts or resumes."""

    def __init__(self, settings: VideoTokenizerRun | PretrainRun, writer: bool, data: Fingerprint | None = None) -> None:
        """`writer`: whether this rank is the one that writes. `data`: of the data that this start reads.

        Raises ConfigError if the directory holds another run, or this one with other data. Settings of a start that took
        no step are replaced.
        """
        super().__init__(settings.run.directory)
        self.writer = writer
        self.before = self._settings_before(settings)
        """The settings of the start before this one; None: this is the first."""
        if data:
            self._refuse_other_data(settings, data)
        self._new = not self.path.is_dir() or all(path.name == LOCK for path in self.path.iterdir())
        if writer:
            self._open(settings)

    def _open(self, settings: VideoTokenizerRun | PretrainRun) -> None:
        if self.before is None:
            self._forget_failed_start()
        for directory in (self.checkpoints, self.samples):
            directory.mkdir(parents=True, exist_ok=True)
        # Under Slurm the attempt already cleared STOP; one written since is a real request.
        if ENVIRONMENT not in os.environ:
            self.stop.unlink(missing_ok=True)
        if settings.train.steps > self.newest_step:
            self.done_mark.unlink(missing_ok=True)
        if not self.started.is_file():
            replace_file(self.started, f"{time.time():.0f}\n")
        replace_file(self.config, config.to_yaml(masked_settings(settings)))

    @property
    def newest_step(self) -> int:
        """Steps behind the newest complete checkpoint; 0 if there is none."""
        return step_of(found[-1]) if (found := complete(self.checkpoints)) else 0

    def _settings_before(self, settings: VideoTokenizerRun | PretrainRun) -> VideoTokenizerRun | PretrainRun | None:
        """The settings in the directory, filled with today's defaults, if this start continues their run."""
        if not self.config.is_file():
            return None
        before, another = None, None
        try:
            content = config.read_yaml(self.config)
            another = COMMANDS.get(str(content.get("program"))) if content.get("program") != settings.program else None
            before = None if another else config.build(type(settings), content, str(self.config))
            refusal = f"{self.path} is a run of 'python -m {another}'; choose another run.name"
        except ConfigError as error:
            what = f"cut, or of another version ({error})" if self.config.read_bytes().strip() else "empty"
            refusal = (
                f"{self.config} is {what}, so that this start cannot be compared with the run; restore the file (the same "
                f"command with another run.name writes one), or choose another run.name"
            )
        if before:
            refusal = self._difference(before, settings)
        if refusal and (another or self.begun):
            raise ConfigError(refusal)
        if refusal:
            log.info("%s has taken no step yet: its settings are replaced", self.path)
        return None if refusal else before

    def _difference(self, before: VideoTokenizerRun | PretrainRun, settings: VideoTokenizerRun | PretrainRun) -> str:
        """A directory belongs to one run: the setting that decides its numbers and has changed, in words; "" if none has."""
        old, new = (config.flat(masked_settings(each)) for each in (before, settings))
        fixed = [key for key in sorted(old.keys() | new.keys()) if key not in FREE_KEYS and not key.startswith(FREE_SECTIONS)]
        others = [key for key in fixed if old.get(key) != new.get(key) and not self._is_ours(key, new.get(key))]
        if not others:
            return ""
        was, is_now = (str(each.get(others[0]))[:_SHOWN] for each in (old, new))
        more = f" (and {', '.join(others[1:])} differ)" if others[1:] else ""
        return (
            f"{self.path} holds a run with {others[0]}: {was}, this one has {is_now}{more}; give it the old value, or choose "
            f"another run.name. What may change: {', '.join(FREE_KEYS)} and {', '.join(FREE_SECTIONS)}*"
        )

    def _is_ours(self, key: str, value: str | None) -> bool:
        """Whether text.model names a file like the run's own copy: it has only moved."""
        if key != "text.model" or not value or not Path(value).is_file() or not self.text_tokenizer_file.is_file():
            return False
        return Path(value).read_bytes() == self.text_tokenizer_file.read_bytes()

    def _refuse_other_data(self, settings: VideoTokenizerRun | PretrainRun, data: Fingerprint) -> None:
        for path in reversed(complete(self.checkpoints)):
            try:
                state = read_state(path)
            except ConfigError:
                continue  # damaged; resuming passes over it, too
            if not data.fits(state):
                raise ConfigError(
                    f"{self.path} was trained on other data than {_data_of(settings)} (fingerprint "
                    f"{str(state.get('fingerprint'))[:_SHOWN]}, now {data.data}): a run keeps its data to its end; give it the "
                    "data it began with, or choose another run.name to train on these"
                )
            return

    def _forget_failed_start(self) -> None:
        """Remove what a start that took no step made from its settings."""
        for file in (self.text_tokenizer_file, self.video_tokenizer_file, self.mlflow_run_id, self.started, self.skipped):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.video_tokenizer_copy, ignore_errors=True)

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


def _data_of(settings: VideoTokenizerRun | PretrainRun) -> str:
    """The key of the data and its value, masked."""
    content = masked_settings(settings)["data"]
    key = "video_shards" if isinstance(settings, VideoTokenizerRun) else "blend" if content["blend"] else "manifest"
    return f"data.{key} {str(content[key])[:_SHOWN]}"
