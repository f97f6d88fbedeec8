"""A run's `Work`: the plan's own FLOPs (flops.py) and traffic (traffic.py), and the bytes of its elementwise kernels."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import torch

from hitvideo.llm.recompute import Recompute
from hitvideo.ops.precision import DTYPES
from hitvideo.planning.flops import FORWARD_AND_BACKWARD, meta_model, recomputed_flops_per_row, training_flops_per_row
from hitvideo.planning.simulation.published import elementwise_entries
from hitvideo.planning.simulation.step import Work
from hitvideo.planning.traffic import traffic_bytes, traffic_seconds
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.settings.programs import PretrainRun

_LOSS_BYTES = 14  # of each logit: written, read for the maximum and the sum, its gradient written and read, part of it in fp32


_COPIED_BYTES = {0: 0, 1: 10, 2: 28, 3: 30}
"""Memory traffic of DeepSpeed 0.19 itself for each weight and micro-batch, by ZeRO stage. 1: the gradient is added to its fp32
sum. 2: it is copied to a bucket and a slice, to fp32, divided, and copied back. 3: weights are joined from shards, twice;
gradients go to fp32, are joined and divided."""


class Counts:
    """What a model's steps compute and send, whatever their layout: counted once, by the plan's own functions."""

    def __init__(self, settings: PretrainRun) -> None:
        self.model = meta_model(settings)
        self.row_flops = training_flops_per_row(self.model, grouped=settings.grouped_share)
        self.row_flops_full_attention = training_flops_per_row(self.model, full_attention=True, grouped=settings.grouped_share)
        self.attention = (self.row_flops_full_attention - self.row_flops) / FORWARD_AND_BACKWARD
        """FLOPs of attention's forward for a row, with half of the keys."""
        self.again = {mode: recomputed_flops_per_row(self.model, mode) for mode in get_args(Recompute)}
        """FLOPs of a row that the backward computes again, by mode."""
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.block = max(sum(p.numel() for p in block.parameters()) for block in self.model.trunk.blocks)
        """Weights of a block."""
        self.tensors = sum(1 for _ in self.model.parameters())
        self.shapes = Counter(_sides(name, p) for name, p in self.model.trunk.named_parameters() if p.ndim > 1)
        """Number of the trunk's matrices by the side that tensor-parallel ranks share, and the other."""
        self.logits = _logits(self.model.layout)
        self._known: dict[tuple[object, ...], tuple[float, float, float]] = {}

    def sent(self, settings: PretrainRun, shards: int, accumulation: int) -> tuple[float, float, float]:
        """`traffic_bytes` of a run of this model, from few counts: the rows and micro-batches of a step only multiply them."""
        parallel, rows = settings.parallel, settings.train.micro_batch
        alone = {"context": 1, "sequence": False, "activation_checkpointing": "none"}  # which change nothing of ZeRO's
        once, twice = (self._counted(settings, alone, 1, steps)[0] for steps in (1, 2))
        zero = (once + (accumulation - 1) * (twice - once)) * (shards - 1) / shards * _SHARDS / (_SHARDS - 1)
        if parallel.tensor * parallel.context == 1:
            return zero, 0.0, 0.0
        one, two = (self._counted(settings, {"zero_stage": 1}, size, 1) for size in (1, 2))
        tensor, context = (accumulation * (one[axis] + (rows - 1) * (two[axis] - one[axis])) for axis in (1, 2))
        return zero, tensor, context

    def _counted(self, settings: PretrainRun, parallel: dict[str, object], rows: int, steps: int) -> tuple[float, float, float]:
        """The plan's count for this micro-batch and accumulation."""
        layout = settings.parallel.model_copy(update=parallel)
        kind = (layout, settings.train.dtype, rows, steps)
        if kind not in self._known:
            train = settings.train.model_copy(update={"micro_batch": rows})
            run = settings.model_copy(update={"parallel": layout, "train": train})
            self._known[kind] = traffic_bytes(run, _SHARDS, steps)
        return self._known[kind]


_STEP_BUCKET = 500_000_000  # entries that DeepSpeed 0.19 reduces at a time, where it does so once a step
_SHARDS = 64  # of which traffic is counted; n shards each send (n - 1) / n of a collective, up to rounding


def run_work(settings: PretrainRun, count: Counts) -> Work:
    """What one rank of a run does on `settings.cluster`. Raises ConfigError if the batch does not divide."""
    parallel, llm, cluster, train = settings.parallel, settings.llm, settings.cluster, settings.train
    tensor, context, stage = parallel.tensor, parallel.context, parallel.zero_stage
    world = cluster.nodes * cluster.devices_per_node
    shards = max(world // tensor, 1)
    accumulation = train.accumulation(max(shards // context, 1))
    each, width = tensor * context, DTYPES[train.dtype].itemsize
    again = count.again[parallel.activation_checkpointing]
    attention_again = min(again, count.attention)
    products = count.row_flops - FORWARD_AND_BACKWARD * count.attention + again - attention_again
    share = count.parameters / tensor
    zero, tensor_bytes, context_bytes = count.sent(settings, shards, accumulation)
    gathered = share * width * (shards - 1) / shards if stage in (1, 2) else 0.0  # the updated weights, after a step
    hidden = zero - gathered if stage >= 2 else 0.0
    slots = train.micro_batch * (count.model.layout.length - 1) / context
    entries = llm.layers * elementwise_entries(
        llm.width, llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim, llm.hidden, gated=True, rotated=True,
        qk_norm=llm.qk_norm, tensor=tensor, split=tensor if parallel.sequence else 1,
    )  # fmt: skip
    passes = FORWARD_AND_BACKWARD + (parallel.activation_checkpointing != "none")
    summed = 2 * share / (parallel.bucket if stage == 2 else _STEP_BUCKET)  # an all-reduce passes the ring twice
    return Work(
        gemms=_gemms(count, train.micro_batch * products / each, tensor),
        attention_flops=train.micro_batch * count.attention / each,
        attention_again=attention_again / count.attention,
        head_dim=llm.head_dim,
        elementwise_bytes=slots * entries * passes * width + train.micro_batch * count.logits * _LOSS_BYTES / each,
        fused=train.compile,
        copied_bytes=share * _COPIED_BYTES[stage],
        hidden_traffic_s=traffic_seconds((hidden, 0.0, 0.0), settings) / accumulation,
        hidden_calls={2: summed, 3: 3.0 * llm.layers}.get(stage, 0.0) * (shards > 1),  # ZeRO-3: for each block
        open_traffic_s=traffic_seconds((0.0, tensor_bytes, context_bytes), settings) / accumulation,
        last_traffic_s=traffic_seconds((zero - hidden, 0.0, 0.0), settings),
        last_calls={2: 1.0, 3: 0.0}.get(stage, 1 + summed) * (shards > 1),
        shards=shards,
        nodes=cluster.nodes,
        updated=share / (shards if stage else 1),
        layers=llm.layers,
        partitioned=2.0 * count.shapes.total() + count.tensors if stage == 3 else 0.0,  # two gathers, a reduction
        accumulation=accumulation,
    )


def _gemms(count: Counts, flops: float, tensor: int) -> tuple[tuple[float, float], ...]:
    """The FLOPs spread over the trunk's matrices; heads, which have a few hundredths of all, count as such."""
    entries = sum(number * shared * whole for (shared, whole), number in count.shapes.items())
    return tuple(
        (flops * number * shared * whole / entries, min(shared / tensor, whole))
        for (shared, whole), number in count.shapes.items()
    )


def _sides(name: str, matrix: torch.Tensor) -> tuple[int, int]:
    """Tensor-parallel ranks share the inputs of a row layer, and the outputs of a column layer."""
    outputs, inputs = matrix.shape
    return (inputs, outputs) if name.endswith(("out.weight", "down.weight")) else (outputs, inputs)


def _logits(layout: SequenceLayout) -> float:
    """Logits of all heads for a row."""
    levels = zip(layout.grids, layout.vocab.ranges, strict=True)
    video = sum(grid.cells * sum(1 << sub_code.bits for sub_code in row) for grid, row in levels)
    return (layout.window - 1) * layout.vocab.text_size + video
