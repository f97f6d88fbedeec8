"""The step model against published runs, the constants that ship against their fit, its parts against arithmetic by hand."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from hitvideo import config
from hitvideo.errors import ConfigError
from hitvideo.planning.simulation.fitting import FITTED, Fit, errors, fit
from hitvideo.planning.simulation.prediction import NINE_IN_TEN, predict
from hitvideo.planning.simulation.published import Row, row_work, rows
from hitvideo.planning.simulation.run_work import Counts, run_work
from hitvideo.planning.simulation.step import Machine, StepTime, Work, machine, step_time
from hitvideo.planning.traffic import traffic_bytes
from hitvideo.settings.cluster import ClusterSection, RatesSection
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.conftest import ROOT

PARTS = ROOT / "yaml_configs/parts/cluster"


def run_of(name: str, *words: str) -> PretrainRun:
    return load_settings_as(PretrainRun, ROOT / f"yaml_configs/pretrain/{name}.yaml", words)


def shipped(name: str) -> ClusterSection:
    return ClusterSection.model_validate(config.resolve(PARTS / f"{name}.yaml")["cluster"])


@pytest.fixture(scope="module")
def fitted() -> Fit:
    return fit(rows())


def mean(found: list[float]) -> float:
    return float(np.mean(np.abs(found)))


@pytest.mark.parametrize(("name", "hardware"), [("h100", "H100"), ("a100", "A100-80")])
def test_the_constants_that_ship_are_the_fits(fitted: Fit, name: str, hardware: str) -> None:
    ours, found = shipped(name).rates, fitted.rates(hardware)
    for key in RatesSection.model_fields.keys() - {"attention_gain"}:  # of kernels that the rows did not have
        assert getattr(ours, key) == pytest.approx(getattr(found, key), rel=0.02), key


def test_the_published_rows_are_met(fitted: Fit) -> None:
    """Of what ships, which is rounded, not of the fit."""
    h100, a100 = shipped("h100").rates, shipped("a100").rates
    values = [getattr(a100 if "A100" in name else h100, name.removesuffix(" A100"), fitted[name]) for name in FITTED]
    found = errors(Fit(tuple(values)), rows())
    assert len(found) > 130
    assert mean(found) < 0.07
    assert max(np.abs(found)) < 0.40
    h100_rows = [error for error, row in zip(found, rows(), strict=True) if row.hardware == "H100"]
    assert mean(h100_rows) < 0.05


def test_rows_that_were_held_out() -> None:
    order = np.random.default_rng(0).permutation(len(rows()))
    found = []
    for half, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        one = errors(fit([rows()[i] for i in half]), [rows()[i] for i in other])
        assert mean(one) < 0.07
        found += one
    assert np.quantile(np.abs(found), 0.9) <= NINE_IN_TEN + 0.01


def test_growth_to_many_gpus_is_predicted_from_few() -> None:
    """Eager rows on 128 to 512 GPUs, by constants fitted to rows on at most 64: the latency of rings is not fitted."""
    many = [row for row in rows() if row.gpus >= 128 and row.kernels == "eager" and row.source == "llm-foundry"]
    found = errors(fit([row for row in rows() if row.gpus <= 64]), many)
    assert len(many) > 15
    assert mean(found) < 0.05


def same_shape(run: PretrainRun) -> Row:
    """A published row whose model, rows and layout are a run's."""
    llm, cluster = run.llm, run.cluster
    shape = replace(rows()[0].shape, layers=llm.layers, width=llm.width, heads=llm.heads, kv_heads=llm.kv_heads)
    shape = replace(shape, hidden=llm.hidden, gated=True, vocab=1, rotated=True, qk_norm=True)
    return replace(
        rows()[0], shape=shape, hardware="H100", gpus=cluster.nodes * cluster.devices_per_node, tensor=1, row=3392,
        micro_batch=run.train.micro_batch, recompute="none", node_gbs=cluster.node_gbs, sharding="zero3", gradient_bytes=4,
    )  # fmt: skip


def test_a_run_is_counted_as_a_published_row_of_its_shape() -> None:
    """Two counts that know nothing of each other. Heads and embeddings, which the row lacks, take a few hundredths."""
    run = run_of("7b", "parallel.zero_stage=3", "parallel.live_parameters=1", "parallel.activation_checkpointing=none")
    ours, row = run_work(run, Counts(run)), row_work(same_shape(run))
    assert ours.attention_flops == pytest.approx(row.attention_flops, rel=1e-9)
    flops = [sum(each for each, _ in work.gemms) for work in (ours, row)]
    assert 1 < flops[0] / flops[1] < 1.06
    assert 1 < ours.hidden_traffic_s / row.hidden_traffic_s < 1.1
    assert 1 < ours.elementwise_bytes / row.elementwise_bytes < 1.1


@pytest.mark.parametrize(
    ("name", "tensor", "sides"),
    [("7b", 1, {4096}), ("7b", 2, {2048, 4096}), ("1b", 1, {2048}), ("1b", 4, {512, 768, 2048})],
)
def test_the_narrowest_side_of_a_ranks_matrices(name: str, tensor: int, sides: set[float]) -> None:
    """Of 4 ranks in 1b each has 768 of the 3072 outputs of queries, keys and values, 512 of the inputs of attention's output,
    and 4096 of the 16384 of gate and up."""
    run = run_of(name, f"parallel.tensor={tensor}")
    assert {side for _, side in run_work(run, Counts(run)).gemms} == sides


LAYOUTS = [
    "parallel.zero_stage=1 parallel.tensor=2",
    "parallel.zero_stage=2 train.micro_batch=4",
    "parallel.zero_stage=3 train.micro_batch=1 parallel.context=2 parallel.activation_checkpointing=block",
    "parallel.zero_stage=3 parallel.tensor=4 parallel.sequence=true cluster.nodes=4",
]


@pytest.mark.parametrize("words", LAYOUTS)
def test_traffic_is_the_plans(words: str) -> None:
    run = run_of("7b", "llm.layers=4", *words.split())
    count, parallel = Counts(run), run.parallel
    shards = run.cluster.nodes * run.cluster.devices_per_node // parallel.tensor
    for steps in (1, 5):
        planned = traffic_bytes(run, shards, steps)
        assert count.sent(run, shards, steps) == pytest.approx(planned, rel=1e-3)


RATES = RatesSection(
    gemm_efficiency=0.5, gemm_narrow=100, attention_efficiency=0.2, attention_gain=1.25, elementwise=4, overlap=0.5,
    near_latency_us=1, far_latency_us=10, host_ms_per_step=0, host_ms_per_layer=0, host_us_per_shard=0,
)  # fmt: skip
MACHINE = Machine(peak=1e15, memory=1e12, rates=RATES)
NOTHING = Work(
    gemms=(), attention_flops=0, attention_again=0, head_dim=128, elementwise_bytes=0, fused=False, copied_bytes=0,
    hidden_traffic_s=0, hidden_calls=0, open_traffic_s=0, last_traffic_s=0, last_calls=0, shards=16, nodes=2, updated=0,
    layers=10, partitioned=0, accumulation=3,
)  # fmt: skip
ONE_SECOND = {"gemms": ((5e14, float("inf")),)}


@pytest.mark.parametrize(
    ("changes", "part", "seconds"),
    [
        ({"gemms": ((5e14, 100.0),)}, "gemm", 3 * 2.0),  # half of half the peak
        ({"attention_flops": 1e14}, "attention", 3 * 3.5 * 0.4),
        ({"attention_flops": 1e14, "attention_again": 0.5, "head_dim": 64}, "attention", 3 * 4 * 0.4 / 0.8),
        ({"elementwise_bytes": 1e12, "copied_bytes": 1e12}, "elementwise", 3 * (4 + 1)),
        ({"elementwise_bytes": 1e12, "fused": True}, "elementwise", 3 * 1),
        ({"updated": 1e11}, "optimizer", 3),  # once a step, 30 bytes a weight
        ({"open_traffic_s": 2}, "exposed_traffic", 3 * 2),
        ({"last_traffic_s": 2, "last_calls": 1e6}, "exposed_traffic", 2 + 24),  # 14 ranks and a node: 24 µs
        (ONE_SECOND | {"hidden_traffic_s": 1}, "exposed_traffic", 3 * (0.5 + 0.1)),  # half is hidden; a layer's is not
        (ONE_SECOND | {"hidden_traffic_s": 4}, "exposed_traffic", 3 * (3 + 0.4)),  # more than computing can hide
        ({"hidden_calls": 1e6}, "exposed_traffic", 3 * (24 + 2.4)),
    ],
)
def test_each_part_by_hand(changes: dict[str, object], part: str, seconds: float) -> None:
    """Three micro-batches on 16 ranks of two nodes."""
    found = step_time(replace(NOTHING, **changes), MACHINE)  # type: ignore[arg-type]
    assert getattr(found, part) == pytest.approx(seconds)
    alone = changes.keys() & {"gemms"}
    assert found.total == pytest.approx(seconds + (3 if alone and part != "gemm" else 0))


def test_python_costs_what_it_takes_longer_than_the_gpu() -> None:
    rates = RATES.model_copy(update={"host_ms_per_layer": 50.0, "host_us_per_shard": 1000.0, "host_ms_per_step": 7.0})
    slow = replace(MACHINE, rates=rates)
    assert step_time(NOTHING, slow).host == pytest.approx(3 * 0.5 + 0.007)
    assert step_time(replace(NOTHING, **ONE_SECOND), slow).host == pytest.approx(0.007)  # type: ignore[arg-type]
    assert step_time(replace(NOTHING, partitioned=100, **ONE_SECOND), slow).host == pytest.approx(  # type: ignore[arg-type]
        3 * (0.5 + 1.6 - 1) + 0.007
    )


@pytest.mark.parametrize("name", ["1b", "3b", "7b", "13b"])
def test_a_presets_prediction_adds_up(name: str) -> None:
    run = run_of(name)
    found = predict(run)
    assert found.step_s == pytest.approx(sum(getattr(found.parts, each.name) for each in fields(StepTime)))
    tokens = run.train.global_batch * 3393
    assert found.tokens_per_s_per_device * found.devices * found.step_s == pytest.approx(tokens)
    assert found.days * 86400 == pytest.approx(run.train.steps * found.step_s)
    assert found.usd == pytest.approx(found.days * 24 * found.devices * 2)
    assert 0.2 < found.mfu_causal.low < found.mfu_causal.middle < found.mfu_causal.high < 0.6
    assert found.mfu_full_attention.middle > found.mfu_causal.middle


def test_thousands_of_gpus() -> None:
    """A step of the same rows per GPU: a ring's latency and ZeRO-3's loops over all ranks grow with them, ZeRO-1's far less."""

    def step(nodes: int, stage: int) -> StepTime:
        batch = [f"cluster.nodes={nodes}", f"train.global_batch={16 * nodes}", "train.micro_batch=2"]
        return predict(run_of("7b", f"parallel.zero_stage={stage}", *batch)).parts

    few, more, most = (step(nodes, 3) for nodes in (64, 128, 512))
    assert few.gemm == more.gemm == most.gemm
    assert few.total < more.total < most.total
    assert most.host > 4 * more.host > most.gemm
    assert step(512, 1).total < 0.5 * most.total


def test_a_cluster_without_its_memorys_rate() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.memory_gbs"):
        machine(ClusterSection(peak_tflops=1, memory_gib=1))
