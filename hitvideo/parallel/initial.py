"""Initial weights of an engine, for a run that has no checkpoint: each rank draws what its flat fp32 buffers hold.

One parameter is drawn at a time, so that no rank ever holds the whole model. The fp32 weights get the law's values as they
are, also if the forward's weights are bf16: both are the same for every parallel layout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hitvideo.llm.init import Law
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.fragments import fragments, refresh_weights
from hitvideo.parallel.restore import shapes


@torch.no_grad()
def draw_weights(engine: Engine, law: Law, progress: Callable[[], None] = lambda: None) -> None:
    """Set weights and their averages. Call on all ranks; `progress` is called after each parameter."""
    topology, ours = engine.topology, shapes(engine)
    kinds = [engine.masters, engine.averages] if engine.averages else [engine.masters]
    for fragment in fragments(engine):
        shape, dim = ours[fragment.name]
        share = law.share(fragment.name, shape, dim, topology.tensor_rank, topology.tensor)
        mine = share.reshape(-1).narrow(0, fragment.offset, fragment.length)
        for flats in kinds:
            flats[fragment.buffer].view(-1).narrow(0, fragment.start, fragment.length).copy_(mine)
        progress()
    refresh_weights(engine)
