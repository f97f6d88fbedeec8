"""The directory of one run: names every file in it and reads them.

    runs/NAME/
        config.yaml          the resolved settings           metrics.jsonl     one object per logged step
        checkpoints/         full training state             weights/          the model alone
        samples/             pictures and videos             evaluation/       figures of `hitvideo evaluate`
        text_tokenizer.model of a language model's run       report.html       made by `hitvideo report`
        video_tokenizer.json fingerprint and path of the one that made a language model's tokens
        video_tokenizer/     its files, linked or copied: generation needs nothing outside the run
        heartbeats/          what each rank is doing         skipped.jsonl     skipped steps and their samples
        started              seconds since 1970              meeting.json      the ranks' hosts and speeds
        events.jsonl         starts, their facts, ends       DONE              written last
        mlflow_run_id, mlflow_key, mlflow/                   of the tracker: what MLflow has (hitvideo/tracking/view.py)
        OWNER, attempts/, attempts.jsonl                     attempts of Slurm jobs (hitvideo/cluster/attempt.py)
        changes.jsonl        settings changed on the way     rollbacks.jsonl   returns to a checkpoint after bad steps
        .lock                                                held by the process that trains (hitvideo/runs/ownership.py)
        STOP                 create it to stop the run: ranks agree at a step boundary, save and exit with 75

One run is one directory, one resolved YAML and one MLflow run. `hitvideo.runs.writer.RunWriter` writes it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hitvideo.checkpoints.listing import complete, newest
from hitvideo.errors import ConfigError
from hitvideo.files import read_json
from hitvideo.runs import history

if TYPE_CHECKING:
    import torch

    from hitvideo.sequence.text import TextTokenizer
    from hitvideo.settings.programs import PretrainRun, RunT, TokenizeRun, VideoTokenizerRun


SHOWCASE = Path(__file__).parents[1] / "showcase"


class VideoTokenizerRecord(NamedTuple):
    """The content of video_tokenizer.json."""

    fingerprint: str
    weights: str | None
    """Where its `weights` directory was, an absolute path."""


class RunDirectory:
    """The files of one run. Making one touches no file."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics_file = self.path / history.METRICS
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights"
        self.model_file = self.weights / "model.safetensors"
        self.text_tokenizer_file = self.path / "text_tokenizer.model"
        self.video_tokenizer_file = self.path / "video_tokenizer.json"
        self.video_tokenizer_copy = self.path / "video_tokenizer"
        self.samples = self.path / "samples"
        self.evaluation = self.path / "evaluation"
        self.heartbeats = self.path / "heartbeats"
        self.skipped = self.path / "skipped.jsonl"
        self.changes = self.path / "changes.jsonl"
        self.rollbacks = self.path / "rollbacks.jsonl"
        self.meeting = self.path / "meeting.json"
        self.started = self.path / "started"
        self.stop = self.path / "STOP"
        self.done_mark = self.path / "DONE"
        self.report = self.path / "report.html"
        self.mlflow_run_id = self.path / "mlflow_run_id"
        self.mlflow_key = self.path / "mlflow_key"
        self.mlflow = self.path / "mlflow"
        self.events = self.path / history.EVENTS
        self.owner = self.path / "OWNER"
        self.attempts = self.path / "attempts"
        self.attempts_log = self.path / "attempts.jsonl"

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """An existing run; `showcase`, where no run has that name, is the one that comes with the package.

        Raises ConfigError if the directory has no config.yaml.
        """
        directory = cls(path)
        if str(path) == SHOWCASE.name and not directory.config.is_file():
            directory = cls(SHOWCASE)
        if not directory.config.is_file():
            raise ConfigError(f"{path}: not a run directory: it has no config.yaml; give runs/NAME, or showcase to generate")
        return directory

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def done(self) -> bool:
        return self.done_mark.is_file()

    @property
    def begun(self) -> bool:
        """Whether a step was taken whose result is here: a logged row, a complete checkpoint, or weights."""
        return bool(self.done or self.weights.exists() or complete(self.checkpoints) or self.metrics())

    @cached_property
    def settings(self) -> VideoTokenizerRun | TokenizeRun | PretrainRun:
        """The resolved settings. Raises ConfigError."""
        from hitvideo.settings.programs import load_settings  # `hitvideo runs` looks at many runs and needs no typed settings

        return load_settings(self.config)

    def settings_as(self, kind: type[RunT]) -> RunT:
        """The settings of a run that must be of one kind. Raises ConfigError that names the program it should come from."""
        from hitvideo.settings.programs import COMMANDS, RUNS

        if not isinstance(self.settings, kind):
            wanted = next(name for name, model in RUNS.items() if model is kind)
            raise ConfigError(
                f"{self.path} is a run of 'python -m {COMMANDS[self.settings.program]}'; "
                f"give a run of 'python -m {COMMANDS[wanted]}'"
            )
        return self.settings

    def metrics(self) -> list[dict[str, Any]]:
        """The logged rows as `read_metrics` gives them; a run without rows has none."""
        return read_metrics(self.metrics_file)

    def figures(self) -> dict[str, dict[str, Any]]:
        """Results of `hitvideo evaluate` by name. Raises ConfigError if a file is damaged."""
        return {path.stem: read_json(path, "evaluation") for path in sorted(self.evaluation.glob("*.json"))}

    def seconds_since_start(self, now: float) -> float | None:
        """Seconds from the run's first start to `now`, both since 1970. Raises ConfigError if the file is damaged."""
        if not self.started.is_file():
            return None
        try:
            return now - float(self.started.read_text())
        except ValueError:
            raise ConfigError(f"{self.started}: damaged, it must be the seconds since 1970; remove it") from None

    def video_tokenizer(self) -> VideoTokenizerRecord | None:
        """What a language model's run knows of its video tokenizer; None: the file is missing, as in older runs.

        Raises ConfigError if the file is damaged.
        """
        if not self.video_tokenizer_file.is_file():
            return None
        known = read_json(self.video_tokenizer_file, "record of the video tokenizer")
        fingerprint, weights = known.get("fingerprint"), known.get("weights")
        if not isinstance(fingerprint, str) or not isinstance(weights, str | None):
            raise ConfigError(f"{self.video_tokenizer_file}: damaged record of the video tokenizer: it needs a fingerprint")
        return VideoTokenizerRecord(fingerprint, weights or None)

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
    """The rows of a metrics.jsonl that count, by step (hitvideo/runs/history.py); what is damaged is left out."""
    return history.fold(line.content for line in history.read_lines(path))
