"""What a rank of a language model's run sends per step, and how long that takes.

Bytes follow the engine's collectives, which tests count. Of n bytes over r ranks, an all-gather or reduce-scatter sends
n (r - 1) / r, an all-reduce twice that, an all-to-all of what a rank holds (r - 1) / r of it.
"""

from __future__ import annotations

from hitvideo.ops.precision import DTYPES
from hitvideo.planning.zero import FP32_BYTES
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun

_NEAR_REACHED, _FAR_REACHED = 0.75, 0.92
"""Shares of the links' nominal rates that NCCL's collectives reach: 330 of 450 GB/s over NVLink 4 and 230 of 300 over NVLink 3;
46 of 50 GB/s on an adapter of 400 Gbit/s (NVIDIA/nccl-tests, issues 212 and 290)."""


def traffic_bytes(settings: PretrainRun, share: float, shards: int, accumulation: int) -> tuple[float, float, float]:
    """Bytes that a rank sends per step along ZeRO's, the tensor and the context axis; `share`: one tensor rank's weights.

    ZeRO-3 gathers the weights for the forward and for the backward; recomputing blocks does not gather them a third time.
    Those that it keeps in between (parallel.live_parameters) are counted twice all the same, so it sends at most this.
    """
    parallel, llm, train = settings.parallel, settings.llm, settings.train
    width = DTYPES[train.dtype].itemsize
    ring = (shards - 1) / shards
    if parallel.zero_stage == 3:
        zero = accumulation * share * (2 * width + FP32_BYTES) * ring
    elif parallel.zero_stage == 2:
        zero = (accumulation * share * FP32_BYTES + share * width) * ring
    else:
        zero = (2 * share * FP32_BYTES + share * width * parallel.zero_stage) * ring
    rows = accumulation * train.micro_batch * (make_layout(settings).length - 1) / parallel.context
    reduced = llm.layers * _sums(settings) * rows * llm.width * width
    tensor = 2 * reduced * (parallel.tensor - 1) / parallel.tensor
    heads = 2 * llm.heads + 2 * llm.kv_heads  # q and the result, k and v
    held = rows * heads * llm.head_dim / parallel.tensor * width
    passes = 3 if parallel.activation_checkpointing == "block" else 2
    context = llm.layers * passes * held * (parallel.context - 1) / parallel.context
    return zero, tensor, context


def _sums(settings: PretrainRun) -> float:
    """All-reduces of a block's slots in one micro-batch; a gather or a scatter is half of one.

    The forward sums after both row layers; the backward sums before each of the five column layers (q, k, v, gate, up).
    Recomputing a block repeats the first of its row layers' sums: the second one's result is not needed. If slots are split
    over the ranks, a column layer gathers them in the forward and again in the backward, a row layer gathers in the backward.
    """
    again = settings.parallel.activation_checkpointing == "block"
    if not settings.parallel.sequence:
        return 2 + 5 + again
    return (2 + 5 + (5 + 5 + 2) + again * (1 + 5)) / 2


def traffic_seconds(sent: tuple[float, float, float], settings: PretrainRun) -> float:
    """Time of what a rank sends along the three axes.

    ZeRO's gathered or reduced bytes enter a node once for each tensor rank, through all its adapters at a time, and go on to
    its ranks over the links inside it: the slower of both counts. An all-to-all between nodes has a device's share only.
    """
    zero, tensor, context = sent
    cluster, parallel = settings.cluster, settings.parallel
    near, far = cluster.near_gbs * 1e9 * _NEAR_REACHED, cluster.node_gbs * 1e9 * _FAR_REACHED
    apart = min(parallel.tensor, cluster.devices_per_node)  # ranks of a node that gather different weights
    shards = cluster.nodes * cluster.devices_per_node / parallel.tensor
    whole = zero * shards / (shards - 1) if shards > 1 else 0.0
    across = whole * apart * (cluster.nodes - 1) / cluster.nodes / far
    device = far / cluster.devices_per_node
    spread = parallel.tensor * parallel.context > cluster.devices_per_node
    wide = parallel.tensor > cluster.devices_per_node
    return max(zero / near, across) + tensor / (device if wide else near) + context / (device if spread else near)
