"""The grid of ranks over data × tensor, and the adapter for DeepSpeed."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.distributed_c10d import _world

from hitvideo.errors import ConfigError
from hitvideo.parallel.topology import ModelParallelUnit, Topology, start
from tests.worlds import run_ranks


@pytest.mark.parametrize(("world", "tensor"), [(1, 1), (4, 1), (4, 2), (4, 4), (12, 3)])
def test_every_place_is_taken_once_and_tensor_ranks_are_neighbours(world: int, tensor: int) -> None:
    places = [Topology(rank, world, tensor) for rank in range(world)]
    assert {(p.data_rank, p.tensor_rank) for p in places} == {(d, t) for d in range(world // tensor) for t in range(tensor)}
    assert all(p.rank == p.data_rank * p.tensor + p.tensor_rank for p in places)


def test_a_size_that_does_not_divide_is_refused_with_the_fix() -> None:
    with pytest.raises(ConfigError, match=r"parallel\.tensor 2 .* 3 .*parallel\.tensor=1"):
        Topology(0, 3, 2)


@pytest.mark.parametrize(("visible", "index"), [(8, 3), (4, 3), (1, 0)])
def test_a_rank_that_sees_one_gpu_takes_it(visible: int, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert Topology(3, 8, 1).device == torch.device("cuda", index)


def groups() -> tuple[int, ...]:
    with start(tensor=2) as topology:
        unit = ModelParallelUnit()
        assert unit.get_model_parallel_rank() == topology.tensor_rank
        assert unit.get_data_parallel_rank() == topology.data_rank
        sizes = unit.get_data_parallel_world_size(), unit.get_model_parallel_world_size()
        return topology.data_rank, topology.tensor_rank, *sizes, len(_world.pg_map)


def test_megatrons_groups_are_ours() -> None:
    """And no two of a rank's have the same ranks: itself, its data and tensor axis, all; torch's own has all ranks, too."""
    assert run_ranks(groups, 4) == [(0, 0, 2, 2, 5), (0, 1, 2, 2, 5), (1, 0, 2, 2, 5), (1, 1, 2, 2, 5)]


def test_the_adapter_does_not_claim_sequence_parallelism() -> None:
    """DeepSpeed probes for these names; if it finds them, it leaves tensor parallelism out of the gradient norm."""
    assert not [name for name in dir(ModelParallelUnit) if "sequence" in name]
