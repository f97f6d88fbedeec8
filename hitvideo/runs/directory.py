"""The directory of one run: names every file in it and reads them.

    runs/NAME/
        config.yaml          the resolved settings           metrics.jsonl     one object per logged step
        checkpoints/         full training state             weights/          the model alone
        samples/             pictures and videos             evaluation/       figures of `hitvideo evaluate`
        text_tokenizer.model of a language model's run       report.html       made by `hitvideo report`
        video_tokenizer.json fingerprint and path of the one that made a language model's tokens
        heartbeats/          what each rank is doing         skipped.jsonl     skipped steps and their samples
        started              seconds since 1970              meeting.json      the ranks' hosts and speeds
        mlflow_run_id        of the tracker                  DONE              written last
        OWNER, attempts/, attempts.jsonl                     attempts of Slurm jobs (hitvideo/cluster/attempt.py)
        STOP                 create it to stop the run: ranks agree at a step boundary, save and exit with 75

One run is one directory, one resolved YAML and one MLflow run. `hitvideo.runs.writer.RunWriter` writes it.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hitvideo.errors import ConfigError
from hitvideo.settings.programs import COMMANDS, RUNS, PretrainRun, RunT, TokenizeRun, VideoTokenizerRun, load_settings

if TYPE_CHECKING:
    import torch

    from hitvideo.sequence.text import TextTokenizer


class RunDirectory:
    """The files of one run. Making one touches no file."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights"
        self.model_file = self.weights / "model.safetensors"
        self.text_tokenizer_file = self.path / "text_tokenizer.model"
        self.video_tokenizer_file = self.path / "video_tokenizer.json"
        self.samples = self.path / "samples"
        self.evaluation = self.path / "evaluation"
        self.heartbeats = self.path / "heartbeats"
        self.skipped = self.path / "skipped.jsonl"
        self.meeting = self.path / "meeting.json"
        self.started = self.path / "started"
        self.stop = self.path / "STOP"
        self.done_mark = self.path / "DONE"
        self.report = self.path / "report.html"
        self.mlflow_run_id = self.path / "mlflow_run_id"
        self.owner = self.path / "OWNER"
        self.attempts = self.path / "attempts"
        self.attempts_log = self.path / "attempts.jsonl"

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """An existing run. Raises ConfigError if the directory has no config.yaml."""
        directory = cls(path)
        if not directory.config.is_file():
            raise ConfigError(f"{path}: not a run directory: it has no config.yaml; give runs/NAME")
        return directory

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def done(self) -> bool:
        return self.done_mark.is_file()

    @cached_property
    def settings(self) -> VideoTokenizerRun | TokenizeRun | PretrainRun:
        """The resolved settings. Raises ConfigError."""
        return load_settings(self.config)

    def settings_as(self, kind: type[RunT]) -> RunT:
        """The settings of a run that must be of one kind. Raises ConfigError that names the program it should come from."""
        if not isinstance(self.settings, kind):
            wanted = next(name for name, model in RUNS.items() if model is kind)
            raise ConfigError(
                f"{self.path} is a run of 'python -m {COMMANDS[self.settings.program]}'; "
                f"give a run of 'python -m {COMMANDS[wanted]}'"
            )
        return self.settings

    def metrics(self) -> list[dict[str, Any]]:
        """The logged rows; a last line cut by a kill is left out, a run without rows has none."""
        return read_metrics(self.metrics_file) if self.metrics_file.is_file() else []

    def figures(self) -> dict[str, dict[str, Any]]:
        """Results of `hitvideo evaluate` by name."""
        return {path.stem: json.loads(path.read_text()) for path in sorted(self.evaluation.glob("*.json"))}

    def seconds_since_start(self, now: float) -> float | None:
        """Seconds from the run's first start to `now`, both since 1970."""
        return now - float(self.started.read_text()) if self.started.is_file() else None

    def text_tokenizer(self) -> TextTokenizer:
        """The text tokenizer of a language model's run. Raises ConfigError."""
        from hitvideo.sequence.text import TextTokenizer

        return TextTokenizer.load(self.text_tokenizer_file)

    def model_weights(self) -> dict[str, torch.Tensor]:
        """A language model's exported weights or, if training has not ended, those of the newest complete checkpoint.

        Raises ConfigError if there are none, or if they are damaged.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from hitvideo.checkpoints.listing import newest
        from hitvideo.checkpoints.reader import Reader

        if self.model_file.is_file():
            try:
                weights: dict[str, torch.Tensor] = load_file(self.model_file)
                return weights
            except (OSError, SafetensorError) as error:
                raise ConfigError(f"{self.model_file}: damaged weights: {error}") from error
        checkpoint = newest(self.checkpoints)
        if checkpoint is None:
            raise ConfigError(f"{self.path}: has neither weights nor a finished checkpoint; train it first: python -m pretrain")
        return dict(Reader(checkpoint).weights(torch.float32))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line cut by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
