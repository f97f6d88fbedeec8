"""An engine's initial weights: the values of one written law for every layout, and memory for a rank's share only."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hitvideo.llm.init import Law
from hitvideo.parallel import engine as engine_module
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.fragments import fragments
from hitvideo.parallel.initial import draw_weights
from hitvideo.parallel.topology import start
from hitvideo.planning.flops import meta_model
from hitvideo.settings.programs import PretrainRun, load_settings_as
from pretrain.language_model_task import make_model
from tests.conftest import ROOT
from tests.worlds import free_port, run_ranks

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"
Pieces = dict[str, tuple[int, list[np.ndarray]]]


def settings(*words: str) -> PretrainRun:
    return load_settings_as(PretrainRun, TINY, ["llm.qk_norm=true", "train.micro_batch=4", *words])


def expected(run: PretrainRun) -> dict[str, torch.Tensor]:
    """The law, written out: σ = 1/√width, or 1/√(2·layers·width) where a matrix writes to the residual stream; norms are 1."""
    found, width = {}, run.llm.width
    for name, parameter in meta_model(run).state_dict().items():
        if name.endswith("norm.weight"):
            found[name] = torch.ones(parameter.shape)
            continue
        sigma = (2 * run.llm.layers * width) ** -0.5 if re.search(r"\.(out|down)\.weight$", name) else width**-0.5
        seed = int.from_bytes(hashlib.sha256(f"{run.run.seed}:{name}".encode()).digest()[:8], "big") >> 1
        found[name] = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * sigma
    return found


def drawn(run: PretrainRun) -> Pieces:
    """This rank's part of each parameter: its offset, and the fp32 weights, their average, and what the forward uses."""
    with start(run.parallel.tensor) as topology:
        engine = Engine(make_model(run), topology, run.parallel, run.train)
        draw_weights(engine, Law(run.llm.width, run.llm.layers, run.run.seed))
        used: dict[str, Any] = dict(engine.model.named_parameters())
        pieces: Pieces = {}
        for fragment in fragments(engine):
            span = slice(fragment.start, fragment.start + fragment.length)
            master, average = (flats[fragment.buffer].detach().view(-1)[span] for flats in (engine.masters, engine.averages))
            name, before = place(run, fragment.name)
            parameter, first = used[name], before + fragment.offset
            if run.parallel.zero_stage == 3:
                held = parameter.ds_tensor[first - topology.shard_rank * parameter.ds_tensor.numel() :]
            else:
                held = parameter.detach().view(-1)[first:]
            parts = (master, average, held[: fragment.length])
            pieces[fragment.name] = (fragment.offset, [part.float().clone().numpy() for part in parts])
        return pieces


def place(run: PretrainRun, name: str) -> tuple[str, int]:
    """The parameter that holds a weight, and how many entries of other weights come before it there, on this rank."""
    matrix = re.fullmatch(r"(trunk\.blocks\.\d+\.(?:attention|mlp))\.(q|k|v|gate|up)\.weight", name)
    if matrix is None:
        return name, 0
    llm = run.llm
    rows = {"q": 0, "k": llm.width, "v": llm.width + llm.kv_heads * llm.head_dim, "gate": 0, "up": llm.hidden}[matrix[2]]
    fused = "gate_up" if matrix[2] in ("gate", "up") else "qkv"
    return f"{matrix[1]}.{fused}.column.weight", rows // run.parallel.tensor * llm.width


def drawn_by_all(runs: list[PretrainRun], ports: list[int]) -> list[Pieces]:
    """`drawn` of several runs, one after the other in the same processes."""
    found = []
    for run, port in zip(runs, ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        found.append(drawn(run))
    return found


LAYOUTS = {
    1: ["parallel.zero_stage=0 train.dtype=fp32", "parallel.zero_stage=3 train.dtype=bf16"],
    2: [
        *[f"parallel.zero_stage={stage} train.dtype={dtype}" for stage in (1, 2, 3) for dtype in ("fp32", "bf16")],
        *[f"parallel.zero_stage={stage} train.dtype=bf16 parallel.tensor=2" for stage in (1, 3)],
        "parallel.zero_stage=3 train.dtype=fp32 parallel.tensor=2 parallel.sequence=true",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("world", LAYOUTS)
def test_every_layout_has_the_weights_of_the_law(world: int) -> None:
    runs = [settings("train.ema=0.99", *words.split()) for words in LAYOUTS[world]]
    ranks = run_ranks(drawn_by_all, world, runs, [free_port() for _ in runs])
    for run, *found in zip(runs, *ranks, strict=True):
        check(run, found)


def check(run: PretrainRun, ranks: list[Pieces]) -> None:
    """The ranks' parts are those of the law, and together they are the whole model."""
    tensor, law = run.parallel.tensor, expected(run)
    seen = dict.fromkeys(law, 0)
    for rank, pieces in enumerate(ranks):
        for name, (offset, found) in pieces.items():
            whole = law[name]
            if tensor > 1 and divides(name):
                whole = whole.chunk(tensor, 1 if re.search(r"\.(out|down)\.weight$", name) else 0)[rank % tensor]
            part = whole.reshape(-1)[offset : offset + len(found[0])]
            half = part.bfloat16().float() if run.train.dtype == "bf16" else part
            for values, right in zip(found, (part, part, half), strict=True):
                np.testing.assert_array_equal(values, right.numpy(), err_msg=name)
            seen[name] += len(part)
    assert seen == {name: whole.numel() * (1 if divides(name) else tensor) for name, whole in law.items()}


def divides(name: str) -> bool:
    """Whether tensor parallelism divides a parameter: all matrices but the embeddings of levels."""
    return not name.endswith("norm.weight") and name not in ("level.weight", "next_level.weight")


def groups(run: PretrainRun) -> list[int]:
    """Numbers of weights in each of DeepSpeed's groups, decayed ones first."""
    with start(1) as topology:
        engine = Engine(make_model(run), topology, run.parallel, run.train)
        return [flat.numel() for flat in engine.masters]


def test_matrices_decay_under_zero_3_too() -> None:
    run = settings("parallel.zero_stage=3")
    sizes = [(p.numel(), p.ndim > 1 and name not in ("level.weight", "next_level.weight"))
             for name, p in meta_model(run).named_parameters()]  # fmt: skip
    assert run_ranks(groups, 1, run) == [[sum(size for size, decays in sizes if decays == kind) for kind in (True, False)]]


LARGE = ["llm.layers=10", "llm.width=1024", "llm.heads=16", "llm.kv_heads=16", "llm.hidden=2816", "llm.rope_axes=[16,24,24]"]


def peaks(run: PretrainRun) -> tuple[int, int]:
    """Peak bytes of this process until the model has memory, and until it is drawn, above those before."""
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: what is freed leaves the process at once
    allocate, allocated = engine_module._allocate, []

    def measured(*inputs: Any, **named: Any) -> None:
        allocate(*inputs, **named)
        allocated.append(peak())

    with start(run.parallel.tensor) as topology:
        before = resident()
        engine_module._allocate = measured  # in this rank's process only
        engine = Engine(make_model(run), topology, run.parallel, run.train)
        draw_weights(engine, Law(run.llm.width, run.llm.layers, run.run.seed))
        return allocated[0] - before, peak() - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_start_takes_no_more_memory_than_a_rank_keeps(dtype: str) -> None:
    """On 2 ranks with ZeRO-3 a rank keeps half of the weights, then also half of the fp32 weights and of the gradients."""
    run = settings(*LARGE, "parallel.zero_stage=3", f"train.dtype={dtype}")
    sizes = [p.numel() for p in meta_model(run).parameters()]
    width = 4 if dtype == "fp32" else 2
    weights, states, largest = sum(sizes) / 2 * width, sum(sizes) / 2 * (width + 4 + 4), max(sizes) * 4
    allocated, drawn = (max(figures) for figures in zip(*run_ranks(peaks, 2, run), strict=True))
    shown = [f"{bytes / 1e6:.0f} MB" for bytes in (weights, allocated, states, drawn)]
    print(f"{sum(sizes) / 1e6:.0f} M in {dtype}: weights' share, peak, states' share, peak:", *shown)
    assert allocated <= 1.3 * weights + largest
    assert drawn <= 1.3 * states + largest
