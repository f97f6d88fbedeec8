"""What a language model's start looks at in its data, on a sample of it: damage in the shards, and captions that are cut."""

from __future__ import annotations

import logging

import torch.distributed as dist

from hitvideo.data.blend import Blend
from hitvideo.data.rows import TokenSource
from hitvideo.data.spot_check import spot_check
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import HiTVideoError, ShardError
from hitvideo.parallel.topology import Topology

_MANY = 0.1

log = logging.getLogger(__name__)


def check_shards(topology: Topology, dataset: TokenDataset | Blend, seed: int) -> None:
    """Hold some shards against their receipts, each rank its part. Raises ShardError on every rank if one differs."""
    fault, checked = None, (0, 0)
    try:
        checked = spot_check(dataset.datasets if isinstance(dataset, Blend) else [dataset], seed, topology.rank, topology.world)
    except (HiTVideoError, OSError) as error:
        fault = str(error)
    faults: list[str | None] = [None] * topology.world
    dist.all_gather_object(faults, fault)
    if found := [each for each in faults if each]:
        raise ShardError(found[0])
    if topology.rank == 0:
        log.info("%d of %d token shards were held against their receipts: no difference", *checked)


def log_cut_captions(source: TokenSource) -> None:
    """Say how many captions lose their end to text.window."""
    cut, captions = source.cut_captions()
    if captions:
        level = logging.WARNING if cut > _MANY * captions else logging.INFO
        window = source.layout.window
        log.log(level, "text.window %d cuts %d of %d captions (%.0f %%)", window, cut, captions, 100 * cut / captions)
