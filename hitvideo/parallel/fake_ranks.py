"""Megatron's groups of ranks that are not there: rank 0's share of a model can be made, run and counted in one process.

Collectives on torch's fake process group return at once and send nothing; shapes, memory and counts are those of real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from hitvideo.settings.training import ParallelSection


@contextmanager
def fake_ranks(parallel: ParallelSection) -> Iterator[None]:
    """The tensor and context ranks of a run, of which this process is the first; nothing if it has neither.

    Tensors are the CPU's, even where there are GPUs: the plan's have no data. Raises RuntimeError in a process that has joined
    a world already.
    """
    if parallel.tensor * parallel.context == 1:
        yield
        return
    if dist.is_initialized():
        raise RuntimeError("ranks that are not there cannot be added to a world; plan in a process of its own")
    from megatron.core import parallel_state
    from torch.distributed._tools import fake_collectives  # noqa: F401 — lets collectives take tensors without data
    from torch.testing._internal.distributed.fake_pg import FakeStore

    world, device_of = parallel.tensor * parallel.context, torch.cuda.current_device
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())  # type: ignore[no-untyped-call]
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment, return-value]
    try:
        parallel_state.initialize_model_parallel(
            parallel.tensor, context_parallel_size=parallel.context, create_gloo_process_groups=False
        )
        yield
    finally:
        torch.cuda.current_device = device_of
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
