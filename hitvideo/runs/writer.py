"""The run directory of a training program: one rank writes settings, metric rows and marks, the others only read."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hitvideo import config
from hitvideo.checkpoints.listing import Fingerprint, complete, read_state, step_of
from hitvideo.errors import ConfigError
from hitvideo.files import replace_file, replace_json
from hitvideo.runs import history
from hitvideo.runs.changes import (
    DATA_KEYS,
    FREE_KEYS,
    FREE_SECTIONS,
    OPTION,
    change,
    check_allowed,
    how_to_go_on,
    is_free,
    read_lines,
)
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.facts import facts_of_this_start, lpips_digest
from hitvideo.runs.ownership import ENVIRONMENT, LOCK, refuse_if_taken_over
from hitvideo.runs.secrets import masked_settings
from hitvideo.settings.programs import COMMANDS, PretrainRun, VideoTokenizerRun

log = logging.getLogger(__name__)

_SHOWN = 200  # characters of a value


class RunWriter(RunDirectory):
    """The run directory of a training program that starts or resumes."""

    def __init__(
        self,
        settings: VideoTokenizerRun | PretrainRun,
        writer: bool,
        data: Fingerprint | None = None,
        allowed: Sequence[str] = (),
    ) -> None:
        """`writer`: whether this rank is the one that writes. `data`: of the data that this start reads.

        `allowed`: keys that may change, with a record. Raises ConfigError if the directory holds another run, or this one
        with other data. Settings of a start that took no step are replaced.
        """
        super().__init__(settings.run.directory)
        check_allowed(allowed, settings)
        self.writer = writer
        self.attempt = 0
        """The number of this start, on the rank that writes; the first is 1."""
        self._allowed = allowed
        known = [each["lpips"] for each in history.attempts(self.path) if isinstance(each.get("lpips"), str)]
        self._lpips = known[-1] if known else None
        self._changes: list[dict[str, Any]] = []
        self.before = self._settings_before(settings)
        """The settings of the start before this one; None: this is the first."""
        if data:
            self._check_data(settings, data)
        # Ranks do not wait for each other here: another one's heartbeat may be there already.
        early = {self.path / LOCK, self.heartbeats}
        self._new = not self.path.is_dir() or early.issuperset(self.path.iterdir())
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
        for row in self._changes:
            self.append_change(row)
        self.attempt = history.next_attempt(self.path)
        if isinstance(settings, VideoTokenizerRun) and settings.loss.perceptual.weights:
            self._lpips = self._lpips or lpips_digest(Path(settings.loss.perceptual.weights))
        lpips = {"lpips": self._lpips} if self._lpips else {}
        self.append_event("start", step=self.newest_step, **facts_of_this_start(), **lpips)
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
        if not self.begun:
            self._changes.clear()
        return None if refusal else before

    def _difference(self, before: VideoTokenizerRun | PretrainRun, settings: VideoTokenizerRun | PretrainRun) -> str:
        """A directory belongs to one run: the setting that decides its numbers and has changed, in words; "" if none has."""
        old, new = (config.flat(masked_settings(each)) for each in (before, settings))
        changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        recorded = {"train.steps", *self._allowed}.intersection(changed).difference(DATA_KEYS)
        self._changes = [change(key, old.get(key), new.get(key), self.newest_step) for key in sorted(recorded)]
        others = [key for key in changed if not is_free(key) and key not in recorded and not self._is_ours(key, new.get(key))]
        if not others:
            return ""
        was, is_now = (str(each.get(others[0]))[:_SHOWN] for each in (old, new))
        more = f" (and {', '.join(others[1:])} differ)" if others[1:] else ""
        return (
            f"{self.path} holds a run with {others[0]}: {was}, this one has {is_now}{more}; give it the old value, "
            f"{how_to_go_on(others)}. What may change freely: {', '.join(FREE_KEYS)} and {', '.join(FREE_SECTIONS)}*"
        )

    def _is_ours(self, key: str, value: str | None) -> bool:
        """Whether files have only moved: text.model is like the run's copy, LPIPS's weights are those of its first start."""
        if key == "loss.perceptual.weights":
            return bool(value) and self._lpips is not None and self._lpips == lpips_digest(Path(str(value)))
        if key != "text.model" or not value or not Path(value).is_file() or not self.text_tokenizer_file.is_file():
            return False
        return Path(value).read_bytes() == self.text_tokenizer_file.read_bytes()

    def _check_data(self, settings: VideoTokenizerRun | PretrainRun, data: Fingerprint) -> None:
        """Raise ConfigError for data other than the run's: those of its last recorded change, else of its checkpoint."""
        state = self._newest_state()
        if state is None:
            return
        known = [row["data"] for row in read_lines(self.changes) if "data" in row] or [state.get("fingerprint")]
        key, value = _data_of(settings)
        if known[-1] not in data and not set(DATA_KEYS).intersection(self._allowed):
            raise ConfigError(
                f"{self.path} was trained on other data than {key} {value} (fingerprint {str(known[-1])[:_SHOWN]}, now "
                f"{data.data}); give it the data it began with, go on with these from their beginning with {OPTION} {key}, or "
                "choose another run.name to train on these"
            )
        if known[-1] not in data:
            before = _data_of(self.before)[1] if self.before else None
            self._changes.append(change(key, before, value, self.newest_step, data=data.data))
        if "samples" not in state and any(row["key"] == "train.global_batch" for row in self._changes):
            raise ConfigError(
                f"{self.path}: its newest checkpoint is of a version that did not count samples; save one with this version "
                "(train.global_batch as before), then change train.global_batch"
            )

    def _newest_state(self) -> dict[str, Any] | None:
        for path in reversed(complete(self.checkpoints)):
            try:
                return read_state(path)
            except ConfigError:
                continue  # damaged; resuming passes over it, too
        return None

    def _forget_failed_start(self) -> None:
        """Remove what a start that took no step made from its settings."""
        records = self.skipped, self.changes, self.rollbacks, self.events, self.mlflow_run_id, self.mlflow_key
        for file in (self.text_tokenizer_file, self.video_tokenizer_file, self.started, *records):
            file.unlink(missing_ok=True)
        for folder in (self.video_tokenizer_copy, self.mlflow):
            shutil.rmtree(folder, ignore_errors=True)

    def discard_if_new(self) -> None:
        """Remove the directory if this start made it: a start that was refused leaves nothing behind."""
        if not self.writer or not self._new or any(self.checkpoints.iterdir()):
            return
        for _ in range(5):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                return
            time.sleep(0.2)  # another rank was just writing into it

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
        """Add one row to metrics.jsonl, with time and attempt. Raises TakenOverError if a newer attempt owns the run."""
        self._append(self.metrics_file, history.stamped(row, self.attempt))

    def append_event(self, event: str, **more: Any) -> None:
        """Add a line to events.jsonl (hitvideo/runs/history.py)."""
        self._append(self.events, {"event": event, **history.stamped(more, self.attempt)})

    def append_change(self, row: dict[str, Any]) -> None:
        """Add a line of `changes.change` to changes.jsonl, and say so."""
        self._append(self.changes, row)
        if self.writer:
            old, new = (str(row[key])[:_SHOWN] for key in ("old", "new"))
            log.warning("%s goes on after step %d with %s: %s, was %s", self.path, row["step"], row["key"], new, old)

    def append_rollback(self, step: int, to: int, samples: int, data: str) -> None:
        """Record the return from a step to a checkpoint's, and how many samples of the data are consumed or passed over."""
        row = {"step": step, "to": to, "samples": samples, "data": data, "time": round(time.time(), 3)}
        self._append(self.rollbacks, row)

    def _append(self, file: Path, row: dict[str, Any]) -> None:
        if self.writer:
            refuse_if_taken_over(self.path)
            history.append(file, row)

    def forget_metrics_after(self, step: int) -> None:
        """On resuming or returning, undo the rows of later steps, by a row that says so: nothing is taken out of the file."""
        if self.writer and any(row["step"] > step for row in self.metrics()):
            self._append(self.metrics_file, history.stamped({history.ROLLBACK: step}, self.attempt))


def _data_of(settings: VideoTokenizerRun | PretrainRun) -> tuple[str, str]:
    """The key of the data and its value, masked and cut."""
    content = masked_settings(settings)["data"]
    key = "video_shards" if isinstance(settings, VideoTokenizerRun) else "blend" if content["blend"] else "manifest"
    return f"data.{key}", str(content[key])[:_SHOWN]
