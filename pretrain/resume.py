"""Where a start begins: after the run's newest checkpoint, with another run's weights, or with random ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch.distributed as dist

from hitvideo.checkpoints.listing import STATE_FILE
from hitvideo.errors import ConfigError
from hitvideo.parallel.restore import newest, restore
from hitvideo.runs.changes import change, read_lines
from hitvideo.runs.directory import RunDirectory
from pretrain.guard import Guard
from pretrain.task import Task

log = logging.getLogger(__name__)


def resume(task: Task, guard: Guard) -> int:
    """Load the newest undamaged checkpoint, of whatever layout; returns the number of steps behind it."""
    found, step = newest(task.directory.checkpoints, task.engine), 0
    if found:
        state = restore(found, task.engine)
        step = int(state["step"])
        task.load_state(state.get("job", {}))
        take_position(task, guard, state)
        if task.directory.writer:
            log.info("resumed %s after step %d", task.directory.path, step)
    elif task.train.start_from:
        start_from(task)
    else:
        task.draw()
    task.directory.forget_metrics_after(step)
    return step


def take_position(task: Task, guard: Guard, state: dict[str, Any]) -> None:
    """Set where in the data the run goes on: after the samples consumed or, in other data than the checkpoint's, at their
    beginning; past those that a return to this very checkpoint has passed over.
    """
    step, same = int(state["step"]), task.fingerprint.fits(state)
    before = state.get("guard", {})
    old = (step + before.get("passed_over", 0)) * task.train.global_batch  # of a checkpoint that does not count samples
    samples = int(state.get("samples", old)) if same else 0
    if same:
        task.use_order(state.get("order", 1))  # a checkpoint that names none is older than version 2
    returns, rollbacks = _rollbacks(task.directory)
    returned = [row["samples"] for row in returns[-1:] if row["to"] == step and row["data"] in task.fingerprint]
    guard.load_state(before, rollbacks, other_data=not same or bool(returned))
    task.training.go_on_from(step, max([samples, *returned]))


def _rollbacks(directory: RunDirectory) -> tuple[list[dict[str, Any]], int]:
    """The recorded returns to a checkpoint, and how many of them are newer than the last change of a setting."""
    read: list[Any] = [None]
    if dist.get_rank() == 0:  # the others might not yet see what it has just written
        returns, changes = read_lines(directory.rollbacks), read_lines(directory.changes)
        changed = max((row["time"] for row in changes), default=0)
        read = [(returns, sum(row["time"] > changed for row in returns))]
    dist.broadcast_object_list(read, src=0)
    found: tuple[list[dict[str, Any]], int] = read[0]
    return found


def start_from(task: Task) -> None:
    """Begin with the weights of train.start_from, and with the optimizer's states if it says so. Raises ConfigError."""
    section = task.train.start_from
    assert section
    place = Path(section.run)
    checkpoint = place if (place / STATE_FILE).is_file() else newest(place / "checkpoints", task.engine)
    if checkpoint is None:
        raise ConfigError(f"train.start_from.run {place}: no checkpoint there; give a run directory or one of its checkpoints")
    refuse_another_text_tokenizer(task.directory, RunDirectory(checkpoint.parent.parent))
    try:
        state = restore(checkpoint, task.engine, weights_only=section.what == "weights")
    except ConfigError as error:
        raise ConfigError(f"train.start_from.run: {error}") from error
    if section.what == "all":
        task.load_state(state.get("job", {}))
    task.directory.append_change(change("train.start_from", None, str(checkpoint.absolute()), 0, what=section.what))


def refuse_another_text_tokenizer(run: RunDirectory, other: RunDirectory) -> None:
    """Raise ConfigError if the runs' text tokenizers differ: the same ids would mean other words."""
    ours, theirs = (each.text_tokenizer_file for each in (run, other))
    if ours.is_file() and theirs.is_file() and ours.read_bytes() != theirs.read_bytes():
        raise ConfigError(f"train.start_from.run: its text tokenizer is another than this run's; set text.model={theirs}")
