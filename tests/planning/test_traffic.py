"""Planned traffic against the collectives of the engine itself, counted in worlds of 16 and 128, and times by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from hitvideo.parallel.fake_ranks import fake_ranks
from hitvideo.parallel.share import share_of_model
from hitvideo.planning.collectives import volumes
from hitvideo.planning.traffic import traffic_bytes, traffic_seconds
from hitvideo.settings.cluster import ClusterSection
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.conftest import ROOT
from tests.planning.fake_world import counted
from tests.worlds import run_ranks

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"
# Small groups of weights of which ZeRO-1 and -2 make equal shares without padding. Some matrices are below ZeRO-3's threshold.
SIZE = ["llm.layers=4", "llm.width=256", "llm.heads=8", "llm.kv_heads=4", "llm.hidden=1024", "llm.ancestors=false",
        "train.micro_batch=1"]  # fmt: skip
SUB_CODES = 'hierarchy.levels=[{"down":[8,8,8],"num_bits":14,"sub_bits":[7,4,3]},{"down":[4,4,4],"num_bits":9}]'

GRID = [
    f"parallel.tensor={tensor} parallel.zero_stage={stage} parallel.activation_checkpointing={recompute}"
    for tensor, stage, recompute in itertools.product((1, 2), (1, 2, 3), ("none", "selective", "block"))
]
# Each pair of values of the grid, over both worlds; then what the grid leaves out.
FEW = {
    16: [*(GRID[number] for number in (0, 4, 8, 11, 12, 16)),
         "parallel.zero_stage=0", "parallel.zero_stage=1 train.dtype=bf16", "parallel.zero_stage=3 parallel.live_parameters=1",
         "parallel.zero_stage=3 parallel.live_parameters=2500000", "parallel.live_parameters=2500000 llm.ancestors=true",
         "parallel.tensor=2 parallel.sequence=true parallel.activation_checkpointing=block train.dtype=bf16",
         "parallel.tensor=2 parallel.sequence=true train.grouped=1 llm.groups=[null,[1,1,2],[2,2,1],[2,4,2]]"],
    128: [*(GRID[number] for number in (2, 3, 7, 10, 14, 15)),
          "parallel.tensor=2 parallel.context=2 parallel.sequence=true parallel.zero_stage=1",
          "parallel.context=2 train.grouped=1 llm.groups=[[1,1,1],null,[1,4,4],null]",
          "parallel.tensor=2 parallel.context=2 llm.ancestors=true parallel.activation_checkpointing=block " + SUB_CODES,
          "parallel.live_parameters=3000000 llm.ancestors=true llm.qk_norm=false " + SUB_CODES],
}  # fmt: skip


def settings(*words: str) -> PretrainRun:
    return load_settings_as(PretrainRun, TINY, [*SIZE, *words])


def check(world: int, cases: list[str]) -> None:
    """The bytes of a step with two micro-batches, by axis and kind of collective."""
    runs = []
    for case in cases:
        run = settings(*case.split())
        batch = 2 * world // (run.parallel.tensor * run.parallel.context)
        runs.append(settings(*case.split(), f"train.global_batch={batch}"))
    (found,) = run_ranks(counted, 1, world, runs)
    for case, run, sent in zip(cases, runs, found, strict=True):
        planned = volumes(run, world // run.parallel.tensor, 2)
        assert planned == pytest.approx(sent), f"{case} in a world of {world}"


@pytest.mark.parametrize("world", FEW)
def test_the_engine_sends_what_is_planned(world: int) -> None:
    check(world, FEW[world])


@pytest.mark.slow
@pytest.mark.parametrize("world", FEW)
def test_the_engine_sends_what_is_planned_in_all_layouts(world: int) -> None:
    check(world, [case for case in GRID if case not in FEW[world]])


def test_what_a_rank_sends_of_them() -> None:
    """Three quarters of what 4 ranks gather, and half of what 2 do; of what they reduce for all, twice that."""
    words = ["parallel.tensor=2", "parallel.context=2", "parallel.zero_stage=2", "train.dtype=bf16"]
    run = settings(*words)
    with fake_ranks(run.parallel), torch.device("meta"):
        share = sum(p.numel() for p in share_of_model(run).parameters())
    zero, tensor, context = traffic_bytes(run, shards=4, accumulation=3)
    planned = volumes(run, shards=4, accumulation=3)
    assert zero == (2 * 3 * share * 4 + share * 2) * 3 / 4
    assert tensor == 2 * planned["tensor", "all-reduce"] / 2
    assert context == (planned["context", "all-gather"] + planned["context", "all-to-all"]) / 2
    assert traffic_bytes(settings("parallel.zero_stage=3"), shards=1, accumulation=3) == (0, 0, 0)


def test_traffic_between_nodes_goes_through_all_adapters() -> None:
    """By hand for 16 nodes of 8: S bytes of each of T tensor ranks' weights enter a node, 15/16 of them from others."""
    words = ["cluster.nodes=16", "cluster.devices_per_node=8", "cluster.nic_gbs=50", "cluster.near_gbs=450"]
    words += ["train.micro_batch=1", "train.global_batch=128", "cluster.nics_per_node=4"]
    for tensor in (1, 2):
        run = settings(*words, f"parallel.tensor={tensor}")
        shards = 128 / tensor
        assert traffic_seconds((1e12 * (shards - 1) / shards, 0, 0), run) == pytest.approx(1e12 * tensor * 15 / 16 / (4 * 46e9))
        many = settings(*words, "cluster.nics_per_node=80", f"parallel.tensor={tensor}")
        assert traffic_seconds((1e12, 0, 0), many) == pytest.approx(1e12 / (450e9 * 0.75)), "NVLink is the slower"


def test_the_former_far_gbs_is_a_devices_own_adapter() -> None:
    words = {"peak_tflops": 1, "memory_gib": 1, "devices_per_node": 8}
    found = ClusterSection.model_validate(words | {"far_gbs": 25, "nic_gbs": 50, "nics_per_node": 2})
    assert (found.nic_gbs, found.node_gbs, found.far_gbs) == (25, 200, 25)
    assert ClusterSection.model_validate(words | {"nic_gbs": 50, "nics_per_node": 2}).far_gbs == pytest.approx(12.5)
