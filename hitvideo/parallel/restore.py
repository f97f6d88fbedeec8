"""Checkpoints that any layout can read: every rank writes its fragments, every rank reads what it needs of all of them.

    checkpoints/step-00000100/
        rank-00000.safetensors     this rank's fragments: NAME@OFFSET/STATE → 1-D fp32
        rank-00000.json            which they are, the tensor-parallel rank they belong to, size and sha256 of the above
        state.json                 step, full shapes, fingerprint, what the job remembers, sizes and sha256 of all; last

A half-written one is never chosen, for it gets its name by one rename (`saver.py`), nor is a damaged one: `newest` reads
every file's checksum, divided over the ranks. There is no RNG state to save, because nothing draws from a hidden one: data
order, dropout and schedule are functions of the step.

Why a format of our own. *torch.distributed.checkpoint* reshards, saves asynchronously and is well kept, but it has to be
told of every tensor as a DTensor or a plain whole one: ZeRO's flat buffers are neither, and its `.distcp` files are pickles
that only a program with torch's planner can read. *DeepSpeed's universal format* resumes a client's tensor parallelism only
through metadata set on private attributes, after an offline conversion that needs all the memory at once and is wrong,
without an error, where the metadata are missing. What is left to do by hand is one mapping, fragments.py, and it gives
files that any safetensors reader opens. The price: ours alone to maintain, and tied to where DeepSpeed keeps its buffers,
which the resume tests would show at once.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hitvideo.checkpoints.reader import AVERAGE, WEIGHT, Division, Reader, complete, damage
from hitvideo.errors import ConfigError
from hitvideo.llm.init import full_shape
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.fragments import adam_states, buffers, fragments, refresh_weights

log = logging.getLogger(__name__)


def load(path: Path, engine: Engine, fingerprint: str) -> int:
    """Read a checkpoint of any layout into this one; returns the number of steps behind it.

    How a parameter is divided here is the present model's affair: a checkpoint of one process divides nothing.
    """
    reader = Reader(path)
    found = reader.state["fingerprint"]
    if found != fingerprint:
        raise ConfigError(f"{path} is a checkpoint of other settings or data (fingerprint {found}, ours {fingerprint})")
    topology, live, ours = engine.topology, buffers(engine), shapes(engine)
    for name, (shape, _dim) in ours.items():
        if reader.shape(name) != shape:
            raise ConfigError(f"{path}: {name} has shape {reader.shape(name)}, the run's model has {shape}")
    for fragment in fragments(engine):
        division = Division(ours[fragment.name][1], topology.tensor)
        for kind, view in fragment.of(live).items():
            # An average that the checkpoint does not have starts from its weights.
            source = WEIGHT if kind == AVERAGE and not reader.averaged else kind
            held = reader.part(fragment.name, source, division, topology.tensor_rank, fragment.offset, fragment.length)
            view.copy_(held)
    for state in adam_states(engine):
        state["step"].fill_(reader.state["adam_step"])
    refresh_weights(engine)
    return int(reader.state["step"])


def newest(directory: Path, engine: Engine) -> Path | None:
    """The newest checkpoint that is whole by its checksums; all ranks together, each reading its share of the files."""
    topology, found = engine.topology, complete(directory)
    for path in reversed(found):
        fault = damage(path, topology.rank, topology.world)
        if fault:
            log.warning("%s is passed over: %s", path, fault)
        if not engine.any(fault is not None)[0]:
            return path
    if found:
        raise ConfigError(f"{directory}: all {len(found)} checkpoints are damaged; remove the directory to start over")
    return None


def shapes(engine: Engine) -> dict[str, Any]:
    """name → [full shape, divided dimension or -1]. ZeRO-3 empties parameters, but remembers their shape."""
    tensor = engine.topology.tensor
    found = {}
    for name, parameter in engine.model.named_parameters():
        full, dim = full_shape(parameter, tensor, getattr(parameter, "ds_shape", parameter.shape))
        found[name] = [list(full), dim]
    return found
