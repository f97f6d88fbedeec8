"""A rehearsal of every phase to come, before the first step: memory that will not suffice ends a run at once, not on day 3.

Each phase takes one step on made-up data of its shape: all micro-batches forward and backward, the reduction and the clipping
of gradients, and then no update, as when a loss is bad. Weights, optimizer, averages, data and random numbers stay as they are,
bit for bit. Adam's states, which otherwise come to be at the first update, are made before.
"""

from __future__ import annotations

import logging

import torch

from hitvideo.errors import ConfigError
from hitvideo.parallel.fragments import adam_states
from pretrain.task import Rehearsal, Task

log = logging.getLogger(__name__)
_GIB = 1 << 30
_CPU_ALLOCATOR = "DefaultCPUAllocator"  # torch raises a plain RuntimeError that names it


def rehearse(task: Task, step: int) -> None:
    """Rehearse the phases from `step` on, if train.rehearse says so. Raises ConfigError if memory does not suffice for one."""
    device = task.topology.device
    if not (device.type == "cuda" if task.train.rehearse == "auto" else task.train.rehearse):
        return
    state = task.state()
    adam_states(task.engine)
    for rehearsal in task.rehearsals(step):
        task.heartbeat.beat(f"rehearse {rehearsal.what}", step)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            _take(task, rehearsal)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError | MemoryError) and _CPU_ALLOCATOR not in str(error):
                raise
            raise ConfigError(_refusal(task, rehearsal, error)) from error
        finally:
            task.load_state(state)
        if device.type == "cuda" and task.directory.writer:
            peak, whole = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
            log.info("rehearsed %s: %.1f of %.1f GiB", rehearsal.what, peak / _GIB, whole / _GIB)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # blocks of one phase's sizes would fragment the memory of another
        torch.cuda.reset_peak_memory_stats(device)


def _take(task: Task, rehearsal: Rehearsal) -> None:
    """One whole step that leaves the weights as they are."""
    engine = task.engine
    batches = [rehearsal.batch()] * engine.accumulation
    task.prepare(batches, rehearsal.step)
    for batch in batches:
        losses = task.losses(batch.to(engine.topology.device, non_blocking=True), rehearsal.step)
        engine.backward(losses["loss"])
    engine.step(discard=True)


def _refusal(task: Task, rehearsal: Rehearsal, error: BaseException) -> str:
    micro = task.train.micro_batch
    smaller = f"lower train.micro_batch to {micro // 2}" if micro > 1 else "train on smaller clips or rows"
    return (
        f"{rehearsal.what}: a step with train.micro_batch {micro} does not fit in memory; {smaller}, set "
        "parallel.activation_checkpointing=block, or raise parallel.zero_stage or parallel.tensor (train.rehearse=false starts "
        f"without this check): {str(error).splitlines()[0][:200]}"
    )
