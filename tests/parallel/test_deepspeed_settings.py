"""DeepSpeed's buckets: as large as a block where ZeRO-3 gathers whole blocks."""

from __future__ import annotations

from typing import Any

import pytest
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator, iter_params

from hitvideo.llm.transformer import Block
from hitvideo.parallel.deepspeed_settings import deepspeed_config
from hitvideo.settings.programs import PretrainRun, load_settings_as
from hitvideo.settings.training import ParallelSection, TrainSection
from tests.conftest import ROOT
from tests.planning.fake_world import rank_0_of, step
from tests.worlds import run_ranks

SIZE = ["llm.width=256", "llm.heads=8", "llm.kv_heads=4", "llm.hidden=1024", "llm.layers=6", "train.micro_batch=1"]


@pytest.mark.parametrize(("stage", "block", "size"), [(3, 0, 1000), (3, 900, 1000), (3, 1200, 1200), (2, 1200, 1000)])
def test_a_bucket_holds_a_block(stage: int, block: int, size: int) -> None:
    train = TrainSection(steps=1, global_batch=1, micro_batch=1)
    parallel = ParallelSection.model_validate({"zero_stage": stage, "bucket": 1000})
    zero = deepspeed_config(parallel, train, 1, block)["zero_optimization"]
    assert zero["reduce_bucket_size"] == size
    assert zero.get("stage3_prefetch_bucket_size") == (size if stage == 3 else None)


def fetched_late(run: PretrainRun) -> tuple[int, int, int]:
    """Entries of a rank's block and of a bucket, and of blocks' weights that are gathered only when the block runs."""
    late, fetch = [0], PartitionedParameterCoordinator._fetch_sub_module_impl

    def noted(self: Any, module: Any, forward: bool, is_leaf: bool) -> None:
        if isinstance(module, Block):
            absent = (p.ds_numel for p in iter_params(module, recurse=True) if p.ds_status == ZeroParamStatus.NOT_AVAILABLE)
            late[0] += sum(absent)
        fetch(self, module, forward, is_leaf)

    PartitionedParameterCoordinator._fetch_sub_module_impl = noted
    with rank_0_of(8, run) as (engine, rows):
        block = sum(p.ds_numel for p in engine.model.trunk.blocks[0].parameters())  # type: ignore[union-attr]
        step(engine, rows)  # learns the order of modules
        late[0] = 0
        step(engine, rows)
        return block, engine.optimizer.reduce_bucket_size, late[0]


@pytest.mark.parametrize("tensor", [1, 2])
def test_zero_3_gathers_each_block_before_it_runs(tensor: int) -> None:
    """Also in the backward: no more than three of six blocks are kept until then."""
    words = ["parallel.zero_stage=3", f"parallel.tensor={tensor}", "parallel.bucket=1", "parallel.live_parameters=3000000"]
    run = load_settings_as(PretrainRun, ROOT / "yaml_configs/pretrain/tiny.yaml", [*SIZE, *words])
    batch = {"global_batch": 2 * 8 // tensor}
    run = run.model_copy(update={"train": run.train.model_copy(update=batch)})
    ((block, bucket, late),) = run_ranks(fetched_late, 1, run)
    assert bucket == block
    assert late == 0
