"""The three kinds of run, and how a YAML becomes one of them. Their sections stand in `sections.py`.

    program: video_tokenizer   →  VideoTokenizerRun   python -m pretrain.video_tokenizer RUN.yaml
    program: tokenize_shards   →  TokenizeRun         python -m tokenize_shards RUN.yaml
    program: pretrain          →  PretrainRun         python -m pretrain RUN.yaml

Each fact stands once: sequence length, vocabulary size and gradient accumulation are derived, never written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import model_validator

from hitvideo import config
from hitvideo.config import ConfigError, Section
from hitvideo.hierarchy import Clip, Hierarchy
from hitvideo.sections import (
    CheckpointSection,
    ClipDataSection,
    ClusterSection,
    LimitsSection,
    LLMSection,
    LLMTrainSection,
    LossSection,
    ParallelSection,
    PhaseSection,
    RunSection,
    TextSection,
    TokenDataSection,
    TrackingSection,
    TrainedTokenizerSection,
    TrainSection,
    VideoTokenizerSection,
)
from hitvideo.tokenize_sections import TaskSection, TokenizeDataSection

RunT = TypeVar("RunT", "VideoTokenizerRun", "TokenizeRun", "PretrainRun")


class BaseRun(Section):
    run: RunSection
    video: Clip
    hierarchy: Hierarchy
    tracking: TrackingSection = TrackingSection()

    @model_validator(mode="after")
    def _check_grids(self) -> BaseRun:
        self.hierarchy.grids(self.video.extent)
        return self


class VideoTokenizerRun(BaseRun):
    program: Literal["video_tokenizer"]
    video_tokenizer: VideoTokenizerSection
    loss: LossSection = LossSection()
    phases: tuple[PhaseSection, ...] = ()
    """The progressive schedule; none: one phase of train.steps."""
    data: ClipDataSection = ClipDataSection()
    limits: LimitsSection = LimitsSection()
    parallel: ParallelSection = ParallelSection(zero_stage=1)
    train: TrainSection
    checkpoint: CheckpointSection = CheckpointSection()
    cluster: ClusterSection

    @model_validator(mode="after")
    def _check_phases(self) -> VideoTokenizerRun:
        total, levels = sum(phase.steps for phase in self.phases), len(self.hierarchy.levels)
        if self.phases and total != self.train.steps:
            raise ConfigError(f"the phases have {total} steps in all, train.steps is {self.train.steps}; make them equal")
        for phase in self.phases:
            if phase.levels and phase.levels > levels:
                raise ConfigError(f"phase '{phase.name}' uses {phase.levels} levels, the hierarchy has {levels}")
        return self

    @property
    def schedule(self) -> tuple[PhaseSection, ...]:
        return self.phases or (PhaseSection(name="all", steps=self.train.steps),)


class TokenizeRun(Section):
    """Clip and hierarchy are the video tokenizer's own; they are not repeated here."""

    program: Literal["tokenize_shards"]
    run: RunSection
    video_tokenizer: TrainedTokenizerSection = TrainedTokenizerSection()
    data: TokenizeDataSection = TokenizeDataSection()
    limits: LimitsSection = LimitsSection()
    task: TaskSection = TaskSection()
    tracking: TrackingSection = TrackingSection()


class PretrainRun(BaseRun):
    program: Literal["pretrain"]
    video_tokenizer: TrainedTokenizerSection = TrainedTokenizerSection()
    llm: LLMSection
    text: TextSection = TextSection()
    data: TokenDataSection = TokenDataSection()
    parallel: ParallelSection = ParallelSection()
    train: LLMTrainSection
    checkpoint: CheckpointSection = CheckpointSection()
    cluster: ClusterSection

    @model_validator(mode="after")
    def _check_tensor_parallel(self) -> PretrainRun:
        """What tensor parallelism must divide. (7B and below want 1 or 2: larger sizes trade speed for memory.)"""
        tensor = self.parallel.tensor
        divided = {
            "llm.heads": self.llm.heads,
            "llm.kv_heads": self.llm.kv_heads,
            "llm.hidden": self.llm.hidden,
            "text.vocab_size": self.text.vocab_size,
            "the smallest sub-code's codebook": min(1 << bits for level in self.hierarchy.levels for bits in level.sub_codes),
        }
        for name, size in divided.items():
            if size % tensor:
                raise ConfigError(f"{name} {size} is not divisible by parallel.tensor {tensor}")
        return self


RUNS: dict[str, type[Any]] = {"video_tokenizer": VideoTokenizerRun, "tokenize_shards": TokenizeRun, "pretrain": PretrainRun}
COMMANDS = {"video_tokenizer": "pretrain.video_tokenizer", "tokenize_shards": "tokenize_shards", "pretrain": "pretrain"}


def load(path: Path | str, overrides: Sequence[str] = ()) -> VideoTokenizerRun | TokenizeRun | PretrainRun:
    """A run of any kind; `program:` in the file says which."""
    content = config.apply_overrides(config.resolve(path), overrides)
    program = content.get("program")
    if program not in RUNS:
        raise ConfigError(f"{path}: 'program' says which program runs this file, one of {', '.join(RUNS)}; got {program!r}")
    run = config.build(RUNS[program], content, str(path))
    assert isinstance(run, VideoTokenizerRun | TokenizeRun | PretrainRun)
    return run


def load_as(kind: type[RunT], path: Path | str, overrides: Sequence[str] = ()) -> RunT:
    """A run that must be of one kind; the error names the program the file is for."""
    run = load(path, overrides)
    if not isinstance(run, kind):
        raise ConfigError(f"{path} is a run of another program; start it with: python -m {COMMANDS[run.program]} {path}")
    return run
