"""The training loop of both programs: fetch, forward and backward, step, log, save.

What is trained is a `Task`. The loop's whole state is the number of steps done and of samples consumed: data order, dropout
and learning rate are functions of them. A guard skips steps that would spoil the weights, a saver writes next to training,
a watchdog ends a hang.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext

import torch

from hitvideo.checkpoints.listing import complete, step_of
from hitvideo.parallel.restore import newest, restore
from hitvideo.parallel.save import Saver, check_space
from hitvideo.runs.program import EXIT_DONE, EXIT_STOPPED, Stop
from pretrain.guard import Diverged, Guard
from pretrain.meter import Meter, Progress
from pretrain.rehearsal import rehearse
from pretrain.resume import resume
from pretrain.task import Task

log = logging.getLogger(__name__)


def train(task: Task) -> int:
    """Train to the last step, or to a request to stop; returns the exit code."""
    engine, directory, steps = task.engine, task.directory, task.train.steps
    task.heartbeat.beat("resume", 0)
    guard = Guard(task.faults, directory.skipped, directory.writer)
    saver = Saver(directory.checkpoints, engine, task.checkpoint, task.fingerprint.data)
    looks = engine.topology.local_rank == 0  # one rank of a node looks for the file, because each look is a request
    stop, step = Stop(directory.stop if looks else None), resume(task, guard)
    if step < steps:
        check_space(directory.checkpoints, engine, task.checkpoint)
        rehearse(task, step)
    with (
        task.training,
        task.validation or nullcontext(),
        Progress(step, steps, shown=directory.writer) as progress,
    ):
        meter = Meter(engine, task.train.global_batch, task.heartbeat)
        phase = meter.phase
        while step < steps:
            with phase("fetch", step):
                batches = task.training(step)
            with phase("forward and backward", step):
                lr = task.set_lr(step)
                task.prepare(batches, step)
                for batch in batches:
                    losses = task.losses(batch.to(engine.topology.device, non_blocking=True), step)
                    engine.backward(losses["loss"])
                    meter.add(losses)
            with phase("step", step):
                loss, (stopping, save_failed) = engine.agree(meter.loss(), stop.requested, saver.failed)
                meter.close_step(applied=guard.settle(task, loss, step))
            step += 1
            with phase("validate and log", step):
                log_step(task, meter, progress, step, lr, saver.failures)
            with phase("save", step):
                if save_failed:
                    saver.give_up()
                    saver.refuse_to_go_on()
                if guard.hopeless:
                    step = roll_back(task, guard, saver, step)
                elif stopping or step == steps or step % task.checkpoint.every == 0:
                    order, samples = task.training.order_version, task.training.first_draw(step)
                    memory = {"job": task.state(), "guard": guard.state(), "order": order, "samples": samples}
                    saver.save(step, memory, final=stopping or step == steps)
            if stopping and step < steps:
                return stopped(task, step)
    return finished(task, step)


def log_step(task: Task, meter: Meter, progress: Progress, step: int, lr: float, failures: int) -> None:
    """Validate and log after `step` steps, if either is due. `failures`: checkpoints that could not be written."""
    train, last = task.train, step == task.train.steps
    validated = validation_losses(task) if last or step % train.validate_every == 0 else {}
    due = step == 1 or last or step % train.log_every == 0 or bool(validated)
    if due and (metered := meter.row()):
        rates = task.rates(metered.pop("rows_per_s"), step - 1)
        failed = {"checkpoint_failed": failures} if failures else {}
        row = {"step": step, **metered, **rates, "lr": lr, "damaged": task.damaged(), **failed, **validated}
        task.directory.append_metrics(row)
        task.tracker.wake()
        progress.show(step, row)


def stopped(task: Task, step: int) -> int:
    """End an attempt that was asked to stop."""
    task.tracker.finish("KILLED")
    if task.directory.writer:
        log.info("stopped after step %d on request; run the same command again to continue", step)
    return EXIT_STOPPED


def finished(task: Task, step: int) -> int:
    """End the run: write its weights and mark it done. Other ranks wait for the mark, not in a collective, which times out."""
    task.heartbeat.beat("write weights", step)
    if task.directory.writer:
        task.write_weights(complete(task.directory.checkpoints)[-1])
    task.tracker.finish("FINISHED")
    task.directory.mark_done(step)
    while not task.directory.done:
        task.heartbeat.beat("wait for the weights", step)
        time.sleep(0.2)
    return EXIT_DONE


def roll_back(task: Task, guard: Guard, saver: Saver, step: int) -> int:
    """Return to the newest checkpoint, whose step is returned, and continue with data that has not been seen."""
    saver.finish()
    found = newest(task.directory.checkpoints, task.engine)
    if found is None:
        raise Diverged(f"{task.faults.patience} bad steps in a row up to step {step}, with no checkpoint yet to go back to")
    to, samples = step_of(found), task.training.first_draw(step)
    guard.roll_back(step, to)
    task.directory.append_rollback(step, to, samples, task.fingerprint.data)
    task.load_state(restore(found, task.engine).get("job", {}))
    task.training.go_on_from(to, samples)
    task.directory.forget_metrics_after(to)
    return to


@torch.no_grad()
def validation_losses(task: Task) -> dict[str, float]:
    """Means over the held-out samples, the same ones every time and for every number of ranks."""
    if task.validation is None:
        return {}
    sums: dict[str, torch.Tensor] = {}
    batches = [batch for number in range(task.train.validation_batches) for batch in task.validation(number)]
    for batch in batches:
        for name, value in task.validate(batch.to(task.engine.topology.device, non_blocking=True)).items():
            sums[name] = sums.get(name, 0.0) + value.double() / len(batches)
    return task.engine.mean({f"validation_{name}": value.item() for name, value in sums.items()})
