"""A checkpoint that holds q, k, v, gate and up apart goes on in fused matrices on any layout, with Adam's moments."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hitvideo.llm.model import LanguageModel
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.restore import restore
from hitvideo.parallel.topology import start
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun, load_settings_as
from pretrain.language_model_task import make_model
from tests.checkpoints.written import write_checkpoint
from tests.pretrain.runs import SMALL, TINY
from tests.worlds import free_port, run_ranks

Named = dict[str, torch.Tensor]
LR, BETAS, DECAY = 0.3, (0.9, 0.95), 0.1  # a step as large as the weights, so that each of its parts shows in the loss
WORDS = [
    *SMALL, "llm.kv_heads=2", "llm.qk_norm=true", "train.clip=1000", f"train.weight_decay={DECAY}", "train.betas=[0.9,0.95]",
    "train.dtype=fp32",
]  # fmt: skip
LAYOUTS = {
    1: ["parallel.zero_stage=0", "parallel.zero_stage=3"],
    2: ["parallel.zero_stage=1 parallel.tensor=2", "parallel.zero_stage=2", "parallel.zero_stage=3"],
    4: ["parallel.zero_stage=3 parallel.tensor=2 parallel.sequence=true", "parallel.zero_stage=1 parallel.tensor=2"],
}


def settings(world: int, words: str = "") -> PretrainRun:
    run = load_settings_as(PretrainRun, TINY, [*WORDS, *words.split()])
    batch = run.train.micro_batch * world // run.parallel.tensor
    return load_settings_as(PretrainRun, TINY, [*WORDS, *words.split(), f"train.global_batch={batch}"])


def rows(run: PretrainRun) -> torch.Tensor:
    """One micro-batch, the same on all ranks."""
    layout, random = make_layout(run), np.random.default_rng(3)
    sizes = [(1 << level.num_bits, grid) for level, grid in zip(run.hierarchy.levels, layout.grids, strict=True)]
    captions = range(7, 7 + run.train.micro_batch)
    return torch.from_numpy(np.stack([layout.join([word], [random.integers(0, *size) for size in sizes]) for word in captions]))


def losses(run: PretrainRun, path: Path) -> tuple[float, float]:
    """On one rank: the loss of a checkpoint's weights, and the loss after one more step."""
    with start(run.parallel.tensor) as topology:
        engine = Engine(make_model(run), topology, run.parallel, run.train)
        restore(path, engine)
        engine.set_lr(LR)
        before = engine(rows(run), 0.1)["loss"]
        engine.backward(before)
        assert engine.step()
        return before.item(), engine(rows(run), 0.1)["loss"].item()


def losses_of_all(runs: list[PretrainRun], ports: list[int], path: Path) -> list[tuple[float, float]]:
    found = []
    for run, port in zip(runs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        found.append(losses(run, path))
    return found


def checkpoint_parts(run: PretrainRun) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a checkpoint of a trunk's block, written out."""
    llm = run.llm
    keys = (llm.kv_heads * llm.width // llm.heads, llm.width)
    return {
        "attention.q.weight": (llm.width, llm.width), "attention.k.weight": keys, "attention.v.weight": keys,
        "attention.out.weight": (llm.width, llm.width), "mlp.gate.weight": (llm.hidden, llm.width),
        "mlp.up.weight": (llm.hidden, llm.width), "mlp.down.weight": (llm.width, llm.hidden),
    }  # fmt: skip


def step_by_hand(run: PretrainRun, weights: Named, moments: dict[str, Named]) -> tuple[float, Named]:
    """The loss, and the weights after Adam's second step (Kingma & Ba 2015; decay as Loshchilov & Hutter)."""
    model = LanguageModel(run.llm, make_layout(run))
    model.load_state_dict(weights)
    loss = model(rows(run), 0.1)["loss"]
    loss.backward()
    gradients: Named = {}
    for name, parameter in model.named_parameters():
        matrix = re.fullmatch(r"(.*)\.(qkv|gate_up)\.column\.weight", name)
        if matrix is None:
            gradients[name] = parameter.grad
            continue
        first = 0
        for part in ("q", "k", "v") if matrix[2] == "qkv" else ("gate", "up"):
            rows_of_it = len(weights[f"{matrix[1]}.{part}.weight"])
            gradients[f"{matrix[1]}.{part}.weight"] = parameter.grad[first : first + rows_of_it]
            first += rows_of_it
    after = {}
    for name, weight in weights.items():
        gradient, decays = gradients[name], weight.ndim > 1 and name not in ("level.weight", "next_level.weight")
        mean = BETAS[0] * moments["exp_avg"][name] + (1 - BETAS[0]) * gradient
        square = BETAS[1] * moments["exp_avg_sq"][name] + (1 - BETAS[1]) * gradient.square()
        step = mean / (1 - BETAS[0] ** 2) / ((square / (1 - BETAS[1] ** 2)).sqrt() + 1e-8)
        after[name] = weight * (1 - LR * DECAY * decays) - LR * step
    return loss.item(), after


@torch.no_grad()
def loss_of(run: PretrainRun, weights: Named) -> float:
    model = LanguageModel(run.llm, make_layout(run))
    model.load_state_dict(weights)
    return float(model(rows(run), 0.1)["loss"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, float]:
    """Random weights and moments as 2 × 3 ranks with parts apart would have written them, and the losses they give."""
    run, random = settings(1), torch.Generator().manual_seed(0)
    shapes = {name: tuple(tensor.shape) for name, tensor in LanguageModel(run.llm, make_layout(run)).state_dict().items()}
    for layer in range(run.llm.layers):
        parts = checkpoint_parts(run)
        assert parts.items() <= {name.removeprefix(f"trunk.blocks.{layer}."): shape for name, shape in shapes.items()}.items()
    assert not [name for name in shapes if "column" in name or "qkv" in name]
    weights = {name: 0.2 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    mean = {name: 1e-2 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    square = {name: 1e-4 * (0.5 + torch.rand(shape, generator=random)) for name, shape in shapes.items()}
    rows_divided = r"(embedding|ancestor|text_head|\.[qkv]|gate|up|outputs\.\d+)\.weight$"
    divided = {
        name: 0 if re.search(rows_divided, name) else 1 if re.search(r"(out|down)\.weight$", name) else -1 for name in shapes
    }
    path = tmp_path_factory.mktemp("old") / "step-00000001"
    moments = {"exp_avg": mean, "exp_avg_sq": square}
    write_checkpoint(path, weights, 2, 3, indexed=False, moments=moments, divided=divided)
    before, after = step_by_hand(run, weights, moments)
    swapped = {kind: dict(held) for kind, held in moments.items()}
    name = "trunk.blocks.1.attention.{}.weight"
    for held in swapped.values():
        held[name.format("k")], held[name.format("v")] = held[name.format("v")], held[name.format("k")]
    then = loss_of(run, after)
    assert abs(loss_of(run, step_by_hand(run, weights, swapped)[1]) - then) > 1e-4 * then, "moments of other rows would show"
    return path, before, then


@pytest.mark.parametrize("world", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_weights_and_moments_find_their_rows(checkpoint: tuple[Path, float, float], world: int) -> None:
    path, before, after = checkpoint
    runs = [settings(world, words) for words in LAYOUTS[world]]
    for found in run_ranks(losses_of_all, world, runs, [free_port() for _ in runs], path):
        for words, pair in zip(LAYOUTS[world], found, strict=True):
            assert pair == (pytest.approx(before, rel=1e-5), pytest.approx(after, rel=1e-5)), words
