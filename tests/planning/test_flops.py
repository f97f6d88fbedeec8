"""Training FLOPs against torch's counter and Kaplan's rule, and MFU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.recompute import Recompute
from hitvideo.planning.flops import meta_model, mfu, recomputed_flops_per_row, training_flops_per_row
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.cluster import ClusterSection
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.conftest import ROOT

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"
SIZE = ["llm.layers=6", "llm.width=192", "llm.heads=6", "llm.kv_heads=6", "llm.hidden=512"]


def settings(*words: str) -> PretrainRun:
    return load_settings_as(PretrainRun, TINY, [*SIZE, *words])


def row_of(model: LanguageModel) -> torch.Tensor:
    codes = [np.zeros(grid, int) for grid in model.layout.grids]
    return torch.from_numpy(model.layout.join([7, 8, 9], codes))[None]


VARIANTS = [
    [],
    ["llm.kv_heads=2", "llm.qk_norm=false"],
    ["llm.layers=2", "text.window=64"],
    ["llm.ancestors=true"],
    ["hierarchy.levels=[{down: [8, 8, 8], num_bits: 14, sub_bits: [7, 4, 3]}, {down: [4, 4, 4], num_bits: 9}]"],
]


@pytest.mark.parametrize("words", VARIANTS)
def test_flops_against_torchs_counter(words: list[str]) -> None:
    """Equal except for half of attention, so the tolerance is only for rounding.

    torch counts full attention, which the math backend computes. Ours is halved because it is causal, so the test adds the
    other half.
    """
    run = settings(*words)
    model = LanguageModel(run.llm, make_layout(run))
    initialize(model, run.llm.width, run.llm.layers, 0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(row_of(model), 0.1)["loss"].backward()
    slots, width = model.layout.length - 1, run.llm.width
    other_half = 3 * run.llm.layers * 2 * slots * slots * width  # 3: forward and backward; 2·2·slots²·width halved
    expected = training_flops_per_row(model) + other_half
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-9)
    assert training_flops_per_row(model, full_attention=True) == pytest.approx(expected, rel=1e-9)


def test_flops_are_about_six_for_each_weight_and_slot() -> None:
    """Kaplan's rule, on the trunk of a model whose attention is small compared with its matrices."""
    run = settings()
    model = meta_model(run)
    trunk = sum(p.numel() for p in model.trunk.parameters())
    rule = 6 * trunk * (model.layout.length - 1)
    assert 1 < training_flops_per_row(model) / rule < 1.3


@pytest.mark.parametrize("recompute", ["none", "selective", "block"])
def test_recomputed_flops_against_torchs_counter(recompute: Recompute) -> None:
    """The math backend's half of causal attention is computed in full; a last product, whose result nobody needs, is not.

    Selective keeps the result of an attention kernel, of which the math backend has none: with the CPU's, whose FLOPs torch
    does not count, none are counted again.
    """
    run = settings("llm.layers=2")
    kernel = SDPBackend.FLASH_ATTENTION if recompute == "selective" else SDPBackend.MATH
    found = []
    for mode in ("none", recompute):
        model = LanguageModel(run.llm, make_layout(run), recompute=mode)
        initialize(model, run.llm.width, run.llm.layers, 0)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(kernel):
            model(row_of(model), 0.1)["loss"].backward()
        found.append(counter.get_total_flops())
    slots, width = model.layout.length - 1, run.llm.width
    other_half = run.llm.layers * 2 * slots * slots * width if recompute == "block" else 0
    assert found[1] - found[0] == pytest.approx(recomputed_flops_per_row(model, recompute) + other_half, rel=1e-9)


def test_mfu() -> None:
    cluster = ClusterSection(peak_tflops=100, memory_gib=80)
    assert mfu(4 * 40e12, 4, cluster) == pytest.approx(0.4)
