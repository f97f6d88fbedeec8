"""The training loop of both programs: fetch, forward, backward, step, log, save.

What is trained is a `Job`; how it is spread over ranks is the engine's affair. The loop's whole state is the number of
steps done: data order, level and caption dropout and the learning rate are functions of it.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from tqdm import tqdm

from hitvideo.data.loader import Batches
from hitvideo.parallel import checkpoint
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.topology import Topology, start
from hitvideo.run import EXIT_DONE, EXIT_STOPPED, RunDirectory, Stop
from hitvideo.schema import PretrainRun, VideoTokenizerRun
from hitvideo.sections import CheckpointSection, TrainSection
from hitvideo.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass
class Job:
    """What one program hands to the loop."""

    engine: Engine
    directory: RunDirectory
    tracker: Tracker
    train: TrainSection
    checkpoint: CheckpointSection
    fingerprint: str
    """Of the settings that a checkpoint must share to be loaded."""
    batches: Batches
    set_lr: Callable[[int], float]
    """Sets the learning rate of a step, and returns it."""
    losses: Callable[[torch.Tensor, int], dict[str, torch.Tensor]]
    """(micro-batch, step) → scalars; `loss` is minimised, all are logged."""
    validation: Batches | None
    validate: Callable[[torch.Tensor], dict[str, torch.Tensor]]
    """Micro-batch → scalars, logged as validation_NAME."""
    export: Callable[[Path], None]
    """Write `weights/` from a checkpoint; called on the writer alone."""
    tokens_per_row: int
    flops_per_row: float
    utilisation: Callable[[float], float]
    """FLOPs per second → MFU."""
    state: Callable[[], dict[str, Any]] = dict
    """What a checkpoint must hold beside the engine's tensors, as JSON can; equal on all ranks."""
    load_state: Callable[[dict[str, Any]], None] = lambda _state: None
    """Given the same again on resuming, on every rank."""


@contextmanager
def opened(settings: VideoTokenizerRun | PretrainRun) -> Iterator[tuple[Topology, RunDirectory, Tracker]]:
    """The ranks, the run directory and the tracker of a run."""
    with start(settings.parallel.tensor) as topology:
        directory = RunDirectory(settings, writer=topology.rank == 0)
        with Tracker(settings.tracking, directory.path, settings, enabled=directory.writer) as tracker:
            yield topology, directory, tracker


def batches_of(settings: VideoTokenizerRun | PretrainRun, topology: Topology, block: int, threads: int = 1) -> partial[Batches]:
    """`Batches` of a run, lacking only the source and which of its samples to draw from."""
    return partial(
        Batches,
        global_batch=settings.train.global_batch,
        micro_batch=settings.train.micro_batch,
        data_rank=topology.data_rank,
        data_ranks=topology.data,
        seed=settings.run.seed,
        block=block,
        threads=threads,
    )


def train(job: Job) -> int:
    """Train to the last step, or to a stop signal; returns the exit code."""
    engine, settings, directory = job.engine, job.train, job.directory
    step = resume(job)
    stop = Stop(directory.path)
    meter = Meter(job)
    with Progress(step, settings.steps, shown=directory.writer) as progress:
        while step < settings.steps:
            with meter.timed():
                with meter.waiting():
                    micro_batches = job.batches(step)
                lr = job.set_lr(step)
                for batch in micro_batches:
                    losses = job.losses(batch.to(engine.topology.device, non_blocking=True), step)
                    engine.backward(losses["loss"])
                    engine.step()
                    meter.add(losses)
            step += 1
            last = step == settings.steps
            validated = validation_losses(job) if last or step % settings.validate_every == 0 else {}
            if step == 1 or last or step % settings.log_every == 0 or validated:
                row = {"step": step, **meter.row(lr), **validated}
                directory.append_metrics(row)
                job.tracker.log(row, step)
                progress.show(step, row)
            stopping = engine.any(stop.requested)
            if stopping or last or step % job.checkpoint.every == 0:
                checkpoint.save(directory.checkpoints, engine, step, job.fingerprint, job.checkpoint.keep_last, job.state())
            if stopping and not last:
                job.tracker.finish("KILLED")
                log.warning("stopped after step %d on request; the same command goes on from there", step)
                return EXIT_STOPPED
    if directory.writer:
        job.export(checkpoint.complete(directory.checkpoints)[-1])
    job.tracker.finish("FINISHED")
    directory.mark_done(step)
    return EXIT_DONE


def resume(job: Job) -> int:
    """Load the newest finished checkpoint, of whatever layout; returns the steps behind it."""
    found = checkpoint.complete(job.directory.checkpoints)
    step = 0
    if found:
        step = checkpoint.load(found[-1], job.engine, job.fingerprint)
        job.load_state(checkpoint.job_state(found[-1]))
    job.directory.forget_metrics_after(step)
    if step and job.directory.writer:
        log.warning("resumed %s after step %d", job.directory.path, step)
    return step


def learning_rate(settings: TrainSection, step: int, steps: int | None = None, lr: float | None = None) -> float:
    """Linear warm-up, then a cosine to lr × min_lr_ratio at the last step. `steps`, `lr`: a phase's instead of the run's."""
    steps, lr = steps or settings.steps, lr or settings.lr
    if step < settings.warmup_steps:
        return lr * (step + 1) / settings.warmup_steps
    span = max(steps - settings.warmup_steps, 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min((step - settings.warmup_steps) / span, 1.0)))
    return lr * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * cosine)


@torch.no_grad()
def validation_losses(job: Job) -> dict[str, float]:
    """Means over the held-out samples, the same ones every time and for every number of ranks."""
    if job.validation is None:
        return {}
    sums: dict[str, float] = {}
    batches = [batch for number in range(job.train.validation_batches) for batch in job.validation(number)]
    for batch in batches:
        for name, value in job.validate(batch.to(job.engine.topology.device)).items():
            sums[f"validation_{name}"] = sums.get(f"validation_{name}", 0.0) + value.item() / len(batches)
    return job.engine.mean(sums)


class Meter:
    """Losses and times since the last logged row."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._reset()

    def _reset(self) -> None:
        self._losses: dict[str, torch.Tensor] = {}
        self._micro_batches = 0
        self._steps = 0
        self._seconds = 0.0
        self._waited = 0.0

    def timed(self) -> Stopwatch:
        self._steps += 1
        return Stopwatch(self._add_seconds)

    def waiting(self) -> Stopwatch:
        return Stopwatch(self._add_waited)

    def _add_seconds(self, seconds: float) -> None:
        self._seconds += seconds

    def _add_waited(self, seconds: float) -> None:
        self._waited += seconds

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        """Keep sums on the device: reading a value would wait for it."""
        self._micro_batches += 1
        for name, value in losses.items():
            self._losses[name] = self._losses.get(name, 0.0) + value.detach().float()

    def row(self, lr: float) -> dict[str, float]:
        """One row of metrics.jsonl, equal on all ranks; the meter starts anew."""
        job = self._job
        means = {name: value.item() / self._micro_batches for name, value in self._losses.items()}
        means = job.engine.mean({**means, "data_wait_s": self._waited / self._steps, "seconds": self._seconds})
        rows_per_second = self._steps * job.train.global_batch / means.pop("seconds")
        row = {
            **means,
            "grad_norm": job.engine.grad_norm,
            "lr": lr,
            "tokens_per_s": rows_per_second * job.tokens_per_row,
            "mfu": job.utilisation(rows_per_second * job.flops_per_row),
        }
        self._reset()
        return row


class Stopwatch:
    """Adds the time spent inside to a sum; on a GPU that includes the work still queued when a row is read."""

    def __init__(self, add: Callable[[float], None]) -> None:
        self._add = add

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._add(time.perf_counter() - self._start)


class Progress:
    """One line that says how far the run is; a new line every half minute where the output is a file."""

    def __init__(self, done: int, steps: int, shown: bool) -> None:
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(total=steps, initial=done, disable=not shown, mininterval=interval, unit="step", dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._bar.close()

    def show(self, step: int, row: dict[str, float]) -> None:
        words = [f"loss {row['loss']:.3f}", f"norm {row['grad_norm']:.2f}", f"{row['tokens_per_s']:.0f} tok/s"]
        self._bar.set_postfix_str(" ".join(words), refresh=False)
        self._bar.update(step - self._bar.n)
