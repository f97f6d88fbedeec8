"""What a rank of a language model's run sends per step, and how long that takes."""

from __future__ import annotations

from hitvideo.planning.collectives import volumes
from hitvideo.settings.programs import PretrainRun

NEAR_REACHED, FAR_REACHED = 0.75, 0.92
"""Shares of the links' nominal rates that NCCL's collectives reach: 330 of 450 GB/s over NVLink 4 and 230 of 300 over NVLink 3;
46 of 50 GB/s on an adapter of 400 Gbit/s (NVIDIA/nccl-tests, issues 212 and 290)."""


def traffic_bytes(settings: PretrainRun, shards: int, accumulation: int) -> tuple[float, float, float]:
    """Bytes that a rank sends per step along ZeRO's, the tensor and the context axis.

    Of a collective of n bytes over r ranks, each rank sends n (r - 1) / r; of an all-reduce twice that.
    """
    ranks = {"zero": shards, "tensor": settings.parallel.tensor, "context": settings.parallel.context}
    sent = dict.fromkeys(ranks, 0.0)
    for (axis, kind), size in volumes(settings, shards, accumulation).items():
        sent[axis] += size * (2 if kind == "all-reduce" else 1) * (ranks[axis] - 1) / ranks[axis]
    return sent["zero"], sent["tensor"], sent["context"]


def traffic_seconds(sent: tuple[float, float, float], settings: PretrainRun) -> float:
    """Time of what a rank sends along the three axes.

    ZeRO's gathered or reduced bytes enter a node once for each tensor rank, through all its adapters at a time, and go on to
    its ranks over the links inside it: the slower of both counts. An all-to-all between nodes has a device's share only.
    """
    zero, tensor, context = sent
    cluster, parallel = settings.cluster, settings.parallel
    near, far = cluster.near_gbs * 1e9 * NEAR_REACHED, cluster.node_gbs * 1e9 * FAR_REACHED
    apart = min(parallel.tensor, cluster.devices_per_node)  # ranks of a node that gather different weights
    shards = cluster.nodes * cluster.devices_per_node / parallel.tensor
    whole = zero * shards / (shards - 1) if shards > 1 else 0.0
    across = whole * apart * (cluster.nodes - 1) / cluster.nodes / far
    device = far / cluster.devices_per_node
    spread = parallel.tensor * parallel.context > cluster.devices_per_node
    wide = parallel.tensor > cluster.devices_per_node
    return max(zero / near, across) + tensor / (device if wide else near) + context / (device if spread else near)
