"""Parameters against the built model, FLOPs against torch's counter, the memory plan by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hitvideo.config import ConfigError
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.schema import PretrainRun, load_as
from hitvideo.sections import ClusterSection
from hitvideo.throughput import make_layout, meta_model, mfu, plan, training_flops_per_row
from tests.conftest import ROOT

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"
RUNS = sorted((ROOT / "yaml_configs/pretrain").glob("*.yaml"))
GIB = 2**30
SIZE = ["llm.layers=6", "llm.width=192", "llm.heads=6", "llm.kv_heads=6", "llm.hidden=512"]


def settings(*words: str) -> PretrainRun:
    return load_as(PretrainRun, TINY, [*SIZE, *words])


def row_of(model: LanguageModel) -> torch.Tensor:
    codes = [np.zeros(grid, int) for grid in model.layout.grids]
    return torch.from_numpy(model.layout.join([7, 8, 9], codes))[None]


def test_parameters_are_those_of_the_built_model() -> None:
    run = settings()
    model = LanguageModel(run.llm, make_layout(run))
    assert plan(run).parameters == sum(p.numel() for p in model.parameters())
    assert all(p.is_meta for p in meta_model(run).parameters())


VARIANTS = [
    [],
    ["llm.kv_heads=2", "llm.qk_norm=false"],
    ["llm.layers=2", "text.window=64"],
    ["hierarchy.levels=[{down: [8, 8, 8], num_bits: 14, sub_bits: [7, 4, 3]}, {down: [4, 4, 4], num_bits: 9}]"],
]


@pytest.mark.parametrize("words", VARIANTS)
def test_flops_against_torchs_counter(words: list[str]) -> None:
    """Exact but for one thing that is known, so the tolerance is for rounding alone.

    The counter takes attention as the full square (the math backend computes it so); ours is halved because it is causal,
    and the other half is added here.
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


def test_flops_are_about_six_for_each_weight_and_slot() -> None:
    """Kaplan's rule, on the trunk of a model whose attention is small beside its matrices."""
    run = settings()
    model = meta_model(run)
    trunk = sum(p.numel() for p in model.trunk.parameters())
    rule = 6 * trunk * (model.layout.length - 1)
    assert 1 < training_flops_per_row(model) / rule < 1.3


def test_mfu() -> None:
    cluster = ClusterSection(peak_tflops=100, memory_gib=80)
    assert mfu(4 * 40e12, 4, cluster) == pytest.approx(0.4)


def hand(run: PretrainRun, words: dict[str, float]) -> None:
    found = plan(run)
    for key, value in words.items():
        assert getattr(found, key) == pytest.approx(value, rel=1e-9), key


CLUSTER = ["cluster.nodes=2", "cluster.devices_per_node=4", "train.global_batch=64", "train.micro_batch=4", "train.dtype=bf16"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_memory_of_weights_gradients_and_adam(stage: int) -> None:
    """8 devices, tensor 2: 4 data ranks. ZeRO 1 divides Adam's states among them, 2 the gradients too, 3 the weights too."""
    run = settings(*CLUSTER, "parallel.tensor=2", f"parallel.zero_stage={stage}")
    share = plan(run).parameters / 2
    hand(run, {
        "data_ranks": 4,
        "accumulation": 64 / (4 * 4),
        "weights_gib": share * 2 / (4 if stage == 3 else 1) / GIB,
        "gradients_gib": share * 4 / (4 if stage >= 2 else 1) / GIB,
        "optimizer_gib": share * (4 + 4 + 4) / 4 / GIB,
    })  # fmt: skip


def test_memory_of_activations() -> None:
    """Tiny: 24 text slots, 180 tokens and EOV, so 204 inputs; width 192, hidden 512, 6 layers, micro-batch 4."""
    rows = 4 * 204
    # Two norms in fp32 and bf16; q, k, v, turned q and k, attention's output; SwiGLU's gate, up, silu and product. bf16.
    block = rows * (192 * (2 * 4 + 2 * 2) + (3 * 192 + 4 * 192 + 4 * 512) * 2)
    # The text head's 512 entries on 24 slots; 512 entries for each of 4 + 16 + 32 + 128 tokens; fp32 and its gradient.
    logits = 2 * 4 * 4 * (24 * 512 + (4 + 16 + 32 + 128) * 512)
    hand(settings(*CLUSTER), {"activations_gib": (6 * block + logits) / GIB})
    # With recomputation: every block's input, and one block while it is computed again.
    kept = 6 * rows * 192 * 2
    hand(settings(*CLUSTER, "parallel.activation_checkpointing=block"), {"activations_gib": (kept + block + logits) / GIB})


def test_totals_and_times() -> None:
    run = settings(*CLUSTER, "train.steps=1000", "cluster.peak_tflops=100", "cluster.assumed_mfu=0.5")
    found = plan(run)
    parts = found.weights_gib + found.gradients_gib + found.optimizer_gib + found.activations_gib
    assert found.total_gib == pytest.approx(parts)
    assert found.tokens_per_row == 24 + 180 + 1
    assert found.tokens_per_step == 64 * 205
    flops = training_flops_per_row(meta_model(run)) * 64
    assert found.training_tflops_per_step == pytest.approx(flops / 1e12)
    assert found.hours * 3600 == pytest.approx(1000 * flops / (8 * 100e12 * 0.5))
    assert found.device_hours == pytest.approx(8 * found.hours)


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(ConfigError, match="global_batch 64 is not a multiple of"):
        plan(settings(*CLUSTER, "train.micro_batch=3"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_run_fits_its_devices(path: Path) -> None:
    found = plan(load_as(PretrainRun, path))
    assert found.total_gib <= found.available_gib
