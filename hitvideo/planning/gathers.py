"""How many weights ZeRO-3 gathers, by DeepSpeed's rules of which it keeps (runtime/zero/partitioned_param_coordinator.py).

A small parameter (at most PERSISTENT entries) is gathered once a step. Any other is gathered for the forward and, unless it was
kept until then, again for the backward; recomputing a block does not gather it a third time. After a module's forward its
parameters are kept if it runs again within parallel.live_parameters of other weights, in the order in which modules run.
For a block DeepSpeed counts those weights with the modules' parts, for any other module without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from torch import nn

from hitvideo.llm.heads import LevelHead
from hitvideo.llm.model import LanguageModel
from hitvideo.parallel.deepspeed_settings import PERSISTENT


class Gathers(NamedTuple):
    """Entries of one tensor-parallel rank's weights, each parameter rounded up to a multiple of the shards."""

    all: int
    per_micro_batch: int
    per_step: int
    """Those of small parameters."""


def gathers(model: LanguageModel, live: int, shards: int) -> Gathers:
    """What a rank gathers, if it keeps what is used within `live` weights. `model`: one tensor-parallel rank's share."""
    coarser = len(model.heads) - 1  # levels for each of which the ancestors' embedding runs
    ancestors = [model.ancestor] * coarser if model.ancestor is not None else []
    before = [model.embedding, model.level, model.next_level, *ancestors]
    parts = [each for head in _heads(model) for each in _parts(head)]
    after = [model.trunk.norm, model.text_head, *parts]
    # A module outside of the blocks comes again after all those that run after it, and those again; blocks have no own weights.
    own = [_size(module) for module in before + after]
    twice = [2 * (total - size) for total, size in zip(accumulate(reversed(own)), reversed(own), strict=True)]
    distances = dict(zip(before + after, reversed(twice), strict=True))  # of what runs several times, after the last
    # A block comes again with the whole model, the first module of the backward; `Given` counts with its parts and as them.
    rest = sum(own[len(before) :]) + sum(_size(each) for head in _heads(model) for each in head.given.modules())
    blocks = list(model.trunk.blocks)
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    distances |= {block: rest + sum(sizes[number + 1 :]) for number, block in enumerate(blocks)}

    whole = big = gathered = 0
    for module, distance in distances.items():
        for parameter in module.parameters(recurse=module in blocks):
            entries = -(-parameter.numel() // shards) * shards
            whole += entries
            if parameter.numel() > PERSISTENT:
                big += entries
                gathered += entries if distance < live else 2 * entries
    return Gathers(whole, gathered, whole - big)


def _heads(model: LanguageModel) -> list[LevelHead]:
    return [head for head in model.heads if isinstance(head, LevelHead)]


def _parts(head: LevelHead) -> Iterator[nn.Module]:
    """The modules of a level's head that hold weights themselves, in the order in which they run."""
    for number, output in enumerate(head.outputs):
        yield output
        yield from head.given[number].children() if number < len(head.given) else ()


def _size(module: nn.Module) -> int:
    """Entries of a module's own parameters, without those of its parts."""
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))
