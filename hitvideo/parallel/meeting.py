"""A timed check of all ranks before step 1: how fast each computes and how fast they communicate.

    runs/NAME/meeting.json      {"all_reduce_mib": …, "all_reduce_seconds": …, "ranks": [{"rank", "host", "seconds"}, …]}
                                and if that is slow, for whoever looks for the cause: {"links": [{"hosts", "seconds"}, …]}

One slow GPU or bad link slows down the whole job without an error; this check names it. hitvideo/cluster/preflight.py has
already checked each node alone; this check needs the other ranks, so it runs once the process groups exist.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median_low
from typing import Any

import torch
import torch.distributed as dist

from hitvideo.parallel.links import Link, all_reduce_rate, expected_rate, is_slow, nodes_of, rounds, slow_links
from hitvideo.parallel.topology import Topology
from hitvideo.settings.cluster import ClusterSection
from hitvideo.settings.devices import peak_warning

log = logging.getLogger(__name__)
_SLOW = 2.0  # times the median: far more than clocks and temperatures explain
_TIMES = 5


def meet(topology: Topology, cluster: ClusterSection, dtype: str) -> dict[str, Any]:
    """Time a matrix product on each rank and one all-reduce; every rank returns all times, rank 0 warns about what is slow.

    If the all-reduce is far slower than the cluster's links, it is timed again inside each node and between pairs of nodes.
    `dtype`: of training; a cluster.peak_tflops that is not the GPU's is warned about.
    """
    device = topology.device
    on_gpu = device.type == "cuda"
    side, mib = (8192, 256) if on_gpu else (256, 1)
    matrix = torch.ones(side, side, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    buffer = torch.zeros(mib * 2**18, device=device)  # fp32
    alone = _best(lambda: matrix @ matrix, device)
    dist.barrier()  # otherwise the collective's time would include other ranks' products
    together = _best(lambda: dist.all_reduce(buffer), device)
    told: list[tuple[dict[str, Any], float]] = [({}, 0.0)] * topology.world
    dist.all_gather_object(told, ({"rank": topology.rank, "host": socket.gethostname(), "seconds": alone}, together))
    found, together = [each for each, _ in told], max(seconds for _, seconds in told)  # the same on every rank
    report: dict[str, Any] = {"all_reduce_mib": mib, "all_reduce_seconds": together, "ranks": found}
    warnings = slow({f"rank {each['rank']} on {each['host']}": each["seconds"] for each in found})
    nodes = nodes_of([each["host"] for each in found])
    if cluster.trains_on == "gpu" and is_slow(mib, together, nodes, cluster):
        rate, expected = all_reduce_rate(mib, together, topology.world), expected_rate(nodes, cluster)
        warnings.append(
            f"an all-reduce of {topology.world} ranks sends {rate:.1f} GB/s a rank, "
            f"cluster.near_gbs and cluster.nic_gbs give {expected:.0f}"
        )
        if len(nodes) > 1:
            links = _time_links(nodes, buffer, topology)
            report["links"] = [{"hosts": link.hosts, "seconds": link.seconds} for link in links]
            warnings += slow_links(links, mib, cluster)
    wrong_peak = peak_warning(torch.cuda.get_device_name(device), cluster, dtype) if on_gpu else None
    if topology.rank == 0:
        for text in [*warnings, *([wrong_peak] if wrong_peak else [])]:
            log.warning("%s", text)
    return report


def slow(seconds: Mapping[str, float]) -> list[str]:
    """Return a warning for each rank (name → seconds) that takes more than twice the median time for the same work."""
    usual = median_low(seconds.values())  # of two ranks, the faster: neither can take twice the mean of both
    return [
        f"{name} takes {taken / usual:.1f} times as long as the median rank: it slows down the whole run"
        for name, taken in seconds.items()
        if taken > _SLOW * usual
    ]


def _time_links(nodes: Mapping[str, list[int]], buffer: torch.Tensor, topology: Topology) -> list[Link]:
    """Time the all-reduce of each node's ranks, and of each pair of neighbouring nodes; every rank returns all times."""
    links = []
    for groups in rounds(list(nodes)):  # the groups of a round have no rank in common, so they are timed at once
        ranks = [[rank for host in hosts for rank in nodes[host]] for hosts in groups]
        group, _ = dist.new_subgroups_by_enumeration(ranks)  # type: ignore[no-untyped-call]
        dist.barrier()
        seconds = 0.0
        if group is not None:
            seconds = _best(partial(dist.all_reduce, buffer, group=group), topology.device)
        told = [0.0] * topology.world
        dist.all_gather_object(told, seconds)
        if group is not None:
            dist.destroy_process_group(group)
        links += [
            Link(hosts, len(each), max(told[rank] for rank in each)) for hosts, each in zip(groups, ranks, strict=True)
        ]
    return links


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of a few tries: the first include setup, and other jobs may slow some."""
    taken = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return min(taken)
