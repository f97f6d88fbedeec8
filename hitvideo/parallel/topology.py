"""The grid of ranks (data × context × tensor), Megatron's process groups, and the adapter that shows them to DeepSpeed.

    rank = (data_rank · context + context_rank) · tensor + tensor_rank        tensor varies fastest, so its ranks share a node

Ranks along `data` see different rows, along `context` different slots of the same rows, along `tensor` different parts of
the same matrices. ZeRO partitions over data × context, the ranks whose matrices are the same: the *shards*.

`Topology` is arithmetic and needs no process group. `start` makes the groups (NCCL on GPUs, gloo on CPUs), with the same
code for one process or many.
"""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from hitvideo.errors import ConfigError
from hitvideo.parallel.rendezvous import rank_environment


@dataclass(frozen=True)
class Topology:
    """One rank's place on the grid. Raises ConfigError if tensor × context does not divide the world."""

    rank: int
    world: int
    tensor: int
    """Size of the tensor-parallel axis."""
    context: int = 1
    """Size of the context-parallel axis."""

    def __post_init__(self) -> None:
        each = self.tensor * self.context
        if self.world % each:
            axes = "parallel.tensor" if self.context == 1 else "parallel.tensor × parallel.context ="
            fix = "parallel.tensor=1" if self.context == 1 else "both to 1"
            raise ConfigError(
                f"{axes} {each} does not divide the {self.world} processes started; "
                f"start a multiple of {each} (torchrun --nproc-per-node) or set {fix}"
            )

    @property
    def data(self) -> int:
        """Size of the data-parallel axis: how many ranks see different rows."""
        return self.world // (self.tensor * self.context)

    @property
    def shards(self) -> int:
        """Number of ranks that ZeRO partitions over."""
        return self.data * self.context

    @property
    def tensor_rank(self) -> int:
        return self.rank % self.tensor

    @property
    def shard_rank(self) -> int:
        return self.rank // self.tensor

    @property
    def context_rank(self) -> int:
        return self.shard_rank % self.context

    @property
    def data_rank(self) -> int:
        return self.shard_rank // self.context

    @property
    def local_rank(self) -> int:
        """This process's place among those of its node."""
        return int(os.environ.get("LOCAL_RANK", "0"))

    @property
    def device(self) -> torch.device:
        """Where Slurm shows each rank its own GPU only (srun --gpus-per-task=1), that is the first one of every rank."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local_rank if torch.cuda.device_count() > 1 else 0)


def _let_megatron_run_on_cpu() -> None:
    """Replace the torch.cuda functions that Megatron calls for device and RNG even if all tensors are on the CPU."""
    import megatron.core.tensor_parallel.random as megatron_random

    def cpu_rng_state(*_args: Any, **_kwargs: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_cpu_rng_state(state: torch.Tensor, *_args: Any, **_kwargs: Any) -> None:
        torch.set_rng_state(state)

    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment, return-value]
    torch.cuda.get_rng_state = cpu_rng_state
    torch.cuda.manual_seed = torch.manual_seed  # type: ignore[assignment]
    torch.cuda.synchronize = lambda *_args: None
    megatron_random._get_cuda_rng_state = cpu_rng_state
    megatron_random._set_cuda_rng_state = set_cpu_rng_state


@contextmanager
def _each_group_once() -> Iterator[None]:
    """Let Megatron have one process group for all purposes with the same ranks: for four ranks 9 suffice, it would make 41.

    Each takes connections among its ranks, and on GPUs memory.
    """
    from megatron.core import parallel_state

    create, made = parallel_state.create_group, dict[tuple[int, ...], Any]()

    def create_once(ranks: Sequence[int], **options: Any) -> Any:
        if tuple(ranks) not in made:
            made[tuple(ranks)] = create(ranks, **options)
        return made[tuple(ranks)]

    parallel_state.create_group = create_once
    try:
        yield
    finally:
        parallel_state.create_group = create


@contextmanager
def start(tensor: int, context: int = 1, timeout_seconds: float = 600.0) -> Iterator[Topology]:
    """Join the world and make Megatron's groups; a collective may take `timeout_seconds`.

    Leaves the groups in order: a rank that just exits can abort the others. Not after an exception: NCCL's clean-up waits for
    ranks that wait in a collective for this one. Then whoever catches the exception ends the process (`program.guarded`).
    """
    os.environ.update(rank_environment(os.environ))
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    topology = Topology(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), tensor, context)
    from megatron.core import parallel_state

    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(topology.device)
    else:
        _let_megatron_run_on_cpu()
    os.environ["DEEPSPEED_TIMEOUT"] = str(math.ceil(timeout_seconds / 60))  # in minutes, for the groups it makes itself
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=datetime.timedelta(seconds=timeout_seconds))
    with _each_group_once():
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=tensor, context_parallel_size=context, create_gloo_process_groups=False,
            distributed_timeout_minutes=math.ceil(timeout_seconds / 60),
        )  # fmt: skip
    assert parallel_state.get_tensor_model_parallel_rank() == topology.tensor_rank
    assert parallel_state.get_context_parallel_rank() == topology.context_rank
    assert parallel_state.get_data_parallel_rank() == topology.data_rank
    yield topology
    dist.barrier()
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


class ModelParallelUnit:
    """The `mpu` object that DeepSpeed calls. It wraps megatron.core.parallel_state, which lacks get_model_parallel_*.

    It must not define initialize_sequence_parallel or get_sequence_parallel_*: their presence makes ZeRO-3 ignore
    tensor parallelism in the gradient norm.
    """

    def __init__(self) -> None:
        from megatron.core import parallel_state as state

        # By "data parallel" DeepSpeed means the ranks it partitions over.
        self.get_data_parallel_group = partial(state.get_data_parallel_group, with_context_parallel=True)
        self.get_data_parallel_rank = partial(state.get_data_parallel_rank, with_context_parallel=True)
        self.get_data_parallel_world_size = partial(state.get_data_parallel_world_size, with_context_parallel=True)
        self.get_model_parallel_group = state.get_tensor_model_parallel_group
        self.get_model_parallel_rank = state.get_tensor_model_parallel_rank
        self.get_model_parallel_world_size = state.get_tensor_model_parallel_world_size
        self.get_tensor_model_parallel_group = state.get_tensor_model_parallel_group
        self.get_tensor_model_parallel_rank = state.get_tensor_model_parallel_rank
        self.get_tensor_model_parallel_world_size = state.get_tensor_model_parallel_world_size
        self.get_pipeline_model_parallel_group = state.get_pipeline_model_parallel_group
        self.get_pipeline_model_parallel_rank = state.get_pipeline_model_parallel_rank
        self.get_pipeline_model_parallel_world_size = state.get_pipeline_model_parallel_world_size
