"""A timed check of all ranks before step 1: how fast each computes and how fast they communicate.

    runs/NAME/meeting.json      {"all_reduce_mib": …, "all_reduce_seconds": …, "ranks": [{"rank", "host", "seconds"}, …]}

One slow GPU or bad link slows down the whole job without an error; this check names it. hitvideo/cluster/preflight.py has
already checked each node alone; this check needs the other ranks, so it runs once the process groups exist.
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
_SLOW = 2.0  # times the median: far more than clocks and temperatures explain
_TIMES = 5


def meet(topology: Topology) -> dict[str, Any]:
    """Time a matrix product on each rank and one all-reduce; every rank returns all times, rank 0 warns about slow ranks."""
    device = topology.device
    on_gpu = device.type == "cuda"
    side, mib = (8192, 256) if on_gpu else (256, 1)
    matrix = torch.ones(side, side, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    buffer = torch.zeros(mib * 2**18, device=device)  # fp32
    alone = _best(lambda: matrix @ matrix, device)
    dist.barrier()  # otherwise the collective's time would include other ranks' products
    together = _best(lambda: dist.all_reduce(buffer), device)
    found: list[dict[str, Any]] = [{}] * topology.world
    dist.all_gather_object(found, {"rank": topology.rank, "host": socket.gethostname(), "seconds": alone})
    if topology.rank == 0:
        for text in slow({f"rank {each['rank']} on {each['host']}": each["seconds"] for each in found}):
            log.warning("%s", text)
    return {"all_reduce_mib": mib, "all_reduce_seconds": together, "ranks": found}


def slow(seconds: Mapping[str, float]) -> list[str]:
    """Return a warning for each rank (name → seconds) that takes more than twice the median time for the same work."""
    usual = median_low(seconds.values())  # of two ranks, the faster: neither can take twice the mean of both
    return [
        f"{name} takes {taken / usual:.1f} times as long as the median rank: it slows down the whole run"
        for name, taken in seconds.items()
        if taken > _SLOW * usual
    ]


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
