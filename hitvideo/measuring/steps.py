"""Steps of the real engine on this machine: a run's model with few layers, on made-up rows."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from hitvideo.llm.compiled import compile_trunk
from hitvideo.llm.transformer import Block
from hitvideo.measuring.timing import peak_bytes, seconds
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.fragments import refresh_weights
from hitvideo.parallel.topology import Topology
from hitvideo.sequence.layout import SequenceLayout, make_layout
from hitvideo.settings.programs import PretrainRun
from pretrain.language_model_task import make_model


def cut(settings: PretrainRun, topology: Topology, layers: int, compiled: bool = False, **parallel: object) -> PretrainRun:
    """The run with this many layers on the ranks that there are, one micro-batch a step, its matrices and rows undivided."""
    rows = settings.train.micro_batch
    nodes, each = max(topology.world // settings.cluster.devices_per_node, 1), settings.cluster.devices_per_node
    alone = {"tensor": 1, "sequence": False, "context": 1} | parallel
    return settings.model_copy(
        update={
            "llm": settings.llm.model_copy(update={"layers": layers}),
            "cluster": settings.cluster.model_copy(update={"nodes": nodes, "devices_per_node": min(each, topology.world)}),
            "train": settings.train.model_copy(update={"global_batch": rows * topology.world, "compile": compiled}),
            "parallel": settings.parallel.model_copy(update=alone),
        }
    )


def narrow(settings: PretrainRun) -> PretrainRun:
    """The run with one narrow head and few rows: what its step takes is Python's time."""
    llm = settings.llm
    width = {"width": llm.head_dim, "heads": 1, "kv_heads": 1, "hidden": llm.head_dim}
    train = settings.train.model_copy(update={"micro_batch": 1})
    return settings.model_copy(update={"llm": llm.model_copy(update=width), "train": train})


@contextmanager
def stepping(settings: PretrainRun, topology: Topology) -> Iterator[Callable[[], None]]:
    """A function that trains for one step. Weights are random, because a GPU multiplies zeros faster."""
    gc.collect()  # the engine before, which refers to itself
    if topology.device.type == "cuda":
        torch.cuda.empty_cache()
    model = make_model(settings)
    if settings.train.compile:
        compile_trunk(model.trunk, topology.device, whole=True)
    engine = Engine(model, topology, settings.parallel, settings.train, leaf_modules=[Block])
    with torch.no_grad():
        for flat in engine.masters:
            flat.normal_(std=0.02)
    refresh_weights(engine)
    rows = _rows(make_layout(settings), settings.train.micro_batch).to(topology.device)

    def step() -> None:
        for _ in range(engine.accumulation):
            engine.backward(engine(rows, settings.train.text_loss_weight)["loss"])
        engine.step()

    yield step


def step_seconds(settings: PretrainRun, topology: Topology) -> float:
    with stepping(settings, topology) as step:
        return seconds(step, topology.device)


def step_peak(settings: PretrainRun, topology: Topology) -> int:
    """Peak bytes of a step's activations, temporary tensors and gathered weights, above the model states between steps."""
    with stepping(settings, topology) as step:
        step()
        return peak_bytes(step, topology.device)


def _rows(layout: SequenceLayout, rows: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    levels = zip(layout.grids, layout.vocab.ranges, strict=True)
    sizes = [(grid.cells, sum(sub_code.bits for sub_code in row)) for grid, row in levels]
    codes = np.concatenate([rng.integers(0, 1 << bits, (rows, cells)) for cells, bits in sizes], 1)
    return torch.from_numpy(layout.join_rows([[]] * rows, codes))
