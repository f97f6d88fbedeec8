"""The three kinds of run, and how a YAML file becomes one of them. Their sections are in the other files of this room.

    program: video_tokenizer   →  VideoTokenizerRun   python -m pretrain.video_tokenizer RUN.yaml
    program: tokenize_shards   →  TokenizeRun         python -m tokenize_shards RUN.yaml
    program: pretrain          →  PretrainRun         python -m pretrain RUN.yaml

Each fact has one place: sequence length, vocabulary size and gradient accumulation are computed, never set.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import model_validator

from hitvideo import config
from hitvideo.config import Section
from hitvideo.errors import ConfigError, short
from hitvideo.hierarchy import ClipShape, Hierarchy
from hitvideo.settings.cluster import ClusterSection
from hitvideo.settings.data import ClipDataSection, LimitsSection, TokenDataSection
from hitvideo.settings.language_model import LLMSection, TextSection
from hitvideo.settings.run import CheckpointSection, FaultsSection, RunSection, TrackingSection
from hitvideo.settings.tokenize_shards import TaskSection, TokenizeDataSection
from hitvideo.settings.training import LLMTrainSection, ParallelSection, TrainSection
from hitvideo.settings.video_tokenizer import LossSection, PhaseSection, TrainedTokenizerSection, VideoTokenizerSection

log = logging.getLogger(__name__)
RunT = TypeVar("RunT", "VideoTokenizerRun", "TokenizeRun", "PretrainRun")


class BaseRun(Section):
    """The sections that both training programs have."""

    run: RunSection
    clip: ClipShape
    hierarchy: Hierarchy
    tracking: TrackingSection = TrackingSection()
    faults: FaultsSection = FaultsSection()

    @model_validator(mode="after")
    def _check_grids(self) -> BaseRun:
        self.hierarchy.grids(self.clip.extent)
        return self


class VideoTokenizerRun(BaseRun):
    """A run that trains a video tokenizer."""

    program: Literal["video_tokenizer"]
    """The program that runs this file."""
    video_tokenizer: VideoTokenizerSection
    loss: LossSection = LossSection()
    phases: tuple[PhaseSection, ...] = ()
    """The progressive schedule, a list of phases; empty: one phase of train.steps."""
    data: ClipDataSection = ClipDataSection()
    limits: LimitsSection = LimitsSection()
    parallel: ParallelSection = ParallelSection(zero_stage=1)
    faults: FaultsSection = FaultsSection(spike_sigmas=None)
    """How a run handles bad steps and hangs by itself. Spike detection is off: the loss depends on how many clips were drawn
    unquantised or with few levels."""
    train: TrainSection
    checkpoint: CheckpointSection = CheckpointSection()
    cluster: ClusterSection

    @model_validator(mode="after")
    def _check_phases(self) -> VideoTokenizerRun:
        total, levels = sum(phase.steps for phase in self.phases), len(self.hierarchy.levels)
        if self.phases and total != self.train.steps:
            raise ConfigError(f"the phases have {total} steps in all, train.steps is {self.train.steps}; make them equal")
        entropy, dropouts = self.loss.entropy, {f"phase '{phase.name}'": phase.level_dropout for phase in self.phases}
        if isinstance(entropy, tuple) and len(entropy) != levels:
            raise ConfigError(f"loss.entropy has {len(entropy)} weights, the hierarchy has {levels} levels; give as many")
        self.video_tokenizer.quantizers(levels)
        for where, shares in {"loss": self.loss.level_dropout, **dropouts}.items():
            if isinstance(shares, tuple) and (len(shares) >= levels or sum(shares) > 1):
                raise ConfigError(
                    f"{where}: level_dropout has {len(shares)} shares that sum to {sum(shares):g}; give at most {levels - 1}, "
                    f"those of the first 1, 2, … levels alone, that sum to at most 1"
                )
        for phase in self.phases:
            if phase.levels and phase.levels > levels:
                raise ConfigError(f"phase '{phase.name}' uses {phase.levels} levels, the hierarchy has {levels}")
            if phase.adversarial and not self.loss.adversarial.weight:
                raise ConfigError(f"phase '{phase.name}' is adversarial, loss.adversarial.weight is 0; give it one, say 0.2")
            try:
                self.hierarchy.grids(self.clip_in(phase).extent)
            except ConfigError as error:
                raise ConfigError(f"phase '{phase.name}': size {list(phase.size or ())}: {error}") from error
        if self.loss.adversarial.weight and not any(phase.adversarial for phase in self.phases):
            raise ConfigError("loss.adversarial.weight is above 0, no phase is adversarial; set adversarial: true in one")
        return self

    def clip_in(self, phase: PhaseSection) -> ClipShape:
        """The shape of a phase's clips."""
        height, width = phase.size or (self.clip.height, self.clip.width)
        return self.clip.model_copy(update={"height": height, "width": width})

    @property
    def schedule(self) -> tuple[PhaseSection, ...]:
        """The phases; without any, one of all steps."""
        return self.phases or (PhaseSection(name="all", steps=self.train.steps),)


class TokenizeRun(Section):
    """A job that tokenizes video shards. Clip shape and hierarchy come with the video tokenizer's weights."""

    program: Literal["tokenize_shards"]
    """The program that runs this file."""
    run: RunSection
    video_tokenizer: TrainedTokenizerSection = TrainedTokenizerSection()
    data: TokenizeDataSection = TokenizeDataSection()
    limits: LimitsSection = LimitsSection()
    task: TaskSection = TaskSection()
    tracking: TrackingSection = TrackingSection()


class PretrainRun(BaseRun):
    """A run that trains a language model."""

    program: Literal["pretrain"]
    """The program that runs this file."""
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
        """Raise ConfigError if the ranks cannot share heads, matrices or slots equally."""
        tensor, context = self.parallel.tensor, self.parallel.context
        each = tensor * context
        for name, size in {"llm.heads": self.llm.heads, "llm.kv_heads": self.llm.kv_heads}.items():
            if size % each:
                axes = "parallel.tensor" if context == 1 else "parallel.tensor × parallel.context ="
                raise ConfigError(f"{name} {size} is not divisible by {axes} {each}")
        divided = {
            "llm.hidden": self.llm.hidden,
            "text.vocab_size": self.text.vocab_size,
            "the smallest sub-code's codebook": min(1 << bits for level in self.hierarchy.levels for bits in level.sub_codes),
        }
        for name, size in divided.items():
            if size % tensor:
                raise ConfigError(f"{name} {size} is not divisible by parallel.tensor {tensor}")
        self._check_groups(each if self.parallel.sequence else context)
        slots, parts = self.text.window + self.hierarchy.tokens(self.clip.extent), each if self.parallel.sequence else context
        if slots % parts:
            raise ConfigError(
                f"a row has {slots} slots of input, which {parts} ranks cannot share equally; "
                f"set text.window={self.text.window + parts - slots % parts}"
            )
        return self

    @property
    def grouped_share(self) -> float:
        """Share of the training steps whose rows are in grouped order."""
        return self.train.grouped if self.llm.groups else 0.0

    def _check_groups(self, parts: int) -> None:
        """Raise ConfigError if regions do not divide their levels, or `parts` ranks cannot share the START slots equally."""
        groups, grids = self.llm.groups, self.hierarchy.grids(self.clip.extent)
        if groups is None:
            return
        if len(groups) != len(grids):
            raise ConfigError(f"llm.groups has {len(groups)} entries, the hierarchy has {len(grids)} levels; give as many")
        starts = 0
        for level, (grid, region) in enumerate(zip(grids, groups, strict=True)):
            if region and any(whole % part for whole, part in zip(grid, region, strict=True)):
                raise ConfigError(
                    f"llm.groups: regions of {list(region)} cells do not divide level {level}'s grid of {list(grid)}; "
                    f"use divisors of its numbers"
                )
            together = grid.cells // math.prod(region) if region else 1
            starts += together if together > 1 else 0
        if starts % parts:
            raise ConfigError(
                f"llm.groups adds {starts} slots to a row, which {parts} ranks cannot share equally; use other regions, or a "
                f"smaller parallel.context or parallel.tensor"
            )


RUNS: dict[str, type[Any]] = {"video_tokenizer": VideoTokenizerRun, "tokenize_shards": TokenizeRun, "pretrain": PretrainRun}
COMMANDS = {"video_tokenizer": "pretrain.video_tokenizer", "tokenize_shards": "tokenize_shards", "pretrain": "pretrain"}


def load_settings(path: Path | str, overrides: Sequence[str] = ()) -> VideoTokenizerRun | TokenizeRun | PretrainRun:
    """A run of any kind, chosen by `program` in the file. Raises ConfigError for a wrong file or override."""
    content = config.apply_overrides(config.resolve(path), overrides)
    program = content.get("program")
    if not isinstance(program, str) or program not in RUNS:  # a list is not hashable
        raise ConfigError(f"{path}: 'program' must be one of {', '.join(RUNS)}; got '{short(program)}'")
    run: VideoTokenizerRun | TokenizeRun | PretrainRun = config.build(RUNS[program], content, str(path))
    if not isinstance(run, TokenizeRun) and run.train.warmup_steps > run.train.steps:
        log.warning(
            "%s: train.warmup_steps %d is above train.steps %d: the learning rate never reaches train.lr",
            path, run.train.warmup_steps, run.train.steps,
        )  # fmt: skip
    return run


def load_settings_as(kind: type[RunT], path: Path | str, overrides: Sequence[str] = ()) -> RunT:
    """A run of one kind. Raises ConfigError for another kind, and names the program that runs the file."""
    run = load_settings(path, overrides)
    if not isinstance(run, kind):
        raise ConfigError(f"{path} is for another program; start it with: python -m {COMMANDS[run.program]} {path}")
    return run


def check_layout(settings: VideoTokenizerRun | PretrainRun) -> None:
    """Raise ConfigError if the run does not divide over the cluster's devices."""
    cluster, parallel = settings.cluster, settings.parallel
    world, each = cluster.nodes * cluster.devices_per_node, parallel.tensor * parallel.context
    if world % each:
        raise ConfigError(
            f"{cluster.nodes} nodes × {cluster.devices_per_node} devices = {world} ranks are not a multiple of "
            f"parallel.tensor {parallel.tensor} × parallel.context {parallel.context}; change one of the four"
        )
    settings.train.accumulation(world // each)
