"""The training loop of both programs: fetch, forward, backward, step, log, save.

What is trained is a `Job`; how it is spread over ranks is the engine's affair. The loop's whole state is the number of
steps done: data order, level and caption dropout and the learning rate are functions of it. Around the loop stand a guard,
which leaves out steps that would spoil the weights, a saver, which writes beside training, and a heartbeat.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hitvideo.checkpoints import reader
from hitvideo.data.loader import Batches
from hitvideo.parallel import restore
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.meeting import meet
from hitvideo.parallel.save import Saver
from hitvideo.parallel.topology import Topology, start
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.heartbeat import Heartbeat
from hitvideo.runs.program import EXIT_DONE, EXIT_STOPPED, Stop
from hitvideo.runs.tracking import Tracker
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun
from hitvideo.settings.run import CheckpointSection, FaultsSection
from hitvideo.settings.training import TrainSection
from pretrain.guard import Diverged, Guard
from pretrain.meter import Meter, Progress

log = logging.getLogger(__name__)


class Cost(NamedTuple):
    """Tokens of one row, and FLOPs of its forward and backward."""

    tokens: int
    flops: float


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
    cost: Callable[[int], Cost]
    """Of a row at a step: phases may have clips of their own."""
    utilisation: Callable[[float], float]
    """FLOPs per second → MFU."""
    state: Callable[[], dict[str, Any]] = dict
    """What a checkpoint must hold beside the engine's tensors, as JSON can; equal on all ranks."""
    load_state: Callable[[dict[str, Any]], None] = lambda _state: None
    """Given the same again on resuming, on every rank."""
    key: Callable[[int], str] = str
    """Names a sample of the source, for the record of skipped steps."""
    faults: FaultsSection = field(default_factory=FaultsSection)


@contextmanager
def opened(settings: VideoTokenizerRun | PretrainRun) -> Iterator[tuple[Topology, RunDirectory, Tracker]]:
    """The ranks, the run directory and the tracker of a run."""
    with start(settings.parallel.tensor, settings.parallel.context) as topology:
        directory = RunDirectory(settings, writer=topology.rank == 0)
        directory.write_meeting(meet(topology))
        with Tracker(settings.tracking, directory.path, settings, enabled=directory.writer) as tracker:
            yield topology, directory, tracker


def batches_of(
    settings: VideoTokenizerRun | PretrainRun, topology: Topology, read_together: int, threads: int = 1
) -> partial[Batches]:
    """`Batches` of a run, lacking only the source and which of its samples to draw from."""
    return partial(
        Batches,
        global_batch=settings.train.global_batch,
        micro_batch=settings.train.micro_batch,
        data_rank=topology.data_rank,
        data_ranks=topology.data,
        seed=settings.run.seed,
        read_together=read_together,
        threads=threads,
    )


def train(job: Job) -> int:
    """Train to the last step, or to a stop signal; returns the exit code."""
    engine, settings, directory = job.engine, job.train, job.directory
    guard = Guard(job.faults, directory.path, directory.writer)
    saver = Saver(directory.checkpoints, engine, job.checkpoint, job.fingerprint)
    step = resume(job, guard)
    stop, meter = Stop(directory.path), Meter(engine, settings.global_batch)
    pulse = Heartbeat(directory.path / "heartbeats", engine.topology.rank, job.faults)
    with pulse, Progress(step, settings.steps, shown=directory.writer) as progress:
        while step < settings.steps:
            with meter.timed():
                with meter.waiting():
                    pulse.beat("fetch", step)
                    micro_batches = job.batches(step + guard.passed_over)
                lr = job.set_lr(step)
                pulse.beat("forward and backward", step)
                for batch in micro_batches:
                    losses = job.losses(batch.to(engine.topology.device, non_blocking=True), step)
                    engine.backward(losses["loss"])
                    meter.add(losses)
                pulse.beat("step", step)
                loss = meter.loss()
                reason = guard.bad(loss)
                applied = engine.step(discard=reason is not None)
                meter.close_step(applied)
            if applied:
                guard.good(loss)
            else:
                guard.skipped(step, reason or "gradient is not finite", keys(job, step + guard.passed_over))
            step += 1
            last = step == settings.steps
            pulse.beat("validate and log", step)
            validated = validation_losses(job) if last or step % settings.validate_every == 0 else {}
            if (step == 1 or last or step % settings.log_every == 0 or validated) and (metered := meter.row()):
                row = {"step": step, **rates(job, metered, step), "lr": lr, **validated}
                directory.append_metrics(row)
                job.tracker.log(row, step)
                progress.show(step, row)
            pulse.beat("save", step)
            stopping, unsaved = engine.any(stop.requested, saver.failed)
            if unsaved:
                saver.give_up()
            if guard.hopeless:
                step = roll_back(job, guard, saver, step)
            elif stopping or last or step % job.checkpoint.every == 0:
                saver.save(step, {"job": job.state(), "guard": guard.state()}, final=stopping or last)
            if stopping and not last:
                job.tracker.finish("KILLED")
                log.warning("stopped after step %d on request; the same command goes on from there", step)
                return EXIT_STOPPED
    if directory.writer:
        job.export(reader.complete(directory.checkpoints)[-1])
    job.tracker.finish("FINISHED")
    directory.mark_done(step)
    return EXIT_DONE


def resume(job: Job, guard: Guard) -> int:
    """Load the newest checkpoint that is whole, of whatever layout; returns the steps behind it."""
    found, step = restore.newest(job.directory.checkpoints, job.engine), 0
    if found:
        step = restore.load(found, job.engine, job.fingerprint)
        memory = reader.Reader(found).state
        job.load_state(memory.get("job", {}))
        guard.load_state(memory.get("guard", {}))
    job.directory.forget_metrics_after(step)
    if step and job.directory.writer:
        log.warning("resumed %s after step %d", job.directory.path, step)
    return step


def roll_back(job: Job, guard: Guard, saver: Saver, step: int) -> int:
    """Back to the newest checkpoint, whose step is returned, and on with data that have not been seen."""
    saver.finish()
    found = restore.newest(job.directory.checkpoints, job.engine)
    if found is None:
        raise Diverged(f"{job.faults.patience} bad steps in a row up to step {step}, with no checkpoint yet to go back to")
    guard.roll_back(step, reader.step_of(found))
    job.load_state(reader.Reader(found).state.get("job", {}))
    step = restore.load(found, job.engine, job.fingerprint)
    job.directory.forget_metrics_after(step)
    return step


def keys(job: Job, step: int) -> list[str]:
    """Names of the samples in the global batch of a step."""
    draws = step * job.train.global_batch + np.arange(job.train.global_batch)
    return [job.key(job.batches.samples[int(index)]) for index in job.batches.order(draws)]


def rates(job: Job, metered: dict[str, float], step: int) -> dict[str, float]:
    """A meter's row with rows per second told as tokens per second and MFU, by what a row costs in the last of `step` steps."""
    rows, cost = metered.pop("rows_per_s"), job.cost(step - 1)
    return {**metered, "tokens_per_s": rows * cost.tokens, "mfu": job.utilisation(rows * cost.flops)}


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
