"""Where each rank's share of the weights and Adam states lies inside ZeRO's flat buffers.

A fragment is a run of one parameter's elements, after tensor-parallel division and flattening, with live views of its
fp32 master weight, both Adam moments and, where the run keeps one, the weight's moving average. Reading the views saves a
checkpoint, writing them loads one, and a fragment's (name, tensor rank, offset, length) means the same whatever topology
and ZeRO stage produced it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from hitvideo.parallel.engine import Engine

WEIGHT, AVERAGE = "fp32", "ema"


class Fragment(NamedTuple):
    """`states` are 1-D fp32 views of equal length by name: fp32, exp_avg, exp_avg_sq and, with an average, ema."""

    name: str
    offset: int
    states: dict[str, torch.Tensor]


def fragments(engine: Engine, model: nn.Module) -> Iterator[Fragment]:
    """This rank's fragments in the order of the model's parameters. Adam's states are made where they are not yet."""
    collect = _partitioned if engine.zero_stage == 3 else _mapped
    for name, parameter in model.named_parameters():
        yield from collect(engine, name, parameter)


def adam_states(engine: Engine) -> list[dict[str, Any]]:
    """Adam's state dictionaries of this rank's flat buffers."""
    return [_adam_state(engine, flat) for flat in engine.masters]


def refresh_weights(engine: Engine) -> None:
    """After the fp32 masters were written: bring the weights used in forward into line, on all ranks together."""
    zero = engine.optimizer
    if engine.zero_stage < 3:
        zero.update_lp_params()
        return
    for half, master in zip(zero.fp16_partitioned_groups_flat, zero.fp32_partitioned_groups_flat, strict=True):
        half.data.copy_(master.data)
    persistent = zero.persistent_parameters  # small ones that stay gathered
    if persistent:
        persistent[0].partition(persistent)
        persistent[0].all_gather(persistent)


def _adam_state(engine: Engine, flat: torch.Tensor) -> dict[str, Any]:
    """torch.optim.Adam's state of a flat buffer, made as Adam itself would at its first step."""
    state: dict[str, Any] = engine.optimizer.optimizer.state[flat]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"] = torch.zeros_like(flat)
        state["exp_avg_sq"] = torch.zeros_like(flat)
    return state


def _views(engine: Engine, group: int, start: int, length: int) -> dict[str, torch.Tensor]:
    flat = engine.masters[group]
    adam = _adam_state(engine, flat)
    buffers = {WEIGHT: flat, "exp_avg": adam["exp_avg"], "exp_avg_sq": adam["exp_avg_sq"]}
    if engine.averages:
        buffers[AVERAGE] = engine.averages[group]
    return {kind: buffer.detach().narrow(0, start, length) for kind, buffer in buffers.items()}


def _partitioned(engine: Engine, name: str, parameter: Any) -> Iterator[Fragment]:
    """ZeRO-3: rank r of n holds elements r·p … (r+1)·p of every parameter, p = ⌈numel / n⌉; the last share is padded."""
    zero = engine.optimizer
    group, start, share = zero.grad_position[zero.get_param_id(parameter)]
    offset = share * engine.topology.data_rank
    length = min(share, parameter.ds_numel - offset)
    if length > 0:
        yield Fragment(name, offset, _views(engine, group, start, length))


def _mapped(engine: Engine, name: str, parameter: Any) -> Iterator[Fragment]:
    """ZeRO-1 and -2: all parameters lie end to end in one buffer that is cut into equal parts; DeepSpeed keeps the map."""
    mapping = getattr(parameter, "_hp_mapping", None)
    if mapping is not None:
        held = mapping.hp_fragment_address
        views = _views(engine, mapping.param_group_index, held.start, held.numel)
        yield Fragment(name, mapping.lp_fragment_address.start, views)
