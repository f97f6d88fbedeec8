"""What a program hands to the training loop: a model in its engine, its data, and what to do with a micro-batch."""

from __future__ import annotations

import logging
import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from hitvideo.checkpoints.listing import Fingerprint
from hitvideo.data.loader import Batches, Source
from hitvideo.errors import ConfigError, HiTVideoError
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.meeting import meet
from hitvideo.parallel.topology import Topology, start
from hitvideo.planning.flops import mfu
from hitvideo.runs.heartbeat import Heartbeat
from hitvideo.runs.ownership import held, write_fault
from hitvideo.runs.writer import RunWriter
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun
from hitvideo.settings.training import TrainSection
from hitvideo.tracking.tracker import Tracker

log = logging.getLogger(__name__)


class Cost(NamedTuple):
    """Tokens of one row, and FLOPs of its forward and backward."""

    tokens: int
    flops: float


class Rehearsal(NamedTuple):
    """A step that is taken before training, and thrown away, to see whether its memory suffices."""

    what: str
    """Its phase and its clips or rows, for messages."""
    step: int
    batch: Callable[[], torch.Tensor]
    """Makes a micro-batch of the right shape, in host memory."""


class OpenRun(NamedTuple):
    """A run under way: its ranks, its directory, its tracker, its watchdog."""

    topology: Topology
    directory: RunWriter
    tracker: Tracker
    heartbeat: Heartbeat


@contextmanager
def open_run(
    settings: VideoTokenizerRun | PretrainRun, data: Fingerprint, allowed: Sequence[str] = ()
) -> Iterator[OpenRun]:
    """Join the ranks, hold and open the run directory, and start tracking. `allowed`: keys of settings that may have changed.

    A start that is refused leaves no new directory behind, and one that meets another process of the same run touches nothing.
    """
    axes = (settings.parallel.tensor, settings.parallel.context)
    with start(*axes, settings.faults.collective_seconds) as topology, held_by(topology, settings.run.directory) as attempt:
        directory = RunWriter(settings, topology.rank == 0, data, allowed)
        try:
            with (
                Tracker(settings.tracking, directory.path, directory.writer, attempt=directory.attempt) as tracker,
                Heartbeat(directory.heartbeats, topology.rank, settings.faults, attempt) as heartbeat,
            ):
                warn_of_new_length(settings, directory)
                directory.write_meeting(meet(topology, settings.cluster, settings.train.dtype))
                heartbeat.beat("build", 0)
                try:
                    yield OpenRun(topology, directory, tracker, heartbeat)
                except Exception as error:
                    write_fault(error)  # before anything is closed, which may take a while
                    raise
        except HiTVideoError:
            directory.discard_if_new()
            raise


@contextmanager
def held_by(topology: Topology, directory: Path) -> Iterator[str]:
    """Hold the run directory by rank 0; gives a name that the ranks of this start share.

    Raises ConfigError on every rank if another process holds it.
    """
    with ExitStack() as stack:
        refusal: list[str | None] = [None, uuid.uuid4().hex[:8]]
        if topology.rank == 0:
            try:
                stack.enter_context(held(directory))
            except (HiTVideoError, OSError) as error:
                refusal[0] = str(error)
        dist.broadcast_object_list(refusal, src=0)
        if refusal[0]:
            raise ConfigError(refusal[0])
        yield str(refusal[1])


def warn_of_new_length(settings: VideoTokenizerRun | PretrainRun, directory: RunWriter) -> None:
    """Say what another train.steps does to the learning rate of a run that goes on."""
    before, step = directory.before, directory.newest_step
    if not before or not step or not directory.writer or before.train.steps == settings.train.steps:
        return
    if step >= settings.train.steps:
        log.warning("train.steps is now %d, the run has taken %d steps already: it ends", settings.train.steps, step)
        return
    was, is_now = learning_rate(before.train, step), learning_rate(settings.train, step)
    if math.isclose(was, is_now):  # the warm-up is not stretched
        return
    log.warning(
        "train.steps was %d and is now %d: the schedule is stretched, so that the learning rate after step %d is %.3g, not "
        "%.3g; stop now if that is not wanted",
        before.train.steps, settings.train.steps, step, is_now, was,
    )  # fmt: skip


class Task(ABC):
    """One program's training: subclasses make the model and its data in `__init__` and say what a step is."""

    def __init__(
        self,
        settings: VideoTokenizerRun | PretrainRun,
        run: OpenRun,
        engine: Engine,
        training: Batches,
        validation: Batches | None,
        fingerprint: Fingerprint,
    ) -> None:
        """`fingerprint`: of the data that a checkpoint must share to be loaded."""
        self.directory, self.tracker, self.topology, self.heartbeat = run.directory, run.tracker, run.topology, run.heartbeat
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

    def prepare(self, batches: Sequence[torch.Tensor], step: int) -> None:  # noqa: B027  (most tasks have nothing to prepare)
        """Called once before the losses of a step, with all its micro-batches of this rank, in host memory."""

    @abstractmethod
    def losses(self, batch: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        """Forward one micro-batch: scalars, all logged, of which `loss` is minimised."""

    @abstractmethod
    def validate(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scalars of one held-out micro-batch, logged as validation_NAME."""

    @abstractmethod
    def rehearsals(self, step: int) -> list[Rehearsal]:
        """What must fit in memory from this step on; equal on all ranks. Steps of equal memory need one."""

    @abstractmethod
    def cost(self, step: int) -> Cost:
        """What a row costs at a step."""

    @abstractmethod
    def write_weights(self, checkpoint: Path) -> None:
        """Write `weights/` from the run's last checkpoint; only the writing rank calls it."""

    def draw(self) -> None:  # noqa: B027  (a model may have its initial weights already)
        """Set the initial weights, on every rank; called if the run has no checkpoint."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep besides the engine's tensors: JSON, equal on all ranks."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027  (a task without a state of its own has nothing to do)
        """Take back what `state` gave, on every rank, and forget a step under way."""

    def use_order(self, version: int) -> None:
        """Draw in this version of the data order: that of the checkpoint which the run goes on from."""
        for batches in (self.training, self.validation):
            if batches:
                batches.use_order(version)

    def damaged(self) -> int:
        """Rows since the last call whose sample was damaged and is replaced, over all ranks."""
        mine, self.training.replaced = self.training.replaced, 0
        return round(self.engine.mean({"damaged": mine})["damaged"] * self.topology.data)

    def sample_key(self, index: int) -> str:
        """Names a sample of the source in the record of skipped steps."""
        return str(index)

    def sample_keys(self, step: int) -> list[str]:
        """Names of the samples in the global batch of a step."""
        draws = self.training.first_draw(step) + np.arange(self.train.global_batch)
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
    lasting: bool = True,
) -> Batches:
    """This rank's batches of a run, drawn from a part of the source. `lasting`: see `Batches`."""
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
        most_damaged=settings.faults.most_damaged,
        lasting=lasting,
    )


def learning_rate(train: TrainSection, step: int, steps: int | None = None, lr: float | None = None) -> float:
    """Linear warm-up, then train.schedule; a cosine and a decay end at lr × min_lr_ratio, after the last step.

    `steps`, `lr`: a phase's instead of the run's.
    """
    steps, lr = steps or train.steps, lr or train.lr
    if step < train.warmup_steps:
        return lr * (step + 1) / train.warmup_steps
    span = max(steps - train.warmup_steps, 1)
    if train.schedule == "constant":
        height = 1.0
    elif train.schedule == "wsd":
        height = min(max((steps - step) / min(train.decay_steps or max(steps // 10, 1), span), 0.0), 1.0)
    else:
        height = 0.5 * (1 + math.cos(math.pi * min((step - train.warmup_steps) / span, 1.0)))
    return lr * (train.min_lr_ratio + (1 - train.min_lr_ratio) * height)
