"""A compiled trunk trains as an uncompiled one: under ZeRO-3 without a break in its graph, and with tensor parallelism."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
from packaging.version import Version

from hitvideo.llm.compiled import compile_trunk, compiler_missing
from hitvideo.llm.init import Law
from hitvideo.llm.layers import DenseLayers
from hitvideo.llm.recompute import Recompute
from hitvideo.llm.transformer import Block, Transformer
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.initial import draw_weights
from hitvideo.parallel.topology import start
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun, load_settings_as
from pretrain.language_model_task import make_model
from tests.conftest import ROOT
from tests.worlds import run_ranks

CPU = torch.device("cpu")
SMALL = [
    "llm.layers=3", "llm.width=48", "llm.heads=4", "llm.kv_heads=2", "llm.hidden=96", "llm.rope_axes=[4,4,4]",
    "train.micro_batch=2", "train.dtype=fp32",
]  # fmt: skip
needs_compiler = pytest.mark.skipif(compiler_missing(CPU) is not None, reason="needs a C++ compiler")


def settings(*words: str) -> PretrainRun:
    return load_settings_as(PretrainRun, ROOT / "yaml_configs/pretrain/tiny.yaml", [*SMALL, *words])


def losses_and_norms(words: list[str], modes: list[Recompute], compiled: bool) -> dict[Recompute, list[float]]:
    """Three steps of two micro-batches each, and a validation between them, for each mode; counts are those of the compiler."""
    run = settings(*words)
    found: dict[Recompute, list[float]] = {}
    with start(run.parallel.tensor, run.parallel.context) as topology:
        for mode in modes:
            parallel = run.parallel.model_copy(update={"activation_checkpointing": mode})
            one = run.model_copy(
                update={"parallel": parallel, "train": run.train.model_copy(update={"global_batch": 4 * topology.data})}
            )
            model = make_model(one)
            if compiled:
                assert compile_trunk(model.trunk, topology.device, whole=topology.tensor * topology.context == 1)
            engine = Engine(model, topology, parallel, one.train, leaf_modules=[Block])
            draw_weights(engine, Law(run.llm.width, run.llm.layers, 0))
            layout, rng = make_layout(run), np.random.default_rng(topology.data_rank)
            codes = rng.integers(0, 2, (2, layout.length - layout.window - 1))
            rows = torch.from_numpy(layout.join_rows([[7, 8, 9]] * 2, codes))
            engine.set_lr(1e-2)
            found[mode] = []
            for _ in range(3):
                for _ in range(engine.accumulation):
                    loss = engine(rows, 0.1)["loss"]
                    engine.backward(loss)
                assert engine.step()
                with torch.no_grad():
                    checked = engine(rows, 0.1)["loss"]
                found[mode] += [loss.item(), engine.grad_norm, checked.item()]
    return found


def counted(modes: list[Recompute]) -> tuple[dict[Recompute, list[float]], int, dict[str, int]]:
    """On one rank with ZeRO-3: what is trained, the number of graphs, and the reasons for breaks."""
    torch._dynamo.utils.counters.clear()
    found = losses_and_norms(["parallel.zero_stage=3"], modes, True)
    counters = torch._dynamo.utils.counters
    return found, counters["stats"]["unique_graphs"], dict(counters["graph_break"])


@needs_compiler
def test_blocks_are_one_graph_under_zero_3() -> None:
    """Graphs: of a forward with gradients, and of one without; one code for all blocks, accumulated micro-batches and steps.

    Modes that recompute have graphs of their own: 2 each.
    """
    modes: list[Recompute] = ["none", "selective", "block"]
    ((compiled, graphs, breaks),) = run_ranks(counted, 1, modes)
    (eager,) = run_ranks(losses_and_norms, 1, ["parallel.zero_stage=3"], modes, False)
    if Version(torch.__version__) >= Version("2.13"):  # older versions break the graph in each block, and compute the same
        assert breaks == {}
        assert graphs <= 2 * len(modes)
    for mode in modes:
        assert eager[mode] == eager["none"], "recomputing changes not a bit"
        assert compiled[mode] == pytest.approx(eager[mode], rel=1e-5)


@needs_compiler
@pytest.mark.parametrize(
    "words", [["parallel.tensor=2"], ["parallel.tensor=2", "parallel.sequence=true"], ["parallel.context=2"]]
)
def test_functions_without_weights_under_tensor_parallelism(words: list[str]) -> None:
    modes: list[Recompute] = ["none", "selective"]
    eager, compiled = (run_ranks(losses_and_norms, 2, words, modes, kind)[0] for kind in (False, True))
    assert eager["selective"] == eager["none"]
    for mode in modes:
        assert compiled[mode] == pytest.approx(eager[mode], rel=1e-5)


def test_without_a_compiler_it_warns_and_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert "CXX=/no/such/compiler" in str(compiler_missing(CPU))
    trunk = Transformer(settings().llm, DenseLayers())
    with caplog.at_level("WARNING"):
        assert not compile_trunk(trunk, CPU, whole=True)
    assert "train.compile" in caplog.text
    assert "forward" not in vars(trunk.blocks[0])


def test_a_compiler_is_looked_for_by_its_usual_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install one of g++" in str(compiler_missing(CPU))
    shutil.copy("/bin/true", tmp_path / "clang++")
    assert compiler_missing(CPU) is None
