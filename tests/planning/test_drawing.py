"""Seconds of drawing a video against arithmetic by hand."""

from __future__ import annotations

import pytest

from hitvideo.planning.drawing import drawing
from hitvideo.planning.flops import meta_model
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.conftest import ROOT

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"
SIZE = ["llm.layers=2", "llm.width=64", "llm.heads=4", "llm.kv_heads=2", "llm.hidden=100", "llm.rope_axes=[8,4,4]"]
# A fast device with slow memory: reading is all.
CLUSTER = ["cluster.peak_tflops=1000", "cluster.memory_gbs=0.001", "cluster.memory_gib=1", "cluster.rates.host_ms_per_layer=0"]
TRUNK = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 100)
HEAD = 64 * 512
SLOT = 2 * 2 * 2 * 2 * 16 * 2  # rows, keys and values, layers, heads, width, bytes


def found(*words: str, levels: int = 4, grouped: bool = False) -> tuple[int, float, float]:
    settings = load_settings_as(PretrainRun, TINY, ["data.manifest=none", *SIZE, *CLUSTER, *words])
    drawn = drawing(meta_model(settings), settings.cluster, levels, grouped)
    assert drawn is not None
    return drawn


def test_a_pass_reads_the_weights_and_all_slots_before_it() -> None:
    """The demo's levels of 4, 16, 32 and 128 cells behind 24 slots of text."""
    for levels, cells in ((1, 4), (2, 20), (4, 180)):
        bytes_read = sum(2 * (TRUNK + HEAD) + (24 + cell) * SLOT for cell in range(1, cells + 1))
        passes, device, launched = found(levels=levels)
        assert passes == cells
        assert device == launched == pytest.approx(bytes_read / 1e6)


def test_groups_read_as_often_as_they_have_passes() -> None:
    groups = "llm.groups=[null,[1,1,2],[2,2,1],[2,4,2]]"
    sizes = [1] * 4 + [8] * 2 + [8] * 4 + [8] * 16
    bytes_read = sum(2 * (TRUNK + HEAD) + (24 + sum(sizes[: number + 1])) * SLOT for number in range(26))
    passes, device, _ = found(groups, grouped=True)
    assert passes == 26
    assert device == pytest.approx(bytes_read / 1e6)
    assert found(groups)[0] == 180


def test_python_counts_where_it_takes_longer() -> None:
    """Three milliseconds of training a layer are one of its forward: 180 passes of two layers."""
    _, device, launched = found("cluster.memory_gbs=1000", "cluster.rates.host_ms_per_layer=3")
    assert launched == pytest.approx(180 * 2e-3)
    assert device < 1e-4
    assert found("cluster.rates.host_ms_per_layer=3")[1:] == found()[1:]


def test_many_cells_at_once_are_computed_as_long_as_they_take() -> None:
    words = ["cluster.memory_gbs=1e6", "cluster.peak_tflops=1e-3", "cluster.rates.gemm_efficiency=0.5"]
    flops = 2 * 2 * (TRUNK * (24 + 4) + HEAD * 4)
    assert found(*words, levels=1)[1] == pytest.approx(flops / 0.5e9)


def test_what_is_not_known_or_does_not_fit_is_not_said() -> None:
    for word in ("cluster.memory_gbs=null", "cluster.memory_gib=0.0001"):
        settings = load_settings_as(PretrainRun, TINY, ["data.manifest=none", *SIZE, *CLUSTER, word])
        assert drawing(meta_model(settings), settings.cluster, 4) is None
