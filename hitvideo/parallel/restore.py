"""Loads a checkpoint of any layout into the engine: every rank reads what it needs of all ranks' files.

There is no RNG state to restore, because nothing draws from a hidden one: data order, dropout and schedule are functions
of the step. Why the format is our own: docs/decisions.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hitvideo.checkpoints import listing
from hitvideo.checkpoints.listing import damage
from hitvideo.checkpoints.reader import AVERAGE, WEIGHT, Division, Reader
from hitvideo.errors import ConfigError
from hitvideo.llm.fused import shares
from hitvideo.llm.init import full_shape
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.fragments import adam_states, buffers, fragments, refresh_weights


def restore(path: Path, engine: Engine, weights_only: bool = False) -> dict[str, Any]:
    """Read a checkpoint into the engine; returns its state.json.

    The sharding is the current model's, not the checkpoint's. `weights_only`: the weights that would be exported, without the
    optimizer's states. Raises ConfigError if the checkpoint has other parameters or shapes.
    """
    reader = Reader(path)
    topology, live, ours = engine.topology, buffers(engine), shapes(engine)
    if more := sorted(set(reader.names) - ours.keys()):
        raise ConfigError(f"{path}: has {len(more)} parameters that the run's model lacks, the first: {more[0]}")
    for name, (shape, _dim) in ours.items():
        if reader.shape(name) != shape:
            raise ConfigError(f"{path}: {name} has shape {reader.shape(name)}, the run's model has {shape}")
    for fragment in fragments(engine):
        division = Division(ours[fragment.name][1], topology.tensor)
        for kind, view in fragment.of(live).items():
            if weights_only and kind not in (WEIGHT, AVERAGE):
                continue
            # An average that the checkpoint does not have starts from its weights.
            source = WEIGHT if kind == AVERAGE and not reader.averaged else kind
            source = AVERAGE if weights_only and reader.averaged else source
            held = reader.part(fragment.name, source, division, topology.tensor_rank, fragment.offset, fragment.length)
            view.copy_(held)
    for state in () if weights_only else adam_states(engine):
        state["step"].fill_(reader.state["adam_step"])
    refresh_weights(engine)
    return reader.state


def newest(directory: Path, engine: Engine) -> Path | None:
    """`listing.newest` by all ranks together, each reading its share of the files."""

    def damage_of(path: Path) -> str | None:
        mine = damage(path, engine.topology.rank, engine.topology.world)
        anywhere = engine.any(mine is not None)[0]
        return mine or ("another rank found it damaged" if anywhere else None)

    return listing.newest(directory, damage_of)


def shapes(engine: Engine) -> dict[str, Any]:
    """name → [full shape, divided dimension or -1]; of a fused matrix, those of its parts."""
    tensor = engine.topology.tensor
    found = {}
    for _, parameter, parts in shares(engine.model):
        for name, local in parts.items():
            full, dim = full_shape(parameter, tensor, local)
            found[name] = [list(full), dim]
    return found
