"""The map from parameters to ZeRO's flat buffers, for this rank's share of the weights and Adam states.

A fragment is a run of consecutive elements of one parameter (after tensor-parallel division, flattened) that lies in one
flat buffer; the parts of a fused matrix count as parameters of their own. Several buffers have the same layout: the fp32
master weights, both Adam moments and, if the run keeps one, the moving average of the weights. Saving a checkpoint reads
fragments; loading one writes them. A fragment's (name, tensor rank, offset, length) means the same under every topology and
ZeRO stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from hitvideo.checkpoints.reader import AVERAGE, WEIGHT
from hitvideo.llm.fused import shares
from hitvideo.parallel.engine import Engine


class Fragment(NamedTuple):
    """Elements offset … offset + length of a parameter; they are elements start … start + length of buffer `buffer`."""

    name: str
    offset: int
    length: int
    buffer: int
    start: int

    def of(self, buffers: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return the fragment's 1-D views by kind: fp32, exp_avg, exp_avg_sq and, if the run keeps an average, ema."""
        return {kind: flat.narrow(0, self.start, self.length) for kind, flat in buffers[self.buffer].items()}


def fragments(engine: Engine) -> Iterator[Fragment]:
    """Yield this rank's fragments in the order of the model's parameters."""
    collect = {0: _whole, 3: _partitioned}.get(engine.zero_stage, _mapped)
    for number, (name, parameter, parts) in enumerate(shares(engine.model)):
        for held in collect(engine, number, name, parameter):
            yield from _of_parts(held, parts)


def buffers(engine: Engine) -> list[dict[str, torch.Tensor]]:
    """Return this rank's live flat buffers, all 1-D: for each of `engine.masters`, the weights and Adam states by kind."""
    found = []
    for number, (master, state) in enumerate(zip(engine.masters, adam_states(engine), strict=True)):
        flats = {WEIGHT: master, "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
        if engine.averages:
            flats[AVERAGE] = engine.averages[number]
        found.append({kind: flat.detach().view(-1) for kind, flat in flats.items()})
    return found


def adam_states(engine: Engine) -> list[dict[str, Any]]:
    """Return Adam's state for each of `engine.masters`; creates missing states as Adam would at its first step."""
    states = []
    for master in engine.masters:
        state: dict[str, Any] = engine.adam.state[master]
        if not state:
            # On the weights' device, as fused Adam needs it: torch puts it there itself only if the whole state is empty.
            state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
            state["exp_avg"] = torch.zeros_like(master)
            state["exp_avg_sq"] = torch.zeros_like(master)
        states.append(state)
    return states


def refresh_weights(engine: Engine) -> None:
    """Copy the fp32 masters to the weights that forward uses. Call on all ranks after the masters were written."""
    zero = engine.optimizer
    if engine.zero_stage in (1, 2):
        zero.update_lp_params()
    if engine.zero_stage < 3:
        return  # without ZeRO the masters are the weights
    for half, master in zip(zero.fp16_partitioned_groups_flat, zero.fp32_partitioned_groups_flat, strict=True):
        half.data.copy_(master.data)
    persistent = zero.persistent_parameters  # small parameters, which ZeRO-3 keeps gathered
    if persistent:
        persistent[0].partition(persistent)
        persistent[0].all_gather(persistent)


def _of_parts(held: Fragment, parts: dict[str, tuple[int, ...]]) -> Iterator[Fragment]:
    """A fragment of a whole parameter as those of its parts, which lie end to end."""
    begin = 0
    for name, shape in parts.items():
        end = begin + math.prod(shape)
        first, last = max(held.offset, begin), min(held.offset + held.length, end)
        if first < last:
            yield Fragment(name, first - begin, last - first, held.buffer, held.start + first - held.offset)
        begin = end


def _whole(engine: Engine, number: int, name: str, parameter: Any) -> Iterator[Fragment]:
    """Without ZeRO, every rank holds the whole parameter."""
    yield Fragment(name, 0, parameter.numel(), number, 0)


def _partitioned(engine: Engine, _number: int, name: str, parameter: Any) -> Iterator[Fragment]:
    """Under ZeRO-3, rank r of n holds elements r·p … (r+1)·p of every parameter, p = ⌈numel / n⌉; the last share is padded."""
    zero = engine.optimizer
    group, start, share = zero.grad_position[zero.get_param_id(parameter)]
    offset = share * engine.topology.shard_rank
    length = min(share, parameter.ds_numel - offset)
    if length > 0:
        yield Fragment(name, offset, length, group, start)


def _mapped(_engine: Engine, _number: int, name: str, parameter: Any) -> Iterator[Fragment]:
    """Under ZeRO-1 and -2, all parameters lie end to end in one buffer cut into equal parts; DeepSpeed keeps the map."""
    mapping = getattr(parameter, "_hp_mapping", None)
    if mapping is not None:
        held = mapping.hp_fragment_address
        yield Fragment(name, mapping.lp_fragment_address.start, held.numel, mapping.param_group_index, held.start)
