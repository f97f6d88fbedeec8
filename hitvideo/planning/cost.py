"""What a run costs besides its steps: checkpoints on disk, token shards, and hours and money per million clips."""

from __future__ import annotations

from hitvideo.hierarchy import Hierarchy
from hitvideo.settings.cluster import ClusterSection
from hitvideo.settings.run import CheckpointSection

MILLION = 1_000_000
_BESIDE_CODES = 1024
"""Bytes of a token shard for each clip besides its codes: a caption, metadata, two tar headers, an index entry."""


def shard_bytes(hierarchy: Hierarchy, tokens: int) -> int:
    """A clip's bytes in a token shard. All levels are in one array, of 2 bytes an index if the largest codebook allows it."""
    width = 2 if max(level.num_bits for level in hierarchy.levels) <= 16 else 4
    return tokens * width + _BESIDE_CODES


def checkpoints_kept(checkpoint: CheckpointSection, steps: int) -> int:
    """The most checkpoints that are on disk at once: the newest, one that is being written, and those kept for good."""
    saved = -(-steps // checkpoint.every)
    for_good = steps // checkpoint.keep_every if checkpoint.keep_every else 0
    return min(checkpoint.keep_last + 1, saved) + for_good


def hours_of(flops: float, cluster: ClusterSection) -> float:
    """Device-hours of FLOPs at the peak's share that the cluster section assumes."""
    return flops / (cluster.peak_tflops * 1e12 * cluster.assumed_mfu) / 3600


def usd_of(device_hours: float, cluster: ClusterSection) -> float | None:
    """The price of device-hours; None if the cluster section has none."""
    return None if cluster.usd_per_device_hour is None else device_hours * cluster.usd_per_device_hour
