"""What a program hands to the training loop: a model in its engine, its data, and what to do with a micro-batch."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hitvideo.data.loader import Batches, Source
from hitvideo.errors import HiTVideoError
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.meeting import meet
from hitvideo.parallel.topology import Topology, start
from hitvideo.planning.flops import mfu
from hitvideo.runs.tracking import Tracker
from hitvideo.runs.writer import RunWriter
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun
from hitvideo.settings.training import TrainSection

log = logging.getLogger(__name__)


class Cost(NamedTuple):
    """Tokens of one row, and FLOPs of its forward and backward."""

    tokens: int
    flops: float


class OpenRun(NamedTuple):
    """A run under way: its ranks, its directory, its tracker."""

    topology: Topology
    directory: RunWriter
    tracker: Tracker


@contextmanager
def open_run(settings: VideoTokenizerRun | PretrainRun) -> Iterator[OpenRun]:
    """Join the ranks, open the run directory and start tracking. A start that is refused leaves no new directory behind."""
    with start(settings.parallel.tensor, settings.parallel.context) as topology:
        directory = RunWriter(settings, writer=topology.rank == 0)
        try:
            directory.write_meeting(meet(topology))
            with Tracker(settings.tracking, directory.path, settings, enabled=directory.writer) as tracker:
                yield OpenRun(topology, directory, tracker)
        except HiTVideoError:
            directory.discard_if_new()
            raise


class Task(ABC):
    """One program's training: subclasses make the model and its data in `__init__` and say what a step is."""

    def __init__(
        self,
        settings: VideoTokenizerRun | PretrainRun,
        run: OpenRun,
        engine: Engine,
        training: Batches,
        validation: Batches | None,
        fingerprint: str,
    ) -> None:
        """`fingerprint`: of the settings and data that a checkpoint must share to be loaded."""
        self.directory, self.tracker, self.topology = run.directory, run.tracker, run.topology
        self.engine = engine
        self.train = settings.train
        self.checkpoint = settings.checkpoint
        self.faults = settings.faults
        self.cluster = settings.cluster
        self.training = training
        self.validation = validation
        self.fingerprint = fingerprint

    @abstractmethod
    def set_lr(self, step: int) -> float:
        """Set the learning rate of a step, and return it."""

    @abstractmethod
    def losses(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        """Forward one micro-batch: scalars, all logged, of which `loss` is minimised."""

    @abstractmethod
    def validate(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scalars of one held-out micro-batch, logged as validation_NAME."""

    @abstractmethod
    def cost(self, step: int) -> Cost:
        """What a row costs at a step."""

    @abstractmethod
    def write_weights(self, checkpoint: Path) -> None:
        """Write `weights/` from the run's last checkpoint; only the writing rank calls it."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep besides the engine's tensors: JSON, equal on all ranks."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027  (a task without a state of its own has nothing to do)
        """Take back on resuming what `state` gave, on every rank."""

    def sample_key(self, index: int) -> str:
        """Names a sample of the source in the record of skipped steps."""
        return str(index)

    def sample_keys(self, step: int) -> list[str]:
        """Names of the samples in the global batch of a step of the data order."""
        draws = step * self.train.global_batch + np.arange(self.train.global_batch)
        return [self.sample_key(self.training.samples[int(index)]) for index in self.training.order(draws)]

    def rates(self, rows_per_s: float, step: int) -> dict[str, float]:
        """Rows per second as tokens per second and MFU, by what a row costs at this step."""
        cost = self.cost(step)
        return {
            "tokens_per_s": rows_per_s * cost.tokens,
            "mfu": mfu(rows_per_s * cost.flops, self.topology.world, self.cluster),
        }


def make_batches(
    settings: VideoTokenizerRun | PretrainRun,
    topology: Topology,
    source: Source,
    samples: range,
    read_together: int,
    threads: int = 1,
) -> Batches:
    """This rank's batches of a run, drawn from a part of the source."""
    return Batches(
        source,
        samples,
        global_batch=settings.train.global_batch,
        micro_batch=settings.train.micro_batch,
        data_rank=topology.data_rank,
        data_ranks=topology.data,
        seed=settings.run.seed,
        read_together=read_together,
        threads=threads,
    )


def learning_rate(train: TrainSection, step: int, steps: int | None = None, lr: float | None = None) -> float:
    """Linear warm-up, then a cosine to lr × min_lr_ratio at the last step. `steps`, `lr`: a phase's instead of the run's."""
    steps, lr = steps or train.steps, lr or train.lr
    if step < train.warmup_steps:
        return lr * (step + 1) / train.warmup_steps
    span = max(steps - train.warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min((step - train.warmup_steps) / span, 1.0)))
    return lr * (train.min_lr_ratio + (1 - train.min_lr_ratio) * cosine)
