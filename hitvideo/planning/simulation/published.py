"""Published measurements as `Work` of the step model: published.tsv has the rows and their sources, shapes.tsv the models.

What a rank computes and sends follows from a row's shape and layout: other models than ours, in other stacks, with half-width
gradients or shards within a node. The time of the traffic is the plan's own function (planning/traffic.py).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from hitvideo.planning.simulation.step import Work
from hitvideo.planning.traffic import traffic_seconds
from hitvideo.settings.cluster import ClusterSection
from hitvideo.settings.programs import PretrainRun
from hitvideo.settings.training import ParallelSection

DEVICES_PER_NODE = 8
HARDWARE = {  # dense peak, memory in GiB and its bandwidth, NVLink
    "H100": ClusterSection(peak_tflops=989, memory_gib=80, memory_gbs=3350, near_gbs=450),
    "H100-96": ClusterSection(peak_tflops=989, memory_gib=96, memory_gbs=2400, near_gbs=450),  # and a limit of 500 W
    "A100-80": ClusterSection(peak_tflops=312, memory_gib=80, memory_gbs=2039, near_gbs=300),
    "A100-40": ClusterSection(peak_tflops=312, memory_gib=40, memory_gbs=1555, near_gbs=300),
}

_AGAIN = {"none": 0.0, "sac": 1 / 3, "op": 0.5, "full": 1.0}  # share of a block's products that the backward computes again
_ATTENTION_AGAIN = {"none": 0.0, "sac": 1 / 3, "op": 0.0, "full": 1.0}
_FORWARDS = 3  # forward and backward, in forwards
_BF16 = 2


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    gated: bool
    vocab: int
    rotated: bool
    qk_norm: bool
    seen: float

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's column layers (fused q, k, v; gate and up) and row layers."""
        queries_keys_values = self.width + 2 * self.kv_heads * self.head_dim
        first = 2 * self.hidden if self.gated else self.hidden
        return (self.width, queries_keys_values), (self.width, self.width), (self.width, first), (self.hidden, self.width)

    @property
    def weights(self) -> float:
        return self.layers * sum(i * o for i, o in self.matrices) + self.vocab * self.width

    @property
    def elementwise_entries(self) -> float:
        return elementwise_entries(
            self.width, self.heads * self.head_dim, self.kv_heads * self.head_dim, self.hidden,
            gated=self.gated, rotated=self.rotated, qk_norm=self.qk_norm, tensor=1, split=1,
        )  # fmt: skip


def elementwise_entries(
    width: int, queries: int, keys: int, hidden: int, *, gated: bool, rotated: bool, qk_norm: bool, tensor: int, split: int
) -> float:
    """Entries that one layer's forward reads and writes for a slot besides products and attention, on one rank.

    Two norms and two sums of the residual stream: 4 × 2 + 2 × width, with a sum and a norm in one kernel. RoPE and a norm of
    queries and keys: 2 (queries + keys) each. SwiGLU reads two and writes one, GELU reads one and writes one. `tensor` ranks
    share heads and hidden entries; `split` ranks share the slots of the residual stream.
    """
    stream = 8 * width / split
    heads = 2 * (queries + keys) * (rotated + qk_norm) / tensor
    return stream + heads + (3 if gated else 2) * hidden / tensor


@dataclass(frozen=True)
class Row:
    """One measurement; published.tsv explains the fields."""

    source: str
    shape: Shape
    hardware: str
    gpus: int
    tensor: int
    row: int
    micro_batch: int
    accumulation: int
    recompute: str
    kernels: str
    node_gbs: float
    sharding: str
    gradient_bytes: int
    tokens_per_s: float

    @property
    def step_s(self) -> float:
        """The measured time of a step."""
        return self.accumulation * self.micro_batch * self.row / self.tensor / self.tokens_per_s


@cache
def rows() -> tuple[Row, ...]:
    """All published rows, in the file's order."""
    shapes = {entry.pop("shape"): Shape(**_numbers(entry)) for entry in _table("shapes.tsv")}
    return tuple(Row(shape=shapes[entry.pop("shape")], **_numbers(entry)) for entry in _table("published.tsv"))


def _table(name: str) -> Iterator[dict[str, str]]:
    text = (resources.files(__package__) / name).read_text()
    return csv.DictReader((line for line in text.splitlines() if not line.startswith("#")), delimiter="\t")


def _numbers(entry: dict[str, str]) -> dict[str, Any]:
    return {key: float(text) if "." in text else int(text) if text.isdigit() else text for key, text in entry.items()}


def row_work(row: Row) -> Work:
    """What a rank of a published run does."""
    shape, tensor, tokens = row.shape, row.tensor, row.micro_batch * row.row
    passes = _FORWARDS + _AGAIN[row.recompute]
    gemms = [
        (shape.layers * passes * 2.0 * tokens * i * o / tensor, min(i / tensor, o) if i == shape.hidden else min(i, o / tensor))
        for i, o in shape.matrices
    ]
    gemms.append((_FORWARDS * 2.0 * tokens * shape.width * shape.vocab / tensor, min(shape.width, shape.vocab / tensor)))
    attention = shape.layers * 2.0 * tokens * row.row * shape.seen * shape.width / tensor
    entries = shape.layers * passes * shape.elementwise_entries + 7 * shape.vocab
    zero, calls = _zero(row)
    reduced = (4 + 2 * (row.recompute == "full")) * shape.layers * tokens * shape.width * _BF16
    return Work(
        gemms=tuple(gemms),
        attention_flops=attention,
        attention_again=_ATTENTION_AGAIN[row.recompute],
        head_dim=shape.head_dim,
        elementwise_bytes=_BF16 * tokens * entries / tensor,
        fused=row.kernels == "compiled",
        copied_bytes=0.0,  # in what the constants say of these stacks
        hidden_traffic_s=zero,
        hidden_calls=calls,
        open_traffic_s=_seconds((0.0, 2 * reduced * (tensor - 1) / tensor, 0.0), row),
        last_traffic_s=0.0,
        last_calls=0.0,
        shards=row.gpus // tensor,
        nodes=max(row.gpus // DEVICES_PER_NODE, 1),
        updated=shape.weights / row.gpus,
        layers=shape.layers,
        partitioned=0.0,  # FSDP has no loop over the ranks
        accumulation=row.accumulation,
    )


def _zero(row: Row) -> tuple[float, float]:
    """Seconds and calls of sharding's collectives: gathers of weights, and the reduction of gradients."""
    share, shards = row.shape.weights / row.tensor, row.gpus // row.tensor
    gathers = 1 if row.sharding == "zero2" else 2
    calls = (gathers + 1) * row.shape.layers
    sent = share * (gathers * _BF16 + row.gradient_bytes)
    if row.sharding == "hsdp":  # shards within a node, each of which is summed over the nodes
        inside = _seconds((sent * (DEVICES_PER_NODE - 1) / DEVICES_PER_NODE, 0.0, 0.0), row, nodes=1)
        return inside + _seconds((2 * share * row.gradient_bytes * (shards - 1) / shards, 0.0, 0.0), row), calls
    return _seconds((sent * (shards - 1) / shards, 0.0, 0.0), row), calls


def _seconds(sent: tuple[float, float, float], row: Row, nodes: int | None = None) -> float:
    figures = {
        "nodes": nodes or max(row.gpus // DEVICES_PER_NODE, 1), "devices_per_node": DEVICES_PER_NODE,
        "nic_gbs": row.node_gbs / DEVICES_PER_NODE,
    }  # fmt: skip
    sections: dict[str, Any] = {
        "cluster": HARDWARE[row.hardware].model_copy(update=figures),
        "parallel": ParallelSection(tensor=row.tensor),
    }
    return traffic_seconds(sent, PretrainRun.model_construct(**sections))  # which looks at these two only
