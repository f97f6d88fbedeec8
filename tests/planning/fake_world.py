"""One rank of a large world in one process: the engine runs unchanged on torch's fake process group, which sends nothing.

Call these in a process of its own (`tests.worlds.run_ranks(function, 1, …)`): they change torch.distributed for good.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hitvideo.llm.init import Law
from hitvideo.llm.transformer import Block
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.initial import draw_weights
from hitvideo.parallel.topology import start
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun
from pretrain.language_model_task import make_model

KINDS = {
    "_allgather_base_": "all-gather", "allgather_": "all-gather", "_reduce_scatter_base_": "reduce-scatter",
    "allreduce_": "all-reduce", "alltoall_base_": "all-to-all",
}  # fmt: skip
SCALARS = 8
"""Bytes of the largest collective that is not counted: norms and flags."""


class Counting(TorchDispatchMode):
    """`bytes`: (axis, kind) → bytes of all collectives of several ranks and more than SCALARS bytes, of the whole buffer."""

    def __init__(self, axes: dict[str, dist.ProcessGroup]) -> None:
        super().__init__()
        self.bytes: Counter[tuple[str, str]] = Counter()
        self._axes = {tuple(dist.get_process_group_ranks(group)): axis for axis, group in axes.items() if group.size() > 1}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            leaves = tree_leaves(args)
            boxed = [leaf for leaf in leaves if isinstance(leaf, torch.ScriptObject) and "ProcessGroup" in str(leaf._type())]
            ranks = tuple(dist.get_process_group_ranks(dist.ProcessGroup.unbox(boxed[0])))
            kind = KINDS[func._schema.name.removeprefix("c10d::")]
            sizes = [leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor)]
            whole = max(sizes) * (len(ranks) if func._schema.name == "c10d::allgather_" else 1)  # its output is a list
            if whole > SCALARS and len(ranks) > 1:
                self.bytes[self._axes[ranks], kind] += whole
        return func(*args, **(kwargs or {}))


@contextmanager
def rank_0_of(world: int, run: PretrainRun) -> Iterator[tuple[Engine, torch.Tensor]]:
    """The engine of a run's model with its initial weights, and one micro-batch of rows."""
    os.environ.update(RANK="0", WORLD_SIZE=str(world))
    gc.freeze()  # DeepSpeed collects garbage as it starts: what is imported need not be looked through each time
    made = dist.init_process_group
    dist.init_process_group = lambda *_, **__: made("fake", rank=0, world_size=world, store=FakeStore())
    try:
        with start(run.parallel.tensor, run.parallel.context) as topology:
            model = make_model(run)
            engine = Engine(model, topology, run.parallel, run.train, leaf_modules=[Block])
            draw_weights(engine, Law(run.llm.width, run.llm.layers, run.run.seed))
            layout = make_layout(run)
            row = layout.join([7, 8, 9], [np.zeros(grid, int) for grid in layout.grids])
            yield engine, torch.from_numpy(row).repeat(run.train.micro_batch, 1, 1)
    finally:
        dist.init_process_group = made


def step(engine: Engine, rows: torch.Tensor, grouped: bool = False) -> None:
    for _ in range(engine.accumulation):
        engine.backward(engine(rows, 0.1, 0.0, None, grouped)["loss"])
    assert engine.step()


def counted(world: int, runs: list[PretrainRun]) -> list[dict[tuple[str, str], int]]:
    """What rank 0 sends in one step of each run. ZeRO-3 learns the order of modules in the two micro-batches before it."""
    found = []
    for run in runs:
        grouped = run.grouped_share > 0
        with rank_0_of(world, run) as (engine, rows):
            for _ in range(2 // engine.accumulation):
                step(engine, rows, grouped)
            state = parallel_state
            axes = {
                "zero": state.get_data_parallel_group(with_context_parallel=True),
                "tensor": state.get_tensor_model_parallel_group(),
                "context": state.get_context_parallel_group(),
            }
            with Counting(axes) as counting:
                step(engine, rows, grouped)
            found.append(dict(counting.bytes))
    return found
