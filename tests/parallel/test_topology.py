"""The grid of ranks over data × tensor, and the adapter for DeepSpeed."""

from __future__ import annotations

import pytest

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


def groups() -> tuple[int, int, int, int]:
    with start(tensor=2) as topology:
        unit = ModelParallelUnit()
        assert unit.get_model_parallel_rank() == topology.tensor_rank
        assert unit.get_data_parallel_rank() == topology.data_rank
        sizes = unit.get_data_parallel_world_size(), unit.get_model_parallel_world_size()
        return topology.data_rank, topology.tensor_rank, *sizes


def test_megatrons_groups_are_ours() -> None:
    assert run_ranks(groups, 4) == [(0, 0, 2, 2), (0, 1, 2, 2), (1, 0, 2, 2), (1, 1, 2, 2)]


def test_the_adapter_does_not_claim_sequence_parallelism() -> None:
    """DeepSpeed probes for these names; if it finds them, it leaves tensor parallelism out of the gradient norm."""
    assert not [name for name in dir(ModelParallelUnit) if "sequence" in name]
