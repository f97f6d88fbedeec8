"""The language model's plan against the built model, arithmetic by hand, and memory measured on real ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hitvideo.errors import ConfigError
from hitvideo.llm.init import Law
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.transformer import Block
from hitvideo.measuring.timing import peak_bytes
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.initial import draw_weights
from hitvideo.parallel.topology import start
from hitvideo.planning.activations import activation_bytes
from hitvideo.planning.flops import meta_model, training_flops_per_row
from hitvideo.planning.language_model import plan_language_model
from hitvideo.planning.zero import GIB
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun, load_settings_as
from pretrain import language_model_task as program
from tests.conftest import ROOT
from tests.planning.memory import live_bytes
from tests.worlds import run_ranks

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"
RUNS = sorted((ROOT / "yaml_configs/pretrain").glob("*.yaml"))
SIZE = ["llm.layers=6", "llm.width=192", "llm.heads=6", "llm.kv_heads=6", "llm.hidden=512"]
CLUSTER = ["cluster.nodes=2", "cluster.devices_per_node=4", "train.global_batch=64", "train.micro_batch=4", "train.dtype=bf16"]


def settings(*words: str) -> PretrainRun:
    return load_settings_as(PretrainRun, TINY, [*SIZE, *words])


def test_parameters_are_those_of_the_built_model() -> None:
    run = settings()
    model = LanguageModel(run.llm, make_layout(run))
    assert plan_language_model(run).parameters == sum(p.numel() for p in model.parameters())
    assert all(p.is_meta for p in meta_model(run).parameters())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_memory_of_weights_gradients_and_adam(stage: int) -> None:
    """8 devices with tensor 2 give 4 shards. ZeRO-1 divides Adam's states among them, -2 also gradients, -3 also weights."""
    found = plan_language_model(settings(*CLUSTER, "parallel.tensor=2", f"parallel.zero_stage={stage}"))
    share = found.parameters / 2
    assert found.data_ranks == 4
    assert found.accumulation == 64 / (4 * 4)
    assert found.weights_gib == pytest.approx(share * 2 / (4 if stage == 3 else 1) / GIB)
    assert found.gradients_gib == pytest.approx(share * 4 / (4 if stage >= 2 else 1) / GIB)
    assert found.optimizer_gib == pytest.approx(share * (4 + 4 + 4) / 4 / GIB)
    assert found.gathered_gib == pytest.approx(share * 2 / GIB if stage == 3 else 0)
    assert found.host_gib == pytest.approx(found.optimizer_gib)
    assert found.checkpoint_gib == pytest.approx(found.parameters * 12 / GIB)


def test_memory_at_the_start() -> None:
    """The largest matrix is the text head or the embedding: entries × width, drawn whole in fp32."""
    for stage in (1, 3):
        run = settings(*CLUSTER, "parallel.tensor=2", f"parallel.zero_stage={stage}")
        found, largest = plan_language_model(run), max(p.numel() for p in meta_model(run).parameters())
        share = found.parameters / 2
        assert found.start_host_gib * GIB == pytest.approx(max(4 * largest, share * 2 / 4 if stage == 3 else 0))
        kept = share * (2 / 4 + 4 / 4 + 4 / 4) if stage == 3 else share * (2 + 4 / 4 + 4)
        assert found.start_device_gib * GIB == pytest.approx(kept)
    # one rank: without ZeRO-3 the weights lie twice in memory for a moment, with it one parameter does
    alone = settings("train.dtype=fp32", "parallel.zero_stage=0", "cluster.devices_per_node=1", "cluster.nodes=1")
    found = plan_language_model(alone)
    assert found.start_device_gib * GIB == pytest.approx(found.parameters * 8)


@pytest.mark.slow
def test_what_binds() -> None:
    few = ["cluster.peak_tflops=1", "cluster.memory_gib=80"]
    assert plan_language_model(settings(*CLUSTER, *few)).binds == "compute"
    assert plan_language_model(settings(*CLUSTER, *few, "cluster.nic_gbs=1e-3")).binds == "traffic"
    assert plan_language_model(settings(*CLUSTER, *few, "cluster.memory_gib=0.01")).binds == "memory"


@pytest.mark.slow
def test_activations_follow_what_is_divided_and_computed_again() -> None:
    def of(*words: str) -> float:
        return activation_bytes(settings(*CLUSTER, "llm.qk_norm=true", *words))

    none, selective, block = (of(f"parallel.activation_checkpointing={kind}") for kind in ("none", "selective", "block"))
    assert block < selective < none
    assert of("train.micro_batch=8") == pytest.approx(2 * none, rel=0.02)
    assert of("parallel.context=2") == pytest.approx(none / 2, rel=0.15), "all but the heads' part"
    tensor, sequence = of("parallel.tensor=2"), of("parallel.tensor=2", "parallel.sequence=true")
    assert 0.9 * none / 2 < sequence < tensor < none


def test_grouped_rows_are_longer_by_their_start_slots() -> None:
    """8 + 8 + 8 cells begin a level; half of the steps have them, and memory must hold those."""
    plain, groups = settings(*CLUSTER), settings(*CLUSTER, "llm.groups=[null,[1,1,2],[2,2,1],[2,4,2]]")
    slots = make_layout(plain).length - 1
    assert make_layout(groups).input_slots(grouped=True) == slots + 24
    grown = activation_bytes(groups) / activation_bytes(plain)
    assert 1 + 24 / slots / 2 < grown < 1.2
    raster = activation_bytes(settings(*CLUSTER, "llm.groups=[null,null,null,null]"))
    assert raster == pytest.approx(activation_bytes(plain), rel=1e-3)
    more = plan_language_model(groups).training_tflops_per_step / plan_language_model(plain).training_tflops_per_step
    assert 1 < more < 1 + 24 / slots
    never = settings(*CLUSTER, "llm.groups=[null,[1,1,2],[2,2,1],[2,4,2]]", "train.grouped=0")
    assert plan_language_model(never) == plan_language_model(plain)


def test_what_cuda_and_nccl_take() -> None:
    """Half a GiB for a device alone; the world's first communicator 1 GiB, each further one 0.65: ZeRO's, tensor, context."""
    few = ["cluster.peak_tflops=100", "cluster.devices=gpu", "llm.layers=2", "train.dtype=bf16"]
    alone = plan_language_model(settings(*few, "cluster.devices_per_node=1", "parallel.zero_stage=1"))
    assert alone.software_gib == 0.5
    assert plan_language_model(settings(*few, *CLUSTER)).software_gib == pytest.approx(0.5 + 1 + 0.65)
    for axis in ("tensor", "context"):
        found = plan_language_model(settings(*few, *CLUSTER, f"parallel.{axis}=2"))
        assert found.software_gib == pytest.approx(0.5 + 1 + 2 * 0.65)
    assert plan_language_model(settings(*CLUSTER, "cluster.devices=cpu", "llm.layers=2")).software_gib == 0


def test_zero_3s_buckets_hold_a_block() -> None:
    small, large = (settings(*CLUSTER, "llm.layers=2", f"parallel.bucket={size}") for size in (1000, 50_000_000))
    block = sum(p.numel() for p in meta_model(small).trunk.blocks[0].parameters())
    found = [plan_language_model(run).buckets_gib * GIB for run in (small, large)]
    assert found[0] / block == pytest.approx(found[1] / 50_000_000)
    assert found[0] >= 4 * block, "in fp32"


def test_costs_by_hand() -> None:
    """Three checkpoints of 12 bytes a weight at once, and every 300th of 1000 steps for good."""
    keep = ["checkpoint.every=100", "checkpoint.keep_last=2", "checkpoint.keep_every=300", "cluster.storage_gbs=2"]
    run = settings(*CLUSTER, *keep, "train.steps=1000", "cluster.usd_per_device_hour=3", "llm.layers=2")
    found = plan_language_model(run)
    assert found.checkpoint_s == pytest.approx(12 * found.parameters / 2e9)
    assert found.storage_gib == pytest.approx((3 + 3) * found.checkpoint_gib)
    assert found.usd == pytest.approx(3 * found.device_hours)
    assert found.device_hours_per_million_clips == pytest.approx(found.device_hours / (1000 * 64) * 1e6)
    assert found.usd_per_million_clips == pytest.approx(3 * found.device_hours_per_million_clips)
    assert found.shards_gb_per_million_clips == pytest.approx((180 * 2 + 1024) / 1000), "180 indices of at most 16 bits"
    assert plan_language_model(settings(*CLUSTER, "llm.layers=2")).usd is None


def test_compiled_blocks_keep_less() -> None:
    """On a GPU SwiGLU's product keeps no silu(gate) then: a tensor of the hidden width, 2 bytes an entry, in each layer."""
    words = (*CLUSTER, "llm.layers=12", "parallel.zero_stage=1", "cluster.devices=gpu")
    eager, compiled = (activation_bytes(settings(*words, f"train.compile={word}")) for word in ("false", "true"))
    assert eager - compiled == 12 * 4 * 204 * 512 * 2
    assert activation_bytes(settings(*words, "train.compile=true", "parallel.activation_checkpointing=selective")) < compiled


def test_a_gpus_norms_keep_less() -> None:
    """In bf16 each of four norms of a block (q's and k's included) keeps its input, 2 bytes, where the CPU's keeps at least 4
    more for an fp32 copy, and at most 8.
    """
    words = (*CLUSTER, "llm.qk_norm=true", "llm.layers=12", "parallel.zero_stage=1")
    cpu, gpu = (activation_bytes(settings(*words, f"cluster.devices={kind}")) for kind in ("cpu", "gpu"))
    entries = 12 * 4 * (4 * 204 * 192)  # layers, norms, slots × width
    assert 4 * entries < cpu - gpu < 8.5 * entries


def test_totals_and_times() -> None:
    run = settings(*CLUSTER, "train.steps=1000", "cluster.peak_tflops=100", "cluster.assumed_mfu=0.5")
    found = plan_language_model(run)
    parts = found.weights_gib + found.gradients_gib + found.optimizer_gib + found.gathered_gib + found.buckets_gib
    assert found.total_gib == pytest.approx(parts + found.activations_gib + found.software_gib)
    assert found.tokens_per_row == 24 + 180 + 1
    assert found.tokens_per_step == 64 * 205
    flops = training_flops_per_row(meta_model(run)) * 64
    assert found.training_tflops_per_step == pytest.approx(flops / 1e12)
    assert found.gflops_per_token == pytest.approx(flops / 64 / 205 / 1e9)
    assert found.compute_s == pytest.approx(flops / (8 * 100e12 * 0.5))
    step = max(found.compute_s, found.traffic_s)
    assert found.hours * 3600 == pytest.approx(1000 * step)
    assert found.mfu_causal == pytest.approx(flops / (8 * 100e12 * step))
    full = training_flops_per_row(meta_model(run), full_attention=True) * 64
    assert found.mfu_full_attention == pytest.approx(full / (8 * 100e12 * step))
    assert found.device_hours == pytest.approx(8 * found.hours)


@pytest.mark.parametrize(("nodes", "stage", "warned"), [(32, 3, False), (64, 3, True), (64, 2, False)])
def test_zero_3_over_many_ranks(nodes: int, stage: int, warned: bool) -> None:
    """Eight devices a node: 256 and 512 ranks."""
    words = [f"cluster.nodes={nodes}", "cluster.devices_per_node=8", "train.global_batch=512", "train.micro_batch=1"]
    found = plan_language_model(settings(*words, f"parallel.zero_stage={stage}", "llm.layers=2"))
    assert ("parallel.zero_stage 3 over 512 ranks" in found.caution) == warned


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(ConfigError, match=r"global_batch 64.*micro_batch 3"):
        plan_language_model(settings(*CLUSTER, "train.micro_batch=3"))


@pytest.mark.slow
@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_run_fits_its_devices(path: Path) -> None:
    found = plan_language_model(load_settings_as(PretrainRun, path))
    assert found.total_gib <= found.available_gib
    assert found.binds != "memory"


def highest(run: PretrainRun) -> tuple[int, int]:
    """Return this rank's bytes of model states between steps, and its peak bytes during a step."""
    before = live_bytes()
    with start(run.parallel.tensor, run.parallel.context) as topology:
        engine = Engine(program.make_model(run), topology, run.parallel, run.train, leaf_modules=[Block])
        draw_weights(engine, Law(run.llm.width, run.llm.layers, run.run.seed))
        layout = make_layout(run)
        row = layout.join([7, 8, 9], [np.zeros(grid, int) for grid in layout.grids])
        rows = torch.from_numpy(row).repeat(run.train.micro_batch, 1, 1)

        def step() -> None:
            engine.backward(engine(rows, 0.1)["loss"])
            engine.step()

        step()
        held = live_bytes() - before
        return held, held + peak_bytes(step, torch.device("cpu"))


MEASURED = [
    (2, "parallel.zero_stage=3 parallel.activation_checkpointing=block llm.layers=12"),
    (2, "parallel.zero_stage=1 parallel.tensor=2"),
    (2, "parallel.zero_stage=3 parallel.tensor=2 parallel.sequence=true"),
    (2, "parallel.zero_stage=3 parallel.context=2"),
    (2, "parallel.zero_stage=2 train.dtype=bf16 llm.layers=2"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("world", "words"), MEASURED)
def test_the_plan_is_near_what_ranks_take(world: int, words: str) -> None:
    layout = [f"cluster.devices_per_node={world}", "train.global_batch=32", "train.dtype=fp32", "parallel.bucket=1000000"]
    sizes = ["llm.width=256", "llm.heads=8", "llm.kv_heads=8", "llm.hidden=704", "train.micro_batch=16"]
    run = settings(*layout, *sizes, *words.split())
    if run.parallel.tensor * run.parallel.context > 1:
        run = settings(*layout, *sizes, *words.split(), "train.global_batch=16")
    found = plan_language_model(run)
    measured = [figure / GIB for figure in max(run_ranks(highest, world, run))]
    states = found.weights_gib + found.gradients_gib + found.optimizer_gib
    print(f"{words}: states {states:.4f} planned {measured[0]:.4f} measured; total {found.total_gib:.4f}, {measured[1]:.4f}")
    # ZeRO-2's buckets of gradients are fullest when the first activations are gone: the sum is a little above the peak.
    assert 0.9 < found.total_gib / measured[1] < 1.12
