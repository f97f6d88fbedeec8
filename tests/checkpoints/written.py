"""Checkpoints written by hand, as ranks of any layout would leave them: no engine, no ranks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file

from hitvideo.checkpoints.listing import FORMAT, INDEX_FILE, STATE_FILE, state_digest
from hitvideo.files import replace_json, sha256

DIVIDED = {"rows": 0, "columns": 1, "norm": -1}


def write_checkpoint(
    path: Path,
    weights: dict[str, torch.Tensor],
    tensor: int,
    shards: int,
    indexed: bool = True,
    moments: Mapping[str, dict[str, torch.Tensor]] = MappingProxyType({}),
    divided: Mapping[str, int] = DIVIDED,
) -> Path:
    """`weights`, whole, as tensor × shards ranks of ZeRO-3 write them: every share is flattened and cut into equal parts.

    `indexed`: with index.json, which older checkpoints lack. `moments`: Adam's, by kind and name, of one step. `divided`: the
    dimensions along which tensor-parallel ranks divide what they do not hold whole.
    """
    path.mkdir(parents=True)
    files, ranks = {}, []
    for rank in range(tensor * shards):
        shard, tensor_rank = divmod(rank, tensor)
        tensors, index = {}, []
        for name, kind in product(weights, ("fp32", *moments)):
            whole, dim = (weights if kind == "fp32" else moments[kind])[name], divided.get(name, -1)
            share = (whole if dim < 0 else whole.chunk(tensor, dim)[tensor_rank]).flatten()
            part = -(-len(share) // shards)
            piece = share[shard * part : (shard + 1) * part]
            if len(piece):
                if kind == "fp32":
                    index.append({"name": name, "offset": shard * part, "length": len(piece)})
                tensors[f"{name}@{shard * part}/{kind}"] = piece.clone()
        file = path / f"rank-{rank:05d}.safetensors"
        save_file(tensors, file)
        ranks.append({"tensor_rank": tensor_rank, "fragments": index})
        replace_json(file.with_suffix(".json"), ranks[-1])
        files |= {each.name: [each.stat().st_size, sha256(each)] for each in (file, file.with_suffix(".json"))}
    parameters = {name: [list(whole.shape), divided.get(name, -1)] for name, whole in weights.items()}
    layout = {"world": tensor * shards, "tensor": tensor, "parameters": parameters}
    state: dict[str, Any] = {"format": FORMAT, "step": 1, "adam_step": 1, **layout, "files": files}
    if indexed:
        replace_json(path / INDEX_FILE, {"ranks": ranks})
        state["index"] = [(path / INDEX_FILE).stat().st_size, sha256(path / INDEX_FILE)]
    replace_json(path / STATE_FILE, {**state, "sha256": state_digest(state)})
    return path
