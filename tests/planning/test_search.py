"""The search: what it names fits, can be trained, is as predicted and planned, and no other setting that fits is faster."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import pytest

from hitvideo.errors import ConfigError
from hitvideo.planning.language_model import plan_language_model
from hitvideo.planning.simulation.prediction import predict
from hitvideo.planning.simulation.run_work import Counts
from hitvideo.planning.simulation.search import LEFT_FREE, Candidate, Found, Memory, search
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.conftest import ROOT

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"
# Nodes of two GPUs; four heads, 204 slots of input. Slow enough that computing takes most of a step.
GPUS = [
    "cluster.devices_per_node=2", "cluster.devices=cpu", "cluster.memory_gbs=10", "cluster.peak_tflops=1", "train.dtype=bf16",
    "cluster.rates.host_ms_per_layer=0", "cluster.rates.host_ms_per_step=1", "llm.layers=3", "parallel.bucket=1000",
    "cluster.usd_per_device_hour=3", "train.global_batch=16", "train.micro_batch=1",
]  # fmt: skip


def settings(*words: str) -> PretrainRun:
    return load_settings_as(PretrainRun, TINY, [*GPUS, *words])


@cache
def plenty() -> Found:
    return search(settings("cluster.memory_gib=8"))


@cache
def little() -> Found:
    """With half of what the best settings take; 205 slots, which ranks cannot share."""
    return search(settings(f"cluster.memory_gib={max(each.total_gib for each in plenty().best) / 2}", "text.window=25"))


def run_of(each: Candidate, *words: str) -> PretrainRun:
    """The run that a candidate's words set."""
    same = f"cluster.memory_gib={each.settings.cluster.memory_gib}", f"text.window={each.settings.text.window}"
    return settings(*same, *each.words, *words)


FOUND = pytest.mark.parametrize("found", [plenty, little])


@FOUND
def test_what_is_named_can_be_trained_and_is_as_planned(found: Callable[[], Found]) -> None:
    for each in found().best:
        run = run_of(each)  # it validates
        assert run == each.settings
        assert predict(run) == each.prediction
        assert each.total_gib == pytest.approx(plan_language_model(run).total_gib, rel=0.03)
        assert each.total_gib <= (1 - LEFT_FREE) * run.cluster.memory_gib


@FOUND
def test_no_neighbour_is_faster(found: Callable[[], Found]) -> None:
    """Settings of the same nodes that differ in one key: those that are faster do not fit."""
    best = found().best[1]
    rows, most = best.settings.train.micro_batch, (1 - LEFT_FREE) * best.settings.cluster.memory_gib
    keys = [f"parallel.zero_stage={stage}" for stage in (1, 2, 3)]
    keys += [f"parallel.activation_checkpointing={mode}" for mode in ("none", "selective", "block")]
    keys += [f"train.compile={word}" for word in ("false", "true")]
    keys += [f"train.micro_batch={size}" for size in (rows // 2, 2 * rows) if size and 4 % size == 0]
    faster = 0
    for key in keys:
        run = run_of(best, key)
        if predict(run).step_s < best.prediction.step_s:
            assert plan_language_model(run).total_gib > 0.97 * most, key
            faster += 1
    assert faster == 0 or best.binds == "memory"


def test_memory_binds_where_it_is_little() -> None:
    """More memory never makes a step slower; where it does not suffice for the fastest setting, it is named."""
    rich, poor = ({each.prediction.devices: each for each in found().best} for found in (plenty, little))
    assert all(rich[devices].prediction.step_s <= each.prediction.step_s for devices, each in poor.items())
    assert all(each.binds != "memory" for each in rich.values())
    assert any(each.binds == "memory" for each in poor.values())
    with pytest.raises(ConfigError, match=r"cluster\.memory_gib"):
        search(settings("cluster.memory_gib=0.001"))


def test_devices_are_those_that_divide_the_batch() -> None:
    assert [each.prediction.devices for each in plenty().best] == [2, 4, 8, 16, 32], "16 rows, of two ranks each"
    last = plenty().best[-1].settings.parallel
    assert last.tensor * last.context == 2


def test_the_cheapest_for_a_deadline() -> None:
    best = plenty().best
    days, usd = sorted(each.prediction.days for each in best), [each.prediction.usd or 0 for each in best]
    assert plenty().fastest.prediction.days == days[0]
    assert [each.prediction.usd for each in (plenty().cheapest(),) if each] == [min(usd)]
    for limit in days:
        soon = plenty().cheapest(limit)
        assert soon is not None
        assert soon.prediction.days <= limit
        assert soon.prediction.usd == min(each.prediction.usd or 0 for each in best if each.prediction.days <= limit)
    assert plenty().cheapest(days[0] / 2) is None


def test_memory_is_the_plans_on_gpus() -> None:
    """With what CUDA and NCCL take, ZeRO-3's buckets and what compiled blocks keep."""
    words = "cluster.memory_gib=8", "cluster.devices=gpu", "parallel.tensor=2", "train.micro_batch=4", "train.compile=true"
    run = settings(*words)
    found = Memory().total_gib(run, Counts(run))
    assert found > 2
    assert found == pytest.approx(plan_language_model(run).total_gib, rel=0.01)


def test_figures_are_plain() -> None:
    figures = plenty().figures()
    assert {"best", "fastest", "here", "cheapest"} == figures.keys()
    again = settings("cluster.memory_gib=8", *figures["fastest"]["settings"])
    assert again == plenty().fastest.settings
    assert figures == json.loads(json.dumps(figures))
