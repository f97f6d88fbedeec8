"""The doctor's check that needs all ranks: it times what the run's ranks compute alone and send together.

    torchrun --nproc-per-node N --no-python -- hitvideo doctor --run RUN.yaml

Every rank takes part, and rank 0 reports.
"""

from __future__ import annotations

from hitvideo.cluster.doctor import Finding
from hitvideo.parallel.links import all_reduce_rate, expected_rate, is_slow, nodes_of
from hitvideo.parallel.meeting import meet, slow
from hitvideo.parallel.topology import start
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun

_PATIENCE_SECONDS = 120.0


def check_collectives(settings: VideoTokenizerRun | PretrainRun, name: str) -> Finding:
    """The timed meeting of all ranks that a run has before its first step, as a finding of this name."""
    cluster, parallel = settings.cluster, settings.parallel
    with start(parallel.tensor, parallel.context, _PATIENCE_SECONDS) as topology:
        report = meet(topology, cluster, settings.train.dtype)
    hosts = [each["host"] for each in report["ranks"]]
    nodes, mib, seconds = nodes_of(hosts), report["all_reduce_mib"], report["all_reduce_seconds"]
    rate = all_reduce_rate(mib, seconds, len(hosts))
    found = (
        f"{len(hosts)} ranks, {len(nodes)} nodes: an all-reduce of {mib} MiB: {1e3 * seconds:.3g} ms, {rate:.3g} GB/s a rank"
    )
    trouble = slow({f"rank {each['rank']} on {each['host']}": each["seconds"] for each in report["ranks"]})
    if cluster.trains_on == "gpu" and is_slow(mib, seconds, nodes, cluster):
        trouble.append(f"cluster.near_gbs and nic_gbs give {expected_rate(nodes, cluster):.0f} GB/s")
    if trouble:
        fix = "leave the named node out; NCCL_DEBUG=INFO shows which links are used"
        return Finding(name, "warn", "; ".join([found, *trouble]), fix)
    return Finding(name, "ok", found)
