"""All ranks meet before step 1, timed: how fast each computes, how fast they reach each other, and whom the others wait for.

    runs/NAME/meeting.json      {"all_reduce_mib": …, "all_reduce_seconds": …, "ranks": [{"rank", "host", "seconds"}, …]}

One slow GPU or one bad link sets the pace of the whole job and raises no error; here it has a name. What is fit by itself
was looked at before (hitvideo/cluster/preflight.py); this needs the other ranks, so it stands behind the process groups.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from statistics import median_low
from typing import Any

import torch
import torch.distributed as dist

from hitvideo.parallel.topology import Topology

log = logging.getLogger(__name__)
_SLOW = 2.0  # times the median: far beyond what clocks and temperatures do
_TIMES = 5


def meet(topology: Topology) -> dict[str, Any]:
    """Compute alone, reduce together, and tell every rank how long it took; rank 0 warns of those that are slow."""
    device = topology.device
    on_gpu = device.type == "cuda"
    side, mib = (8192, 256) if on_gpu else (256, 1)
    matrix = torch.ones(side, side, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    buffer = torch.zeros(mib * 2**18, device=device)  # fp32
    alone = _best(lambda: matrix @ matrix, device)
    dist.barrier()  # or the collective's time would hold the others' work
    together = _best(lambda: dist.all_reduce(buffer), device)
    found: list[dict[str, Any]] = [{}] * topology.world
    dist.all_gather_object(found, {"rank": topology.rank, "host": socket.gethostname(), "seconds": alone})
    if topology.rank == 0:
        for text in slow({f"rank {each['rank']} on {each['host']}": each["seconds"] for each in found}):
            log.warning("%s", text)
    return {"all_reduce_mib": mib, "all_reduce_seconds": together, "ranks": found}


def slow(seconds: Mapping[str, float]) -> list[str]:
    """What to say of the ranks that need twice the median time for the same work."""
    usual = median_low(seconds.values())  # of two ranks the faster one: none is twice as slow as their mean
    return [
        f"{name} computes {taken / usual:.1f} times slower than the others: the whole run goes at its pace"
        for name, taken in seconds.items()
        if taken > _SLOW * usual
    ]


def _best(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of a few: the first ones set things up, and a shared machine disturbs some."""
    taken = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return min(taken)
